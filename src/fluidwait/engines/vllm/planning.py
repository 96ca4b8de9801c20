"""The thresholds in force: from the settings, or from the fluid model and what the traffic says, as that drifts.

Whatever the user gives (hardware, workload, rate, numbers in the policy's settings) is taken as it is; the rest is
estimated. Until enough is known there are no thresholds, and the engine schedules first come, first served.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from fluidwait.base.errors import ConfigError, FluidwaitError
from fluidwait.device.hardware import load_hardware
from fluidwait.device.timing import iteration_time, linear
from fluidwait.engines.vllm.estimates import Traffic
from fluidwait.engines.vllm.settings import SOURCE, SchedulerSettings
from fluidwait.fluid import calibrated_boundary
from fluidwait.fluid.thresholds import Infeasible
from fluidwait.policies import Policy
from fluidwait.policies.contract import Context
from fluidwait.workload import LengthLaw, length_law, load_workload


class Limits(NamedTuple):
    """What the engine was started with."""

    capacity: int  # KV tokens
    requests: int  # running at once
    tokens: int  # per batch
    chunked_prefill: bool  # prompts may be cut anywhere
    longest: int  # prompt + output, tokens


class Plan(NamedTuple):
    """Knobs for the policy, and what they were computed from."""

    knobs: Any
    law: LengthLaw
    capacity_rate: float  # requests/s at the stability boundary of the calibrated fluid model; nan when unknown
    marks: np.ndarray  # estimates by whose change drift is judged


class Thresholds:
    """Keeps the plan in force up to date; :meth:`current` is cheap enough for every step."""

    def __init__(self, policy: Policy, settings: SchedulerSettings, limits: Limits):
        self.policy, self.settings, self.limits = policy, settings, limits
        self.traffic = Traffic(settings.rate_window, settings.length_window, settings.iteration_window)
        self.law = (
            length_law(load_workload(settings.workload)) if settings.workload else _law_of_settings(policy.settings)
        )
        self.hardware = load_hardware(settings.hardware) if settings.hardware else None
        if policy.name == "wait" and self.law is None:
            raise ConfigError(f"{SOURCE}: workload: required key is missing: wait has a threshold per request type")
        self.plan: Plan | None = None
        self.rehearsal: Plan | None = None  # knobs of the right types, to compile with
        self.problem = ""  # why there are no thresholds, or why they are not newer
        self._worker = ThreadPoolExecutor(1, "fluidwait-thresholds")
        self._pending: Future | None = None
        self._next_look = -math.inf
        self.learns = not self._known()
        """Whether the traffic has a say: finished requests and iterations need not be noted otherwise."""
        if not self.learns:
            self.plan = self._compute(0.0)
        else:
            self._rehearse()

    def current(self, now: float) -> Plan | None:
        """The plan in force at ``now`` (s), None while too little is known."""
        if now >= self._next_look:
            self._next_look = now + self.settings.refresh
            self._look(now)
        return self.plan

    def load(self, now: float) -> float:
        """Arrival rate over the rate at the stability boundary; nan when the latter is unknown."""
        return self.traffic.rate(now) / self.plan.capacity_rate if self.plan else math.nan

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _known(self) -> bool:
        """True when nothing needs the traffic."""
        return self.law is not None and (self.hardware is not None or not self._needs_times()) and self._has_rate()

    def _needs_times(self) -> bool:
        return "fluid" in self.policy.settings.model_dump().values()

    def _has_rate(self) -> bool:
        return self.settings.rate is not None or not self._needs_rate()

    def _needs_rate(self) -> bool:
        """Whether the knobs depend on the rate."""
        return getattr(self.policy.settings, "thresholds", None) == "fluid" or self._follows_load()

    def _follows_load(self) -> bool:
        """Whether the knobs follow the rate at every look: near the boundary a little more needs a larger batch."""
        own = self.policy.settings
        return hasattr(own, "token_budget") and own.batch_tokens == "fluid"

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
        self._pending = self._worker.submit(self._compute, now, self.plan)

    def _take(self, pending: Future) -> None:
        try:
            self.plan, self.problem = pending.result(), ""
        except Exception as error:  # overload, say: keep what is in force; an estimate must never stop the engine
            self.problem = str(error) if isinstance(error, FluidwaitError) else repr(error)

    def _compute(self, now: float, old: Plan | None = None) -> Plan:
        """A new plan, or the old one when nothing has drifted.

        Raises:
            FluidwaitError: the fluid model has no thresholds for this traffic.
        """
        law = self.law if self.law is not None else self.traffic.law()
        times = self._time_model()
        rate = self.settings.rate or self.traffic.rate(now)
        marks = self._marks(law, times, rate)
        steady = old is not None and np.all(np.abs(marks - old.marks) <= self.settings.drift * np.abs(old.marks))
        if steady and not self._follows_load():
            return old
        context = Context(law, rate, times, self._linear(times), self.limits.capacity, prefill_emits=True)
        knobs = self._knobs(context)
        if steady and knobs == old.knobs:
            return old
        return Plan(knobs, law, self._boundary(law, times), marks)

    def _time_model(self):
        if self.hardware is not None:
            return self.hardware.time_model("profile" if self.hardware.timing.profile else "linear")
        if self.traffic.counts()[1] >= self.settings.least:
            return self.traffic.time_model()
        return None  # nothing asks for it

    def _linear(self, times) -> tuple[float, float]:
        if self.hardware is not None and self.hardware.timing.linear is not None:
            return self.hardware.timing.linear.d0, self.hardware.timing.linear.d1
        return self.traffic.linear() if times is not None and self.hardware is None else (math.nan, math.nan)

    def _marks(self, law: LengthLaw, times, rate: float) -> np.ndarray:
        """Mean lengths, the time of a decode batch and of a prefill; the rate where the policy uses it."""
        marks = [law.share @ law.prompt, law.share @ law.output]
        if times is not None:
            marks += [iteration_time(times, 64, 64 * 512, 0, 0, 0, 0, 64, 64 * 512)]
            marks += [iteration_time(times, 512, 512, 1, 512, 512**2, 0, 0, 0)]
        if self._needs_rate():
            marks.append(rate)
        return np.array(marks)

    def _knobs(self, context: Context):
        """The policy's knobs, within what the engine can run."""
        policy, limits = self.policy, self.limits
        if not limits.chunked_prefill and hasattr(policy.settings, "chunk"):
            whole = {"chunk": limits.longest, "batch_tokens": None}
            policy = policy._replace(settings=policy.settings.model_copy(update=whole))
        if hasattr(policy.settings, "token_budget"):
            policy = policy._replace(settings=_within(policy.settings, limits))
        if getattr(policy.settings, "boundaries", None):
            policy = policy._replace(settings=_covering(policy.settings, context.law))
        knobs = policy.prepare(context)
        if hasattr(knobs, "in_service") and knobs.in_service > limits.requests:
            fewer = policy.settings.model_copy(update={"in_service": limits.requests})
            knobs = policy._replace(settings=fewer).prepare(context)
        return knobs

    def _boundary(self, law: LengthLaw, times) -> float:
        if times is None:
            return math.nan
        limits = self.limits
        chunk = getattr(self.policy.settings, "chunk", None) if limits.chunked_prefill else None
        return calibrated_boundary(
            law, times, limits.capacity, chunk=chunk, token_budget=limits.tokens, cap=limits.requests
        ).rate

    def _rehearse(self) -> None:
        """Compile the fluid model now, not while the engine serves, and find mistakes in the settings.

        The numbers do not matter: outputs of every length, a device that is fast enough.
        """
        outputs = np.arange(1.0, max(self.limits.longest, 2))
        law = LengthLaw(np.ones(len(outputs)), outputs, np.full(len(outputs), 1 / len(outputs)))
        times = linear(1e-3, 1e-9)
        with suppress(Infeasible):
            knobs = self._knobs(Context(law, 1e-3, times, (1e-3, 1e-9), 10**6, prefill_emits=True))
            self.rehearsal = Plan(knobs, law, self._boundary(law, times), self._marks(law, times, 1.0))


def _within(settings, limits: Limits):
    """Settings of a policy with a token budget: the engine's own limits, or what the user says below them."""
    own = {"token_budget": limits.tokens, "max_requests": limits.requests}
    own = {
        key: min(most, getattr(settings, key) if key in settings.model_fields_set else most)
        for key, most in own.items()
    }
    if not limits.chunked_prefill:  # a smaller batch would have no room for some prompts
        own["batch_tokens"] = limits.tokens
    return settings.model_copy(update=own)


def _law_of_settings(settings) -> LengthLaw | None:
    """A law that says what the settings already say; None when the policy needs to know more than its boundaries.

    A batch given in tokens needs no law. Caps and quotas follow from the continuation probabilities, so only with one
    segment are they known beforehand; Nested WAIT with thresholds given needs no law.
    """
    cuts = [1] if hasattr(settings, "token_budget") else getattr(settings, "boundaries", None)
    if not cuts or (len(cuts) > 1 and not hasattr(settings, "thresholds")):
        return None
    if "fluid" in settings.model_dump().values():
        return None
    return LengthLaw(np.ones(1), np.array([float(cuts[-1])]), np.ones(1))


def _covering(settings, law: LengthLaw):
    """Settings whose last boundary is the longest output seen: an engine does not choose its requests."""
    cuts, longest = settings.boundaries, int(law.output.max())
    if isinstance(getattr(settings, "thresholds", None), list):  # one per segment: keep them all
        cuts = [*cuts[:-1], max(cuts[-1], longest)]
    else:
        cuts = [*(cut for cut in cuts if cut < longest), longest]  # nobody reaches the others
    return settings.model_copy(update={"boundaries": cuts})
