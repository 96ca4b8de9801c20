"""The contract between a policy and the engines: a view goes in, a plan comes out.

A policy is one function, compiled by Numba and shared by every engine::

    @jit
    def plan(view, knobs, memory, out):
        ...
        return admitted, wake

At a decision epoch the engine fills a :class:`View`. The policy writes into ``out`` (a :class:`Plan`)

* ``out.tokens[k]``: tokens to compute for the k-th resident request, 0 to pause it (the engine hands it in zeroed),
* ``out.admit[i]``, ``out.chunk[i]`` for i < ``admitted``: positions in ``view.waiting``, ascending, of the requests to
  admit, and the tokens of their first prefill chunk (at least 1, at most ``goal - cached``),

and returns how many it admits and the time at which it wants to be asked again if nothing happens before
(``inf``: not until an arrival). A plan without tokens and admissions holds the server idle.

``knobs`` is a named tuple of the policy's settings; ``memory`` is an int64 array that starts at zero and is the
policy's own between calls. It should change only together with a non-empty plan: an engine may ask twice at one epoch.

Memory shortage need not be the policy's business. When the decodes of a plan do not fit, the engine evicts the newest
resident request, puts it at the head of the waiting queue and asks again with ``view.evicted`` one higher. A policy
with an order of its own defines one more compiled function, ``victim(view, knobs, out)``: the position in
``view.resident`` of who must go now, given the plan in ``out``, or -1 when nobody has to. It is asked until it says so.

Everything else that an engine, a figure or a table may ask of a policy is a function of :class:`Defaults`. A policy
file defines those in which it differs. Nobody looks at a policy's name, at a knob or at a setting, but for two that are
part of the contract: a setting ``max_wait`` is the time (s) that a request may be held, and a knob with the name of a
setting is that setting, resolved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numba import njit

from fluidwait.base.models import Strict
from fluidwait.device.timing import kept_on_disk


def jit(function):
    """Compile for the engines: they own every array, so the code neither allocates nor counts references.

    Without this the bookkeeping of Numba's reference counts takes most of an iteration.
    """
    return njit(function, _nrt=False, error_model="numpy", forceinline=True)


def jit_cached(function):
    """:func:`jit`, with the machine code kept on disk."""
    return kept_on_disk(function, _nrt=False, error_model="numpy")


class View(NamedTuple):
    """What a policy may know at a decision epoch: no output length before it is revealed, unless it is predicted.

    ``waiting`` and ``resident`` list request indices, for indexing only; every other array is indexed by request.
    """

    now: float  # s
    draining: bool  # True once no request will ever arrive again
    evicted: int  # evictions forced so far in this decision
    waiting: np.ndarray  # uint64[n_waiting], in arrival order; evicted requests first, or where they rejoined
    resident: np.ndarray  # uint64[n_resident], in admission order
    arrival: np.ndarray  # float64, s
    service: np.ndarray  # float64, s spent inside batches so far
    kind: np.ndarray  # int64, request type
    goal: np.ndarray  # int64, tokens to prefill: the prompt, and after a recompute also what was generated before
    cached: np.ndarray  # int64, tokens in the KV cache; of a waiting request, those whose KV comes with it
    generated: np.ndarray  # int64, output tokens so far
    held: np.ndarray  # int64, KV blocks
    max_output: np.ndarray  # int64, output tokens that the client allows, no fewer than there will be
    predicted: np.ndarray  # int64, output tokens as somebody predicts them, 0 where nobody does
    free: int  # KV blocks
    watermark: int  # KV blocks that admissions leave free
    block_size: int  # tokens


class Plan(NamedTuple):
    """Where a policy writes its decision; see the module's text."""

    tokens: np.ndarray  # int64[>= n_resident]
    admit: np.ndarray  # int64[>= n_waiting]
    chunk: np.ndarray  # int64[>= n_waiting]


class PolicySettings(Strict):
    """Base of a policy's settings: validated in YAML and in vLLM's additional_config alike."""


NO_LIMIT = 2**62
"""Stands for no limit on tokens or requests."""


class Limits(NamedTuple):
    """What bounds the batches of a policy."""

    requests: int = NO_LIMIT  # in service
    tokens: int = NO_LIMIT  # of a batch that prefills may fill up to
    chunk: int = NO_LIMIT  # prefill tokens of a request and batch

    @property
    def splits_prompts(self) -> bool:
        """True when the policy itself decides how a prompt is cut. Else, where an engine cut one, the rest follows."""
        return self.tokens < NO_LIMIT or self.chunk < NO_LIMIT


class Needs(NamedTuple):
    """What ``prepare`` reads of its context: all that an engine in service has to learn from its traffic first."""

    any_output: int | None = None  # tokens: an output length that serves for all traffic; None: the lengths matter
    times: bool = True  # iteration times
    rate: bool = True  # arrival rate
    load: bool = False  # a little more load matters, so that knobs are to be prepared anew however little changed


class EngineSize(NamedTuple):
    """What an engine was started with."""

    capacity: int  # KV tokens
    requests: int  # running at once
    tokens: int  # per batch
    chunked_prefill: bool  # prompts may be cut anywhere
    longest: int  # prompt + output, tokens


class Defaults:
    """What may be asked of a policy beside its plan: names, arguments, types and what holds where a file is silent.

    ``knobs`` are what ``prepare`` returned. :class:`fluidwait.policies.Policy` has a method of each name.
    """

    @staticmethod
    def memory_size(knobs) -> int:
        """Length of the int64 array that the policy keeps between calls."""
        return 1

    @staticmethod
    def reserved_tokens(knobs) -> int | None:
        """Tokens whose KV blocks a request gets at admission, so that nothing is evicted; None: as it needs them."""
        return None

    @staticmethod
    def rejoins_last(knobs) -> bool:
        """Whether an evicted request goes to the end of the queue, and not to its head."""
        return False

    @staticmethod
    def longest_prompt(knobs) -> int:
        """Tokens of the longest prefill that the policy can admit."""
        return NO_LIMIT

    @staticmethod
    def longest_output(knobs, kind) -> np.ndarray:
        """Tokens beyond which the policy knows no stage, int64[N] for requests of the types int64[N] ``kind``."""
        return np.full(len(kind), NO_LIMIT)

    @staticmethod
    def limits(knobs) -> Limits:
        """What bounds its batches."""
        return Limits()

    @staticmethod
    def fills_batches(settings) -> bool:
        """Whether a backlog fills every batch up to ``limits``, prefills beside decodes, and nothing else binds.

        The calibrated fluid model then predicts λ* from the limits.
        """
        return False

    @staticmethod
    def thresholds(knobs) -> Sequence[int]:
        """Thresholds or caps in force, for the metrics of an engine in service."""
        return ()

    @staticmethod
    def by_type(settings) -> bool:
        """Whether it tells request types apart, so that an engine in service must know the workload's."""
        return False

    @staticmethod
    def queue_depth(knobs) -> int:
        """Waiting requests, from the head of the queue, beyond which nothing changes a plan."""
        return NO_LIMIT

    @staticmethod
    def needs(settings) -> Needs:
        """What ``prepare`` reads of its context. Nothing, when there is no ``prepare``."""
        return Needs()

    @staticmethod
    def within(settings, size, law) -> PolicySettings:
        """The settings adapted to an :class:`EngineSize` and to the lengths of its traffic."""
        return settings

    @staticmethod
    def at_most(settings, most) -> PolicySettings:
        """The settings lowered to those of the :class:`Limits` ``most`` that are not ``NO_LIMIT``.

        Asked where an engine runs less than the policy allows itself. Without it the engine's limits hold all the same,
        but the policy does not know.
        """
        return settings

    @staticmethod
    def engine_limits(knobs, block_size) -> tuple[int, int]:
        """(tokens of a batch, KV blocks that admissions leave free): all in which its rule is not vLLM's own.

        vLLM then schedules by itself within them. A policy that does not define this is asked for plans.
        """
        raise NotImplementedError

    @staticmethod
    def stock_limits(knobs) -> Limits | None:
        """The settings of vLLM's own scheduler, for the policy that is that scheduler; None for any other."""
        return None


Own = TypeVar("Own", bound=PolicySettings)


def lowered(settings: Own, **most: int) -> Own:
    """The settings with these of them replaced, but for those that are ``NO_LIMIT``: for ``at_most``."""
    return settings.model_copy(update={name: limit for name, limit in most.items() if limit < NO_LIMIT})


def wants_fluid(settings: PolicySettings) -> bool:
    """True when some setting is to come from the fluid model."""
    return "fluid" in settings.model_dump().values()


class Context(NamedTuple):
    """What a policy may use to derive its knobs before a run starts: the fluid model's inputs."""

    law: Any  # fluidwait.workload.LengthLaw
    rate: float  # requests/s
    time_model: Any  # fluidwait.device.timing.TimeModel
    linear: tuple[float, float]  # the paper's (d0 s, d1 s/token)
    capacity: int  # KV tokens
    prefill_emits: bool  # True when the iteration that ends the prefill yields the first token
    remote_prefill: bool = False  # True when the prompt's KV cache comes with the request
    most: Limits = Limits()  # what the engine runs at most, to which a policy's settings are lowered
    prediction_error: float | None = None  # standard deviation of log(predicted / output); None: nothing is predicted

    @property
    def semantics(self) -> Literal["serving", "decode", "paper"]:
        """The name by which the calibrated fluid model knows these rules."""
        if self.remote_prefill:
            return "decode"
        return "serving" if self.prefill_emits else "paper"


@jit
def blocks_for(tokens, block_size):
    """KV blocks that hold ``tokens`` tokens."""
    return (tokens + block_size - 1) // block_size


@jit
def is_decoding(view, r):
    """True when request ``r`` has its whole prompt in the cache."""
    return view.cached[r] >= view.goal[r]


@jit
def to_prefill(view, r):
    """Tokens of the waiting request ``r`` that are still to be prefilled: 1 when its prompt was prefilled elsewhere."""
    return view.goal[r] - view.cached[r]


@jit
def is_prefilled(view, r):
    """True when the prompt of the waiting request ``r`` was prefilled elsewhere: its first iteration is a decode."""
    return 0 < view.cached[r] == view.goal[r] - 1


@jit
def growth(view, r):
    """KV blocks that one more token of the resident request ``r`` takes: 0 or 1."""
    return int(view.cached[r] >= view.held[r] * view.block_size)


@jit
def fits(view, r, free):
    """True when the waiting request ``r`` can be admitted with ``free`` blocks left and the watermark kept."""
    return free - blocks_for(view.goal[r], view.block_size) >= view.watermark


@jit
def patience_ends(view, r, max_wait):
    """Time (s) at which request ``r`` has been held outside batches for ``max_wait`` in all, if it is not served."""
    return view.arrival[r] + view.service[r] + max_wait


@jit
def even_quota(step, mean):
    """The ``step``-th term of the most even integer sequence of mean ``mean``: floor((t+1) n) - floor(t n)."""
    return int(np.floor((step + 1) * mean)) - int(np.floor(step * mean))


@jit
def serve_in_order(view, out, budget, free):
    """Serve the residents in admission order while ``budget`` tokens last: a decode takes one, a prefill what is left.

    Returns (budget, free blocks) that remain.
    """
    for k in range(len(view.resident)):
        r = view.resident[k]
        if budget == 0:
            break
        if is_decoding(view, r):
            out.tokens[k] = 1
            free -= growth(view, r)
        else:
            out.tokens[k] = min(view.goal[r] - view.cached[r], budget)
        budget -= out.tokens[k]
    return budget, free


@jit
def room_under(view, most):
    """Requests that may enter with ``most`` in service at most: none in a step that evicts, unless nothing runs."""
    residents = len(view.resident)
    return 0 if view.evicted > 0 and residents > 0 else most - residents


@jit
def admit_in_order(view, out, most, chunk, budget, free):
    """Admit from the head of the queue, first come first served; returns how many.

    Stops after ``most`` requests, at the first whose prompt does not fit ``free`` blocks, or when ``budget`` tokens are
    used up. First chunks are at most ``chunk`` tokens and what is left of the budget.
    """
    admitted = 0
    while admitted < min(most, len(view.waiting)) and budget > 0:
        r = view.waiting[admitted]
        if not fits(view, r, free):
            break
        out.admit[admitted] = admitted
        out.chunk[admitted] = min(chunk, to_prefill(view, r), budget)
        budget -= out.chunk[admitted]
        free -= blocks_for(view.goal[r], view.block_size)
        admitted += 1
    return admitted
