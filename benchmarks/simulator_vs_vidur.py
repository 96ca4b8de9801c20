"""The compiled simulator against Vidur on the same requests, in the same run; and what a simulation costs as it grows.

    python benchmarks/simulator_vs_vidur.py [--quick] [--out results.json]

Three tables:

* requests per second of both engines, alternately, and how far their completion times are apart. Vidur runs its own
  scheduler for ``sarathi`` and ours for ``wait_chunked``; both engines take iteration times from our time model, which
  is cheaper than Vidur's own predictor. Only the ratio is a claim: the machine may be busy, but it is for both.
* the first call: in a process that has to compile, and in one that finds the machine code on disk.
* time and memory per request as the number of requests grows, each size in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fluidwait.base.files import write_text
from fluidwait.device.hardware import load_hardware
from fluidwait.engines import core
from fluidwait.engines.simulator import simulate
from fluidwait.policies import load_policy
from fluidwait.policies.contract import Context
from fluidwait.workload import generate, length_law, load_workload

HARDWARE = "a100-80g_llama-2-7b"
POINTS = [("p512d20", 16.0), ("lmsys-chat-1m", 30.0)]  # workload, requests/s
POLICIES = [
    ("sarathi", True),
    ("wait_chunked", False),
    ("fluid_lookahead", False),
]  # policy, whether Vidur uses its own scheduler
LEAST_SECONDS = 0.2  # a run of the simulator is repeated until it can be timed


class Job(NamedTuple):
    """The arguments of both engines."""

    requests: Any
    policy: Any
    knobs: Any
    time_model: Any
    semantics: core.Semantics


def job(workload: str, rate: float, policy: str, n: int) -> Job:
    """``n`` requests of a shipped workload at ``rate`` requests/s, for a policy with its default settings."""
    hardware, source, chosen = load_hardware(HARDWARE), load_workload(workload), load_policy(policy)
    model = hardware.time_model()
    linear = (hardware.timing.linear.d0, hardware.timing.linear.d1)
    context = Context(length_law(source), rate, model, linear, hardware.kv_capacity_tokens, True)
    semantics = core.serving(hardware.kv_blocks, hardware.block_size, hardware.watermark)
    return Job(generate(source, n=n, rate=rate, seed=1), chosen, chosen.prepare(context), model, semantics)


def against_vidur(n: int, repetitions: int) -> list[dict]:
    """One row per workload and policy: median requests/s of both engines over alternated repetitions, their ratio."""
    return [
        compare(workload, rate, policy, native, n, repetitions)
        for workload, rate in POINTS
        for policy, native in POLICIES
    ]


def compare(workload: str, rate: float, policy: str, native: bool, n: int, repetitions: int) -> dict:
    from fluidwait.engines.vidur import simulate_vidur

    work = job(workload, rate, policy, n)
    ours = simulate(*work)  # compiles, or reads the machine code
    simulate_vidur(*job(workload, rate, policy, 10), native=native)  # imports, and compiles our policy for Vidur
    seconds, vidur_seconds, apart = [], [], 0.0
    for _ in range(repetitions):
        seconds.append(timed(lambda: simulate(*work)))
        start = time.perf_counter()
        theirs = simulate_vidur(*work, native=native)
        vidur_seconds.append(time.perf_counter() - start)
        apart = max(apart, float(np.abs(ours.completion - theirs.completion).max()))
    fast, slow = n / np.median(seconds), n / np.median(vidur_seconds)
    ratios = sorted(v / s for s, v in zip(seconds, vidur_seconds, strict=True))
    return {
        "workload": workload,
        "rate": rate,
        "policy": policy,
        "vidur_scheduler": "native" if native else "ours",
        "requests": n,
        "simulator_per_s": float(fast),
        "vidur_per_s": float(slow),
        "ratio": float(fast / slow),
        "ratio_low": float(ratios[0]),
        "ratio_high": float(ratios[-1]),
        "iterations": ours.iterations,
        "max_apart_s": apart,
    }


def timed(call) -> float:
    """Seconds per call, over as many calls as take :data:`LEAST_SECONDS`."""
    calls, start = 0, time.perf_counter()
    while True:
        call()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= LEAST_SECONDS:
            return elapsed / calls


def first_calls(policies: list[str]) -> list[dict]:
    """Seconds of a process's first simulation, with its preparation, without and with the machine code on disk."""
    rows = []
    for policy in policies:
        with tempfile.TemporaryDirectory() as cache:
            cold = in_a_process("first", policy, "100", cache=cache)
            start = time.perf_counter()
            warm = in_a_process("first", policy, "100", cache=cache)
            whole = time.perf_counter() - start
        rows.append(
            {"policy": policy, "compile_s": cold["call_s"], "load_s": warm["call_s"], "whole_second_process_s": whole}
        )
    return rows


def scaling(sizes: list[int]) -> list[dict]:
    """Requests/s and peak memory against the number of requests, for sarathi at the first workload."""
    base = in_a_process("scale", "sarathi", "100")["peak_mb"]
    rows = []
    for n in sizes:
        row = in_a_process("scale", "sarathi", str(n))
        rows.append({**row, "bytes_per_request": max(row["peak_mb"] - base, 0.0) * 1e6 / n})
    return rows


def in_a_process(what: str, policy: str, n: str, cache: str | None = None) -> dict:
    environment = os.environ | ({"NUMBA_CACHE_DIR": cache} if cache else {})
    command = [sys.executable, __file__, "--child", what, policy, n]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def child(what: str, policy: str, n: int) -> dict:
    """Runs in a fresh process."""
    workload, rate = POINTS[0]
    if what == "first":
        start = time.perf_counter()
        simulate(*job(workload, rate, policy, n))
        return {"call_s": time.perf_counter() - start}
    simulate(*job(workload, rate, policy, 100))
    work = job(workload, rate, policy, n)
    start = time.perf_counter()
    run = simulate(*work)
    seconds = time.perf_counter() - start
    return {
        "requests": n,
        "seconds": seconds,
        "requests_per_s": n / seconds,
        "iterations_per_s": run.iterations / seconds,
        "peak_mb": peak_memory() / 1e6,
    }


def peak_memory() -> int:
    """Most bytes that this process has held. (``getrusage`` would count what the parent held when it forked.)"""
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def show(title: str, rows: list[dict]) -> None:
    """Print rows as a table, numbers to four digits."""
    cells = [list(rows[0])] + [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    print(f"\n{title}")
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="300 requests, once; one policy's first call; sizes up to 10,000"
    )
    parser.add_argument("--requests", type=int, default=5000, help="requests per run in both engines")
    parser.add_argument("--repetitions", type=int, default=3, help="alternated runs, of which the median counts")
    parser.add_argument("--largest", type=int, default=10**7, help="requests in the largest run of the simulator alone")
    parser.add_argument("--out", type=Path, help="also write the tables as JSON")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, policy, n = options.child
        print(json.dumps(child(what, policy, int(n))))
        return
    if options.quick:
        options.requests, options.repetitions, options.largest = 300, 1, 10**4
    tables = {"against_vidur": against_vidur(options.requests, options.repetitions)}
    show("Simulator against Vidur, requests per second", tables["against_vidur"])
    tables["first_calls"] = first_calls([policy for policy, _ in POLICIES][: 1 if options.quick else None])
    show("First simulation of a process, seconds", tables["first_calls"])
    sizes = [10**k for k in range(4, len(str(options.largest)))]
    tables["scaling"] = scaling(sizes)
    show("Growth (sarathi, p512d20)", tables["scaling"])
    if options.out:
        write_text(options.out, json.dumps(tables, indent=2) + "\n")


if __name__ == "__main__":
    main()
