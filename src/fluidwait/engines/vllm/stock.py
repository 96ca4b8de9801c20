"""vLLM's own step, over the requests that are chosen for it; and the engine's own limits, to be put back.

Between two calls the engine's state is what it would be without us, except for what has not been scheduled yet.
"""

from __future__ import annotations

from vllm.v1.core.sched.request_queue import SchedulingPolicy, create_request_queue
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.request import RequestStatus

from fluidwait.engines.v1.decision import WATERMARK_SHARE
from fluidwait.policies.contract import NO_LIMIT, EngineSize


class Stock:
    """``engine``, a vLLM scheduler: what it was started with, and its ``schedule`` over a part of its requests."""

    def __init__(self, engine):
        self.engine = engine
        self.groups = max(len(engine.kv_cache_config.kv_cache_groups), 1)
        self.blocks = engine.cache_config.num_gpu_blocks // self.groups
        self.tokens = engine.max_num_scheduled_tokens
        self._chunk = engine.scheduler_config.long_prefill_token_threshold
        self.chunk = self._chunk if self._chunk > 0 else NO_LIMIT
        self._watermark = getattr(engine.kv_cache_manager, "watermark_blocks", None)  # None: it has none yet
        # where a prompt may need fewer blocks than its length says, vLLM, which knows, decides
        fewer = engine.cache_config.enable_prefix_caching or not _keeps_every_token(engine)
        self.extra = self.blocks if fewer else 0
        self.watermark = int(WATERMARK_SHARE * self.blocks)
        running = engine.max_num_running_reqs
        self.requests = min(running, getattr(engine, "max_num_active_reqs", running))
        # what vLLM compares with when it admits; a release with both asserts the other one
        self._seats = "max_num_active_reqs" if hasattr(engine, "max_num_active_reqs") else "max_num_running_reqs"
        self.by_priority = engine.policy == SchedulingPolicy.PRIORITY
        self._free_blocks = engine.kv_cache_manager.block_pool.get_num_free_blocks
        self._aside = (0, 0)  # running and waiting requests that vLLM's own step does not see

    @property
    def size(self) -> EngineSize:
        """What a policy has to stay within."""
        engine = self.engine
        capacity = self.blocks * engine.block_size
        return EngineSize(capacity, self.requests, self.tokens, _cuts_prompts_anywhere(engine), engine.max_model_len)

    @property
    def free(self) -> int:
        """KV blocks."""
        return self._free_blocks() // self.groups

    @property
    def room(self) -> int:
        """Requests that may enter service; sessions that wait for their next input take a place."""
        engine = self.engine
        return self.requests - len(engine.running) - getattr(engine, "num_waiting_for_streaming_input", 0)

    def counts(self, seen: tuple[int, int]) -> tuple[int, int]:
        """(running, waiting) requests in all, where vLLM's own step counts those that it sees."""
        return seen[0] + self._aside[0], seen[1] + self._aside[1]

    # --- limits -------------------------------------------------------------------------------------------------------

    def limit_chunks(self, tokens: int) -> int:
        """Prefill at most so many tokens of a request per batch, where prompts may be cut; returns what then holds."""
        if tokens == NO_LIMIT or not self.engine.scheduler_config.enable_chunked_prefill:
            return self.chunk
        chunk = min(self.chunk, tokens)
        self.engine.scheduler_config.long_prefill_token_threshold = chunk
        return chunk

    def leave_free(self, blocks: int) -> None:
        """Let admissions leave so many KV blocks free, where vLLM has a watermark of its own."""
        if self._watermark is not None:
            self.engine.kv_cache_manager.watermark_blocks = max(blocks * self.groups, self._watermark)

    def restore(self) -> None:
        """Leave no limit of ours in the engine."""
        self.engine.scheduler_config.long_prefill_token_threshold = self._chunk
        if self._watermark is not None:
            self.engine.kv_cache_manager.watermark_blocks = self._watermark

    # --- a step -------------------------------------------------------------------------------------------------------

    def within(self, tokens: int, spare: int, requests: int, schedule):
        """vLLM's own step with at most so many tokens and running requests; its output.

        Args:
            spare: KV blocks that admissions leave free.
            requests: those that run already may be more.
        """
        engine, own = self.engine, getattr(self.engine, self._seats)
        setattr(engine, self._seats, max(min(own, requests), len(engine.running)))
        try:
            if self._watermark is None and spare and engine.waiting:
                seen = self._above_the_watermark(len(engine.running), spare)
                return self.over(list(engine.running), seen, len(seen) < len(engine.waiting), tokens, schedule)[0]
            engine.max_num_scheduled_tokens = min(self.tokens, tokens)
            return schedule()
        finally:
            engine.max_num_scheduled_tokens = self.tokens
            setattr(engine, self._seats, own)

    def _above_the_watermark(self, running: int, spare: int) -> list:
        """The head of the queue up to the first request that would not leave enough blocks free.

        For a vLLM that has no watermark of its own: nothing is left free for the only one. It sees those that cannot
        start yet, which only it can free.
        """
        engine, seen, room = self.engine, [], self.requests - running
        free = self.free - spare
        for request in engine.waiting:
            if request.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED):
                free, room = free - -(-request.num_tokens // engine.block_size), room - 1
                alone = running == 0 and room == self.requests - 1
                if (free < 0 and not alone) or room < 0:
                    break
            seen.append(request)
        return seen

    def over(self, handed: list, entering: list, hold_back: bool, budget: int, schedule):
        """vLLM's own step over these requests; returns its output and the requests that entered service.

        Unless some are to be held back vLLM sees its queue as it is, those in it that cannot start included.
        """
        engine, everyone, queue = self.engine, self.engine.running, self.engine.waiting
        taken: list = []
        self._aside = (len(everyone) - len(handed), len(queue) - len(entering) if hold_back else 0)
        if hold_back:
            taken = _take(queue, entering)
            engine.waiting = create_request_queue(engine.policy)
            for request in entering:
                engine.waiting.add_request(request)
        engine.running = handed
        if budget < self.tokens and not self._has_own_queues():
            engine.max_num_scheduled_tokens = budget
        kept, last = len(handed), handed[-1] if handed else None
        try:
            output = schedule()
        finally:
            engine.max_num_scheduled_tokens = self.tokens
            self._aside = (0, 0)
            if hold_back:
                left_over, engine.waiting = list(engine.waiting), queue
                _restore(queue, left_over, taken, entering)
            after, engine.running = engine.running, everyone
        if not kept or (len(after) >= kept and after[kept - 1] is last):  # it only ever adds at the end
            newcomers = after[kept:]
            if after is not everyone:
                everyone.extend(newcomers)
        else:  # vLLM preempted some; it lets nobody in then
            newcomers = []
            engine.running = [request for request in everyone if request.status == RequestStatus.RUNNING]
        return output, newcomers

    def _has_own_queues(self) -> bool:
        """True when vLLM keeps requests of its own to start, outside ``waiting``: they need tokens too."""
        queues = (getattr(self.engine, name, ()) for name in ("skipped_waiting", "kv_holding_waiting"))
        return any(request.status != RequestStatus.WAITING_FOR_STREAMING_REQ for queue in queues for request in queue)


def _take(queue, entering: list) -> list:
    """Take the queue's head up to the last of these requests away from it; returns it, in the queue's order."""
    taken, missing = [], set(entering)
    while missing:
        request = queue.pop_request()
        missing.discard(request)
        taken.append(request)
    return taken


def _restore(queue, left_over: list, taken: list, entering: list) -> None:
    """Put back those that vLLM preempted or did not let in, and those taken that were not for it to see."""
    if len(taken) > len(entering):
        known, gone = set(taken), set(entering).difference(left_over)
        left_over = [r for r in left_over if r not in known] + [r for r in taken if r not in gone]
    for request in reversed(left_over):
        queue.prepend_request(request)


def _keeps_every_token(engine) -> bool:
    """Whether all layers do: those with a sliding window or a state forget."""
    return all(isinstance(group.kv_cache_spec, FullAttentionSpec) for group in engine.kv_cache_config.kv_cache_groups)


def _cuts_prompts_anywhere(engine) -> bool:
    """Whether a prompt may be prefilled in pieces of any size: images and Mamba's states want whole ones."""
    return (
        engine.scheduler_config.enable_chunked_prefill
        and not engine.vllm_config.model_config.is_multimodal_model
        and not getattr(engine, "need_mamba_block_aligned_split", False)
    )
