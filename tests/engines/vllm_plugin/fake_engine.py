"""vLLM's scheduler without a model: made-up tokens, so that thousands of steps take seconds.

The loop is that of vLLM's engine core: with asynchronous scheduling a step is planned while the one before is still
in flight.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable

import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

BLOCK_SIZE = 16
EOS = 2


_CONFIGS: dict[str, object] = {}


def make_scheduler(options: dict, cls=AsyncScheduler, *, blocks: int = 1000, fluidwait=None, **more):
    """A scheduler for the tiny model; ``fluidwait`` is the entry of additional_config."""
    options = {key: value for key, value in options.items() if key not in ("num_gpu_blocks_override", "block_size")}
    options = options | {"block_size": BLOCK_SIZE, "enable_prefix_caching": False} | more
    key = repr(sorted(options.items()))
    if key not in _CONFIGS:
        _CONFIGS[key] = EngineArgs(**options).create_engine_config()
    config = copy.copy(_CONFIGS[key])
    config.scheduler_config = copy.copy(config.scheduler_config)
    config.cache_config = copy.copy(config.cache_config)
    config.additional_config = {} if fluidwait is None else {"fluidwait": fluidwait}
    config.cache_config.num_gpu_blocks = blocks
    spec = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=1, head_size=1, dtype=torch.float32)
    layout = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    return cls(
        vllm_config=config,
        kv_cache_config=layout,
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK_SIZE,
        log_stats=True,
    )


_HASHER = None


def make_request(name: str, prompt: int, output: int, *, priority: int = 0, arrival: float | None = None, tokens=None):
    """A request of ``prompt`` tokens that may generate ``output``."""
    global _HASHER
    if _HASHER is None:
        init_none_hash(sha256)
        _HASHER = get_request_block_hasher(BLOCK_SIZE, sha256)
    params = SamplingParams(max_tokens=output, ignore_eos=True)
    params.update_from_generation_config({}, EOS)
    return Request(
        request_id=name,
        prompt_token_ids=list(tokens or [3 + hash(name) % 200] * prompt),
        sampling_params=params,
        pooling_params=None,
        arrival_time=arrival,
        priority=priority,
        block_hasher=_HASHER,
    )


class FakeEngine:
    """Steps a scheduler. ``depth`` 2 is asynchronous scheduling, 1 is not."""

    def __init__(self, scheduler, depth: int = 2, seed: int = 0):
        self.scheduler, self.depth = scheduler, depth
        self.flights: deque = deque()
        self.random = random.Random(seed)
        self.tokens: dict[str, int] = {}
        self.reasons: dict[str, str] = {}
        self.steps = 0
        self.batches: list[dict[str, int]] = []  # tokens per request of every step

    def add(self, request) -> None:
        self.tokens[request.request_id] = 0
        self.scheduler.add_request(request)

    def preempt(self) -> None:
        """Make the engine drop the KV cache of everything that runs, as a cache reset does."""
        self.scheduler.reset_prefix_cache(reset_running_requests=True)

    def abort(self, name: str) -> None:
        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)
        self.reasons.setdefault(name, "aborted")

    def step(self) -> dict[str, int]:
        """Plan one batch and, when enough are in flight, end the oldest; returns the planned tokens per request."""
        self.steps += 1
        planned: dict[str, int] = {}
        if self.scheduler.has_requests():
            output = self.scheduler.schedule()
            planned = dict(output.num_scheduled_tokens)
            self.batches.append(planned)
            self.flights.append(output)
        if len(self.flights) >= self.depth or not self.scheduler.has_requests():
            self._end_oldest()
        return planned

    def drain(self, most: int = 100_000) -> None:
        """Step until nothing is left."""
        while self.scheduler.has_requests() or self.flights:
            self.step()
            most -= 1
            assert most > 0, f"stranded: {self.scheduler.get_request_counts()}"

    def _end_oldest(self) -> None:
        if not self.flights:
            return
        output = self.flights.popleft()
        known = {name: r.num_tokens for name, r in self.scheduler.requests.items()}  # aborted ones are gone
        result = model_output(output, known, lambda: self.random.randrange(3, 250))
        for outputs in self.scheduler.update_from_output(output, result).values():
            for out in outputs.outputs:
                self.tokens[out.request_id] += len(out.new_token_ids)
                if out.finish_reason is not None:
                    self.reasons[out.request_id] = str(out.finish_reason)


def free_blocks(scheduler) -> int:
    return scheduler.kv_cache_manager.block_pool.get_num_free_blocks()


def model_output(output, known: dict[str, int], token: Callable[[], int]) -> ModelRunnerOutput:
    """What a model would give for a batch: a token for each request whose ``known`` tokens are then all computed."""
    names, computed = list(output.num_scheduled_tokens), computed_before(output)
    ends = [name in known and computed[name] + output.num_scheduled_tokens[name] >= known[name] for name in names]
    return ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: i for i, name in enumerate(names)},
        sampled_token_ids=[[token()] if end else [] for end in ends],
        logprobs=None,
        prompt_logprobs_dict={},
        pooler_output=[],
    )


def computed_before(output) -> dict[str, int]:
    """Tokens in the cache before this batch, by name."""
    cached = output.scheduled_cached_reqs
    computed = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
    return computed | {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
