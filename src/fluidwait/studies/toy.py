"""E11, the paper's toy example: prompts and outputs of one token, iterations of one second, C = 12, 4 arrivals each.

From 4 prefilling and 4 decoding, 4 requests complete per iteration for ever, under FCFS as under WAIT. From 6 waiting
and 3 decoding, FCFS admits all that fits, is short of memory when they decode, evicts, and falls into a cycle.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from fluidwait.artifacts.step import Artifact
from fluidwait.device.timing import linear
from fluidwait.engines import core, simulator
from fluidwait.policies import load_policy
from fluidwait.studies.cases import NO_LIMIT
from fluidwait.studies.e11 import E11, Toy
from fluidwait.studies.study import table_product
from fluidwait.workload import LengthLaw, Requests

WINDOWS = 4
"""Equal parts of the iterations, a row each, to see whether the cycle sets in at once and stays."""


def toy(study: E11) -> Artifact:
    """One row per start, policy and window of iterations; see :func:`table`."""
    return table_product(lambda: table(study.toy), identity=recorded(study), module=__name__, rule="study_toy")


def recorded(study: E11) -> dict:
    """Everything in the configuration that decides the table."""
    return {"study": study.id, "toy": study.toy.model_dump(mode="json")}


def table(setting: Toy) -> pl.DataFrame:
    """Columns start, policy, first and last (iterations of the window), completions per iteration with their least and
    most, and evictions of the whole run."""
    rows = []
    for start, waves in (("balanced", [setting.arrivals]), ("unbalanced", [setting.decoding, setting.waiting])):
        for policy in ("fcfs", "wait"):
            done, evictions = completions(setting, waves, policy)
            length = (setting.iterations - len(waves)) // WINDOWS // 2 * 2  # whole cycles of two iterations
            for first in range(len(waves), len(waves) + WINDOWS * length, length):
                part = done[first : first + length]
                rows.append(
                    {
                        "start": start,
                        "policy": policy,
                        "first": first,
                        "last": first + length - 1,
                        "completions": float(part.mean()),
                        "least": int(part.min()),
                        "most": int(part.max()),
                        "evictions": evictions,
                    }
                )
    return pl.DataFrame(rows)


def completions(setting: Toy, waves: list[int], policy: str) -> tuple[np.ndarray, int]:
    """Requests completed by each iteration, i8[iterations], and evictions in all.

    ``waves`` arrive before the first iterations, ``setting.arrivals`` before every later one: a wave of 3 is decoding
    when the 6 of the next wave wait.
    """
    waves = waves + [setting.arrivals] * (setting.iterations + 1 - len(waves))
    n = sum(waves)
    ones = np.ones(n, dtype=np.int64)
    requests = Requests(np.repeat(np.arange(len(waves), dtype=np.float64), waves), ones, ones, ones * 0)
    spec = {
        "fcfs": {"policy": "vllm_v1", "token_budget": NO_LIMIT, "max_requests": NO_LIMIT},
        "wait": {"policy": "wait", "thresholds": [setting.arrivals], "max_wait": math.inf},
    }[policy]
    chosen, times, law = load_policy(spec), linear(1.0, 0.0), LengthLaw(np.ones(1), np.ones(1), np.ones(1))
    semantics = core.paper(setting.capacity)
    knobs = chosen.prepare(core.context_of(law, float(setting.arrivals), times, (1.0, 0.0), semantics))
    run = simulator.simulate(requests, chosen, knobs, times, semantics)
    iteration = np.rint(run.completion).astype(int) - 1
    return np.bincount(iteration, minlength=setting.iterations)[: setting.iterations], int(run.evictions.sum())
