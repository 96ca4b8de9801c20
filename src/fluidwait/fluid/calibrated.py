"""Calibrated fluid model: the same flow balance for any iteration-time model, and the stability boundary it predicts.

With x = rate * Delta T requests arriving per iteration, the batch in flow balance holds x requests in every stage of
their life: x times the sums over one request's whole life (:func:`life_sums`). An equilibrium is a Delta T with
``tau(batch(Delta T)) = Delta T``. Prompts are split into K = ceil(l / chunk) prefill chunks, or prefilled whole.

Three semantics, as in the engines: ``serving``, where the last prefill chunk emits the first token and l' - 1 decodes
follow; ``decode``, where the prompt was prefilled elsewhere and the first of l' decodes computes its last token;
``paper``, where l' decodes follow the prefill. A whole prompt, ``paper`` and a linear model give the paper's
equilibrium exactly.

The computed tokens are rounded up to whole tokens, because the compute time is a staircase in them (tile quantisation);
the other sums stay real, since the iteration time is linear in them and a mean over iterations is meant. Memory is
counted in tokens; an engine that rounds each request up to blocks holds about half a block more per request.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numba import njit

from fluidwait.base.errors import ConfigError
from fluidwait.device.timing import BatchSums, iteration_time
from fluidwait.fluid.equilibrium import check_capacity
from fluidwait.fluid.thresholds import check_rate, enough, within

if TYPE_CHECKING:
    from fluidwait.device.timing import TimeModel
    from fluidwait.workload import LengthLaw

Semantics = Literal["serving", "decode", "paper"]


Value = TypeVar("Value", float, np.ndarray)


class LifeSums(NamedTuple, Generic[Value]):
    """Sums over the iterations of one request, f8[m] each, or their means over the types.

    The first eight are the arguments of ``iteration_time``. ``stages`` is the number of iterations: prefill chunks and
    decodes.
    """

    tokens: Value
    kv_tokens: Value
    prefills: Value
    prefill_tokens: Value
    prefill_squares: Value
    prefill_context: Value
    decodes: Value
    decode_context: Value
    stages: Value


class CalibratedEquilibrium(NamedTuple):
    """The smallest batch in flow balance. ``feasible`` is false when it exceeds a limit, or none exists.

    iteration_time  s, Delta T; infinite when no batch is in balance
    requests        x = rate * Delta T, arrivals per iteration: requests in each stage, over all types
    tokens          tokens computed per iteration
    memory          KV tokens resident
    in_service      requests resident
    reason          "" or the first limit that fails: time, memory, budget, cap
    """

    iteration_time: float
    requests: float
    tokens: float
    memory: float
    in_service: float
    feasible: bool
    reason: str


class CalibratedBoundary(NamedTuple):
    """The predicted stability boundary.

    rate            requests/s, the supremum of rates with a feasible equilibrium
    binding         what stops a larger rate: "memory", "budget" or "cap" when the batch is at that limit; "time" when
                    a larger batch within the limits would complete fewer requests per second (the next stair costs
                    more than it carries)
    saturated_rate  requests/s of the largest batch within the limits: what a policy that fills every batch sustains
                    once it has a backlog. Below ``rate`` when that batch lies just past the end of a stair
    iteration_time, requests, tokens, memory, in_service    of the batch at ``rate``, as in CalibratedEquilibrium
    """

    rate: float
    binding: str
    saturated_rate: float
    iteration_time: float
    requests: float
    tokens: float
    memory: float
    in_service: float


def life_sums(law: LengthLaw, chunk: int | None = None, semantics: Semantics = "serving") -> LifeSums[np.ndarray]:
    """Sums over one request's life, per type. ``chunk`` in tokens, None for whole prompts.

    With K chunks of c tokens, the last of e = l - (K-1) c, and D decodes::

        squares = (K-1) c^2 + e^2                   prefill context = c^2 (K-1)(K-2)/2 + (K-1) c e
        decode context = D l + D (D+1)/2            KV = c K(K-1)/2 + l + decode context

    Under ``decode`` there are no chunks and the D = l' decodes have contexts l .. l + D - 1.

    Raises:
        ConfigError: chunk < 1, or an unknown semantics.
    """
    if chunk is not None and (chunk < 1 or chunk != int(chunk)):
        raise ConfigError(f"chunk: must be a whole number >= 1 (tokens) or null for whole prompts, found {chunk}")
    if semantics not in ("serving", "decode", "paper"):
        raise ConfigError(f"semantics: '{semantics}' is not a valid value (valid: decode, paper, serving)")
    length = law.prompt
    if semantics == "decode":
        none, context = np.zeros_like(length), law.output * length + law.output * (law.output - 1.0) / 2.0
        return LifeSums(law.output, context, none, none, none, none, law.output, context, law.output)
    size = length if chunk is None else np.full_like(length, chunk)
    chunks = np.ceil(length / size)
    full, last = chunks - 1.0, length - (chunks - 1.0) * size
    decodes = law.output - 1.0 if semantics == "serving" else law.output
    decode_context = decodes * length + decodes * (decodes + 1.0) / 2.0
    return LifeSums(
        tokens=length + decodes,
        kv_tokens=size * chunks * full / 2.0 + length + decode_context,
        prefills=chunks,
        prefill_tokens=length,
        prefill_squares=full * size**2 + last**2,
        prefill_context=size**2 * full * (full - 1.0) / 2.0 + full * size * last,
        decodes=decodes,
        decode_context=decode_context,
        stages=chunks + decodes,
    )


def calibrated_equilibrium(
    law: LengthLaw,
    rate: float,
    model: TimeModel,
    *,
    capacity: float = math.inf,
    chunk: int | None = None,
    semantics: Semantics = "serving",
    token_budget: float = math.inf,
    cap: float = math.inf,
) -> CalibratedEquilibrium:
    """Least Delta T > 0 with tau(batch(Delta T)) <= Delta T; equality holds unless the staircase steps down there.

    Every stair of the compute time is examined in order. On the stair of q computed tokens, x in ((q-1)/t, q/t] with
    t the mean tokens per request, tau is affine in x, so the stair holds a solution iff its right end satisfies
    rate * tau <= x, and the solution is where the two lines cross. Beyond the end of the table all stairs are alike
    and the first good one is computed instead of searched.

    Args:
        rate: requests/s, > 0.
        capacity: KV tokens. token_budget: tokens computed per iteration. cap: requests in service.
            The equilibrium is the smallest batch in balance, so when it exceeds one of these, every other does.

    Raises:
        ConfigError: a number outside its range.
    """
    check_rate(rate)
    _check_limits(capacity, token_budget, cap)
    mean = mean_sums(law, chunk, semantics)
    stair = _first_stair(model, mean, rate)
    if stair is None:
        return CalibratedEquilibrium(math.inf, math.inf, math.inf, math.inf, math.inf, feasible=False, reason="time")
    x = _crossing(model, mean, rate, stair)
    limits = _limits(mean, capacity, token_budget, cap)
    reason = next((name for name, most in limits.items() if not within(x, most)), "")
    return CalibratedEquilibrium(x / rate, *_batch(mean, x), feasible=not reason, reason=reason)


def calibrated_boundary(
    law: LengthLaw,
    model: TimeModel,
    capacity: float,
    *,
    chunk: int | None = None,
    semantics: Semantics = "serving",
    token_budget: float = math.inf,
    cap: float = math.inf,
) -> CalibratedBoundary:
    """The largest rate with an equilibrium inside all limits: sup of x / tau(batch(x)) over x <= x_max.

    x_max is the smallest of capacity / (KV per request), token_budget / (tokens per request) and cap / (stages per
    request). On each stair x / tau grows with x, so the supremum is at the end of a stair or at x_max.

    A rate between ``saturated_rate``, x_max / tau(batch(x_max)), and ``rate`` has an equilibrium that a policy loses
    once its queue grows: with a token budget b, b / (tau(b) * tokens per request) is all that full batches complete.
    ``capacity`` (KV tokens) must be finite.

    Raises:
        ConfigError: a number outside its range.
    """
    _check_limits(capacity, token_budget, cap)
    if not math.isfinite(capacity):
        raise ConfigError(f"capacity: must be finite for a stability boundary (KV tokens), found {capacity}")
    mean = mean_sums(law, chunk, semantics)
    limits = _limits(mean, capacity, token_budget, cap)
    binding = min(limits, key=limits.__getitem__)
    largest = limits[binding]
    tokens = np.arange(1, int(enough(largest * mean.tokens)) + 1)
    ends = np.minimum(tokens / mean.tokens, largest)
    times = _times(model, tokens, ends, np.array(mean))
    rates = ends / times
    best = int(np.argmax(rates))
    name = binding if best == len(ends) - 1 else "time"
    return CalibratedBoundary(
        float(rates[best]), name, float(rates[-1]), float(times[best]), *_batch(mean, float(ends[best]))
    )


def mean_sums(law: LengthLaw, chunk: int | None = None, semantics: Semantics = "serving") -> LifeSums[float]:
    return LifeSums._make(float(law.share @ column) for column in life_sums(law, chunk, semantics))


def _limits(mean: LifeSums[float], capacity: float, token_budget: float, cap: float) -> dict[str, float]:
    """Largest x = requests per iteration that each limit allows."""
    return {"memory": capacity / mean.kv_tokens, "budget": token_budget / mean.tokens, "cap": cap / mean.stages}


def _batch(mean: LifeSums[float], x: float) -> tuple[float, float, float, float]:
    """requests, tokens, memory, in service of the batch with x requests per iteration."""
    return x, x * mean.tokens, x * mean.kv_tokens, x * mean.stages


@njit(cache=True)
def _times(model, tokens, requests, sums):
    """iteration_time of the batches with tokens[i] computed tokens and requests[i] times the other sums, f8.

    All in service count as equally long.
    """
    out, longest = np.empty(tokens.shape[0]), sums[1] / sums[8]
    for i in range(tokens.shape[0]):
        x = requests[i]
        prefilled = (x * sums[2], x * sums[3], x * sums[4], x * sums[5])
        batch = BatchSums(tokens[i], x * sums[1], *prefilled, x * sums[6], x * sums[7], longest)
        out[i] = iteration_time(model, batch)
    return out


def _gap(model: TimeModel, mean: LifeSums[float], rate: float, tokens: np.ndarray) -> np.ndarray:
    """x - rate * tau at the right end x of each stair: >= 0 where the stair holds a batch that serves its arrivals."""
    ends = tokens / mean.tokens
    return ends - rate * _times(model, tokens, ends, np.array(mean))


def _first_stair(model: TimeModel, mean: LifeSums[float], rate: float) -> int | None:
    """Smallest number of computed tokens whose stair holds a solution, None when there is none."""
    known = np.arange(1, len(model.compute) + 1)
    good = np.flatnonzero(_gap(model, mean, rate, known) >= 0.0)
    if len(good):
        return int(known[good[0]])
    edge = len(model.compute)  # from here on the gap is affine in the number of tokens
    near, far = _gap(model, mean, rate, np.array([edge, 2 * edge]))
    growth = (far - near) / edge
    if growth <= 0.0:
        return None
    stair = edge + max(math.ceil(-near / growth) - 1, 0)
    while _gap(model, mean, rate, np.array([stair]))[0] < 0.0:  # at most a step or two of rounding
        stair += 1
    return stair


def _crossing(model: TimeModel, mean: LifeSums[float], rate: float, stair: int) -> float:
    """Least x on the stair with rate * tau(x) <= x, from the line through two points of the stair."""
    right = stair / mean.tokens
    left = (stair - 1) / mean.tokens
    points = np.array([(left + right) / 2.0, right])
    near, far = points - rate * _times(model, np.full(2, stair), points, np.array(mean))
    growth = (far - near) / (right - points[0])
    return float(max(right - far / growth, left)) if growth > 0.0 else right


def _check_limits(capacity: float, token_budget: float, cap: float) -> None:
    check_capacity(capacity)
    if not token_budget >= 1:
        raise ConfigError(f"token_budget: must be >= 1 (tokens per iteration), found {token_budget}")
    if not cap >= 1:
        raise ConfigError(f"cap: must be >= 1 (requests in service), found {cap}")
