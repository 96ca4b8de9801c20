"""An experiment: which requests meet which policies, at which rates, how often; read from one YAML file.

What it names is loaded and checked by :mod:`fluidwait.experiments.setting`, which imports the compiler; tables and
figures do without.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, field_validator, model_validator

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.models import Changes, Strict, Words, of_one_policy, parse
from fluidwait.base.scales import SEED_STEP, split_scale
from fluidwait.base.yaml_files import load_yaml
from fluidwait.experiments.extension import file_of, read_extended
from fluidwait.workload import Positive, Workload, load_workload, rows_used

KEY = re.compile(r"[A-Za-z0-9_.+-]+")
"""Of a policy, or of a part of a study: it is part of the names of files."""

MOST_RATES = 10_000
"""Of a range."""

MOST_REPLICATIONS = 10_000
"""Of a run: beyond, a sweep does not end."""


class RateRange(Strict):
    """Equally spaced rates, requests/s, both ends included."""

    start: Positive
    stop: Positive
    step: Positive

    @model_validator(mode="after")
    def _not_endless(self):
        if not (self.stop - self.start) / self.step < MOST_RATES:
            least = (self.stop - self.start) / MOST_RATES
            raise ValueError(f"more than {MOST_RATES} rates (nearest valid step: {least:.4g})")
        return self

    def values(self) -> list[float]:
        count = int(np.floor((self.stop - self.start) / self.step + 1e-9)) + 1
        return [round(self.start + i * self.step, 9) for i in range(count)]


def _rising(rates: list[float] | RateRange) -> list[float] | RateRange:
    values = rates.values() if isinstance(rates, RateRange) else rates
    wrong = next((rate for rate in values if not 0 < rate < np.inf), None)
    back = next((f"{b:g} follows {a:g}" for a, b in itertools.pairwise(values) if b <= a), None)
    if not values or wrong is not None or back:
        told = f", found {wrong:g}" if wrong is not None else f", but {back}" if back else ", found none"
        raise ValueError(f"must be increasing rates above 0 requests/s{told}")
    if isinstance(rates, RateRange) and abs(values[-1] - rates.stop) > 1e-6 * rates.step:
        raise ValueError(f"stop: {rates.stop:g} is no number of steps from start (nearest valid value: {values[-1]:g})")
    return rates


Rates = Annotated[list[float] | RateRange, AfterValidator(_rising)]


def _increasing(horizons: list[int]) -> list[int]:
    if not horizons or sorted(set(horizons)) != horizons:
        raise ValueError("must be increasing numbers of requests")
    return horizons


Horizons = Annotated[list[Annotated[int, Field(ge=40)]], AfterValidator(_increasing)]


class Scale(Strict):
    """How much of an experiment to run."""

    requests: int = Field(ge=40, description="requests of a run")
    replications: int = Field(ge=1, le=MOST_REPLICATIONS)
    rates: Rates | None = Field(None, description="instead of the experiment's rates")
    horizons: Horizons | None = Field(None, description="instead of the experiment's horizons")
    tuning_requests: int | None = Field(
        None, ge=40, description="requests of a run in the search of a grid; needed where a policy has one"
    )
    tuning_replications: int = Field(1, ge=1, le=MOST_REPLICATIONS)
    audit_requests: int = Field(ge=0, description="requests of a run that Vidur repeats, at most; 0: no audit")

    @property
    def tuned_requests(self) -> int:
        """``tuning_requests`` of an experiment that has a grid."""
        assert self.tuning_requests is not None, "no grid is searched"
        return self.tuning_requests


class BoundarySearch(Strict):
    """How the stability boundary λ* of every policy is searched; see docs/stability.md."""

    resolution: Positive = Field(description="step of the rates tried, requests/s; about 0.5 % of the boundary")
    low: Positive | None = Field(None, description="a stable rate, requests/s; without it the lowest of the rates")
    high: Positive | None = Field(None, description="an unstable one; without it the highest of the rates")
    requests: dict[str, Literal[0] | Annotated[int, Field(ge=40)]] = Field(
        default_factory=dict, description="requests of a run, by scale; without it four times the scale's; 0: no search"
    )
    seed: int = Field(2001, ge=0)

    @model_validator(mode="after")
    def _bracket(self):
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low must be below high, found {self.low:g} and {self.high:g}")
        return self


class Traces(Strict):
    """Runs whose memory is recorded against time."""

    rates: list[Positive] = Field(min_length=1, description="requests/s")
    replication: int = Field(0, ge=0)
    policies: list[str] | None = Field(None, description="keys of policies; all without it")


Values = Annotated[list[Any], Field(min_length=1)]
Grid = Annotated[dict[str, Values], Field(min_length=1), AfterValidator(of_one_policy)]


class PolicyEntry(Strict):
    """One curve of an experiment: a policy of config/policies, its changed settings, and a grid if it is tuned."""

    use: str = Field(description="name of a file in config/policies")
    label: Words = Field(description="name in figures and tables")
    settings: Changes = Field(default_factory=dict, description="settings that differ from that file")
    grid: Grid | None = Field(
        None, description="settings to try in all combinations at every rate, on other seeds than the evaluation's"
    )
    learns: bool = Field(
        False, description="under vllm and vllm_sync: the plug-in's auto mode, limits from its own estimates"
    )

    def combinations(self) -> list[dict[str, Any]]:
        """Every combination of the grid, in the order of the file; one empty combination without a grid."""
        grid = self.grid or {}
        return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


class Experiment(Strict):
    """See config/README.md for every key."""

    id: str
    title: Words
    hardware: str = Field(description="file in data/hardware, by name")
    workload: str = Field(description="file in config/workloads, by name")
    arrivals: Literal["poisson", "poisson_truncated"] | None = Field(None, description="instead of the workload's")
    semantics: Literal["serving", "decode", "paper", "vllm", "vllm_sync"] = "serving"
    eviction: Literal["recompute", "restart"] | None = Field(
        None,
        description="what an evicted request loses: its KV cache, or its tokens too; "
        "without it recompute under serving and decode, restart under paper",
    )
    time_model: Literal["profile", "linear"] = "profile"
    memory_margin: float | None = Field(None, ge=0, lt=1, description="instead of the hardware's")
    rates: Rates
    horizons: Horizons | None = Field(
        None, description="numbers of requests, with a run for each, instead of the scale's"
    )
    window: float = Field(0.5, gt=0, le=1, description="share of the requests, in the middle, that is measured")
    seed: int = Field(1, ge=0)
    tuning_seed: int = Field(1001, ge=0)
    audit_share: float = Field(0.05, ge=0, le=1, description="share of the runs that Vidur repeats")
    figures: list[str] = Field(
        ["latency", "gap"], description="kinds in src/fluidwait/experiments/figures, or paths of files of your own"
    )
    tables: list[str] = Field(
        [], description="beside those that the figures read: kinds in src/fluidwait/experiments/tables, or paths"
    )
    traces: Traces | None = Field(None, description="runs whose memory is recorded against time")
    scales: dict[str, Scale]
    boundary: BoundarySearch | None = Field(None, description="how λ* is searched; without it, it is not")
    policies: dict[str, PolicyEntry] = Field(min_length=1)

    @field_validator("figures", "tables")
    @classmethod
    def _each_once(cls, kinds):
        names = [Path(kind).stem for kind in kinds]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"'{twice[0]}' is there twice")
        return kinds

    @field_validator("tuning_seed")
    @classmethod
    def _separate(cls, tuning_seed, info):
        if tuning_seed == info.data.get("seed"):
            raise ValueError("must differ from seed: tuning never sees the requests of the evaluation")
        return tuning_seed

    @field_validator("boundary")
    @classmethod
    def _own_requests(cls, boundary, info):
        if boundary is None:
            return None
        if boundary.seed in (info.data.get("seed"), info.data.get("tuning_seed")):
            raise ValueError("seed must differ from the experiment's seed and tuning_seed")
        scales = info.data.get("scales", boundary.requests)
        for name in boundary.requests:
            if name not in scales:
                raise ValueError(f"requests: scale '{name}' is not defined{nearest(name, list(scales))}")
        return boundary

    @field_validator("policies")
    @classmethod
    def _told_apart(cls, policies):
        keys: dict[str, str] = {}
        for key, entry in policies.items():
            if (other := keys.setdefault(entry.label, key)) != key:
                raise ValueError(f"'{other}' and '{key}' have the same label, '{entry.label}'")
        return policies

    @model_validator(mode="after")
    def _tuning_has_a_size(self):
        tuned = next((key for key, entry in self.policies.items() if entry.grid), None)
        for name, scale in self.scales.items() if tuned else ():
            if scale.tuning_requests is None:
                raise ValueError(f"scales.{name}.tuning_requests: required, as policies.{tuned} has a grid")
        return self

    @model_validator(mode="after")
    def _traces_exist(self):
        for key in (self.traces.policies if self.traces else None) or []:
            if key not in self.policies:
                raise ValueError(f"traces.policies: no policy '{key}'{nearest(key, list(self.policies))}")
        return self

    def scale(self, name: str) -> Scale:
        base, _ = split_scale(name)
        if base not in self.scales:
            raise ConfigError(f"experiment {self.id}: scale '{name}' is not defined{nearest(base, list(self.scales))}")
        return self.scales[base]

    def seed_at(self, scale: str) -> int:
        """Seed of the evaluation."""
        return self.seed + SEED_STEP * split_scale(scale)[1]

    def tuning_seed_at(self, scale: str) -> int:
        """Seed of the grid searches."""
        return self.tuning_seed + SEED_STEP * split_scale(scale)[1]

    def rates_at(self, scale: str) -> list[float]:
        rates = self.scale(scale).rates or self.rates
        return rates.values() if isinstance(rates, RateRange) else list(rates)

    def horizons_at(self, scale: str) -> list[int]:
        """Numbers of requests of the runs at every rate and replication; shorter runs are beginnings of longer ones."""
        sizes = self.scale(scale)
        return sizes.horizons or self.horizons or [sizes.requests]

    def stretches_at(self, scale: str) -> int:
        """Equal parts that a replayed trace is cut into: one for each replication, then one for each of the tuning."""
        sizes = self.scale(scale)
        return sizes.replications + (sizes.tuning_replications if self.is_tuned() else 0)

    def is_tuned(self) -> bool:
        """Whether any policy has a grid."""
        return any(entry.grid for entry in self.policies.values())

    def is_searched_at(self, scale: str) -> bool:
        """Whether λ* of the policies is searched at this scale."""
        return self.boundary is not None and self.boundary_requests_at(scale) > 0

    @property
    def fluid_semantics(self) -> Literal["serving", "decode", "paper"]:
        """The name by which the fluid model knows how memory is counted: for a fluid, vLLM's rules are ``serving``."""
        return "serving" if self.semantics == "vllm" or self.semantics == "vllm_sync" else self.semantics

    @property
    def search(self) -> BoundarySearch:
        """How λ* is searched, of an experiment in which it is."""
        assert self.boundary is not None, "nothing is searched"
        return self.boundary

    def boundary_seed_at(self, scale: str) -> int:
        """Seed of the searches for λ*."""
        return self.search.seed + SEED_STEP * split_scale(scale)[1]

    def boundary_requests_at(self, scale: str) -> int:
        """Requests of a run in the searches for λ*."""
        return self.search.requests.get(split_scale(scale)[0], 4 * self.scale(scale).requests)

    def bracket_at(self, scale: str) -> tuple[float, float]:
        """Rates between which λ* is expected, requests/s."""
        rates = self.rates_at(scale)
        return self.search.low or rates[0], self.search.high or rates[-1]

    def traced(self) -> list[str]:
        """Keys of the policies whose memory is recorded, in the order of the experiment."""
        if self.traces is None:
            return []
        return [key for key in self.policies if self.traces.policies is None or key in self.traces.policies]

    def traces_of(self, policy: str) -> Traces:
        """What to record of a policy.

        Raises:
            ConfigError: nothing, or no such policy.
        """
        self.entry(policy)
        if self.traces is None or policy not in self.traced():
            raise ConfigError(f"experiment {self.id}: traces: none of policy '{policy}'")
        return self.traces

    def entry(self, policy: str) -> PolicyEntry:
        if policy not in self.policies:
            raise ConfigError(
                f"experiment {self.id}: policies: no policy '{policy}'{nearest(policy, list(self.policies))}"
            )
        return self.policies[policy]


def workload_of(experiment: Experiment) -> Workload:
    """The workload of an experiment, with its own arrivals if it names some.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    workload = load_workload(experiment.workload)
    if experiment.arrivals in (None, workload.arrivals.process):
        return workload
    return Workload.model_validate(workload.model_dump(mode="json") | {"arrivals": {"process": experiment.arrivals}})


def replayed_rows(experiment: Experiment, workload: Workload, scale: str) -> dict[str, Any] | None:
    """Which rows of a replayed trace the replications use, from 1 on; None for other arrivals."""
    if workload.arrivals.process != "trace":
        return None
    n, replications = experiment.horizons_at(scale)[-1], range(experiment.scale(scale).replications)
    used = [rows_used(workload, n, replication, experiment.stretches_at(scale)) for replication in replications]
    rows = used[0][2]
    return {"rows": rows, "used": [list(row[:2]) for row in used], "left_out": rows - n * len(used)}


def load_experiment(path_or_name: str | Path) -> Experiment:
    """Read an experiment; a name without a suffix means ``config/experiments/<name>.yaml``.

    Raises:
        ConfigError: the file, or one that it extends, is missing or wrong.
    """
    path = Path(path_or_name)
    if path.suffix != ".yaml":
        path = file_of(path_or_name)
    data = read_extended(path)
    try:
        return parse(Experiment, data, path)
    except ConfigError:
        if base := load_yaml(path).get("extends"):
            load_experiment(base)  # a mistake in the base names the base's file
        raise
