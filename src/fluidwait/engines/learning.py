"""The plug-in's auto mode in the simulator: vLLM's rules, with limits that the plug-in learns from the traffic.

The code that learns is the plug-in's own. It sees what it would see in vLLM, when it would see it: a run pauses
whenever the estimates are due, and goes on with the limits that they give.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fluidwait.base.errors import ConfigError
from fluidwait.engines.v1.limits import limited
from fluidwait.engines.v1.rules import NULL_BLOCK, Rules, model_length
from fluidwait.engines.v1.run import Served, Serving
from fluidwait.engines.vllm.preparation import AtOnce, Preparation
from fluidwait.engines.vllm.settings import SchedulerSettings
from fluidwait.policies import Policy
from fluidwait.policies.contract import EngineSize

NOTED = 4096
"""Iterations that are written down before the estimates are told of them."""


@dataclass(frozen=True)
class Learned:
    """Stands for the knobs of a policy where the plug-in finds them itself; with settings of the plug-in's."""

    settings: SchedulerSettings = field(default_factory=lambda: SchedulerSettings.model_validate({}))


def serve_learning(requests, policy: Policy, learned: Learned, time_model, rules: Rules, **options: Any) -> Served:
    """Serve ``requests`` under vLLM's rules within what the plug-in's estimates say.

    Args:
        options: as of :func:`fluidwait.engines.v1.run.serve`.

    Raises:
        ConfigError: the policy plans by itself, or a request can never fit the memory.
        EngineError: requests would wait for ever, or an invariant failed.
    """
    check_learns(policy, rules)
    serving = Serving(requests, time_model, rules, noted=NOTED, **options)
    capacity = (rules.blocks + NULL_BLOCK) * rules.block_size
    size = EngineSize(capacity, rules.requests, rules.tokens, True, model_length(requests))
    preparation = Preparation(policy, learned.settings, size, AtOnce())
    preparation.running = serving.running
    tell = _watching(serving, requests, preparation.traffic if preparation.learns else None)
    knobs = None
    while not serving.until(preparation.next_look if preparation.learns or knobs is None else np.inf):
        next(tell)
        prepared = preparation.current(serving.place.now)
        if prepared is not None and prepared.knobs is not knobs:
            knobs = prepared.knobs
            serving.rules = limited(policy, knobs, rules)
    return serving.served()


def check_learns(policy: Policy, semantics: Any) -> None:
    """Whether the plug-in's estimates can be simulated for this policy.

    Raises:
        ConfigError: it plans by itself, or the rules are not vLLM's.
    """
    if not isinstance(semantics, Rules):
        raise ConfigError("learns: the plug-in learns inside vLLM (nearest valid semantics: 'vllm')")
    if not policy.within_engine_limits:
        raise ConfigError(
            f"learns: '{policy.name}' is no policy for that: it plans by itself, or has nothing to learn "
            "(nearest valid value: 'fluid_budget')"
        )


def _watching(serving: Serving, requests, traffic) -> Iterator[None]:
    """Tell the estimates, at every pause, what has happened since the last one."""
    taken, last_end = 0, 0.0
    is_told = np.zeros(len(requests.prompt), dtype=np.bool_)
    while True:
        state, notes, place = serving.state, serving.notes, serving.place
        if traffic is not None:
            for i in range(taken, place.tail):
                traffic.arrived(float(notes.taken_in[i]))
            for planned, tokens, kv_tokens, end in notes.landed[: notes.filled[0]].tolist():
                traffic.iterated(int(tokens), int(kv_tokens), end - max(planned, last_end))
                last_end = end
            ended = np.flatnonzero(~np.isnan(state.completion) & ~is_told)
            is_told[ended] = True
            for i in ended[np.argsort(state.completion[ended], kind="stable")]:
                traffic.finished(int(requests.prompt[i]), int(requests.output[i]))
        taken = place.tail
        yield
