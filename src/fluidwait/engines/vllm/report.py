"""What the plug-in tells of its steps: counts, why nobody got in, the status file and the log line."""

from __future__ import annotations

from concurrent.futures import Future

from vllm.logger import init_logger

from fluidwait.engines.v1.decision import Decision
from fluidwait.engines.vllm import clock
from fluidwait.engines.vllm.counters import COUNTERS, REASONS, Status, status_path
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
        self._last = {"waiting_held": 0, "resident_paused": 0, "resident": 0}
        engine = stock.engine
        index = engine.parallel_config.data_parallel_index
        self.status = Status(status_path(engine.vllm_config, index), index)
        self._log_interval, self._next_line = log_interval, clock.monotonic() + log_interval
        self._prepared: Prepared | None = None
        self._limits = Limits()

    def adopted(self, prepared: Prepared | None) -> None:
        """These knobs are in force now."""
        self._prepared = prepared
        self._limits = self.policy.limits(prepared.knobs) if prepared else Limits()
        if prepared:
            self.counts["threshold_changes"] += 1

    @property
    def _in_service(self) -> int:
        """Requests that the policy lets in; where vLLM schedules by itself that is the engine's own matter."""
        return NO_LIMIT if self.policy.within_engine_limits else self._limits.requests

    def count(self, decision: Decision, entered: int, output) -> None:
        """A step is over in which so many entered service."""
        counts, waiting = self.counts, len(self.stock.engine.waiting)
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
        engine = self.stock.engine
        if decision.admitted:
            return "engine"
        if decision.residents >= min(self._in_service, self.stock.requests):
            return "cap"
        head = engine.waiting.peek_request()
        needed = -(-head.num_tokens // engine.block_size)
        if engine.kv_cache_manager.block_pool.get_num_free_blocks() < needed:
            return "memory"
        return "engine" if self.policy.within_engine_limits else "gate"

    def when_due(self, now: float) -> None:
        """Tell, if it is time to."""
        if self.status.due(now) or now >= self._next_line:
            self.tell(now)

    def tell(self, now: float) -> Future:
        """Write the status file, and the log line when it is time for one."""
        prepared, tokens = self._prepared, self.stock.tokens
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
            **self._last,
            **self.counts,
        }
        if now >= self._next_line:
            self._next_line = now + self._log_interval
            logger.info("%s", describe(status, self.preparation.problem))
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
