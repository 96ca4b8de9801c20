"""One run: requests, and a policy that serves them on some hardware. The command ``simulate`` runs this code too."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.device.hardware import Hardware, load_hardware
from fluidwait.device.timing import TimeModel
from fluidwait.engines import core, simulator
from fluidwait.engines.core import Semantics
from fluidwait.engines.learning import Learned, check_learns
from fluidwait.engines.presets import most_tokens, semantics_of
from fluidwait.engines.rehearsal import rehearse
from fluidwait.engines.v1.rules import Rules
from fluidwait.experiments.sweep import columns_of
from fluidwait.policies import Policy, load_policy
from fluidwait.stats.metrics import Metrics, run_metrics
from fluidwait.workload import (
    Requests,
    Workload,
    check_fits,
    check_offered,
    length_law,
    load_workload,
    mean_rate,
)
from fluidwait.workload import generate as draw

HARDWARE = "a100-80g_llama-2-7b"
"""What runs are on when no hardware is given."""

ENGINES, TIME_MODELS = ("simulator", "vidur", "vllm"), ("profile", "linear")
SEMANTICS = ("serving", "paper", "vllm", "vllm_sync")

Engine = Literal["simulator", "vidur", "vllm"]
SemanticsName = Literal["serving", "paper", "vllm", "vllm_sync"]
TimeModelName = Literal["profile", "linear"]


class Traffic(NamedTuple):
    """Requests of a workload."""

    workload: Workload
    rate: float | None  # requests/s; None for the workload's own
    requests: Requests  # arrays: arrival, prompt, output, kind

    @property
    def frame(self) -> pl.DataFrame:
        """One row per request: arrival (s), prompt and output (tokens), kind (number of its type)."""
        return pl.DataFrame({name: getattr(self.requests, name) for name in ("arrival", "prompt", "output", "kind")})


class Job(NamedTuple):
    """A run with everything resolved."""

    policy: Policy
    workload: Workload
    hardware: Hardware
    requests: Requests
    knobs: Any
    time_model: TimeModel
    semantics: Semantics | Rules


class Simulation:
    """A run that is over.

    Attributes:
        job: what was run.
        run: what the engine recorded: arrays by request, iterations, busy time (s), most blocks in use.
        columns: arrays by request, under the names of :data:`fluidwait.artifacts.records.REQUESTS`.
    """

    def __init__(self, job: Job, run: simulator.Run) -> None:
        self.job, self.run = job, run
        self.columns: dict[str, np.ndarray] = columns_of(job.requests, run)

    @cached_property
    def metrics(self) -> Metrics:
        """Latencies (s) of the middle half of the requests, throughput, evictions."""
        return run_metrics(self.columns)

    @property
    def requests(self) -> pl.DataFrame:
        """One row per request: when it arrived, got its first token and completed (s), its tokens and evictions."""
        return pl.DataFrame(self.columns)

    def __repr__(self) -> str:
        job, metrics = self.job, self.metrics
        return (
            f"<{job.policy.name}, {job.workload.name}, {job.hardware.name}: {metrics.requests} requests, "
            f"mean latency {metrics.mean_latency:.4g} s, {metrics.evictions} evictions>"
        )


def generate(
    workload: str | Path | Workload,
    rate: float | None = None,
    requests: int = 2000,
    seed: int = 1,
    replication: int = 0,
    stretches: int = 1,
) -> Traffic:
    """Draw the first requests of a workload; the same arguments always give the same requests.

    Args:
        workload: name in ``config/workloads``, path of a YAML file, or loaded.
        rate: requests/s; the workload's own without it.
        requests: how many.
        seed, replication: name the random streams.
        stretches: equal parts of a replayed trace, of which ``replication`` picks one.

    Raises:
        ConfigError: no rate, or an argument out of range.
    """
    for name, value in (("rate", rate), ("requests", requests)):
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ConfigError(f"{name} must be a number, found {value!r}")
    chosen = workload if isinstance(workload, Workload) else load_workload(workload)
    drawn = draw(chosen, n=requests, rate=rate, seed=seed, replication=replication, stretches=stretches)
    check_offered(chosen, requests, rate, f"workload {chosen.name}")
    return Traffic(chosen, rate, drawn)


def simulate(
    policy: str | Path | dict[str, Any] | Policy,
    traffic: Traffic,
    hardware: str | Path | Hardware = HARDWARE,
    engine: Engine = "simulator",
    semantics: SemanticsName = "serving",
    time_model: TimeModelName = "profile",
    learns: bool = False,
) -> Simulation:
    """Run a policy until every request has completed.

    Args:
        policy: name in ``config/policies``, path of a YAML file, its content as a dictionary, or loaded.
        traffic: requests of :func:`generate`.
        hardware: name in ``data/hardware``, path of a YAML file, or loaded.
        engine: ``simulator``; ``vidur`` for the real one, ``vllm`` for vLLM's real scheduler on a virtual clock.
        semantics: ``serving``, ``paper``, ``vllm`` or ``vllm_sync``; see docs/engines.md.
        time_model: ``profile`` for the measured iteration time, ``linear`` for the paper's d0 and d1.
        learns: the policy is told nothing of hardware, lengths and rate, as the plug-in in its auto mode, which finds
            its limits while it serves; for ``fluid_budget`` under vLLM's rules.

    Raises:
        ConfigError: something is not known, out of range, or does not fit the memory; one line that says what.
    """
    return run(prepare(policy, traffic, hardware, semantics, time_model, learns), engine)


def prepare(
    policy: str | Path | dict[str, Any] | Policy,
    traffic: Traffic,
    hardware: str | Path | Hardware = HARDWARE,
    semantics: SemanticsName = "serving",
    time_model: TimeModelName = "profile",
    learns: bool = False,
) -> Job:
    """Load and check everything that a run needs; arguments and errors as of :func:`simulate`."""
    if not isinstance(traffic, Traffic):
        raise ConfigError(f"traffic must be what generate(...) returns, found {traffic!r}")
    _check_choice("semantics", semantics, SEMANTICS)
    _check_choice("time_model", time_model, TIME_MODELS)
    chosen = policy if isinstance(policy, Policy) else load_policy(policy)
    machine = hardware if isinstance(hardware, Hardware) else load_hardware(hardware)
    rules = semantics_of(semantics, machine, caching=traffic.workload.knows_prefixes)
    longest = most_tokens(rules)
    check_fits(length_law(traffic.workload), longest, f"workload {traffic.workload.name}", machine.max_model_len)
    times = machine.time_model(time_model)
    knobs: Any = Learned() if learns else _knobs(chosen, traffic, machine, times, rules)
    if learns:
        check_learns(chosen, rules)
    return Job(chosen, traffic.workload, machine, traffic.requests, knobs, times, rules)


def _knobs(policy: Policy, traffic: Traffic, machine: Hardware, times: TimeModel, rules: Semantics | Rules) -> Any:
    rate = mean_rate(traffic.workload, traffic.rate, len(traffic.requests.arrival))
    error = traffic.workload.prediction_error
    context = core.context_of(length_law(traffic.workload), rate, times, machine.linear, rules, error)
    try:
        return policy.prepare(context)
    except ConfigError as error:
        if machine.timing.linear is None and str(error).startswith("d0:"):
            raise ConfigError(
                f"{machine.name}: timing.linear: '{policy.name}' needs the paper's d0 and d1; not in this hardware file"
            ) from None
        raise


def run(job: Job, engine: Engine = "simulator") -> Simulation:
    """Run what :func:`prepare` resolved; our simulator checks every iteration."""
    _check_choice("engine", engine, ENGINES)
    arguments: Any = (job.requests, job.policy, job.knobs, job.time_model, job.semantics)
    if not isinstance(job.knobs, Learned):
        rehearse(*arguments)
    if engine == "vllm":
        from fluidwait.engines.vllm_clock import simulate_vllm_clock

        return Simulation(job, simulate_vllm_clock(*arguments))
    if engine == "vidur":
        from fluidwait.engines.vidur import simulate_vidur

        return Simulation(job, simulate_vidur(*arguments))
    return Simulation(job, simulator.simulate(*arguments, check=True))


def _check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ConfigError(f"{name}: '{value}' is none of {', '.join(valid)}{nearest(str(value), valid)}")
