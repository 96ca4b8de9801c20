"""An experiment with everything that it names: hardware, workload, policies, semantics, loaded and checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import project_root
from fluidwait.base.scales import split_scale
from fluidwait.base.yaml_files import load_yaml
from fluidwait.device.hardware import Hardware, load_hardware
from fluidwait.device.timing import TimeModel
from fluidwait.engines import core
from fluidwait.engines.core import Semantics
from fluidwait.engines.presets import most_tokens, semantics_of
from fluidwait.engines.v1.rules import Rules
from fluidwait.experiments.experiment import Experiment, workload_of
from fluidwait.policies import Policy, load_policy
from fluidwait.policies.contract import Context
from fluidwait.workload import (
    LengthLaw,
    Requests,
    Workload,
    check_fits,
    check_offered,
    check_span,
    generate,
    is_random,
    length_law,
    rows_used,
)


def _raise_if_its_own(base: dict[str, Any], file: str, mistake: str) -> None:
    """Name the policy's file where the same mistake is in it, whatever the experiment changes."""
    try:
        load_policy(base, file)
    except ConfigError as error:
        if str(error).removeprefix(file) == mistake:
            raise


@dataclass(frozen=True)
class Setting:
    """Everything about an experiment that its policies share, resolved once and handed down."""

    experiment: Experiment
    hardware: Hardware
    workload: Workload
    law: LengthLaw
    time_model: TimeModel
    semantics: Semantics | Rules
    _files: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)  # of config/policies, by name

    def requests(self, n: int, rate: float, seed: int, replication: int, stretches: int = 1) -> Requests:
        """The same requests for every policy and engine."""
        return generate(self.workload, n=n, rate=rate, seed=seed, replication=replication, stretches=stretches)

    def evaluation(self, scale: str, n: int, rate: float, replication: int) -> Requests:
        """The first n requests of a replication of the sweep."""
        stretches = self.experiment.stretches_at(scale)
        return self.requests(n, rate, self.experiment.seed_at(scale), replication, stretches)

    def tuning(self, scale: str, rate: float, replication: int) -> Requests:
        """The requests of a replication of the grid search: of other seeds, or other rows of a replayed trace."""
        sizes, stretches = self.experiment.scale(scale), self.experiment.stretches_at(scale)
        place = sizes.replications + replication if self.workload.arrivals.process == "trace" else replication
        return self.requests(sizes.tuned_requests, rate, self.experiment.tuning_seed_at(scale), place, stretches)

    def context(self, rate: float) -> Context:
        """What policies derive their knobs from."""
        linear, error = self.hardware.linear, self.workload.prediction_error
        return core.context_of(self.law, rate, self.time_model, linear, self.semantics, error)

    def policy(self, key: str, change: dict[str, Any] | None = None) -> Policy:
        """The policy of an entry with its settings and, for a tuned one, the chosen combination."""
        entry = self.experiment.entry(key)
        file = f"config/policies/{entry.use}.yaml"
        if entry.use not in self._files:
            self._files[entry.use] = load_yaml(project_root() / file)
        base = self._files[entry.use]
        source = f"experiment {self.experiment.id}: policies.{key}"
        try:
            return load_policy(base | entry.settings | (change or {}), source)
        except ConfigError as error:
            _raise_if_its_own(base, file, str(error).removeprefix(source))
            raise

    def own_policies(self) -> tuple[str, ...]:
        """Files of the user's that define policies of the experiment, from the project's root."""
        used = (self.policy(key, entry.combinations()[0]) for key, entry in self.experiment.policies.items())
        return tuple(sorted({policy.code for policy in used if policy.file is not None}))


def resolve(experiment: Experiment) -> Setting:
    """Load and check what the experiment names.

    Raises:
        ConfigError: a file is missing or wrong, or requests do not fit the KV memory.
    """
    hardware = load_hardware(experiment.hardware)
    if experiment.memory_margin is not None:
        hardware = hardware.with_margin(experiment.memory_margin)
    workload = workload_of(experiment)
    law = length_law(workload)
    semantics = semantics_of(experiment.semantics, hardware, experiment.eviction, caching=workload.knows_prefixes)
    check_fits(
        law, most_tokens(semantics), f"experiment {experiment.id}: workload {workload.name}", hardware.max_model_len
    )
    return Setting(experiment, hardware, workload, law, hardware.time_model(experiment.time_model), semantics)


def check_requests(setting: Setting, scale: str) -> None:
    """Whether a scale's requests can be what it says: at the rates asked for, in replications that differ.

    Raises:
        ConfigError: λ* is to be searched, or other seeds are wanted, where there are none; replications would all be
            the same requests; a replayed trace has too few rows; a piecewise profile would offer another rate.
    """
    experiment, arrivals = setting.experiment, setting.workload.arrivals
    sizes, where = experiment.scale(scale), f"experiment {experiment.id}"
    if experiment.is_searched_at(scale) and not arrivals.constant_rate:
        raise ConfigError(
            f"{where}: boundary: arrivals '{arrivals.process}' have no constant rate, so no λ*; leave the key out"
        )
    base, seeds = split_scale(scale)
    varied = is_random(setting.workload)
    if seeds and (arrivals.process == "trace" or not varied):
        raise ConfigError(f"{where}: scale '{scale}': its requests are the same on any seeds (nearest valid: '{base}')")
    if not varied and sizes.replications > 1:
        raise ConfigError(
            f"{where}: scales.{base}.replications: all {sizes.replications} would be the same requests, of one kind at "
            "equal distances (nearest valid value: 1)"
        )
    if arrivals.process == "trace":
        _check_stretches(setting, scale)
    for n in {*experiment.horizons_at(scale), *([sizes.tuned_requests] if experiment.is_tuned() else [])}:
        for rate in [*experiment.rates_at(scale), *(experiment.traces.rates if experiment.traces else [])]:
            check_span(n / rate, n, rate, f"{where}: scales.{base}: rate {rate:g}")
            check_offered(setting.workload, n, rate, f"{where}: scales.{base}: rate {rate:g}")


def _check_stretches(setting: Setting, scale: str) -> None:
    """Whether a replayed trace has the rows that a scale asks for."""
    experiment, workload = setting.experiment, setting.workload
    sizes, (base, _) = experiment.scale(scale), split_scale(scale)
    tuned = sizes.tuning_replications if experiment.is_tuned() else 0
    n = max(experiment.horizons_at(scale)[-1], sizes.tuned_requests if tuned else 0)
    where = f"experiment {experiment.id}: scales.{base}"
    size = rows_used(workload, 1)[2]
    room = size // n - tuned
    if room < 1:
        raise ConfigError(
            f"{where}: {n} requests in {1 + tuned} stretch(es), one for each replication, but {workload.replayed.file} "
            f"has {size} rows (nearest valid number of requests: {size // (1 + tuned)})"
        )
    if sizes.replications > room:
        raise ConfigError(
            f"{where}.replications: {sizes.replications} stretches of {n} requests"
            f"{f' and {tuned} for tuning' if tuned else ''}, but {workload.replayed.file} has {size} rows "
            f"(nearest valid value: {room})"
        )
    if experiment.traces and experiment.traces.replication >= sizes.replications:
        raise ConfigError(
            f"experiment {experiment.id}: traces.replication: {experiment.traces.replication} is not among the "
            f"stretches of the replayed trace at scale '{base}' (nearest valid value: {sizes.replications - 1})"
        )
