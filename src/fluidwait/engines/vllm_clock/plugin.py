"""The plug-in with given knobs and given types of requests: nothing is estimated, nothing is read from settings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from fluidwait.engines.vllm import WaitScheduler
from fluidwait.engines.vllm.estimates import Traffic
from fluidwait.engines.vllm.gate import Gate
from fluidwait.engines.vllm.preparation import Preparation, Prepared
from fluidwait.engines.vllm.settings import SchedulerSettings
from fluidwait.policies import Policy
from fluidwait.policies.contract import EngineSize
from fluidwait.workload import LengthLaw, Requests, most_output


class Given(Preparation):
    """The knobs of a policy, in force from the beginning to the end, and what is known of ``requests`` as they arrive.

    An engine with these ends a request at its output, which its ``max_tokens`` are: what its client allows is told.
    """

    def __init__(self, knobs: Any, requests: Requests, policy: Policy, settings: SchedulerSettings, size: EngineSize):
        self.policy, self.settings, self.size, self.learns, self.problem = policy, settings, size, False, ""
        self.traffic = Traffic(settings.rate_window, settings.length_window, settings.iteration_window)
        types = np.ones(int(np.max(requests.kind)) + 1)
        self.law, self.hardware, self.rehearsal = LengthLaw(types, types, types / len(types)), None, None
        self.prepared = Prepared(knobs, self.law, float("nan"), np.zeros(0))
        self._kinds: Iterator[int] = iter(np.asarray(requests.kind).tolist())
        self.allowed = iter(most_output(requests).tolist())

    def current(self, now: float) -> Prepared | None:
        return self.prepared

    def nearest_type(self, prompt: int, output: int) -> int:
        """That of the next request; every one is asked about once, when it arrives."""
        return next(self._kinds)

    def close(self) -> None:
        pass


class GivenScheduler(WaitScheduler):
    """The plug-in's scheduler with such a preparation; further arguments are vLLM's."""

    def __init__(self, policy: Policy, knobs: Any, requests: Requests, vllm_config, *args, **kwargs):
        AsyncScheduler.__init__(self, vllm_config, *args, **kwargs)
        self.gate = Gate(self, policy, SchedulerSettings.model_validate({}), partial(Given, knobs, requests))
