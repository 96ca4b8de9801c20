"""The policy's knobs, prepared from the settings, or from the fluid model and what the traffic says, as that drifts.

Whatever the user gives (hardware, workload, rate, numbers in the policy's settings) is taken as it is; the rest is
estimated. Until enough is known there are no knobs, and the engine schedules first come, first served.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from fluidwait.base.errors import ConfigError, FluidwaitError
from fluidwait.device.hardware import load_hardware
from fluidwait.device.timing import BatchSums, TimeModel, iteration_time, linear
from fluidwait.engines.core import context_of, serving
from fluidwait.engines.vllm.estimates import NOBODY, Traffic
from fluidwait.engines.vllm.settings import SOURCE, SchedulerSettings
from fluidwait.fluid.calibrated import calibrated_boundary
from fluidwait.fluid.thresholds import Infeasible
from fluidwait.policies import Policy
from fluidwait.policies.contract import NO_LIMIT, Context, EngineSize, Limits, Needs
from fluidwait.workload import LengthLaw, length_law, load_workload


class Prepared(NamedTuple):
    """Knobs of the policy, and what they were computed from."""

    knobs: Any
    law: LengthLaw
    capacity_rate: float  # requests/s at the stability boundary of the calibrated fluid model; nan when unknown
    marks: np.ndarray  # estimates by whose change drift is judged


class AtOnce(Executor):
    """Computes what it is given before it goes on, for clocks that stand still meanwhile."""

    def submit(self, fn, /, *args, **kwargs) -> Future:
        done: Future = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


class Preparation:
    """Keeps the knobs in force up to date; :meth:`current` is cheap enough for every step.

    New knobs are computed by ``worker``, a thread of its own unless another executor is given.
    """

    allowed: Iterator[int] | None = None  # output tokens that clients allow, as they arrive; None: the engine's limits

    def __init__(self, policy: Policy, settings: SchedulerSettings, size: EngineSize, worker: Executor | None = None):
        self.policy, self.settings, self.size, self.needs = policy, settings, size, policy.needs()
        self.traffic = Traffic(settings.rate_window, settings.length_window, settings.iteration_window)
        workload = load_workload(settings.workload) if settings.workload else None
        self.law = length_law(workload) if workload else _law_for(self.needs)
        self._prediction_error = workload.prediction_error if workload else None
        self.hardware = load_hardware(settings.hardware) if settings.hardware else None
        if policy.by_type and not settings.workload:
            raise ConfigError(f"{SOURCE}: workload: required key is missing: '{policy.name}' tells request types apart")
        self.running: Callable[[], np.ndarray] = lambda: NOBODY
        """Prompt tokens and generated tokens of the running requests, int64[N, 2]; the engine's to tell."""
        self.prepared: Prepared | None = None
        self.rehearsal: Prepared | None = None  # knobs of the right types, to compile with
        self.problem = ""  # why there are no knobs, or why they are not newer
        self._worker = worker or ThreadPoolExecutor(1, "fluidwait-preparation")
        self._pending: Future | None = None
        self.next_look = -math.inf  # s, when the estimates are looked at again
        self.learns = not self._known()
        """Whether the plan depends on the traffic. If not, finished requests and iterations need not be noted."""
        if not self.learns:
            self.prepared = self._compute(0.0)
        else:
            self._rehearse()

    def current(self, now: float) -> Prepared | None:
        """What is in force at ``now`` (s), None while too little is known."""
        if now >= self.next_look:
            self.next_look = now + self.settings.refresh
            self._look(now)
        return self.prepared

    def load(self, now: float) -> float:
        """Arrival rate over the rate at the stability boundary; nan when the latter is unknown."""
        return self.traffic.rate(now) / self.prepared.capacity_rate if self.prepared else math.nan

    def nearest_type(self, prompt: int, output: int) -> int:
        """The request type of the workload that is nearest to these lengths (tokens)."""
        assert self.law is not None  # else there are no types
        return int(np.argmin(np.abs(self.law.prompt - prompt) + np.abs(self.law.output - output)))

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _known(self) -> bool:
        """True when nothing needs the traffic."""
        return self.law is not None and (self.hardware is not None or not self.needs.times) and self._has_rate()

    def _has_rate(self) -> bool:
        return self.settings.rate is not None or not self.needs.rate

    def _look(self, now: float) -> None:
        if not self.learns:
            return
        if self._pending is not None:
            if not self._pending.done():
                return
            self._take(self._pending)
            self._pending = None
        lengths, iterations = self.traffic.counts()
        if (self.law is None and lengths < self.settings.least) or (
            self.hardware is None and iterations < self.settings.least
        ):
            self.problem = f"{lengths} finished requests and {iterations} iterations, {self.settings.least} needed"
            return
        self._pending = self._worker.submit(self._compute, now, self.prepared, self.running())

    def _take(self, pending: Future) -> None:
        try:
            self.prepared, self.problem = pending.result(), ""
        except Exception as error:  # overload, say: keep what is in force; an estimate must never stop the engine
            self.problem = str(error) if isinstance(error, FluidwaitError) else repr(error)

    def _compute(self, now: float, old: Prepared | None = None, running: np.ndarray = NOBODY) -> Prepared:
        """New knobs, or the old ones when nothing has drifted.

        Raises:
            FluidwaitError: the policy cannot be prepared for this traffic.
        """
        law = self.law if self.law is not None else self.traffic.law(running)
        times, d0_d1 = self._times()
        rate = self.settings.rate or self.traffic.rate(now)
        marks = self._marks(law, times, rate)
        steady = None
        if old is not None and np.all(np.abs(marks - old.marks) <= self.settings.drift * np.abs(old.marks)):
            steady = old
        if steady is not None and not self.needs.load:
            return steady
        memory = serving(self.size.capacity, 1)
        knobs = self._knobs(context_of(law, rate, times, d0_d1, memory, self._prediction_error))
        if steady is not None and _same(knobs, steady.knobs):
            return steady
        return Prepared(knobs, law, self._boundary(law, times, knobs), marks)

    def _times(self) -> tuple[TimeModel | None, tuple[float, float]]:
        """The time model and the paper's (d0, d1); None and nan where nothing asks for them."""
        if self.hardware is not None:
            return self.hardware.time_model(
                "profile" if self.hardware.timing.profile else "linear"
            ), self.hardware.linear
        if self.traffic.counts()[1] >= self.settings.least:
            return self.traffic.times()
        return None, (math.nan, math.nan)

    def _marks(self, law: LengthLaw, times, rate: float) -> np.ndarray:
        """Mean lengths, the time of a decode batch and of a prefill; the rate where the policy uses it."""
        marks = [law.share @ law.prompt, law.share @ law.output]
        if times is not None:
            marks += [iteration_time(times, BatchSums(64, 64 * 512, decodes=64, decode_context=64 * 512))]
            marks += [iteration_time(times, BatchSums(512, 512, 1, 512, 512**2))]
        if self.needs.rate:
            marks.append(rate)
        return np.array(marks)

    def _knobs(self, context: Context):
        """The policy's knobs, within what the engine can run."""
        policy = self.policy.within(self.size, context.law)
        knobs = policy.prepare_at_most(context, Limits(requests=self.size.requests))
        longest = self.size.longest - 1
        if policy.longest_prompt(knobs) < longest:
            raise ConfigError(
                f"{SOURCE}: policy: '{policy.use}' prefills at most {policy.longest_prompt(knobs)} tokens at once, but "
                f"the engine takes prompts of {longest}, which would wait for ever"
            )
        return knobs

    def _boundary(self, law: LengthLaw, times, knobs) -> float:
        if times is None:
            return math.nan
        size, chunk = self.size, self.policy.limits(knobs).chunk
        return calibrated_boundary(
            law,
            times,
            size.capacity,
            chunk=chunk if size.chunked_prefill and chunk < NO_LIMIT else None,
            token_budget=size.tokens,
            cap=size.requests,
        ).rate

    def _rehearse(self) -> None:
        """Compile the fluid model now, not while the engine serves, and find mistakes in the settings.

        The numbers do not matter: outputs of every length, a device that is fast enough.
        """
        law, outputs = self.law, np.arange(1.0, max(self.size.longest, 2))
        if law is None or not self.policy.by_type:
            law = LengthLaw(np.ones(len(outputs)), outputs, np.full(len(outputs), 1 / len(outputs)))
        times = linear(1e-3, 1e-9)
        with suppress(Infeasible):
            knobs = self._knobs(context_of(law, 1e-3, times, (1e-3, 1e-9), serving(10**6, 1)))
            self.rehearsal = Prepared(knobs, law, self._boundary(law, times, knobs), self._marks(law, times, 1.0))


def _law_for(needs: Needs) -> LengthLaw | None:
    """A law that does for all traffic; None when the policy needs to know the lengths."""
    if needs.any_output is None:
        return None
    return LengthLaw(np.ones(1), np.array([float(needs.any_output)]), np.ones(1))


def _same(knobs, old) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(knobs, old, strict=True))
