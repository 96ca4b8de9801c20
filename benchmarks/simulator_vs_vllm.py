"""The simulator under vLLM's rules against vLLM's real scheduler, on random runs: equality first, then speed.

    python benchmarks/simulator_vs_vllm.py                       # 5,000 runs each, with and without --async-scheduling
    python benchmarks/simulator_vs_vllm.py --first 20000 --count 100 --depth 2

Every run is one of ``tests/engines/vllm_cases.py``, by its number: mixed lengths, little memory, all limits,
priorities, shared prefixes. A run is equal when the first token, the completion and the preemptions of every request
are. The numbers of those that differ are printed, and the exit code is 1. The speed is a ratio of processor times in
one process; these runs are so short that setting up the arrays costs the simulator most of its time.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "engines"))

from vllm_cases import random_case  # noqa: E402

from fluidwait.device.hardware import load_hardware  # noqa: E402
from fluidwait.engines.v1.run import serve  # noqa: E402
from fluidwait.engines.vllm_clock import simulate_vllm_clock  # noqa: E402
from fluidwait.policies import load_policy  # noqa: E402

A100 = load_hardware("a100-80g_llama-2-7b").time_model("profile")


def compare(seed: int, depth: int) -> tuple[bool, int, float, float]:
    """Whether both agree; preemptions; processor time (s) of the real scheduler and of the simulator."""
    case = random_case(seed, depth)
    rules, given = case.rules, {"priority": case.priority, "hashes": case.hashes}
    policy = load_policy({"policy": "vllm_v1", "token_budget": rules.tokens, "max_requests": rules.requests})
    started = time.process_time()
    theirs = simulate_vllm_clock(case.requests, policy, policy.prepare(None), A100, rules, **given)
    between = time.process_time()
    ours = serve(case.requests, A100, rules, **given)
    ended = time.process_time()
    equal = (
        np.array_equal(ours.first_token, theirs.first_token)
        and np.array_equal(ours.completion, theirs.completion)
        and np.array_equal(ours.preemptions, theirs.evictions)
    )
    return equal, int(ours.preemptions.sum()), between - started, ended - between


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=10_000, help="number of the first run")
    parser.add_argument("--count", type=int, default=5_000, help="runs")
    parser.add_argument("--depth", type=int, choices=(1, 2), help="2: asynchronous scheduling (default: both)")
    given = parser.parse_args()
    different = 0
    for depth in (given.depth,) if given.depth else (1, 2):
        compare(given.first, depth)  # compiled, and vLLM imported
        runs = [(seed, *compare(seed, depth)) for seed in range(given.first, given.first + given.count)]
        wrong = [seed for seed, equal, *_ in runs if not equal]
        different += len(wrong)
        preemptions, real, ours = (sum(run[i] for run in runs) for i in (2, 3, 4))
        name = "asynchronous" if depth > 1 else "synchronous"
        print(
            f"{name}: runs {given.first} to {given.first + given.count - 1}: {len(wrong)} differ {wrong[:20]}, "
            f"{preemptions} preemptions, vLLM {real:.1f} s, simulator {ours:.3f} s, ratio {real / ours:.0f}",
            flush=True,
        )
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
