"""Processor time in ``schedule()`` per step: vLLM's own scheduler against WaitScheduler, up to 1,000 running requests.

No model runs: tokens are made up, so only scheduling takes time. Each step one request ends and one arrives, as in
a server under load. What it adds is also shown as a share of the time that the calibrated A100 takes to decode such a
batch. Run with the Python of an environment that has vLLM:

    python benchmarks/vllm_scheduler_overhead.py [--steps 200] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
TESTS = Path(__file__).resolve().parents[1] / "tests" / "engines" / "vllm_plugin"
sys.path.insert(0, str(TESTS))

import numpy as np  # noqa: E402
from fake_engine import FakeEngine, make_request, make_scheduler  # noqa: E402
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: E402

from conftest import LLAMA  # noqa: E402
from fluidwait.engines.vllm import WaitScheduler  # noqa: E402
from fluidwait.hardware import load_hardware  # noqa: E402
from fluidwait.timing import iteration_time  # noqa: E402

A100 = "a100-80g_llama-2-7b"
PROMPT, OUTPUT = 16, 100  # tokens


def a100_iteration(running: int) -> float:
    """Seconds of a batch that decodes ``running`` requests half way through their output, with Llama-2-7B."""
    kv_tokens = running * (PROMPT + OUTPUT // 2)
    return iteration_time(load_hardware(A100).time_model(), running, kv_tokens, 0, 0, 0, 0, running, kv_tokens)


def microseconds(options: dict, cls, entry, running: int, steps: int) -> np.ndarray:
    """Time of each ``schedule()`` with ``running`` requests inside, f8[steps]."""
    more = {"max_num_seqs": running, "max_num_batched_tokens": 8192, "max_model_len": 1024}
    engine = FakeEngine(make_scheduler(options, cls, fluidwait=entry, blocks=running * 20 + 10, **more), depth=2)
    scheduler, took = engine.scheduler, []
    plain = scheduler.schedule

    def timed():
        started = time.thread_time()
        output = plain()
        took.append((time.thread_time() - started, len(output.num_scheduled_tokens)))
        return output

    scheduler.schedule = timed
    sent = 0
    while len(took) < steps + 2 * OUTPUT:
        while len(scheduler.running) + len(scheduler.waiting) < running + 4:
            # the first ones end one after another, so that from then on about running/OUTPUT end per step
            engine.add(make_request(f"r{sent}", PROMPT, 1 + sent * OUTPUT // running if sent < running else OUTPUT))
            sent += 1
        engine.step()
    full = [seconds for seconds, batch in took[-steps:] if batch >= 0.9 * running]
    return np.array(full) * 1e6


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=200)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--running", type=int, nargs="+", default=[32, 256, 1000])
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(LLAMA))
        options = {"model": folder, "load_format": "dummy", "skip_tokenizer_init": True, "dtype": "float32"}
        options |= {"enforce_eager": True}
        print(f"{'running':>8} {'stock':>9} {'wait_chunked':>13} {'nested_wait':>12}   median microseconds per step")
        for running in chosen.running:
            chunked = {"in_service": running, "boundaries": [OUTPUT], "chunk": 256, "max_wait": 1.0}
            nested = {"thresholds": [running], "boundaries": [OUTPUT], "max_wait": 0.0}
            candidates = [
                (AsyncScheduler, None),
                (WaitScheduler, {"policy": "wait_chunked", "settings": chunked | {"gate": False}}),
                (WaitScheduler, {"policy": "nested_wait", "settings": nested}),
            ]
            runs = [[] for _ in candidates]
            for _ in range(chosen.repeats):  # in turn, since a machine does not stay as fast as it is
                for times, (cls, entry) in zip(runs, candidates, strict=True):
                    times.append(np.median(microseconds(options, cls, entry, running, chosen.steps)))
            stock, *ours = (float(np.min(times)) for times in runs)
            more, iteration = max(ours) - stock, a100_iteration(running)
            print(
                f"{running:>8} {stock:>9.0f} {ours[0]:>13.0f} {ours[1]:>12.0f}   at most {more:.0f} more, "
                f"{more * 1e-6 / iteration:.2%} of an A100 iteration of {iteration * 1e3:.1f} ms"
            )


if __name__ == "__main__":
    main()
