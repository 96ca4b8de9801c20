"""The simulator under vLLM's rules against vLLM's real scheduler, on random runs: equality first, then speed.

    python benchmarks/simulator_vs_vllm.py                       # 5,000 runs each, with and without --async-scheduling
    python benchmarks/simulator_vs_vllm.py --policies plans      # of policies that plan by themselves, in the plug-in
    python benchmarks/simulator_vs_vllm.py --first 20000 --count 100 --depth 2

Every run is one of ``tests/engines/vllm_cases.py``, by its number: mixed lengths, little memory, all limits,
priorities, shared prefixes. A run is equal when the first token, the completion and the preemptions of every request
are, the number of iterations, the time in them and the most memory in use. The numbers of those that differ are
printed, and the exit code is 1. The speed is a ratio of processor times in one process; these runs are so short that
setting up the arrays costs the simulator most of its time.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "engines"))

from vllm_cases import planned_case, random_case  # noqa: E402

from fluidwait.device.hardware import load_hardware  # noqa: E402
from fluidwait.engines.core import EngineError  # noqa: E402
from fluidwait.engines.v1.planned import serve_planned  # noqa: E402
from fluidwait.engines.v1.run import serve  # noqa: E402
from fluidwait.engines.vllm_clock import simulate_vllm_clock  # noqa: E402
from fluidwait.policies import load_policy  # noqa: E402

A100 = load_hardware("a100-80g_llama-2-7b").time_model("profile")
PROGRESS = 500  # runs between two lines


class Compared(NamedTuple):
    """A run in both, or the sum of several."""

    different: int = 0
    preemptions: int = 0
    real: float = 0.0  # s of the processor, vLLM's scheduler
    ours: float = 0.0  # s of the processor, the simulator
    endless: int = 0  # without an end in the simulator: not run in vLLM


def compare(seed: int, depth: int, policies: str = "stock") -> Compared:
    """One run in both: vLLM's own policy, or a policy that plans."""
    if policies == "plans":
        case, policy, knobs = planned_case(seed, depth, A100)
    else:
        case = random_case(seed, depth)
        limits = {"token_budget": case.rules.tokens, "max_requests": case.rules.requests}
        policy = load_policy({"policy": "vllm_v1"} | limits)
        knobs = policy.prepare(None)
    rules, given = case.rules, {"priority": case.priority, "hashes": case.hashes}
    started = time.process_time()
    try:
        if policies == "plans":
            ours = serve_planned(case.requests, policy, knobs, A100, rules, **given)
        else:
            ours = serve(case.requests, A100, rules, **given)
    except EngineError:  # two requests evict each other for ever; in vLLM that takes long
        return Compared(endless=1)
    between = time.process_time()
    theirs = simulate_vllm_clock(case.requests, policy, knobs, A100, rules, **given)
    ended = time.process_time()
    equal = (
        np.array_equal(ours.first_token, theirs.first_token)
        and np.array_equal(ours.completion, theirs.completion)
        and np.array_equal(ours.preemptions, theirs.evictions)
        and (ours.iterations, ours.busy, ours.peak_blocks) == (theirs.iterations, theirs.busy, theirs.peak_blocks)
    )
    return Compared(not equal, int(ours.preemptions.sum()), ended - between, between - started)


def compare_all(first: int, count: int, depth: int, policies: str) -> bool:
    """Runs ``first`` to ``first + count - 1``, told as they go; whether all are equal."""
    for seed in range(first, first + 5):  # compiled, each of the policies, and vLLM imported
        compare(seed, depth, policies)
    total, wrong = Compared(), []
    for done, seed in enumerate(range(first, first + count), 1):
        run = compare(seed, depth, policies)
        total = Compared(*(sum(pair) for pair in zip(total, run, strict=True)))
        if run.different:
            wrong.append(seed)
        if done % PROGRESS == 0 or done == count:
            print(
                f"{'asynchronous' if depth > 1 else 'synchronous'}, {policies}: runs {first} to {seed}: "
                f"{total.different} differ {wrong[:20]}, {total.endless} without end, "
                f"{total.preemptions} preemptions, vLLM {total.real:.1f} s, "
                f"simulator {total.ours:.3f} s, ratio {total.real / total.ours:.0f}, "
                f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at most",
                flush=True,
            )
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=10_000, help="number of the first run")
    parser.add_argument("--count", type=int, default=5_000, help="runs")
    parser.add_argument("--depth", type=int, choices=(1, 2), help="2: asynchronous scheduling (default: both)")
    parser.add_argument(
        "--policies", choices=("stock", "plans"), default="stock", help="vLLM's own, or those that plan"
    )
    given = parser.parse_args()
    depths = (given.depth,) if given.depth else (1, 2)
    equal = [compare_all(given.first, given.count, depth, given.policies) for depth in depths]
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
