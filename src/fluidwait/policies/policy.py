"""A policy with its settings: all that engines, figures and tables see of one."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fluidwait.policies import file as policy_file
from fluidwait.policies.contract import NO_LIMIT, Context, Defaults, EngineSize, Limits, Needs, PolicySettings

PACKAGE = __name__.rpartition(".")[0]


class Policy(NamedTuple):
    """A policy with its settings, ready to be prepared for a workload."""

    name: str
    module: ModuleType
    settings: PolicySettings

    # --- where it comes from ------------------------------------------------------------------------------------------

    @property
    def file(self) -> Path | None:
        """The file of a policy that does not ship with fluidwait."""
        return None if self.module.__name__.startswith(f"{PACKAGE}.") else Path(str(self.module.__file__))

    @property
    def use(self) -> str:
        """What stands after ``policy:``: the name of a policy that ships, or a path from the project's root."""
        return self.name if self.file is None else policy_file.shown(self.file)

    @property
    def code(self) -> str:
        """The module, or the file, as a root of :func:`~fluidwait.artifacts.code.imported_modules`."""
        return self.module.__name__ if self.file is None else self.use

    # --- before a run -------------------------------------------------------------------------------------------------

    def prepare(self, context: Context | None) -> Any:
        """The knobs for a workload, a rate and a machine; see ``prepare`` in the policy's file for the errors.

        Without a context of a policy whose knobs are its settings.
        """
        if context is not None and context.most != Limits():
            return self.prepare_at_most(context._replace(most=Limits()), context.most)
        if self._defines("prepare"):
            knobs = self.module.prepare(self.settings, context)
        else:
            knobs = _knobs_type(self.module)(**self.settings.model_dump())
        if self.file is not None:
            policy_file.check_knobs(knobs, self.file)
        return knobs

    def prepare_at_most(self, context: Context, most: Limits) -> Any:
        """The knobs with no more than ``most`` requests in service and tokens in a batch, as far as the policy can."""
        knobs = self.prepare(context)
        own = self.limits(knobs)
        over = Limits(*(limit if value > limit else NO_LIMIT for value, limit in zip(own, most, strict=True)))
        if over == Limits():
            return knobs
        return self._replace(settings=self._ask("at_most")(self.settings, over)).prepare(context)

    def within(self, size: EngineSize, law: Any) -> Policy:
        """The policy with its settings adapted to an engine and to the lengths of its traffic."""
        return self._replace(settings=self._ask("within")(self.settings, size, law))

    def needs(self) -> Needs:
        """What :meth:`prepare` reads of its context."""
        if self._defines("prepare") or self._defines("needs"):
            return self._ask("needs")(self.settings)
        return Needs(any_output=1, times=False, rate=False)

    @property
    def by_type(self) -> bool:
        """Whether it tells request types apart."""
        return bool(self._ask("by_type")(self.settings))

    @property
    def fills_batches(self) -> bool:
        """Whether its limits are all that the fluid model needs to predict λ*."""
        return bool(self._ask("fills_batches")(self.settings))

    @property
    def max_wait(self) -> float:
        """Seconds that a request may be held, 0 for a policy without such a setting."""
        return getattr(self.settings, "max_wait", 0.0)

    def with_max_wait(self, seconds: float) -> Policy:
        """The policy with that setting, which it must have."""
        return self._replace(settings=self.settings.model_copy(update={"max_wait": seconds}))

    # --- of its knobs -------------------------------------------------------------------------------------------------

    def memory_size(self, knobs: Any) -> int:
        """Length of the int64 array that it keeps between calls."""
        return self._ask("memory_size")(knobs)

    @property
    def reserves(self) -> bool:
        """Whether it reserves memory for a whole sequence at admission."""
        return self._defines("reserved_tokens")

    def reserved_tokens(self, knobs: Any) -> int | None:
        """Tokens reserved for a request at admission; None when it reserves nothing."""
        return self._ask("reserved_tokens")(knobs)

    @property
    def has_own_evictions(self) -> bool:
        """Whether it says itself who is evicted, or where evicted requests rejoin the queue."""
        return self._defines("victim") or self._defines("rejoins_last")

    def rejoins_last(self, knobs: Any) -> bool:
        """Whether evicted requests go to the end of the queue."""
        return bool(self._ask("rejoins_last")(knobs))

    def longest_prompt(self, knobs: Any) -> int:
        """Tokens of the longest prefill that it can admit."""
        return self._ask("longest_prompt")(knobs)

    def longest_output(self, knobs: Any, kind: np.ndarray) -> np.ndarray:
        """Tokens beyond which it knows no stage, int64[N] for requests of these types."""
        return np.asarray(self._ask("longest_output")(knobs, kind)).astype(np.int64)

    def limits(self, knobs: Any) -> Limits:
        """What bounds its batches."""
        return self._ask("limits")(knobs)

    def thresholds(self, knobs: Any) -> Sequence[int]:
        """Thresholds or caps in force, if it has any."""
        return self._ask("thresholds")(knobs)

    def queue_depth(self, knobs: Any) -> int:
        """Waiting requests, from the head of the queue, beyond which nothing changes a plan."""
        return self._ask("queue_depth")(knobs)

    @property
    def within_engine_limits(self) -> bool:
        """Whether vLLM schedules by itself for it, within :meth:`engine_limits`."""
        return self._defines("engine_limits")

    def engine_limits(self, knobs: Any, block_size: int) -> tuple[int, int]:
        """(tokens of a batch, KV blocks that admissions leave free); only when :attr:`within_engine_limits`."""
        return self._ask("engine_limits")(knobs, block_size)

    def stock_limits(self, knobs: Any) -> Limits | None:
        """The settings of vLLM's own scheduler, if this policy is that scheduler."""
        return self._ask("stock_limits")(knobs)

    def resolved(self, knobs: Any, setting: str) -> Any:
        """What a setting came to, where it is a knob by itself; else None."""
        return getattr(knobs, setting, None)

    def _defines(self, name: str) -> bool:
        return hasattr(self.module, name)

    def _ask(self, name: str) -> Callable[..., Any]:
        return getattr(self.module, name, None) or getattr(Defaults, name)


def _knobs_type(module: ModuleType) -> type:
    """A named tuple with the settings' fields, kept in the module so that compiled code can find it again."""
    if not hasattr(module, "Knobs"):
        fields = list(module.Settings.model_fields)
        setattr(module, "Knobs", namedtuple("Knobs", fields, module=module.__name__))  # noqa: B010
    return module.Knobs
