"""E10: a sample of the runs repeated in vLLM's real scheduler."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact, names
from fluidwait.engines.simulator import simulate
from fluidwait.engines.vllm_clock import simulate_vllm_clock
from fluidwait.experiments.audit import TOLERANCE, AuditError
from fluidwait.studies.clock import Case, Point, identity, points
from fluidwait.studies.e10 import E10
from fluidwait.studies.study import seed_at
from fluidwait.workload import Requests, input_files


def audit(study: E10, scale: str) -> Artifact:
    """A sample of the runs in vLLM's real scheduler: differences in s, which must be 0, request by request.

    Raises:
        AuditError: when it is made: first tokens or completions differ by more than
            :data:`~fluidwait.experiments.audit.TOLERANCE` seconds, or evictions differ.
    """
    cases = {load: Case(study, load) for load in study.loads}
    return Artifact(
        lambda path, _: pl.DataFrame([_compare(cases[k], p, scale) for k, p in sample(study, scale)]).write_csv(path),
        {load: identity(case, scale) for load, case in cases.items()} | {"audit": study.audit.model_dump()},
        imported_modules(__name__),
        rule="study_audit",
        inputs=names(sorted({file for case in cases.values() for file in input_files(case.workload)})),
    )


def sample(study: E10, scale: str) -> list[tuple[str, Point]]:
    """(load, run) of the audited: at least ``share`` of the runs of each policy, drawn once and for all."""
    random = np.random.default_rng([seed_at(study.seed, scale), len(study.policies)])
    found = []
    for key in study.policies:
        every = [(load, p) for load in study.loads for p in points(study, load, scale) if p.policy == key]
        count = math.ceil(study.audit.share * len(every))
        found += [every[i] for i in sorted(random.choice(len(every), size=count, replace=False))]
    return found


def _compare(case: Case, point: Point, scale: str) -> dict[str, Any]:
    rate = case.rate(point.share)
    whole = case.drawn(rate, point.replication, scale)
    requests = Requests(*(column[: case.study.audit.requests] for column in whole))
    arguments = case.arguments(point.policy, rate, requests)
    ours, theirs = simulate(*arguments), simulate_vllm_clock(*arguments)
    first_token = float(np.abs(ours.first_token - theirs.first_token).max())
    completion = float(np.abs(ours.completion - theirs.completion).max())
    row = {"workload": case.load} | point._asdict() | {"rate": rate, "requests": len(requests.arrival)}
    row |= {"preemptions": int(theirs.evictions.sum())}
    row |= {"max_abs_first_token": first_token, "max_abs_completion": completion}
    worst = max(first_token, completion)
    if not worst <= TOLERANCE or not np.array_equal(ours.evictions, theirs.evictions):
        told = ", ".join(f"{name} {value}" for name, value in row.items() if not name.startswith("max"))
        raise AuditError(f"study {case.study.id}: {told}: simulator and vLLM differ by {worst:.3g} s")
    return row
