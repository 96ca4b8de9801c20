"""Latency in vLLM's real scheduler on the calibrated A100: its own against the plug-in's auto mode, in virtual time.

No GPU and no model: ``tests/engines/vllm_plugin/virtual_clock.py`` steps the scheduler and moves a clock by what each
batch takes. Every line of output is one run in JSON; ``--compare`` reads such lines and prints them side by side.

    python benchmarks/vllm_clock.py table > now.jsonl                     # the named workloads, stock and auto
    python benchmarks/vllm_clock.py random --seed 1000 --count 100 > random.jsonl
    PYTHONPATH=<other checkout>/src python benchmarks/vllm_clock.py table --only auto --label before > before.jsonl
    python benchmarks/vllm_clock.py --compare now.jsonl before.jsonl

Random workloads have 1 to 3 types, 1,200 to 8,448 blocks and, without ``--load``, .3 to 1.02 of the load at the
stability boundary; the seed of a workload is its number from ``--seed`` on, so that those that a rule was made with can
be kept apart.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "engines" / "vllm_plugin"))

import numpy as np  # noqa: E402

from fluidwait.device.hardware import load_hardware  # noqa: E402
from fluidwait.fluid.calibrated import calibrated_boundary  # noqa: E402
from fluidwait.workload import Workload, generate, length_law, load_workload  # noqa: E402

A100 = load_hardware("a100-80g_llama-2-7b").time_model("profile")
BLOCK_SIZE, SEQUENCES, TOKENS = 16, 256, 2048  # vLLM's defaults
SCHEDULERS = {"stock": None, "auto": "auto"}


class Case(NamedTuple):
    name: str
    workload: Workload
    rate: float  # requests/s
    blocks: int
    requests: int
    seed: int = 7


def mixture(name: str, *types: tuple[float, int, int]) -> Workload:
    """A workload of types (share, prompt, output)."""
    lines = [f"    - {{share: {share}, prompt: {prompt}, output: {output}}}" for share, prompt, output in types]
    text = "\n".join(
        [f"name: {name}", "lengths:", "  kind: mixture", "  types:", *lines, "arrivals: {process: poisson}"]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.yaml"
        path.write_text(text + "\n")
        return load_workload(path)


def table() -> list[Case]:
    """The named workloads: one type, long prompts, long outputs in little memory, mixed outputs, a public trace."""
    short, long, chat = (load_workload(name) for name in ("p512d20", "p512d1000", "lmsys-chat-1m"))
    prompts = mixture("p2000d50", (1.0, 2000, 50))
    mixed = mixture("p512d50and1000", (0.7, 512, 50), (0.3, 512, 1000))
    return [
        *(Case("p512d20", short, rate, 8448, 4000) for rate in (12.0, 20.0, 24.0)),
        Case("p2000d50", prompts, 5.3, 8448, 2000),
        Case("p512d1000", long, 1.6, 2304, 1500),
        Case("p512d50and1000", mixed, 4.5, 2304, 2500),
        *(Case("lmsys", chat, rate, 8448, 4000) for rate in (30.0, 38.0)),
    ]


def random_case(seed: int, loads: tuple[float, float]) -> Case:
    """A workload that keeps vLLM's real scheduler busy for some seconds of processor time."""
    g = np.random.default_rng(seed)
    kinds = int(g.integers(1, 4))
    share = np.round(g.dirichlet(np.ones(kinds)), 3)
    share[-1] = round(1 - share[:-1].sum(), 3)
    prompt = np.exp(g.uniform(np.log(16), np.log(2500), kinds)).astype(int)
    output = np.exp(g.uniform(np.log(8), np.log(1200), kinds)).astype(int)
    types = [(s, int(p), int(o)) for s, p, o in zip(share, prompt, output, strict=True) if s > 0]
    workload = mixture(f"random{seed}", *types)
    blocks, load = int(g.integers(1200, 8449)), float(g.uniform(*loads))
    law = length_law(workload)
    limits = {"token_budget": TOKENS, "cap": SEQUENCES}
    rate = load * calibrated_boundary(law, A100, blocks * BLOCK_SIZE, **limits).rate
    n = int(np.clip(150_000 / (law.share @ law.output), 300, 2000))
    return Case(f"random{seed} load {load:.2f}", workload, rate, blocks, n, seed)


def run(case: Case, scheduler: str, label: str, depth: int) -> dict:
    from virtual_clock import serve

    from conftest import LLAMA

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(LLAMA))
        model = {"model": folder, "load_format": "dummy", "skip_tokenizer_init": True, "dtype": "float32"}
        requests = generate(case.workload, n=case.requests, rate=case.rate, seed=case.seed)
        limits = {"blocks": case.blocks, "sequences": SEQUENCES, "tokens": TOKENS}
        served = serve(model, requests, A100, SCHEDULERS[scheduler], **limits, depth=depth)
    return {
        "case": case.name,
        "rate": case.rate,
        "blocks": case.blocks,
        "requests": case.requests,
        "scheduler": label or scheduler,
        "depth": depth,
        "mean_s": served.mean(),
        "mean_of_all_s": float(served.latency.mean()),
        "p99_s": served.p99(),
        "first_token_s": served.ttft(),
        "preemptions": served.preemptions,
        "batch_tokens": getattr(served.knobs, "batch_tokens", None),
        "took_s": round(time.perf_counter() - started, 1),
    }


def compare(paths: list[str]) -> str:
    """A table in Markdown: mean / p99 / mean time to first token in s, and the change against stock."""
    runs: dict[tuple, dict[str, dict]] = {}
    for path in paths:
        for line in Path(path).read_text().splitlines():
            row = json.loads(line)
            runs.setdefault((row["case"], round(row["rate"], 3)), {})[row["scheduler"]] = row
    names = sorted({name for row in runs.values() for name in row if name != "stock"})
    lines = ["| workload, rate | stock | " + " | ".join(names) + " |", "|---" * (2 + len(names)) + "|"]
    changes: dict[str, list[tuple[float, float, str]]] = {name: [] for name in names}
    for (case, rate), row in sorted(runs.items()):
        stock, cells = row.get("stock"), []
        for name in ("stock", *names):
            if name not in row:
                cells.append("–")
                continue
            one = row[name]
            cell = f"{one['mean_s']:.2f} / {one['p99_s']:.2f} / {one['first_token_s']:.3f}"
            if name != "stock" and stock:
                mean, p99 = one["mean_s"] / stock["mean_s"] - 1, one["p99_s"] / stock["p99_s"] - 1
                changes[name].append((mean, p99, case))
                cell += f" ({mean:+.1%} / {p99:+.1%})"
            cells.append(cell)
        lines.append(f"| {case}, {rate:g}/s | " + " | ".join(cells) + " |")
    for name, all_of in changes.items():
        if all_of:
            means, tails = [m for m, _, _ in all_of], [t for _, t, _ in all_of]
            lines.append(
                f"\n{name}: {len(all_of)} runs, median of the mean {np.median(means):+.1%}; worst mean "
                f"{max(means):+.1%} ({max(all_of)[2]}), worst p99 {max(tails):+.1%} "
                f"({max(all_of, key=lambda x: x[1])[2]}); above 1 % in mean {sum(m > 0.01 for m in means)}, "
                f"above 2 % in p99 {sum(t > 0.02 for t in tails)}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["table", "random"], default="table")
    parser.add_argument("--only", choices=list(SCHEDULERS), help="one scheduler instead of both")
    parser.add_argument("--label", default="", help="another name for it in the output")
    parser.add_argument("--depth", type=int, choices=[1, 2], default=1, help="2: asynchronous scheduling")
    parser.add_argument("--rows", type=int, nargs="+", help="numbers of the table's rows, from 0; all without")
    parser.add_argument("--seed", type=int, default=0, help="of the first random workload")
    parser.add_argument("--count", type=int, default=20, help="random workloads")
    parser.add_argument("--load", type=float, nargs=2, default=(0.3, 1.02), help="their range, of the boundary's rate")
    parser.add_argument("--compare", nargs="+", metavar="FILE", help="print these runs side by side")
    options = parser.parse_args()
    if options.compare:
        print(compare(options.compare))
        return
    numbers = options.rows or range(len(table()))
    cases = (
        [table()[k] for k in numbers]
        if options.what == "table"
        else (random_case(seed, options.load) for seed in range(options.seed, options.seed + options.count))
    )
    for case in cases:
        for scheduler in [options.only] if options.only else SCHEDULERS:
            print(json.dumps(run(case, scheduler, options.label, options.depth)), flush=True)


if __name__ == "__main__":
    main()
