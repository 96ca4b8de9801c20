"""Random requests and random settings of a vLLM engine, to compare the simulator with the real scheduler."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fluidwait.device.timing import TimeModel
from fluidwait.engines.core import context_of
from fluidwait.engines.v1.rules import Rules, vllm
from fluidwait.policies import Policy, load_policy
from fluidwait.workload import LengthLaw, Requests

BLOCK = 16  # tokens


class Case(NamedTuple):
    requests: Requests
    rules: Rules
    priority: np.ndarray | None
    hashes: list[list[int]] | None


def random_case(seed: int, depth: int, most: int = 80) -> Case:
    """Up to ``most`` requests of one to three kinds, in memory that is ample or holds little more than the longest.

    Ten seeds in a row share the engine's settings: vLLM takes most of a second to set itself up for new ones.
    """
    g = np.random.default_rng([seed, 1])
    kinds, n = int(g.integers(1, 4)), int(g.integers(most // 4, most + 1))
    typical_prompt = np.exp(g.uniform(0, np.log(1200), kinds))
    typical_output = np.exp(g.uniform(0, np.log(250), kinds))
    kind = g.integers(0, kinds, n)
    prompt = np.maximum(1, typical_prompt[kind] * g.uniform(0.5, 1.5, n)).astype(np.int64)
    output = np.maximum(1, typical_output[kind] * g.uniform(0.5, 1.5, n)).astype(np.int64)
    arrival = np.cumsum(g.exponential(np.exp(g.uniform(-5, 1)), n))
    if g.random() < 0.2:
        arrival = np.sort(g.choice(arrival, n))  # some at the same time
    longest = -(-int((prompt + output).max()) // BLOCK)
    blocks = longest + 2 + int(g.integers(0, 4) * g.integers(0, 300))
    s = np.random.default_rng([seed // 10, 2])
    tokens = int(s.choice([64, 256, 512, 2048]))
    settings = {
        "requests": min(int(s.choice([1, 2, 8, 32, 256])), tokens),
        "tokens": tokens,
        "watermark": float(s.choice([0.0, 0.01, 0.1])),
        "chunk": int(s.choice([0, 0, 32, 100])),
        "whole": bool(s.random() < 0.7),
        "by_priority": bool(s.random() < 0.35),
        "caching": bool(s.random() < 0.5),
    }
    rules = vllm(blocks, block_size=BLOCK, asynchronous=depth > 1, **settings)
    priority = g.integers(0, int(g.choice([2, 3, 50])), n) if rules.by_priority else None
    hashes = prefixes(g, prompt) if rules.caching else None
    return Case(Requests(arrival, prompt, output, np.zeros(n, dtype=np.int64)), rules, priority, hashes)


def for_release(case: Case, version: str) -> Case:
    """The case without the rules that releases of vLLM before 0.32 do not share.

    They have no watermark, hold a prompt that is alone to the limit on chunks, and find other blocks of a prefix in
    their cache. Everything else is the same.
    """
    if version.startswith("0.32."):
        return case
    return case._replace(rules=case.rules._replace(watermark=0, chunk=0, caching=False), hashes=None)


def prefixes(g: np.random.Generator, prompt: np.ndarray) -> list[list[int]]:
    """Numbers of the full blocks of each prompt: some share their beginning with others."""
    roots, found, new = int(g.integers(1, 6)), [], 10**6
    for tokens in prompt:
        full, root = int(tokens) // BLOCK, int(g.integers(0, roots))
        shared = int(full * g.choice([0.0, 0.3, 0.6, 1.0]))
        found.append([1000 * root + j for j in range(shared)] + list(range(new, new + full - shared)))
        new += full
    return found


class Planned(NamedTuple):
    case: Case
    policy: Policy
    knobs: Any


def planned_case(seed: int, depth: int, time_model: TimeModel, most: int = 30) -> Planned:
    """:func:`random_case` for a policy that plans by itself, with random settings.

    By seed: WAIT with a threshold per type, where the types have one output each, Nested WAIT, chunked WAIT with one or
    two segments, Sarathi, vLLM's first scheduler.
    """
    case, g = random_case(seed, depth, most), np.random.default_rng([seed, 3])
    requests, n = case.requests, len(case.requests.arrival)
    name = ("wait", "nested_wait", "wait_chunked", "sarathi", "vllm_v0")[seed % 5]
    if name == "wait":
        types = int(g.integers(1, 4))
        kind, outputs = g.integers(0, types, n), g.integers(1, int(requests.output.max()) + 1, types)
        requests = requests._replace(kind=kind, output=outputs[kind])
        longest = -(-int((requests.prompt + requests.output).max()) // BLOCK)
        case = case._replace(rules=case.rules._replace(blocks=max(case.rules.blocks, longest + 1)))
        law = LengthLaw(np.ones(types), outputs.astype(float), np.full(types, 1 / types))
    else:
        outputs, counts = np.unique(requests.output, return_counts=True)
        law = LengthLaw(np.ones(len(outputs)), outputs.astype(float), counts / n)
    if g.random() < 0.6:  # little more than the longest takes: somebody must go
        longest = -(-int((requests.prompt + requests.output).max()) // BLOCK)
        case = case._replace(rules=case.rules._replace(blocks=longest + int(g.integers(1, 30)), watermark=0))
    policy = load_policy({"policy": name} | _settings(name, g, law, case.rules.requests))
    context = context_of(law, 1.0, time_model, (np.nan, np.nan), case.rules)
    return Planned(case._replace(requests=requests), policy, policy.prepare(context))


def _settings(name: str, g: np.random.Generator, law: LengthLaw, requests: int) -> dict[str, Any]:
    """Random ones, for an engine that runs so many ``requests``; under them every request completes."""
    longest, most = int(law.output.max()), int(g.integers(2, 40))
    patience = {"max_wait": float(g.choice([0.0, 0.02, 0.1]))}
    if name == "wait":
        return {"thresholds": g.integers(1, 9, len(law.share)).tolist()} | patience
    if name == "nested_wait":
        return {"boundaries": [longest], "thresholds": [int(g.integers(1, 9))]} | patience
    if name == "wait_chunked":
        segments = 2 if min(longest, requests) > 2 and len(law.share) > 3 and g.random() < 0.5 else 1
        tokens = None if g.random() < 0.3 else int(g.choice([64, 200, 1000]))
        chunk = {"chunk": int(g.choice([16, 100, 512])), "batch_tokens": tokens, "gate": bool(g.random() < 0.8)}
        return {"in_service": most, "segments": segments} | chunk | patience
    if name == "sarathi":
        return {"max_requests": most, "token_budget": int(g.choice([64, 300, 1000]))}
    return {"max_requests": most}
