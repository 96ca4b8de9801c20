"""The plug-in, or vLLM's own scheduler, on the virtual clock of ``fluidwait.engines.vllm_clock``, by its arguments."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from fake_engine import BLOCK_SIZE
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from fluidwait.device.timing import TimeModel
from fluidwait.engines.v1.rules import vllm
from fluidwait.engines.vllm import WaitScheduler
from fluidwait.engines.vllm_clock.run import Loop, virtual_time
from fluidwait.engines.vllm_clock.scheduler import make_scheduler
from fluidwait.workload import Requests

__all__ = ["Served", "serve", "virtual_time"]


class Served(NamedTuple):
    """What became of the requests."""

    first: np.ndarray  # f8[N], s, first token after arrival
    latency: np.ndarray  # f8[N], s
    preemptions: int
    iterations: int
    knobs: object  # of the plug-in's last plan; None without one

    def mean(self) -> float:
        """Of the middle half of the requests, s."""
        n = len(self.latency)
        return float(self.latency[n // 4 : 3 * n // 4].mean())

    def p99(self) -> float:
        return float(np.quantile(self.latency, 0.99))

    def ttft(self) -> float:
        """Mean over the middle half, s."""
        n = len(self.first)
        return float(self.first[n // 4 : 3 * n // 4].mean())


def serve(
    options: dict,
    requests: Requests,
    time_model: TimeModel,
    fluidwait=None,
    *,
    blocks: int,
    sequences: int = 256,
    tokens: int = 2048,
    depth: int = 1,
    **more,
) -> Served:
    """Serve the requests with vLLM's own scheduler, or with the plug-in when its entry ``fluidwait`` is given.

    ``options`` of the tiny model as in conftest; ``depth`` 2 is asynchronous scheduling.
    """
    own = AsyncScheduler if depth > 1 else Scheduler
    limits = {"max_num_seqs": sequences, "max_num_batched_tokens": tokens, "max_model_len": 4096}
    options = {key: value for key, value in options.items() if key not in ("num_gpu_blocks_override", "block_size")}
    options |= {"enable_prefix_caching": False} | limits | {"async_scheduling": depth > 1} | more
    rules = vllm(blocks, block_size=BLOCK_SIZE, requests=sequences, tokens=tokens, asynchronous=depth > 1)
    with virtual_time() as clock:
        cls = WaitScheduler if fluidwait else own
        scheduler = make_scheduler(cls, options, blocks=blocks, block_size=BLOCK_SIZE, fluidwait=fluidwait)
        try:
            loop = Loop(scheduler, requests, time_model, clock, rules)
            loop.through()
        finally:
            scheduler.shutdown()
    run = loop.outcome(False)
    arrival = requests.arrival
    times = (run.first_token - arrival, run.completion - arrival)
    return Served(*times, int(run.evictions.sum()), run.iterations, loop.knobs)
