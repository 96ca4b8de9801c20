"""What the plug-in tells of its steps: counts, why nobody got in, the status file and the log line."""

from __future__ import annotations

from concurrent.futures import Future

from vllm.logger import init_logger

from fluidwait.engines.vllm import clock
from fluidwait.engines.vllm.counters import COUNTERS, PERIOD, REASONS, Status, status_path
from fluidwait.engines.vllm.preparation import Preparation, Prepared
from fluidwait.engines.vllm.stock import Stock
from fluidwait.policies.contract import NO_LIMIT, Limits

logger = init_logger("vllm.fluidwait")  # a child of the logger that vLLM sets up


class Report:
    """Counts the steps of an engine and tells of them, at times."""

    def __init__(self, stock: Stock, preparation: Preparation, log_interval: float):
        self.stock, self.preparation, self.policy = stock, preparation, preparation.policy
        self.counts = dict.fromkeys(COUNTERS, 0)
        self._held_steps = dict.fromkeys(REASONS, 0)
        self._last = (0, 0, 0)  # in the last step: waiting requests, running ones, those of them that were paused
        engine = stock.engine
        index = engine.parallel_config.data_parallel_index
        self.status = Status(status_path(engine.vllm_config, index), index)
        self.due = clock.monotonic()  # s, when to tell next
        self._log_interval, self._next_line = log_interval, clock.monotonic() + log_interval
        self._prepared: Prepared | None = None
        self._limits = Limits()
        self._cap = stock.requests

    def adopted(self, prepared: Prepared | None) -> None:
        """These knobs are in force now."""
        self._prepared = prepared
        self._limits = self.policy.limits(prepared.knobs) if prepared else Limits()
        self._cap = min(self._in_service, self.stock.requests)
        if prepared:
            self.counts["threshold_changes"] += 1

    @property
    def _in_service(self) -> int:
        """Requests that the policy lets in; where vLLM schedules by itself that is the engine's own matter."""
        return NO_LIMIT if self.policy.within_engine_limits else self._limits.requests

    def count(self, resident: int, paused: int, admitted: int, entered: int, empty: bool) -> None:
        """A step is over in which so many requests were admitted by the policy and so many of them entered service.

        ``empty``: nobody got a token.
        """
        counts, waiting = self.counts, len(self.stock.engine.waiting)
        counts["steps"] += 1
        if entered:
            counts["admitted"] += entered
        elif waiting:
            self._held_steps[self._reason(resident, admitted)] += 1
        if paused:
            counts["pauses"] += paused
        if empty:
            counts["empty_steps"] += 1
        self._last = (waiting, resident, paused)

    def _reason(self, resident: int, admitted: int) -> str:
        if admitted:
            return "engine"
        if resident >= self._cap:
            return "cap"
        engine = self.stock.engine
        head = engine.waiting.peek_request()
        needed = -(-head.num_tokens // engine.block_size)
        if engine.kv_cache_manager.block_pool.get_num_free_blocks() < needed:
            return "memory"
        return "engine" if self.policy.within_engine_limits else "gate"

    def tell(self, now: float) -> Future:
        """Write the status file, and the log line when it is time for one; not again before ``due``."""
        prepared, tokens = self._prepared, self.stock.tokens
        waiting, resident, paused = self._last
        status = {
            "time": clock.wall(),
            "policy": self.policy.name,
            "active": int(prepared is not None),
            "in_service_limit": self._in_service if self._in_service < NO_LIMIT else None,
            "batch_tokens_limit": min(self._limits.tokens, tokens),
            "arrival_rate": self.preparation.traffic.rate(now),
            "fluid_load": self.preparation.load(now) if prepared else None,
            "thresholds": [int(n) for n in self.policy.thresholds(prepared.knobs)] if prepared else [],
            "held_steps": dict(self._held_steps),
            "waiting_held": waiting,
            "resident": resident,
            "resident_paused": paused,
            **self.counts,
        }
        if now >= self._next_line:
            self._next_line = now + self._log_interval
            logger.info("%s", describe(status, self.preparation.problem))
        self.due = min(now + PERIOD, self._next_line)
        return self.status.write(status)


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
