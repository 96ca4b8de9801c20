"""A log of every iteration of a vLLM engine, and a way to exchange its scheduler without starting it anew.

Loaded inside the engine's process by naming :class:`Origin` as the scheduler class. It leaves every decision to the
scheduler and notes what each batch held and when it was done.

Loading a model takes longer than a run, and a machine warms up and slows down, so one engine serves all policies in
turn: :func:`exchange` builds a scheduler of another class, or with other settings or fewer KV blocks, just as the
engine does at start-up, and puts it in the place of the idle old one. The front end reaches it through vLLM's utility
calls, which look a method of the engine core up by name.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import pkgutil
import time
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore

from fluidwait.engines.vllm.load.patches import add_calls

STOCK = f"{__name__}:stock"
"""The name that stands for the scheduler vLLM would take itself."""


ROW = 12
"""Numbers in a row of the log."""


class Recorder:
    """Notes every iteration of a scheduler: one row each, see ``calibrate.COLUMNS``.

    It stands before two methods of that one scheduler object, whose class it leaves alone.
    """

    def __init__(self, scheduler) -> None:
        self._scheduler = scheduler
        self._schedule, self._update = scheduler.schedule, scheduler.update_from_output
        scheduler.schedule, scheduler.update_from_output = self.schedule, self.update_from_output
        self.rows: list[tuple] = []
        self.preempted: dict[str, int] = {}
        self._flying: list[tuple] = []  # batches scheduled and not yet done
        self._last_end = 0.0  # of the last batch; 0 when the engine was idle after it

    def schedule(self, *args: Any, **kwargs: Any):
        """As the scheduler; notes the batch."""
        start = time.monotonic()
        output = self._schedule(*args, **kwargs)
        planning = time.monotonic() - start
        for request_id in output.preempted_req_ids or ():
            self.preempted[request_id] = self.preempted.get(request_id, 0) + 1
        self._flying.append((output, start, planning, *self._sums(output), self._resident_kv()))
        return output

    def update_from_output(self, scheduler_output, *args: Any, **kwargs: Any):
        """As the scheduler; notes the end of the batch.

        The engine's own loop between two batches belongs to the iteration; a pause in which it had nothing to do, or
        held everything back, does not.
        """
        result = self._update(scheduler_output, *args, **kwargs)
        end = time.monotonic()
        place = next((i for i, batch in enumerate(self._flying) if batch[0] is scheduler_output), None)
        if place is None:  # an empty last batch of the scheduler before this one
            return result
        _, start, planning, tokens, *sums = self._flying.pop(place)
        if tokens > 0:
            begin = self._last_end or start
            self.rows.append((begin, end - begin, planning, tokens, *sums))
        self._last_end = end if tokens > 0 and self._scheduler.has_unfinished_requests() else 0.0
        return result

    def _resident_kv(self) -> int:
        return sum(request.num_computed_tokens for request in self._scheduler.running)

    def _sums(self, output) -> tuple[int, ...]:
        """Of the batch, in the order of ``fluidwait.device.timing.SUMS``."""
        prefills = prefill_tokens = squares = context = cached_prefill = decodes = decode_context = 0
        for request_id, count in output.num_scheduled_tokens.items():
            request = self._scheduler.requests[request_id]
            cached = request.num_computed_tokens - count  # schedule() has already moved it on
            if count == 1 and cached >= request.num_prompt_tokens:
                decodes += 1
                decode_context += cached + 1
            else:
                prefills += 1
                prefill_tokens += count
                squares += count * count
                context += count * cached
                cached_prefill += cached
        batch_kv = prefill_tokens + cached_prefill + decode_context
        tokens = prefill_tokens + decodes
        return tokens, batch_kv, prefills, prefill_tokens, squares, context, decodes, decode_context


class Origin(AsyncScheduler):
    """The scheduler to start an engine with: vLLM's own, which remembers what it was made from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.made_from = (args, kwargs)


def exchange(core: EngineCore, name: str, settings: str, blocks: int) -> None:
    """Put a scheduler of class ``name`` (``module:class``, or :data:`STOCK`) in the place of the engine's.

    Args:
        settings: its ``additional_config``, JSON.
        blocks: KV blocks it may hand out, with the one that vLLM keeps for itself.

    Raises:
        RuntimeError: the engine is not idle, or has fewer blocks.
    """
    old = core.scheduler
    if old.has_requests():
        raise RuntimeError("the scheduler can only be exchanged while the engine is idle")
    if isinstance(old, Origin):
        core.fluidwait_origin = old.made_from
    args, kwargs = core.fluidwait_origin
    kv = kwargs["kv_cache_config"]
    if blocks > kv.num_blocks:
        raise RuntimeError(f"{blocks} KV blocks asked for, the engine has {kv.num_blocks}")
    config = copy.copy(kwargs["vllm_config"])  # a scheduler may write into its configuration
    config.scheduler_config = copy.copy(config.scheduler_config)
    config.cache_config = copy.copy(config.cache_config)
    config.additional_config = json.loads(settings)
    config.cache_config.num_gpu_blocks = blocks
    kv = dataclasses.replace(kv, num_blocks=blocks)
    stock = AsyncScheduler if config.scheduler_config.async_scheduling else Scheduler
    chosen = stock if name == STOCK else pkgutil.resolve_name(name)
    core.scheduler = chosen(*args, **kwargs | {"vllm_config": config, "kv_cache_config": kv})
    core.fluidwait_recorder = Recorder(core.scheduler)
    core.fluidwait_tokens = core.scheduler.max_num_scheduled_tokens
    old.shutdown()


def take_log(core: EngineCore) -> str:
    """JSON: ``rows`` of the iterations since the last call, ``preempted`` by request id; both start afresh."""
    recorder = core.fluidwait_recorder
    taken = {"rows": recorder.rows, "columns": ROW, "preempted": recorder.preempted}
    recorder.rows, recorder.preempted = [], {}
    return json.dumps(taken)


def hold(core: EngineCore, closed: bool) -> None:
    """Let requests queue up without admitting any, so that they can start together; or let them in."""
    core.scheduler.set_pause_state(PauseState.PAUSED_NEW if closed else PauseState.UNPAUSED)


def limit(core: EngineCore, tokens: int) -> None:
    """At most so many tokens in a batch, as if started with that ``max_num_batched_tokens``; its own when 0."""
    own = core.fluidwait_tokens
    core.scheduler.max_num_scheduled_tokens = min(tokens, own) if tokens else own


def waiting(core: EngineCore) -> int:
    """Requests that no batch has held yet."""
    return core.scheduler.get_request_counts()[1]


def describe(core: EngineCore) -> str:
    """JSON: what the engine settled on."""
    scheduler, config = core.scheduler, core.vllm_config
    return json.dumps(
        {
            "blocks": scheduler.kv_cache_config.num_blocks,
            "block_size": scheduler.block_size,
            "max_num_seqs": scheduler.max_num_running_reqs,
            "max_num_batched_tokens": scheduler.max_num_scheduled_tokens,
            "async_scheduling": bool(config.scheduler_config.async_scheduling),
            "prefix_caching": bool(config.cache_config.enable_prefix_caching),
            "scheduler": type(scheduler).__name__,
        }
    )


add_calls(exchange=exchange, take_log=take_log, hold=hold, limit=limit, waiting=waiting, describe=describe)
