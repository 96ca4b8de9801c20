"""Several policies over rates and replications, as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fluidwait.api.simulation import (
    HARDWARE,
    Engine,
    Job,
    SemanticsName,
    TimeModelName,
    generate,
    prepare,
    run,
)
from fluidwait.base.errors import ConfigError
from fluidwait.device.hardware import Hardware, load_hardware
from fluidwait.policies import Policy, load_policy
from fluidwait.workload import Workload, load_workload

AnyPolicy = str | Path | dict[str, Any] | Policy


def sweep(
    policies: Sequence[AnyPolicy] | Mapping[str, AnyPolicy],
    workload: str | Path | Workload,
    rates: Sequence[float],
    requests: int = 2000,
    replications: int = 3,
    seed: int = 1,
    hardware: str | Path | Hardware = HARDWARE,
    engine: Engine = "simulator",
    semantics: SemanticsName = "serving",
    time_model: TimeModelName = "profile",
) -> pl.DataFrame:
    """Run every policy at every rate and replication; all of them meet the same requests.

    Args:
        policies: as of :func:`~fluidwait.api.simulation.simulate`; in a mapping by the name to give them in the table.
        rates: requests/s.
        requests: requests of each run.
        replications: runs of each policy and rate, each on requests of its own.

    Returns:
        One row per run: policy, rate, replication and every field of :class:`~fluidwait.stats.metrics.Metrics`.

    Raises:
        ConfigError: as of :func:`~fluidwait.api.simulation.simulate`, before the first run; two policies of one name;
            nothing to run.
    """
    chosen, machine = _named(policies), hardware if isinstance(hardware, Hardware) else load_hardware(hardware)
    offered = workload if isinstance(workload, Workload) else load_workload(workload)
    if not (chosen and len(rates) and replications > 0):
        raise ConfigError("sweep: needs a policy, a rate and a replication at least")
    stretches = replications if offered.arrivals.process == "trace" else 1
    jobs: list[tuple[dict[str, Any], Job]] = []
    for rate in rates:
        for replication in range(replications):
            traffic = generate(offered, rate, requests, seed, replication, stretches)
            for key, policy in chosen.items():
                place = {"policy": key, "rate": float(rate), "replication": replication}
                jobs.append((place, prepare(policy, traffic, machine, semantics, time_model)))
    order = list(chosen)
    jobs.sort(key=lambda item: order.index(item[0]["policy"]))
    return pl.DataFrame([place | run(job, engine).metrics._asdict() for place, job in jobs], infer_schema_length=None)


def _named(policies: Sequence[AnyPolicy] | Mapping[str, AnyPolicy]) -> dict[str, Policy]:
    """Loaded policies by the name that each has in the table."""
    if isinstance(policies, Mapping):
        return {name: _load(policy) for name, policy in policies.items()}
    found: dict[str, Policy] = {}
    for given in [policies] if isinstance(policies, str | Path | Policy) else policies:
        policy = _load(given)
        name = Path(given).stem if isinstance(given, str | Path) else policy.name
        if name in found:
            raise ConfigError(f"sweep: two policies are called '{name}'; give a dictionary, {{name: policy}}")
        found[name] = policy
    return found


def _load(policy: AnyPolicy) -> Policy:
    return policy if isinstance(policy, Policy) else load_policy(policy)
