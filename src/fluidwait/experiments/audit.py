"""Auditors: a random sample of an experiment's runs is repeated in a real engine, request by request.

That is Vidur, and under vLLM's rules vLLM's own scheduler. One job audits all policies of an experiment, as importing
either takes longer than most of its runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact, names
from fluidwait.base.errors import ConfigError, FluidwaitError
from fluidwait.device.timing import TimeModel
from fluidwait.engines.core import Semantics
from fluidwait.engines.simulator import Run, simulate
from fluidwait.engines.v1.rules import Rules
from fluidwait.engines.vidur import VERSION, native_policies, simulate_vidur
from fluidwait.engines.vllm_clock import simulate_vllm_clock
from fluidwait.experiments.experiment import Experiment
from fluidwait.experiments.setting import Setting
from fluidwait.experiments.sweep import code_of, identity, knobs_of, winners
from fluidwait.workload import Requests, input_files

TOLERANCE = 1e-9
"""Largest difference in s between the engines that passes; both do the same arithmetic, so it is 0 as a rule."""


SCHEMA = {
    "policy": str,
    "rate": float,
    "replication": int,
    "requests": int,
    "scheduler": str,
    "evictions": int,
    "max_abs_first_token": float,
    "max_abs_completion": float,
}


class AuditError(FluidwaitError):
    """The simulator and the real engine disagree."""


def sample(experiment: Experiment, key: str, scale: str) -> list[tuple[float, int, int]]:
    """The (rate, requests, replication) to audit: at least ``audit_share`` of the runs, drawn once and for all."""
    replications = range(experiment.scale(scale).replications)
    points = list(itertools.product(experiment.rates_at(scale), experiment.horizons_at(scale), replications))
    audited = experiment.scale(scale).audit_requests > 0
    count = math.ceil(experiment.audit_share * len(points)) if audited else 0
    position = list(experiment.policies).index(key)
    random = np.random.default_rng([experiment.seed_at(scale), position])
    return [points[i] for i in sorted(random.choice(len(points), size=count, replace=False))]


def audit(setting: Setting, scale: str, tunings: Mapping[str, str]) -> Artifact:
    """The sampled runs in the auditor, with its own scheduler where it has one, compared request by request.

    A run longer than ``audit_requests`` is compared on its first requests, simulated anew by both engines.

    Args:
        tunings: tables of the grid search, by policy; those of all tuned policies.

    Raises:
        AuditError: when it is made: first tokens or completions differ by more than :data:`TOLERANCE` seconds, or
            evictions differ.
    """
    experiment = setting.experiment

    def write(path: Path, _: str) -> None:
        rows = []
        for key in experiment.policies:
            chosen = winners(tunings.get(key))
            rows += [_compare(setting, key, scale, chosen, point) for point in sample(experiment, key, scale)]
        pl.DataFrame(rows, schema=SCHEMA).write_csv(path)

    codes = [code_of(setting, key) for key in experiment.policies]
    return Artifact(
        write,
        audit_identity(setting, scale),
        tuple(sorted({*imported_modules(__name__), *itertools.chain(*codes)})),
        rule="audit",
        inputs=(*names(input_files(setting.workload)), *tunings.values()),
    )


def audit_identity(setting: Setting, scale: str) -> dict[str, Any]:
    """Everything besides inputs and code that decides an audit."""
    experiment = setting.experiment
    return {
        "engine": _engine(setting),
        "audit_requests": experiment.scale(scale).audit_requests,
        "audit_share": experiment.audit_share,
        "policies": {key: identity(setting, key, scale) for key in experiment.policies},
    }


def _compare(setting: Setting, key: str, scale: str, chosen: dict, point: tuple[float, int, int]) -> dict[str, Any]:
    """One run in both engines: a row of the table."""
    experiment, (rate, horizon, replication) = setting.experiment, point
    n = min(horizon, experiment.scale(scale).audit_requests)
    policy = setting.policy(key, chosen.get(rate))
    knobs = knobs_of(setting, key, policy, rate)
    requests = Requests(*(column[:n] for column in setting.evaluation(scale, horizon, rate, replication)))
    arguments = (requests, policy, knobs, setting.time_model, setting.semantics)
    ours = simulate(*arguments)
    theirs, scheduler = _audited(*arguments)
    first_token = float(np.abs(ours.first_token - theirs.first_token).max())
    completion = float(np.abs(ours.completion - theirs.completion).max())
    row = {
        "policy": key,
        "rate": rate,
        "replication": replication,
        "requests": n,
        "scheduler": scheduler,
        "evictions": int(theirs.evictions.sum()),
        "max_abs_first_token": first_token,
        "max_abs_completion": completion,
    }
    worst = max(first_token, completion)
    if not worst <= TOLERANCE or not np.array_equal(ours.evictions, theirs.evictions):
        raise AuditError(
            f"experiment {experiment.id}, {key}, rate {rate:g}, replication {replication}: "
            f"simulator and {auditor(setting)} differ by {worst:.3g} s"
        )
    return row


def _audited(requests, policy, knobs: Any, time_model: TimeModel, semantics: Semantics | Rules) -> tuple[Run, str]:
    """The run in the auditor, and whose scheduler that is."""
    if isinstance(semantics, Rules):
        own = policy.stock_limits(knobs) is not None
        run = simulate_vllm_clock(requests, policy, knobs, time_model, semantics)
        return run, "vLLM's" if own else "ours in vLLM"
    native = policy.name in native_policies(semantics)
    run = simulate_vidur(requests, policy, knobs, time_model, semantics, native=native)
    return run, "Vidur's" if native else "ours in Vidur"


def _engine(setting: Setting) -> str:
    """The auditor with its version, as far as it is installed."""
    if not isinstance(setting.semantics, Rules):
        return f"vidur {VERSION}"
    from fluidwait.engines.vllm.load.engine import engine_version

    try:
        return f"vllm {engine_version()}"
    except ConfigError:
        return "vllm"


def auditor(setting: Setting) -> str:
    """The name of the engine that repeats the runs."""
    return "vLLM" if isinstance(setting.semantics, Rules) else "Vidur"
