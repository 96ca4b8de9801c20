"""Everything that is changed in Vidur, and when.

At import:

* ``WANDB_MODE=disabled`` in the environment, unless it is set: Vidur would otherwise talk to Weights & Biases.
* Vidur's logger says errors only.

Before the first run (:func:`register`): our replica scheduler, request generator and iteration times enter Vidur's
registries, the latter under the name DUMMY, since the names of predictors are a closed list.

Before every run (:func:`reset_ids`): the numbers of entities and events start from the beginning.

One entity is repaired. ``Request.restart`` of Vidur 0.0.26 forgets to reset the tokens counted per pipeline stage, so
an eviction ends in a failed assertion, and it turns the unfinished rest of a half-prefilled prompt into output tokens.
:class:`ReplayedRequest` resets the counter and leaves the lengths of a half-prefilled prompt alone; it can also restart
from nothing, as the paper's model has it.
"""

from __future__ import annotations

import logging
import os
from typing import Any

os.environ.setdefault("WANDB_MODE", "disabled")

from vidur.entities import Request  # noqa: E402
from vidur.entities.base_entity import BaseEntity  # noqa: E402
from vidur.events import BaseEvent  # noqa: E402
from vidur.execution_time_predictor import ExecutionTimePredictorRegistry  # noqa: E402
from vidur.request_generator import RequestGeneratorRegistry  # noqa: E402
from vidur.scheduler.replica_scheduler.replica_scheduler_registry import ReplicaSchedulerRegistry  # noqa: E402
from vidur.types import ExecutionTimePredictorType  # noqa: E402

from fluidwait.engines.core import Semantics  # noqa: E402

logging.getLogger("vidur").setLevel(logging.ERROR)

KEY = "fluidwait"
"""The name of our parts in Vidur's registries."""

PREDICTOR = ExecutionTimePredictorType.DUMMY


def register(scheduler: type, generator: type, predictor: type) -> None:
    """Enter our parts in Vidur's registries; once per process."""
    ReplicaSchedulerRegistry.register(KEY, scheduler)
    RequestGeneratorRegistry.register(KEY, generator)
    ExecutionTimePredictorRegistry.register(PREDICTOR, predictor)


def reset_ids() -> None:
    """Vidur numbers its entities and events in class attributes; start from the beginning."""
    for entity in _subclasses(BaseEntity):
        if "_id" in vars(entity):
            del entity._id
    BaseEvent._id = 0


def _subclasses(cls) -> list[Any]:
    return [s for child in cls.__subclasses__() for s in [child, *_subclasses(child)]]


class ReplayedRequest(Request):
    """A Vidur request that knows its place in our arrays, with ``restart`` repaired (see the module's text)."""

    _num_prefill_tokens: int
    _num_decode_tokens: int

    def __init__(self, index: int, arrived_at: float, prompt: int, output: int, semantics: Semantics):
        super().__init__(arrived_at, prompt, output)
        self.index, self._original, self._recompute = index, (prompt, output), semantics.recompute
        if semantics.remote_prefill:
            self._num_processed_tokens = self._num_stage_processed_tokens = prompt - 1

    @property
    def came_prefilled(self) -> bool:
        """Whether the next token is the first one after a prefill on another machine: computed like a decode."""
        return 0 < self.num_processed_tokens == self.num_prefill_tokens - 1 and self.num_processed_iterations == 0

    @property
    def cached(self) -> int:
        """Tokens in the KV cache: Vidur counts the token that was generated last, cached only by the next decode."""
        return self.num_processed_tokens - int(self.is_prefill_complete)

    def restart(self) -> None:
        """As Vidur's, repaired."""
        half_prefilled = not self.is_prefill_complete
        lengths: Any = self.num_prefill_tokens, self.num_decode_tokens
        super().restart()
        if not self._recompute:
            lengths = self._original
            self._prefill_completed_at = 0
        if half_prefilled or not self._recompute:
            self._num_prefill_tokens, self._num_decode_tokens = lengths
        self._num_stage_processed_tokens = 0
        self._is_prefill_stage_complete = False
