"""What the plug-in adds to a step of vLLM's scheduler, in processor time, up to 1,000 running requests.

No model runs: tokens are made up, so only scheduling takes time. A step is ``add_request`` for those that have come,
``schedule`` and ``update_from_output``. A call is timed outside the plug-in and again where it hands over to vLLM's own
method; the difference is the plug-in's part. "steady": everybody decodes. "busy": in every step about one request in a
hundred ends and another arrives, as in a server under load.

The engines take turns of some steps, so that a machine that does not stay as fast as it is slows all of them alike, and
each finds the processor's caches full of the others' data, as it would after a batch. vLLM's own scheduler runs along:
what seems to be ours there is what the timing itself takes, and is taken off. The table has medians over the turns, and
the 95 % confidence interval of the share. Run with the Python of an environment that has vLLM:

    python benchmarks/vllm_scheduler_overhead.py [--turns 60] [--running 32 256 1000]
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
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
from fluidwait.engines.vllm import WaitScheduler  # noqa: E402

STEPS = 5  # of a turn
LONG, SHORT = 900, 100  # output tokens of a request that does not end, and of one that does
CALLS = ("schedule", "update_from_output", "add_request")
SCHEDULE = 0  # of CALLS
INSIDE = dict.fromkeys(CALLS, 0.0)  # s in vLLM's own methods


def policies(running: int) -> dict[str, tuple]:
    """Scheduler class and entry of ``additional_config``; limits that do not bind, as for a server that keeps up."""
    chunked = {"in_service": running, "boundaries": [1], "chunk": 256, "gate": False, "max_wait": 1.0}
    nested = {"thresholds": [running], "boundaries": [LONG], "max_wait": 0.0}
    return {
        "vLLM itself": (AsyncScheduler, None),
        "auto": (WaitScheduler, {"policy": "auto", "least": 50, "refresh": 0.5}),
        "look-ahead": (WaitScheduler, {"policy": "fluid_lookahead", "least": 50, "refresh": 0.5}),
        "wait_chunked": (WaitScheduler, {"policy": "wait_chunked", "settings": chunked}),
        "nested_wait": (WaitScheduler, {"policy": "nested_wait", "settings": nested}),
    }


def add_up(method, spent: dict[str, float], name: str):
    """The method; adds its processor time to ``spent[name]`` (s)."""

    @functools.wraps(method)
    def timed(*args, **kwargs):
        started = time.thread_time()
        try:
            return method(*args, **kwargs)
        finally:
            spent[name] += time.thread_time() - started

    return timed


class Server:
    """An engine with a scheduler of class ``cls`` and always ``running`` requests inside."""

    def __init__(self, options: dict, cls, entry, running: int):
        more = {"max_num_seqs": running, "max_num_batched_tokens": 8192, "max_model_len": 1024}
        self.scheduler = make_scheduler(options, cls, fluidwait=entry, blocks=running * 64 + 10, **more)
        self.engine = FakeEngine(self.scheduler, depth=2)
        self.running, self.sent = running, 0
        self.outside = dict.fromkeys(CALLS, 0.0)  # s
        for name in CALLS:
            setattr(self.scheduler, name, add_up(getattr(self.scheduler, name), self.outside, name))

    def take_turn(self, busy: bool, steps: int = STEPS) -> list[tuple[float, float]]:
        """By method, microseconds per step: in vLLM's own and outside of it."""
        for spent in (INSIDE, self.outside):
            spent.update(dict.fromkeys(CALLS, 0.0))
        for _ in range(steps):
            while busy and len(self.scheduler.running) + len(self.scheduler.waiting) < self.running + 4:
                # the first ones end one after another, so that from then on about running/SHORT end per step
                self._send(1 + self.sent * SHORT // self.running if self.sent < self.running else SHORT)
            self.engine.step()
        scale = 1e6 / steps
        return [(INSIDE[name] * scale, (self.outside[name] - INSIDE[name]) * scale) for name in CALLS]

    def become_busy(self) -> None:
        """Requests come and go; at last the plug-in has learned its plan."""
        self.take_turn(True, 2 * SHORT)
        gate = getattr(self.scheduler, "gate", None)
        while gate is not None and gate.preparation.prepared is None:
            self.take_turn(True)
        if gate is not None:
            gate.preparation._next_look = np.inf  # no other one while we measure

    def become_steady(self) -> None:
        """Those inside end, and others decode, with blocks that fill up at different times."""
        self.engine.drain()
        for _ in range(self.running):
            self._send(LONG, 16 + self.sent % 16)
        self.take_turn(False, 50)

    def _send(self, output: int, prompt: int = 16) -> None:
        self.engine.add(make_request(f"r{self.sent}", prompt, output))
        self.sent += 1


def compare(servers: list[Server], busy: bool, turns: int) -> np.ndarray:
    """What :meth:`Server.take_turn` says, f8[turns, servers, CALLS, (vLLM's, ours)]."""
    for server in servers:
        server.become_busy() if busy else server.become_steady()
    found = []
    for turn in range(turns):
        first = turn % len(servers)  # nobody always follows the same one
        took = {i: servers[i].take_turn(busy) for i in [*range(first, len(servers)), *range(first)]}
        found.append([took[i] for i in range(len(servers))])
    return np.array(found)


def table(running: int, traffic: str, names: list[str], found: np.ndarray) -> Iterator[str]:
    """Rows of the table, from f8[turns, policies, CALLS, (vLLM's, ours)]; the first policy is vLLM itself."""
    timing = np.median(found[:, 0, :, 1], axis=0)
    found[..., 1] -= timing
    for name, took in zip(names[1:], np.moveaxis(found, 1, 0)[1:], strict=True):
        vllms, ours = took[..., 0].sum(axis=1), took[..., 1].sum(axis=1)
        share = ours / vllms
        low, high = quantile_test(share).confidence_interval(0.95)
        of_schedule = np.median(took[:, SCHEDULE, 1] / took[:, SCHEDULE, 0])
        calls = np.median(took[..., 1], axis=0)
        yield (
            f"{running:>7}  {traffic:<7}  {name:<12} {np.median(vllms):10.0f} {np.median(ours):6.0f} "
            f"{np.median(share):7.1%} [{low:.1%}, {high:.1%}] {of_schedule:10.1%}    "
            + " ".join(f"{microseconds:8.0f}" for microseconds in calls)
        )


HEAD = """\
                               microseconds per step                        in schedule()  ours, by method
running  traffic  policy       vLLM's own   ours   share [95 %]         alone      schedule   update      add"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--turns", type=int, default=60)
    arguments.add_argument("--running", type=int, nargs="+", default=[32, 256, 1000])
    chosen = arguments.parse_args()
    for name in CALLS:
        setattr(AsyncScheduler, name, add_up(getattr(AsyncScheduler, name), INSIDE, name))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(LLAMA))
        options = {"model": folder, "load_format": "dummy", "skip_tokenizer_init": True, "dtype": "float32"}
        options |= {"enforce_eager": True}
        print(HEAD)
        for running in chosen.running:
            compared = policies(running)
            servers = [Server(options, cls, entry, running) for cls, entry in compared.values()]
            for traffic in ("busy", "steady"):
                found = compare(servers, traffic == "busy", chosen.turns)
                print(*table(running, traffic, list(compared), found), sep="\n", flush=True)


if __name__ == "__main__":
    main()
