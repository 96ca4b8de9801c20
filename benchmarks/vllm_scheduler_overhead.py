"""Processor time in ``schedule()`` per step: vLLM's own scheduler against WaitScheduler, up to 1,000 running requests.

No model runs: tokens are made up, so only scheduling takes time. In every step about one request in a hundred ends and
another arrives, as in a server under load. The engines that are compared take their steps in turn, so that a machine
that does not stay as fast as it is slows all of them alike, and each finds the processor's caches full of the others'
data, as it would after a batch. What a step takes more than vLLM's own is given as the median of the differences
within a turn, with its 95 % confidence interval, and as a share of the time in which the calibrated A100 decodes such a
batch. Run with the Python of an environment that has vLLM:

    python benchmarks/vllm_scheduler_overhead.py [--steps 300] [--running 32 256 1000]
"""

from __future__ import annotations

import argparse
import json
import math
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
from scipy.stats import quantile_test  # noqa: E402
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: E402

from conftest import LLAMA  # noqa: E402
from fluidwait.device.hardware import load_hardware  # noqa: E402
from fluidwait.device.timing import BatchSums, iteration_time  # noqa: E402
from fluidwait.engines.vllm import WaitScheduler  # noqa: E402

A100 = "a100-80g_llama-2-7b"
PROMPT, OUTPUT = 16, 100  # tokens


def a100_iteration(running: int) -> float:
    """Seconds of a batch that decodes ``running`` requests half way through their output, with Llama-2-7B."""
    kv_tokens = running * (PROMPT + OUTPUT // 2)
    sums = BatchSums(running, kv_tokens, decodes=running, decode_context=kv_tokens)
    return iteration_time(load_hardware(A100).time_model(), sums)


class Server:
    """An engine with a scheduler of class ``cls`` and always ``running`` requests inside."""

    def __init__(self, options: dict, cls, entry, running: int):
        more = {"max_num_seqs": running, "max_num_batched_tokens": 8192, "max_model_len": 1024}
        self.engine = FakeEngine(
            make_scheduler(options, cls, fluidwait=entry, blocks=running * 20 + 10, **more), depth=2
        )
        self.running, self.sent = running, 0
        self.took = (math.nan, 0)  # s, requests in the batch: of the last step
        self._schedule, self.engine.scheduler.schedule = self.engine.scheduler.schedule, self._timed

    def _timed(self):
        started = time.thread_time()
        output = self._schedule()
        self.took = (time.thread_time() - started, len(output.num_scheduled_tokens))
        return output

    def step(self) -> tuple[float, bool]:
        """Microseconds in ``schedule()``, and whether the batch was nearly full."""
        scheduler, running = self.engine.scheduler, self.running
        while len(scheduler.running) + len(scheduler.waiting) < running + 4:
            # the first ones end one after another, so that from then on about running/OUTPUT end per step
            output = 1 + self.sent * OUTPUT // running if self.sent < running else OUTPUT
            self.engine.add(make_request(f"r{self.sent}", PROMPT, output))
            self.sent += 1
        self.engine.step()
        return self.took[0] * 1e6, self.took[1] >= 0.9 * running


def compare(servers: list[Server], steps: int) -> np.ndarray:
    """Microseconds per step, f8[steps, servers]: turns in which every batch was nearly full."""
    for server in servers:
        for _ in range(2 * OUTPUT):
            server.step()
    turns = []
    while len(turns) < steps:
        first = len(turns) % len(servers)  # nobody always follows the same one
        turn = {i: servers[i].step() for i in [*range(first, len(servers)), *range(first)]}
        if all(full for _, full in turn.values()):
            turns.append([turn[i][0] for i in range(len(servers))])
    return np.array(turns)


def median_with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Median and the order statistics that bound it with a probability of 95 %."""
    found = quantile_test(values)
    low, high = found.confidence_interval(0.95)
    return float(np.median(values)), float(low), float(high)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=300)
    arguments.add_argument("--running", type=int, nargs="+", default=[32, 256, 1000])
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(LLAMA))
        options = {"model": folder, "load_format": "dummy", "skip_tokenizer_init": True, "dtype": "float32"}
        options |= {"enforce_eager": True}
        print(
            "running, policy: median microseconds per step; more than vLLM's own [95 % interval]; of an A100 iteration"
        )
        for running in chosen.running:
            chunked = {"in_service": running, "boundaries": [OUTPUT], "chunk": 256, "max_wait": 1.0}
            nested = {"thresholds": [running], "boundaries": [OUTPUT], "max_wait": 0.0}
            servers = [
                Server(options, AsyncScheduler, None, running),
                Server(
                    options, WaitScheduler, {"policy": "wait_chunked", "settings": chunked | {"gate": False}}, running
                ),
                Server(options, WaitScheduler, {"policy": "nested_wait", "settings": nested}, running),
            ]
            times = compare(servers, chosen.steps)
            iteration = a100_iteration(running) * 1e6
            print(f"{running:>5} {'vLLM':<13} {np.median(times[:, 0]):7.0f}   (A100: {iteration:.0f})")
            for column, name in enumerate(("wait_chunked", "nested_wait"), start=1):
                more, low, high = median_with_interval(times[:, column] - times[:, 0])
                print(
                    f"{running:>5} {name:<13} {np.median(times[:, column]):7.0f} {more:+7.0f} [{low:+.0f}, {high:+.0f}]"
                    f"  {more / iteration:.2%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
