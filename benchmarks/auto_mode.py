"""Auto mode against vLLM's own scheduler on random workloads, under vLLM's rules on the calibrated A100.

    python benchmarks/auto_mode.py                                  # 400 workloads
    python benchmarks/auto_mode.py --first 5000 --count 100 --requests 4 --loads 0.8 1.05

A workload has 1 to 3 types of 16 to 2,500 prompt and 8 to 1,200 output tokens, 1,200 to 8,448 KV blocks and, unless
``--loads`` says otherwise, .3 to 1.02 of the rate that the calibrated fluid model carries within vLLM's limits. Its
number is its seed, so that those that a rule was made with can be kept apart from those that judge it. Both schedulers
get the same requests. Exit code 1 when auto mode is more than 1 % slower in mean latency, or more than 2 % at the 99th
percentile, than vLLM's own on any of them. (Means over ten seeds, as E10 has them, are far less noisy than these.)
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fluidwait.device.hardware import load_hardware
from fluidwait.engines.learning import Learned
from fluidwait.engines.simulator import simulate
from fluidwait.engines.v1.rules import vllm
from fluidwait.experiments.sweep import columns_of
from fluidwait.fluid.calibrated import calibrated_boundary
from fluidwait.policies import load_policy
from fluidwait.stats.metrics import Metrics, run_metrics
from fluidwait.workload import Workload, generate, length_law, load_workload

A100 = load_hardware("a100-80g_llama-2-7b").time_model("profile")
AUTO, STOCK = load_policy({"policy": "fluid_budget"}), load_policy({"policy": "vllm_v1"})
NOTHING: Any = None  # vLLM's own scheduler derives nothing
WORST_MEAN, WORST_P99 = 0.01, 0.02


class Case(NamedTuple):
    workload: Workload
    rate: float  # requests/s
    load: float  # share of the boundary's rate
    blocks: int
    requests: int


def random_case(seed: int, loads: tuple[float, float], size: float) -> Case:
    """``size`` times 300 to 2,000 requests, fewer the longer their outputs are."""
    g = np.random.default_rng(seed)
    kinds = int(g.integers(1, 4))
    share = np.round(g.dirichlet(np.ones(kinds)), 3)
    share[-1] = round(1 - share[:-1].sum(), 3)
    prompt = np.exp(g.uniform(np.log(16), np.log(2500), kinds)).astype(int)
    output = np.exp(g.uniform(np.log(8), np.log(1200), kinds)).astype(int)
    types = [(s, int(p), int(o)) for s, p, o in zip(share, prompt, output, strict=True) if s > 0]
    workload = mixture(f"random{seed}", types)
    blocks, load = int(g.integers(1200, 8449)), float(g.uniform(*loads))
    rules, law = vllm(blocks), length_law(workload)
    limits = {"token_budget": float(rules.tokens), "cap": float(rules.requests)}
    rate = load * calibrated_boundary(law, A100, float(rules.blocks * rules.block_size), **limits).rate
    n = np.clip(150_000 / (law.share @ law.output), 300, 2000)
    return Case(workload, rate, load, blocks, int(size * n))


def mixture(name: str, types: list[tuple[float, int, int]]) -> Workload:
    """A workload of types (share, prompt, output)."""
    lines = [f"    - {{share: {share}, prompt: {prompt}, output: {output}}}" for share, prompt, output in types]
    head = [f"name: {name}", "lengths:", "  kind: mixture", "  types:"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.yaml"
        path.write_text("\n".join([*head, *lines, "arrivals: {process: poisson}"]) + "\n")
        return load_workload(path)


def both(case: Case, seed: int, asynchronous: bool) -> tuple[Metrics, Metrics]:
    """vLLM's own scheduler, and auto mode, on the same requests."""
    requests = generate(case.workload, n=case.requests, rate=case.rate, seed=seed)
    rules = vllm(case.blocks, asynchronous=asynchronous)
    stock = simulate(requests, STOCK, STOCK.prepare(NOTHING), A100, rules)
    auto = simulate(requests, AUTO, Learned(), A100, rules)
    return run_metrics(columns_of(requests, stock)), run_metrics(columns_of(requests, auto))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0, help="number of the first workload")
    parser.add_argument("--count", type=int, default=400, help="workloads")
    parser.add_argument("--requests", type=float, default=1.0, help="times as many requests")
    parser.add_argument("--loads", type=float, nargs=2, default=(0.3, 1.02), help="shares of the boundary's rate")
    parser.add_argument("--sync", action="store_true", help="without asynchronous scheduling")
    options = parser.parse_args()
    changes = []
    for seed in range(options.first, options.first + options.count):
        case = random_case(seed, tuple(options.loads), options.requests)
        stock, auto = both(case, seed, not options.sync)
        mean, p99 = auto.mean_latency / stock.mean_latency - 1, auto.p99_latency / stock.p99_latency - 1
        changes.append((mean, p99, stock.evictions))
        if mean > WORST_MEAN or p99 > WORST_P99:
            told = f"mean {stock.mean_latency:.3g} s {mean:+.1%}, p99 {stock.p99_latency:.3g} s {p99:+.1%}"
            print(f"workload {seed}, load {case.load:.2f}, {case.blocks} blocks: {told}")
    mean, p99, evictions = np.array(changes).T
    for name, of in (("mean", mean), ("p99", p99)):
        print(f"{name}: median {np.median(of):+.1%}, worst {of.max():+.1%}, best {of.min():+.1%}")
    if (preempting := evictions > 0).any():
        told = f"median {np.median(mean[preempting]):+.1%}"
        print(f"mean where vLLM preempts ({np.count_nonzero(preempting)} workloads): {told}")
    slow, late = int((mean > WORST_MEAN).sum()), int((p99 > WORST_P99).sum())
    print(f"of {len(mean)} workloads {slow} above {WORST_MEAN:.0%} in the mean, {late} above {WORST_P99:.0%} in p99")
    return 1 if slow or late else 0


if __name__ == "__main__":
    sys.exit(main())
