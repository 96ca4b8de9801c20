"""The gate before vLLM's scheduler: which of the engine's requests take part in the next step.

Each step the engine's requests become a policy's View, the policy (the very code that the simulator runs) writes its
plan, and vLLM's own ``schedule`` is called with only the requests that the plan serves in ``waiting`` and ``running``.
Afterwards the others are put back. Everything else, memory, preemption, prefix caching, priorities, aborts, is
vLLM's: between two calls its state is what it would be without us, except for what has not been scheduled yet.

A policy whose rule is vLLM's own within ``engine_limits`` needs none of this: vLLM schedules by itself, with two
numbers of the policy's. What a plan sets in the engine is put back when the plan goes.

With asynchronous scheduling a step is planned while the one before runs; tokens in flight count as generated.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future

import numpy as np
from vllm.logger import init_logger
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.request_queue import SchedulingPolicy, create_request_queue
from vllm.v1.request import RequestStatus

from fluidwait.engines.vllm.counters import COUNTERS, REASONS, Status, status_path
from fluidwait.engines.vllm.decision import ADMIT, ORDER, PREFILLED, TOKENS, WORK_ROWS, Decision, compiled
from fluidwait.engines.vllm.preparation import Preparation, Prepared
from fluidwait.engines.vllm.requests import FLYING, KIND, RequestTable, advance
from fluidwait.engines.vllm.settings import SchedulerSettings
from fluidwait.policies import Policy
from fluidwait.policies.contract import NO_LIMIT, EngineSize, Limits

logger = init_logger("vllm.fluidwait")  # a child of the logger that vLLM sets up

NAP_SHARE = 0.2  # of the time of a batch: how long to sleep while everything is held and nothing runs
NAP_LEAST, NAP_MOST = 0.001, 0.005  # s; an arrival or an abort is noticed as much later
WATERMARK = 0.01  # share of the KV blocks that admissions leave free, as in the simulator
_NOBODY = np.zeros(0, dtype=np.uint64)
_NO_PROGRESS = np.zeros((0, 5), dtype=np.int64)


class _Flight:
    """A batch on its way: when it was planned, and what the estimates need to know about it."""

    __slots__ = ("output", "planned", "slots", "tokens", "kv_tokens")

    def __init__(self, output, planned: float, slots: np.ndarray, tokens: int, kv_tokens: int):
        self.output, self.planned, self.slots = output, planned, slots
        self.tokens, self.kv_tokens = tokens, kv_tokens


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


def _grammar(request):
    """The grammar that the request waits for, or the error of its compilation; None while there is neither."""
    waits = request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
    return request.structured_output_request.grammar if waits else None


class Gate:
    """Holds and pauses requests of ``engine``, a vLLM scheduler, as ``policy`` says.

    Raises:
        ConfigError: the policy cannot be prepared for this engine.
    """

    def __init__(self, engine, policy: Policy, settings: SchedulerSettings):
        self.engine, self._policy, self._settings = engine, policy, settings
        self._groups = max(len(engine.kv_cache_config.kv_cache_groups), 1)
        self._blocks = engine.cache_config.num_gpu_blocks // self._groups
        self._stock_tokens = engine.max_num_scheduled_tokens
        self._stock_chunk = engine.scheduler_config.long_prefill_token_threshold
        self._stock_watermark = getattr(engine.kv_cache_manager, "watermark_blocks", None)  # None: it has none yet
        # with prefix caching a prompt may need fewer blocks than its length says: vLLM, which knows, decides
        self._extra = self._blocks if engine.cache_config.enable_prefix_caching else 0
        self._watermark = int(WATERMARK * self._blocks)
        self._most = min(
            engine.max_num_running_reqs, getattr(engine, "max_num_active_reqs", engine.max_num_running_reqs)
        )
        size = EngineSize(
            self._blocks * engine.block_size,
            self._most,
            self._stock_tokens,
            _cuts_prompts_anywhere(engine),
            engine.max_model_len,
        )
        self.preparation = Preparation(policy, settings, size)
        self.table = RequestTable()
        self._by_limits = policy.within_engine_limits
        self._ask = None if self._by_limits else compiled(policy.module)
        self._flights: deque[_Flight] = deque()
        self._last_end = 0.0  # s, when the latest batch ended
        self._batch_time = 0.0  # s, average over the last ten batches or so
        self._running = self._slots = _NOBODY  # slots of the running requests in their order: with room for more
        self._held = _NOBODY  # slots of residents that the last plan paused and that no batch in flight computes for
        self._held_since = 0.0
        self._stale = False  # the table lags behind the engine: steps were taken without a plan
        self._by_priority = engine.policy == SchedulingPolicy.PRIORITY
        self._aside = (0, 0)  # running and waiting requests that vLLM's own step does not see
        self._plan: Prepared | None = None
        self._last_step = time.monotonic()  # when the last step was planned
        self._reserve(self._most)
        self._counts = dict.fromkeys(COUNTERS, 0)
        self._held_steps = dict.fromkeys(REASONS, 0)
        self._last = {"waiting_held": 0, "resident_paused": 0, "resident": 0}
        index = engine.parallel_config.data_parallel_index
        self._status = Status(status_path(engine.vllm_config, index), index)
        self._next_line = time.monotonic() + settings.log_interval
        self._warm_up()

    def arrived(self, request) -> None:
        """A request has come to the engine; or the next input of a streaming session, which the table has."""
        if request.request_id in self.engine.requests:
            return
        now = time.monotonic()
        self._forget(request.request_id)  # the last one of this name, if it ended since the last step
        self._add(request, self._came_at(request, now))
        self.preparation.traffic.arrived(now)

    def counts(self, seen: tuple[int, int]) -> tuple[int, int]:
        """(running, waiting) requests in all, where vLLM's own step counts those that it sees."""
        return seen[0] + self._aside[0], seen[1] + self._aside[1]

    def step(self, stock):
        """One step of the engine; ``stock()`` is vLLM's own."""
        now = self._last_step = time.monotonic()
        self._forget_finished()
        plan = self.preparation.current(now)
        if plan is not self._plan:
            self._adopt(plan)
        if plan is None or self.engine.pause_state == PauseState.PAUSED_ALL:
            output = self._without_a_plan(now, stock)
        elif self._by_limits:
            output = self._within_limits(now, stock)
        else:
            output = self._with_a_plan(now, stock)
        if self._status.due(now) or now >= self._next_line:
            self._report(now)
        return output

    def landed(self, output) -> None:
        """A batch has ended: its requests are no longer in flight, and its duration is known."""
        now = time.monotonic()
        while self._flights:
            flight = self._flights.popleft()
            self.table.fly(flight.slots, -1)
            if flight.output is output:
                took = now - max(flight.planned, self._last_end)
                self._batch_time += 0.1 * (took - self._batch_time)
                if self.preparation.learns:
                    self.preparation.traffic.iterated(flight.tokens, flight.kv_tokens, took)
                break
        self._last_end = now

    def close(self) -> None:
        self.preparation.close()
        self._status.remove()

    # --- a step ------------------------------------------------------------------------------------------------------

    def _without_a_plan(self, now: float, stock):
        """First come, first served; the table is read anew when there is a plan again."""
        self._stale = True
        self._held = _NOBODY
        output = stock()
        self._in_the_air(output, now)
        return output

    def _within_limits(self, now: float, stock):
        """vLLM's own step, with no larger a batch than the plan's: but no decode waits for tokens."""
        engine, before = self.engine, len(self.engine.running)
        tokens = max(self._batch_tokens, before)
        if self._stock_watermark is None and engine.waiting:
            seen = self._above_the_watermark(before)
            output, _ = self._parent(list(engine.running), seen, len(seen) < len(engine.waiting), tokens, stock)
        else:
            engine.max_num_scheduled_tokens = min(self._stock_tokens, tokens)
            try:
                output = stock()
            finally:
                engine.max_num_scheduled_tokens = self._stock_tokens
        self._in_the_air(output, now)
        inside = len(engine.running)
        everyone = Decision(before, inside, inside, 0, 0, output.total_num_scheduled_tokens, 0, -1, now)
        self._count(everyone, max(inside - before, 0), output)  # in one step vLLM preempts or admits
        return output

    def _above_the_watermark(self, running: int) -> list:
        """The head of the queue up to the first request that would not leave enough blocks free.

        For a vLLM that has no watermark of its own: nothing is left free for the only one. It sees those that cannot
        start yet, which only it can free.
        """
        engine, seen, room = self.engine, [], self._most - running
        free = engine.kv_cache_manager.block_pool.get_num_free_blocks() // self._groups - self._spare
        for request in engine.waiting:
            if request.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED):
                free, room = free - -(-request.num_tokens // engine.block_size), room - 1
                alone = running == 0 and room == self._most - 1
                if (free < 0 and not alone) or room < 0:
                    break
            seen.append(request)
        return seen

    def _with_a_plan(self, now: float, stock):
        running = self.engine.running
        heads, passed, failed, more = self._head_of_the_queue()
        self._room_for(max(len(running), len(heads)))
        decision = self._decide(now, heads)
        residents = self._residents[: decision.residents]
        tokens = self._work[TOKENS, : decision.residents]
        if decision.ordered < 0:
            handed = running.copy()
        else:
            requests = self.table.request
            handed = [requests[slot] for slot in self._work[ORDER, : decision.ordered].tolist()]
        entering = [heads[i] for i in self._work[ADMIT, : decision.admitted].tolist()] if decision.admitted else []
        paused = decision.served < decision.residents
        hold_back = more or decision.admitted < len(heads) or (paused and bool(passed))
        if hold_back:
            self._defer(passed)
            entering += failed
        output, newcomers = self._parent(handed, entering, hold_back, decision.tokens, stock)
        self._renew(newcomers, now)
        # where memory is short, who goes is up to vLLM
        if decision.victims == 0 and len(output.num_scheduled_tokens) == decision.served + len(newcomers):
            self._carry_over(now, output, decision, residents, tokens, newcomers)
        else:
            self._read_anew(now, output, residents, tokens, newcomers)
        self._count(decision, len(newcomers), output)
        if not output.num_scheduled_tokens and not self._flights:
            nap = min(max(NAP_SHARE * self._batch_time, NAP_LEAST), NAP_MOST)
            time.sleep(max(0.0, min(nap, decision.wake - time.monotonic())))
        return output

    def _decide(self, now: float, heads: list) -> Decision:
        """Ask the policy, with the columns that it reads up to date."""
        engine, running = self.engine, len(self.engine.running)
        if self._stale:
            self._read_running()
        waiting = self._slots_of(heads) if heads else _NOBODY
        while True:
            decision = self._ask(
                now,
                engine.pause_state != PauseState.UNPAUSED,
                running,
                self._slots,
                self._held,
                now - self._held_since,
                waiting,
                self.table.times,
                self.table.counts,
                self._residents,
                self._work,
                self._last_stage,
                engine.kv_cache_manager.block_pool.get_num_free_blocks() // self._groups,
                self._extra,
                self._watermark,
                engine.block_size,
                self._most - running - getattr(engine, "num_waiting_for_streaming_input", 0),
                self._stock_tokens,
                self._chunk,
                self._stock_chunk if self._stock_chunk > 0 else NO_LIMIT,
                self._whole_prompts,
                self._by_priority,
                self._plan.knobs,
                self._memory,
            )
            if decision.known == running:
                break
            self._read_running()  # since the last step requests have come to run, not only left
        if running != len(self._slots):
            self._slots = self._slots[:running]
        self._held = _NOBODY
        return decision

    def _read_running(self) -> None:
        """Read the running requests from the engine."""
        self._note(self.engine.running)
        self.table.read(self._slots.tolist(), self.engine.block_size)
        self._stale = False

    def _note(self, running: list) -> None:
        """These are the running requests now."""
        self._room_for(len(running))
        self._running[: len(running)] = self._slots_of(running)
        self._slots = self._running[: len(running)]

    def _parent(self, handed: list, entering: list, hold_back: bool, budget: int, stock):
        """vLLM's own step over these requests; returns its output and the requests that entered service.

        Unless some are to be held back vLLM sees its queue as it is, those in it that cannot start included.
        """
        engine, everyone, queue = self.engine, self.engine.running, self.engine.waiting
        taken: list = []
        self._aside = (len(everyone) - len(handed), len(queue) - len(entering) if hold_back else 0)
        if hold_back:
            taken = self._take(queue, entering)
            engine.waiting = create_request_queue(engine.policy)
            for request in entering:
                engine.waiting.add_request(request)
        engine.running = handed
        if not self._parents_own_queues():
            engine.max_num_scheduled_tokens = min(self._stock_tokens, budget)
        kept, last = len(handed), handed[-1] if handed else None
        try:
            output = stock()
        finally:
            engine.max_num_scheduled_tokens = self._stock_tokens
            self._aside = (0, 0)
            if hold_back:
                left_over, engine.waiting = list(engine.waiting), queue
                self._restore(queue, left_over, taken, entering)
            after, engine.running = engine.running, everyone
        if not kept or (len(after) >= kept and after[kept - 1] is last):  # it only ever adds at the end
            newcomers = after[kept:]
            everyone.extend(newcomers)
        else:  # the parent preempted some
            known = set(everyone)
            newcomers = [request for request in after if request not in known]
            engine.running = [r for r in everyone if r.status == RequestStatus.RUNNING] + newcomers
        return output, newcomers

    @staticmethod
    def _take(queue, entering: list) -> list:
        """Take the queue's head up to the last of these requests away from it; returns it, in the queue's order."""
        taken, missing = [], set(entering)
        while missing:
            request = queue.pop_request()
            missing.discard(request)
            taken.append(request)
        return taken

    @staticmethod
    def _restore(queue, left_over: list, taken: list, entering: list) -> None:
        """Put back those that vLLM preempted or did not let in, and those taken that were not for it to see."""
        if len(taken) > len(entering):
            known, gone = set(taken), set(entering).difference(left_over)
            left_over = [r for r in left_over if r not in known] + [r for r in taken if r not in gone]
        for request in reversed(left_over):
            queue.prepend_request(request)

    def _carry_over(self, now: float, output, decision: Decision, residents, tokens, newcomers: list) -> None:
        """Bring the table to the state after a step that went as planned."""
        table = self.table
        changed = self._work[PREFILLED, : decision.prefilled].tolist() if decision.prefilled else []
        if newcomers:
            changed += [self._slot(request) for request in newcomers]
        progress = table.progress(changed) if changed else _NO_PROGRESS
        running, inside = len(self.engine.running), len(self._slots)
        self._room_for(inside + len(newcomers))
        paused = decision.residents - decision.served
        flying = np.empty(decision.served + len(newcomers), dtype=np.uint64)
        held = np.empty(paused, dtype=np.uint64) if paused else _NOBODY
        kv_tokens, held_now = advance(
            table.counts,
            table.times,
            now,
            self.engine.block_size,
            residents,
            tokens,
            progress,
            decision.prefilled,
            flying,
            held,
            self._running[inside:],
        )
        self._slots = self._running[: inside + len(newcomers)]
        self._held, self._held_since = held[:held_now], now
        if len(self._slots) != running:  # some were preempted
            self._note(self.engine.running)
        if len(flying):
            self._take_off(output, now, flying, kv_tokens)

    def _read_anew(self, now: float, output, residents, tokens, newcomers: list) -> None:
        """The same after a step in which vLLM did otherwise: preempted, put prefills off, ran out of budget."""
        table = self.table
        table.enter(self._slots_of(newcomers).tolist(), now)
        self._read_running()
        self._in_the_air(output, now)
        paused = residents[tokens == 0]
        self._held, self._held_since = paused[table.counts[FLYING, paused] == 0], now

    def _in_the_air(self, output, now: float) -> None:
        """Take note of a batch that was not planned here."""
        names = output.num_scheduled_tokens
        if names:
            slots = self._slots_of([self.engine.requests[name] for name in names])
            self.table.fly(slots, 1)
            kv_tokens = sum(self.engine.requests[name].num_computed_tokens for name in names)
            self._take_off(output, now, slots, kv_tokens)

    # --- the view -----------------------------------------------------------------------------------------------------

    def _head_of_the_queue(self) -> tuple[list, list, list, bool]:
        """What the head of the queue holds, in order, and whether more may start behind it.

        First the requests that the policy may admit. Those that cannot start take no places among them, however many
        they are: they wait for a grammar or for the next input of their session. Second, those that vLLM would pass
        over although their time has come: they wait for a slot for their adapter, or for tokens that were in flight
        when they were preempted. Third, those whose grammar has failed, which vLLM ends when it sees them.
        """
        heads: list = []
        passed: list = []
        failed: list = []
        adapters = _Adapters(self.engine) if self.engine.lora_config else None
        # Up to vLLM 0.22, which would start them past those that the plan holds.
        if (adapters or self._by_priority) and getattr(self.engine, "skipped_waiting", None):
            for request in reversed(list(self.engine.skipped_waiting)):
                self.engine.waiting.prepend_request(request)
            self.engine.skipped_waiting = create_request_queue(self.engine.policy)
        for request in self.engine.waiting:
            if len(heads) == self._depth:
                return heads, passed, failed, True
            if request.status not in (RequestStatus.WAITING, RequestStatus.PREEMPTED):
                grammar = _grammar(request)
                if isinstance(grammar, Exception):
                    failed.append(request)
                if grammar is None or isinstance(grammar, Exception):
                    continue
            stale = getattr(request, "num_stale_output_tokens", 0) and not request.drop_stale_output
            if stale or (adapters and not adapters.fit(request)):
                passed.append(request)
                continue
            if request.status == RequestStatus.PREEMPTED:
                self.table.evicted(self._slot(request))
            heads.append(request)
        return heads, passed, failed, False

    def _defer(self, requests: list) -> None:
        """Tell vLLM's statistics, which part requests that were passed over from those that wait for room."""
        if requests and hasattr(self.engine, "deferred_waiting"):
            self.engine.deferred_waiting.update(requests)

    # --- bookkeeping --------------------------------------------------------------------------------------------------

    def _came_at(self, request, now: float) -> float:
        """When the request came (s, monotonic clock): during the batch before, for which the engine let it wait.

        The front end's clock says it. That may be the clock of another host, so it counts only as far as it can be
        true: the engine took in all that had come when the last step was planned.
        """
        waited = time.time() - request.arrival_time
        return min(max(now - waited, self._last_step), now)

    def _slot(self, request) -> int:
        slot = self.table.slot_of.get(request.request_id)
        return self._add(request, time.monotonic()) if slot is None else slot

    def _add(self, request, came: float) -> int:
        slot = self.table.add(request, came, self.engine.max_model_len)
        if self._policy.by_type:
            self.table.counts[KIND, slot] = self._nearest_type(request)
        return slot

    def _renew(self, newcomers: list, now: float) -> None:
        """With every input a streaming session starts anew: it has other limits, and nobody held it in between."""
        for request in newcomers:
            if getattr(request, "resumable", False):
                self.table.renew(self._slot(request), now, self.engine.max_model_len)

    def _slots_of(self, requests: list) -> np.ndarray:
        slots, known = np.empty(len(requests), dtype=np.uint64), self.table.slot_of
        for k, request in enumerate(requests):  # np.array of a list takes far longer, when few and not in a warm loop
            slot = known.get(request.request_id)
            slots[k] = self._slot(request) if slot is None else slot
        return slots

    def _forget_finished(self) -> None:
        for name in self.engine.finished_req_ids:
            self._forget(name)

    def _forget(self, name: str) -> None:
        """Forget the request of this name, if there is one and it has ended: another one may have its name by now."""
        slot = self.table.slot_of.get(name)
        if slot is None or not self.table.request[slot].is_finished():
            return
        request = self.table.remove(name)
        if not self.preparation.learns or request.status == RequestStatus.FINISHED_ABORTED:
            return
        if request.num_output_tokens:
            self.preparation.traffic.finished(request.num_prompt_tokens, request.num_output_tokens)

    def _take_off(self, output, now: float, slots: np.ndarray, kv_tokens: int) -> None:
        self._flights.append(_Flight(output, now, slots, output.total_num_scheduled_tokens, kv_tokens))

    def _adopt(self, plan: Prepared | None) -> None:
        """Put other thresholds in force."""
        self._restore_engine()
        self._plan = plan
        if plan is None:
            return
        self._counts["threshold_changes"] += 1
        if self._by_limits:
            self._batch_tokens, self._spare = self._policy.engine_limits(plan.knobs, self.engine.block_size)
            if self._stock_watermark is not None:
                spare = max(self._spare * self._groups, self._stock_watermark)
                self.engine.kv_cache_manager.watermark_blocks = spare
            return
        knobs, policy = plan.knobs, self._policy
        limits = policy.limits(knobs)
        self._memory = np.zeros(policy.memory_size(knobs), dtype=np.int64)
        self._last_stage = policy.longest_output(knobs, np.arange(len(plan.law.prompt)))  # by type
        self._whole_prompts = not limits.splits_prompts
        self._depth = max(policy.queue_depth(knobs), 1)
        self._chunk = self._stock_chunk if self._stock_chunk > 0 else NO_LIMIT
        if limits.chunk < NO_LIMIT and self.engine.scheduler_config.enable_chunked_prefill:
            self._chunk = min(self._chunk, limits.chunk)
            self.engine.scheduler_config.long_prefill_token_threshold = self._chunk

    def _restore_engine(self) -> None:
        """Leave nothing of a plan in the engine."""
        self.engine.scheduler_config.long_prefill_token_threshold = self._stock_chunk
        if self._stock_watermark is not None:
            self.engine.kv_cache_manager.watermark_blocks = self._stock_watermark

    def _reserve(self, requests: int) -> None:
        """Work space for so many residents, and waiting requests within the policy's view."""
        self._work = np.zeros((WORK_ROWS, requests), dtype=np.int64)
        self._residents = np.zeros(requests, dtype=np.uint64)
        self._running = np.concatenate([self._slots, np.zeros(requests - len(self._slots), dtype=np.uint64)])
        self._slots = self._running[: len(self._slots)]

    def _room_for(self, requests: int) -> None:
        if requests > len(self._residents):
            self._reserve(2 * requests)

    def _parents_own_queues(self) -> bool:
        """True when the parent keeps requests of its own to start, outside ``waiting``: they need tokens too."""
        queues = (getattr(self.engine, name, ()) for name in ("skipped_waiting", "kv_holding_waiting"))
        return any(request.status != RequestStatus.WAITING_FOR_STREAMING_REQ for queue in queues for request in queue)

    def _nearest_type(self, request) -> int:
        """WAIT knows its request types by prompt length and output, taken to be ``max_tokens``."""
        law = self.preparation.law
        return int(np.argmin(np.abs(law.prompt - request.num_prompt_tokens) + np.abs(law.output - request.max_tokens)))

    def _warm_up(self) -> None:
        """Compile (or load) the policy before the first request; nothing of it stays in the engine."""
        self.table.fly(_NOBODY, 1)
        if self._by_limits:
            return
        self._adopt(self.preparation.prepared or self.preparation.rehearsal)
        self._room_for(1)
        self._decide(time.monotonic(), [])
        nothing = self._work[TOKENS, :0]
        advance(
            self.table.counts,
            self.table.times,
            0.0,
            1,
            _NOBODY,
            nothing,
            _NO_PROGRESS,
            0,
            _NOBODY,
            _NOBODY,
            _NOBODY,
        )
        self.table.read([], 1)
        self.table.enter([], 0.0)
        self._memory[:] = 0
        self._adopt(None)  # the first step puts in force what there is
        self._counts["threshold_changes"] = 0

    # --- what is told -------------------------------------------------------------------------------------------------

    def _count(self, decision: Decision, entered: int, output) -> None:
        counts, waiting = self._counts, len(self.engine.waiting)
        paused = decision.residents - decision.served
        counts["steps"] += 1
        counts["admitted"] += entered
        counts["pauses"] += paused
        if not output.num_scheduled_tokens:
            counts["empty_steps"] += 1
        if waiting and not entered:
            self._held_steps[self._reason(decision)] += 1
        self._last = {"waiting_held": waiting, "resident_paused": paused, "resident": decision.residents}

    def _reason(self, decision: Decision) -> str:
        if decision.admitted:
            return "engine"
        if decision.residents >= min(self._in_service(), self._most):
            return "cap"
        head = self.engine.waiting.peek_request()
        needed = -(-head.num_tokens // self.engine.block_size)
        if self.engine.kv_cache_manager.block_pool.get_num_free_blocks() < needed:
            return "memory"
        return "engine" if self._by_limits else "gate"

    def _in_service(self) -> int:
        """Requests that the policy lets in; where vLLM schedules by itself that is the engine's own matter."""
        return NO_LIMIT if self._by_limits else self._policy.limits(self._plan.knobs).requests

    def _report(self, now: float) -> Future:
        plan, policy = self._plan, self._policy
        limits = policy.limits(plan.knobs) if plan else Limits()
        in_service = self._in_service() if plan else NO_LIMIT
        status = {
            "time": time.time(),
            "policy": self._policy.name,
            "active": int(plan is not None),
            "in_service_limit": in_service if in_service < NO_LIMIT else None,
            "batch_tokens_limit": min(limits.tokens, self._stock_tokens),
            "arrival_rate": self.preparation.traffic.rate(now),
            "fluid_load": self.preparation.load(now) if plan else None,
            "thresholds": [int(n) for n in policy.thresholds(plan.knobs)] if plan else [],
            "held_steps": dict(self._held_steps),
            **self._last,
            **self._counts,
        }
        if now >= self._next_line:
            self._next_line = now + self._settings.log_interval
            logger.info("%s", describe(status, self.preparation.problem))
        return self._status.write(status)


def _cuts_prompts_anywhere(engine) -> bool:
    """Whether a prompt may be prefilled in pieces of any size: images and Mamba's states want whole ones."""
    return (
        engine.scheduler_config.enable_chunked_prefill
        and not engine.vllm_config.model_config.is_multimodal_model
        and not getattr(engine, "need_mamba_block_aligned_split", False)
    )


def describe(status: dict, problem: str) -> str:
    """The log line."""
    if not status["active"]:
        return f"fluidwait: first come, first served, for now: {problem}"
    load = status["fluid_load"]
    held = ", ".join(f"{reason} {count}" for reason, count in status["held_steps"].items())
    limits = f"batches of {status['batch_tokens_limit']} tokens at most"
    if status["thresholds"]:
        limits += f"; thresholds {status['thresholds']}, in service at most {status['in_service_limit']}"
    return (
        f"fluidwait: {status['policy']}: {status['resident']} resident ({status['resident_paused']} paused), "
        f"{status['waiting_held']} waiting; {limits}; {status['arrival_rate']:.3g} requests/s"
        + ("" if load is None or load != load else f" = {load:.0%} of the fluid bound")
        + f"; steps that let nobody in: {held}"
        + (f"; {problem}" if problem else "")
    )
