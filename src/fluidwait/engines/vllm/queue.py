"""The head of the engine's queue: what a policy may admit, and what vLLM would pass over."""

from __future__ import annotations

from typing import NamedTuple

from vllm.v1.core.sched.request_queue import create_request_queue
from vllm.v1.request import RequestStatus


class Head(NamedTuple):
    """The head of the queue, in order."""

    heads: list  # requests that the policy may admit
    passed: list  # their time has come, but they wait for a slot for their adapter, or for tokens still in flight
    preempted: list  # those of the heads whose KV cache vLLM has dropped
    failed: list  # their grammar has failed: vLLM ends them when it sees them
    more: bool  # more may start behind these


WAITING, PREEMPTED = RequestStatus.WAITING, RequestStatus.PREEMPTED
NOTHING = Head([], [], [], [], False)


def read_head(engine, depth: int, by_priority: bool) -> Head:
    """Read the queue of ``engine`` up to ``depth`` requests that may be admitted.

    Those that cannot start take no places among them, however many they are: they wait for a grammar or for the next
    input of their session, for a slot, or for tokens that were in flight when they were preempted.
    """
    if not engine.waiting and not getattr(engine, "skipped_waiting", None):
        return NOTHING
    found = Head([], [], [], [], False)
    adapters = _Adapters(engine) if engine.lora_config else None
    # Up to vLLM 0.22, which would start them past those that the policy holds.
    if (adapters or by_priority) and getattr(engine, "skipped_waiting", None):
        for request in reversed(list(engine.skipped_waiting)):
            engine.waiting.prepend_request(request)
        engine.skipped_waiting = create_request_queue(engine.policy)
    heads = found.heads
    for request in engine.waiting:
        if len(heads) == depth:
            return found._replace(more=True)
        if request.status is not WAITING and request.status is not PREEMPTED:
            grammar = _grammar(request)
            if isinstance(grammar, Exception):
                found.failed.append(request)
            if grammar is None or isinstance(grammar, Exception):
                continue
        stale = getattr(request, "num_stale_output_tokens", 0) and not request.drop_stale_output
        if stale or (adapters and not adapters.fit(request)):
            found.passed.append(request)
            continue
        if request.status is PREEMPTED:
            found.preempted.append(request)
        heads.append(request)
    return found


def defer(engine, requests: list) -> None:
    """Tell vLLM's statistics, which part requests that were passed over from those that wait for room."""
    if requests and hasattr(engine, "deferred_waiting"):
        engine.deferred_waiting.update(requests)


def _grammar(request):
    """The grammar that the request waits for, or the error of its compilation; None while there is neither."""
    waits = request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
    return request.structured_output_request.grammar if waits else None


class _Adapters:
    """LoRA adapters of the running requests. vLLM would not count those of paused ones, which it does not see."""

    def __init__(self, engine):
        self._most = engine.lora_config.max_loras
        with_adapter = [request for request in engine.running if request.lora_request]
        self._taken = {r.lora_request.lora_int_id for r in with_adapter if not self._over(r, engine)}

    @staticmethod
    def _over(request, engine) -> bool:
        """Whether all its tokens are computed or on their way: vLLM gives its slot away."""
        generated = request.num_output_tokens + request.num_output_placeholders
        return generated >= min(request.max_tokens, engine.max_model_len - request.num_prompt_tokens)

    def fit(self, request) -> bool:
        """Whether there is a slot for the adapter of a waiting request, who has it then."""
        if not request.lora_request:
            return True
        adapter = request.lora_request.lora_int_id
        if adapter not in self._taken and len(self._taken) >= self._most:
            return False
        self._taken.add(adapter)
        return True
