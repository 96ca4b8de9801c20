"""Workloads and policies for the tests of the engines: hand-made requests and random, memory-bound configurations."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fluidwait.device.hardware import load_hardware
from fluidwait.device.timing import TimeModel
from fluidwait.engines import core, simulator
from fluidwait.engines.core import Semantics
from fluidwait.engines.simulator import Run
from fluidwait.engines.vidur import simulate_vidur
from fluidwait.policies import load_policy
from fluidwait.policies.contract import Context
from fluidwait.workload import LengthLaw, Requests

A100 = load_hardware("a100-80g_llama-2-7b").time_model()
UNLIMITED = 10**9


def requests(arrival, prompt, output, kind=0) -> Requests:
    """Requests from sequences or scalars; scalars are repeated."""
    arrival = np.asarray(arrival, dtype=float)
    tokens = [np.broadcast_to(np.asarray(x, dtype=np.int64), arrival.shape).copy() for x in (prompt, output, kind)]
    return Requests(arrival, *tokens)


def law_of(some: Requests) -> LengthLaw:
    """The empirical law of the lengths."""
    share = np.full(len(some.arrival), 1 / len(some.arrival))
    return LengthLaw(some.prompt.astype(float), some.output.astype(float), share)


def single_type(some: Requests) -> LengthLaw:
    """One type whose output is the longest there is: for ``wait``, which counts stages per type."""
    return LengthLaw(some.prompt.mean(keepdims=True), some.output.max(keepdims=True).astype(float), np.ones(1))


def prepared(spec: dict, some: Requests, time_model: TimeModel, semantics: Semantics):
    """(policy, knobs) of a policy given as a mapping."""
    policy = load_policy(spec)
    law = single_type(some) if policy.by_type else law_of(some)
    capacity = semantics.blocks * semantics.block_size
    context = Context(law, 1.0, time_model, (0.0106, 4e-7), capacity, semantics.prefill_emits)
    return policy, policy.prepare(context)


def run(spec: dict, some: Requests, semantics: Semantics, time_model: TimeModel = A100, **options) -> Run:
    """Simulate, with every invariant checked at every iteration unless told otherwise."""
    policy, knobs = prepared(spec, some, time_model, semantics)
    return simulator.simulate(some, policy, knobs, time_model, semantics, **{"check": True, **options})


class Case(NamedTuple):
    """A random configuration."""

    spec: dict
    requests: Requests
    semantics: Semantics
    time_model: TimeModel = A100


def random_case(name: str, seed: int) -> Case:
    """Mixed lengths, little memory, small caps; ties in time for some seeds, outputs of one token in all."""
    g = np.random.default_rng([seed, *name.encode()])
    n = int(g.integers(30, 110))
    longest = int(g.choice([12, 60, 260]))
    output = g.integers(1, longest, n)
    output[g.random(n) < 0.1] = 1
    arrival = np.cumsum(g.exponential(1 / g.choice([4, 15, 60]), n))
    if seed % 3 == 0:
        arrival = np.round(arrival, 1)
    if seed % 5 == 0:
        arrival = np.repeat(arrival[::4], 4)[:n]
    blocks = int(g.integers(48, 220))
    semantics = core.serving(blocks, 16, [0.0, 0.01, 0.05][seed % 3])
    if seed % 4 == 3 and name not in ("sarathi", "vllm_v0", "orca"):
        semantics = semantics._replace(recompute=False)
    return Case(random_policy(name, seed, g), requests(arrival, g.integers(1, 400, n), output), semantics)


def random_policy(name: str, seed: int, g: np.random.Generator) -> dict:
    """A policy with small caps."""
    cap = int(g.integers(2, 40 if seed % 2 else 10))
    patience = [0.02, 0.2, 1e9][seed % 3]
    settings = {
        "sarathi": {"token_budget": int(g.choice([5, 60, 500]) * g.uniform(0.5, 1)), "max_requests": cap},
        "vllm_v0": {"max_requests": cap, "token_cap": int(g.integers(661, 1500))},
        "vllm_v1": {"token_budget": int(g.integers(20, 800)), "max_requests": cap},
        "fluid_budget": {
            "batch_tokens": int(g.integers(20, 800)),
            "max_requests": cap,
            "watermark": [0.1, 0.0][seed % 2],
        },
        "fluid_lookahead": {
            "max_requests": cap,
            "share": [0.9, 0.3][seed % 2],
            "overcommit": [2.0, -1.0, 0.0][seed % 3],
        },
        "orca": {"max_requests": cap, "max_model_len": int(g.choice([672, 704, 768]))},
        "wait_chunked": {
            "in_service": max(cap, 8),
            "chunk": int(g.integers(16, 500)),
            "segments": int(g.integers(1, 6)),
            "gate": seed % 7 != 0,
            "max_wait": patience,
        },
        "nested_wait": {
            "boundaries": [10, 50, 300],
            "thresholds": sorted((int(x) for x in g.integers(1, 8, 3)), reverse=True),
            "max_wait": patience,
        },
        "wait": {"thresholds": [int(g.integers(1, 6))], "max_wait": patience},
    }[name]
    return {"policy": name, **settings}


POLICIES = ("vllm_v0", "sarathi", "orca", "vllm_v1", "wait_chunked", "nested_wait", "wait")
NEVER_RESTARTED = ("vllm_v0", "sarathi", "orca")  # in Vidur, whose own schedulers recompute


def corner_case(seed: int, paper: bool = False) -> Case:
    """Tiny blocks, few blocks, small caps, and requests up to the longest that the memory can serve.

    Any policy, ``serving`` or ``decode``, and with ``paper`` also the paper's semantics. One in ten has requests that
    are longer than that, which the engines refuse.
    """
    g = np.random.default_rng([seed, 77])
    name = str(g.choice(POLICIES))
    size, blocks = int(g.choice([1, 2, 3, 4, 8, 16, 32, 63])), int(g.integers(1, 12 if g.random() < 0.6 else 60))
    watermark = min(int(g.choice([0, 0, 0, 1, 2])), blocks - 1)
    recompute = bool(g.random() < 0.75) or name in NEVER_RESTARTED
    semantics = core.Semantics(blocks, size, watermark, True, recompute, 0, bool(g.random() < 0.25))
    if paper and g.random() < 0.3:
        semantics = semantics._replace(block_size=1, prefill_emits=False, remote_prefill=False)
    some = _corner_requests(g, semantics)
    return Case(_corner_policy(name, g, some, semantics), some, semantics)


def _corner_requests(g: np.random.Generator, semantics: Semantics) -> Requests:
    blocks, size = semantics.blocks, semantics.block_size
    most = (blocks - semantics.watermark) * size
    if g.random() < 0.9:
        most = min(most, (blocks - 1) * size + (2 if semantics.prefill_emits else 1))
    n, longest = int(g.integers(1, 30)), int(g.integers(2, max(3, most + 1)))
    length = np.full(n, longest) if g.random() < 0.3 else g.integers(2, longest + 1, n)
    output = np.array([int(g.integers(1, total)) for total in length])
    if g.random() < 0.2:
        output[:] = 1
    elif g.random() < 0.3:
        output = length - output
    arrival = np.cumsum(g.exponential(1 / g.choice([2, 20, 200]), n))
    return requests(np.round(arrival, 1) if g.random() < 0.3 else arrival, length - output, output)


def _corner_policy(name: str, g: np.random.Generator, some: Requests, semantics: Semantics) -> dict:
    """A policy with caps that are small beside the requests."""
    longest, output = int((some.prompt + some.output).max()), int(some.output.max())
    budget = int(g.choice([1, 2, 5, 22, 53, 100])) if g.random() < 0.6 else int(g.integers(1, 300))
    most = int(g.choice([1, 2, 3, 5, 50]))
    patience = {"max_wait": float(g.choice([0, 0.02, 0.5, 1e9]))}
    ends = sorted({*map(int, g.integers(1, output + 1, int(g.integers(0, 3)))), output})
    settings = {
        "sarathi": {"token_budget": budget, "max_requests": most},
        "vllm_v0": {"token_cap": max(budget, longest if g.random() < 0.8 else 0), "max_requests": most},
        "vllm_v1": {"token_budget": budget, "max_requests": most},
        "orca": {
            "max_requests": most,
            "max_model_len": max(longest, int(g.integers(1, semantics.blocks * semantics.block_size + 1))),
        },
        "wait_chunked": {
            "in_service": most + len(ends),
            "chunk": budget,
            "boundaries": ends,
            "gate": bool(g.random() < 0.8),
            **patience,
        },
        "nested_wait": {"boundaries": ends, "thresholds": g.integers(1, 8, len(ends)).tolist(), **patience},
        "wait": {"thresholds": [int(g.integers(1, 6))], **patience},
    }[name]
    return {"policy": name, **settings}


def simulated(case: Case, **changed) -> Run:
    """The case in the simulator, with some settings changed."""
    return run({**case.spec, **changed}, case.requests, case.semantics, case.time_model)


def in_vidur(case: Case, native: bool = False) -> Run:
    """The case in Vidur."""
    policy, knobs = prepared(case.spec, case.requests, case.time_model, case.semantics)
    return simulate_vidur(case.requests, policy, knobs, case.time_model, case.semantics, native=native)


NO_SETTINGS = """
from fluidwait.policies.contract import PolicySettings, jit


class Settings(PolicySettings):
    unused: int = 0


@jit
def plan(view, knobs, memory, out):
"""

ONLY_ONCE = """    if memory[0] == 1 or len(view.waiting) == 0:
        return 0, float("inf")
    memory[0] = 1
    out.admit[0] = 0
    out.chunk[0] = view.goal[view.waiting[0]]
    return 1, float("inf")
"""


def policy_file(folder: Path, name: str, body: str) -> Path:
    """A policy file whose ``plan`` has this body."""
    path = folder / f"{name}.py"
    path.write_text(NO_SETTINGS + body)
    return path


def only_once(folder: Path) -> Path:
    """A policy that admits one request and never serves anything again."""
    return policy_file(folder, "only_once", ONLY_ONCE)
