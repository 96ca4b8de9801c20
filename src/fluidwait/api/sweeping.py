"""Several policies over rates and replications, as one table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
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
from fluidwait.experiments.check import check_policy
from fluidwait.experiments.experiment import Experiment, load_experiment
from fluidwait.experiments.setting import Setting, check_requests, resolve
from fluidwait.experiments.sweep import columns_of, run_once, search, winners_in
from fluidwait.policies import Policy, load_policy
from fluidwait.stats.metrics import run_metrics
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


def sweep_experiment(
    experiment: str | Path | Experiment, scale: str = "quick", policies: Sequence[str] | None = None
) -> pl.DataFrame:
    """Run policies of an experiment at all its rates and replications, those with a grid tuned first.

    Args:
        experiment: name in ``config/experiments``, path of a YAML file, or loaded.
        scale: key under ``scales``.
        policies: keys under ``policies``; all without it.

    Returns:
        As of :func:`sweep`: the numbers in ``results/<scale>/<experiment>/metrics``.

    Raises:
        ConfigError: something in the experiment is wrong, or there is no such scale or policy.
    """
    setting = resolve(experiment if isinstance(experiment, Experiment) else load_experiment(experiment))
    check_requests(setting, scale)
    keys = list(setting.experiment.policies) if policies is None else list(policies)
    for key in keys:
        check_policy(setting, key, scale)
    rows = [row for key in keys for row in _runs_of(setting, key, scale)]
    return pl.DataFrame(rows, infer_schema_length=None)


def _runs_of(setting: Setting, key: str, scale: str) -> Iterator[dict[str, Any]]:
    """Place and metrics of every run of a policy of an experiment."""
    experiment = setting.experiment
    horizons, replications = experiment.horizons_at(scale), range(experiment.scale(scale).replications)
    best = winners_in(search(setting, key, scale)) if experiment.entry(key).grid else {}
    for rate in experiment.rates_at(scale):
        policy = setting.policy(key, best.get(rate))
        for n, replication in itertools.product(horizons, replications):
            requests = setting.evaluation(scale, n, rate, replication)
            columns = columns_of(requests, run_once(setting, key, policy, requests, rate))
            metrics = run_metrics(columns, window=experiment.window)
            yield {"policy": key, "rate": rate, "replication": replication} | metrics._asdict()


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
