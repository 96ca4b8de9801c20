"""Running the cases of E11: one row per replication and horizon."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl

from fluidwait.device.timing import linear
from fluidwait.engines import core, simulator
from fluidwait.policies import Policy, load_policy
from fluidwait.studies.e11 import E11, UNLIMITED, Case
from fluidwait.studies.instance import Offered
from fluidwait.studies.measure import QUANTITIES, at_horizons, horizons
from fluidwait.studies.study import seed_at

NO_LIMIT = 10**9  # requests or tokens that no batch ever holds


def run_cases(study: E11, keys: list[str], scale: str) -> pl.DataFrame:
    """Every case in every replication. All cases of one instance and slack meet the same requests.

    Columns case, thresholds, replication, zeta_t (s), iterations (zeta_t over Delta T of a full batch), the quantities
    of :mod:`fluidwait.studies.measure`, offered (throughput*, tokens/s), and of the whole run evictions (per request)
    and peak (KV tokens).
    """
    parts = []
    for key in keys:
        case = study.cases[key]
        given: list[Any] = case.thresholds or [None]
        for thresholds in given:
            parts += _run_case(study, key, case, thresholds, scale)
    return pl.concat(parts)


def _run_case(study: E11, key: str, case: Case, thresholds: list[int] | None, scale: str) -> list[pl.DataFrame]:
    sizes, offered = study.scale(scale), study.offered(case)
    iterations = horizons(study.first_horizon, sizes.horizon * case.horizon_share, study.horizons_per_decade)
    until, simulate = iterations * offered.iteration_time, prepared(study, case, thresholds)
    label = " ".join(map(str, thresholds or study.instances[case.instance].thresholds))
    frames = []
    for replication in range(math.ceil(sizes.replications * case.replications_share)):
        requests = offered.requests_until(until[-1], seed_at(study.seed, scale), replication)
        run = simulate(requests)
        columns = at_horizons(requests, run, offered, until)
        frames.append(
            pl.DataFrame(
                {
                    "case": [key] * len(until),
                    "thresholds": label,
                    "replication": replication,
                    "zeta_t": until,
                    "iterations": iterations,
                    **{name: columns[name] for name in QUANTITIES},
                    "offered": offered.throughput,
                    "evictions": float(run.evictions.sum() / len(requests.arrival)),
                    "peak": run.peak_blocks,
                }
            )
        )
    return frames


def prepared(study: E11, case: Case, thresholds: list[int] | None) -> Any:
    """A function from requests to a run: the simulator with the case's policy, memory and iteration time."""
    offered, instance = study.offered(case), study.instances[case.instance]
    times = linear(instance.d0, instance.d1)
    semantics = core.paper(offered.memory if case.memory == "full_batch" else UNLIMITED)
    policy = _policy(case, thresholds, instance.thresholds, offered)
    d = (instance.d0, instance.d1)
    knobs = policy.prepare(core.context_of(offered.law, offered.rate, times, d, semantics))
    return lambda requests: simulator.simulate(requests, policy, knobs, times, semantics)


def _policy(case: Case, thresholds: list[int] | None, wait_thresholds: np.ndarray, offered: Offered) -> Policy:
    longest = int((offered.law.prompt + offered.law.output).max())
    settings = {
        "wait": {"policy": "wait", "thresholds": wait_thresholds.tolist(), "max_wait": math.inf},
        "nested_wait": {
            "policy": "nested_wait",
            "boundaries": case.boundaries,
            "thresholds": thresholds,
            "max_wait": math.inf,
        },
        # vLLM's scheduler without limits on tokens and requests is plain FCFS: decode all, admit while prompts fit
        "fcfs": {"policy": "vllm_v1", "token_budget": NO_LIMIT, "max_requests": NO_LIMIT},
        "fcfs_reserving": {"policy": "orca", "max_requests": NO_LIMIT, "max_model_len": longest},
    }
    return load_policy(settings[case.policy], f"case {case.label}")
