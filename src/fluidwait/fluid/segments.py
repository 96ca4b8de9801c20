"""Segments over decode progress: continuation probabilities, caps of chunked WAIT, thresholds of Nested WAIT.

Segment ends 0 = r_0 < r_1 < ... < r_L are output lengths; r_L is at least the longest output. A request reaches
segment k when its output is longer than r_{k-1}; p_k = P(output > r_{k-1}) / P(output > r_{k-2}) for k = 2..L.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fluidwait.base.errors import ConfigError
from fluidwait.fluid.equilibrium import boundary, check_capacity, check_times, equilibrium
from fluidwait.fluid.safety import RequiredMemory, base_memory, required_memory, stage_work
from fluidwait.fluid.thresholds import (
    Infeasible,
    check_equilibrium,
    check_rate,
    enough,
    integrality,
    least_fixed_point,
    within,
)

if TYPE_CHECKING:
    from fluidwait.workload import LengthLaw

LARGEST_RATIO = 0.99  # q_k stays below 1, so that later segments never get more room than earlier ones


Boundaries = Sequence[int] | np.ndarray
"""The outputs at which segments end, tokens, increasing."""


class SegmentDesign(NamedTuple):
    """Caps of "WAIT with chunked prefill" for L segments.

    boundaries    i8[L], r_1..r_L
    continuation  f8[L-1], p_2..p_L
    ratio         f8[L-1], q_k = min(p_k + margin, 0.99)
    per_stage     f8[L], n_k: requests per stage, real-valued
    caps          i8[L], B_k: requests per segment, >= 1, sum = in_service
    """

    boundaries: np.ndarray
    continuation: np.ndarray
    ratio: np.ndarray
    per_stage: np.ndarray
    caps: np.ndarray


class NestedThresholds(NamedTuple):
    """Feasible thresholds of Nested WAIT for L segments.

    n               i8[L] requests, >= 1
    boundaries      i8[L], r_1..r_L
    continuation    f8[L-1], p_2..p_L
    iteration_time  s, Delta T(n): every stage of every segment full
    memory          KV tokens of that batch
    """

    n: np.ndarray
    boundaries: np.ndarray
    continuation: np.ndarray
    iteration_time: float
    memory: float


def check_boundaries(law: LengthLaw, boundaries: Boundaries) -> np.ndarray:
    """Boundaries as i8[L].

    Raises:
        ConfigError: not whole numbers that increase from >= 1, or the last segment does not hold the longest output.
    """
    given = np.asarray(boundaries, dtype=np.float64)
    longest = int(law.output.max())
    if given.ndim != 1 or len(given) == 0 or np.any(given != np.floor(given)) or np.any(np.diff(given, prepend=0) <= 0):
        raise ConfigError(f"boundaries: must be whole numbers that increase from 1, found {list(boundaries)}")
    if given[-1] < longest:
        raise ConfigError(f"boundaries: the last one must reach the longest output, {longest}, found {given[-1]:g}")
    if len(given) > 1 and given[-2] >= longest:
        raise ConfigError(
            f"boundaries: nobody gets past {given[-2]:g}, the longest output is {longest}; drop the last one"
        )
    return given.astype(np.int64)


def reach_probabilities(law: LengthLaw, boundaries: Boundaries) -> np.ndarray:
    """P(reach segment k) = P(output > r_{k-1}), f8[L]; the first is 1."""
    start = np.concatenate([[0], np.asarray(boundaries)[:-1]])
    return (law.output[None, :] > start[:, None]) @ law.share


def continuation_probabilities(law: LengthLaw, boundaries: Boundaries) -> np.ndarray:
    """p_k = P(reach segment k | reached segment k-1), f8[L-1], k = 2..L."""
    reach = reach_probabilities(law, check_boundaries(law, boundaries))
    return reach[1:] / reach[:-1]


def segment_prompts(law: LengthLaw, boundaries: Boundaries) -> np.ndarray:
    """Mean prompt length of the requests that reach each segment, f8[L] tokens."""
    start = np.concatenate([[0], np.asarray(boundaries)[:-1]])
    weight = (law.output[None, :] > start[:, None]) * law.share
    return (weight @ law.prompt) / weight.sum(axis=1)


def equal_mass_boundaries(law: LengthLaw, segments: int) -> np.ndarray:
    """Cut points i8[L] at which about 1/L of the requests finish: the k/L quantiles of the output length.

    Where one length carries more than 1/L, the next longer lengths are taken, so there are always L different ones.

    Raises:
        ConfigError: fewer than L different output lengths.
    """
    lengths, where = np.unique(law.output, return_inverse=True)
    _check_count(segments, len(lengths), "different output lengths")
    below = np.cumsum(np.bincount(where, weights=law.share))
    index = np.empty(segments, dtype=np.int64)
    for k in range(segments):
        quantile = int(np.searchsorted(below, (k + 1) / segments * (1.0 - 1e-12)))
        earliest = index[k - 1] + 1 if k else 0
        index[k] = np.clip(quantile, earliest, len(lengths) - segments + k)
    return lengths[index].astype(np.int64)


def even_boundaries(law: LengthLaw, segments: int) -> np.ndarray:
    """Cut points i8[L] with equally many stages per segment: k/L of the largest output length, rounded.

    Raises:
        ConfigError: fewer than L stages.
    """
    longest = int(law.output.max())
    _check_count(segments, longest, "decode stages")
    return np.rint(np.arange(1, segments + 1) * longest / segments).astype(np.int64)


def design(law: LengthLaw, boundaries: Boundaries, in_service: int, margin: float = 0.05) -> SegmentDesign:
    """Segment caps for a system-wide cap ``in_service`` on requests in service.

    With Delta_k = r_k - r_{k-1} and q_k = min(p_k + margin, 0.99)::

        n_k = n_1 prod_{i=2..k} q_i      sum_k Delta_k n_k = in_service      B_k = Delta_k n_k rounded

    Rounding is by largest remainder, then every segment is given at least 1 from the largest. Example: boundaries 20
    and 50, p_2 = 0.3, margin 0, in_service 30 give n_1 = 30/29 and caps 21 and 9.

    Raises:
        ConfigError: bad boundaries, margin outside [0, 1], or in_service smaller than the number of segments.
    """
    ends = check_boundaries(law, boundaries)
    check_margin(margin)
    check_in_service(in_service, len(ends))
    continuation = continuation_probabilities(law, ends)
    ratio = np.minimum(continuation + margin, LARGEST_RATIO)
    stages = np.diff(ends, prepend=0)
    shape = np.cumprod(np.concatenate([[1.0], ratio]))
    per_stage = shape * (in_service / (stages @ shape))
    caps = largest_remainder(stages * per_stage, int(in_service))
    return SegmentDesign(ends, continuation, ratio, per_stage, caps)


def largest_remainder(amounts: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers >= 1 nearest to ``amounts`` (which sum to ``total`` >= their number) that sum to ``total``, i8."""
    whole = np.floor(amounts).astype(np.int64)
    order = np.argsort(-(amounts - whole), kind="stable")  # ties go to the earlier segment
    whole[order[: total - int(whole.sum())]] += 1
    while np.any(whole == 0):
        whole[np.argmax(whole)] -= 1
        whole[np.argmin(whole)] += 1
    return whole


def nested_thresholds(
    law: LengthLaw,
    rate: float,
    boundaries: Boundaries,
    d0: float,
    d1: float,
    capacity: float,
) -> NestedThresholds:
    """The componentwise smallest integer thresholds of Nested WAIT with::

        Delta T(n) = d0 + d1 sum_k n_k (l_k + s_k) delta_k < n_1 / rate      p_k < n_k / n_{k-1} < 1

    where l_k is the mean prompt of the requests that reach segment k. All conditions have the form n >= F(n) with F
    monotone, n_1 >= floor(rate Delta T) + 1, n_k >= floor(p_k n_{k-1}) + 1 and n_{k-1} >= n_k + 1,
    so the smallest solution exists and is found as in :mod:`fluidwait.fluid.thresholds`.

    The batch must fit, memory <= C. Whether its safety buffer fits as well is another matter (:func:`nested_memory`):
    the buffer is not monotone in n, since a larger n_k raises theta_k and shrinks it.

    Raises:
        Infeasible: unstable, continuation, segments, memory or integrality (see the class).
        ConfigError: a number outside its range.
    """
    check_capacity(capacity)
    base = equilibrium(law, rate, d0, d1)
    check_equilibrium(base, rate, capacity, boundary(law, d0, d1, capacity))
    real = real_nested_thresholds(law, rate, boundaries, d0, d1, capacity)
    ends = check_boundaries(law, boundaries)
    continuation, prompts = continuation_probabilities(law, ends), segment_prompts(law, ends)
    work = stage_work(ends, prompts)

    def need(n: np.ndarray) -> np.ndarray:
        from_rate = enough(rate * (d0 + d1 * (work @ n)), strict=True)
        least = np.concatenate([[from_rate], enough(continuation * n[:-1], strict=True)])
        least[:-1] = np.maximum(least[:-1], n[1:] + 1)
        return least

    # every solution lies above the real-valued one
    n = least_fixed_point(need, start=enough(real), fits=lambda n: within(work @ n, capacity))
    if n is None:
        raise integrality(rate, base.memory, capacity)
    memory = base_memory(n, ends, prompts)
    return NestedThresholds(n, ends, continuation, d0 + d1 * memory, memory)


def real_nested_thresholds(
    law: LengthLaw, rate: float, boundaries: Boundaries, d0: float, d1: float, capacity: float
) -> np.ndarray:
    """Real-valued thresholds of Nested WAIT, f8[L]: n_1 = rate Delta T(n) and n_k = p_k n_{k-1}.

    The infimum of the vectors that satisfy the conditions of :func:`nested_thresholds`, and what the memory terms of
    a segment design are compared at. With v = sum_k (l_k + s_k) delta_k prod_{i=2..k} p_i, what one arrival counts
    for, n_1 = rate d0 / (1 - d1 rate v). v exceeds the mean work, the more so the coarser the segments.

    Raises:
        Infeasible: ``continuation``, or ``segments`` when d1 rate v >= 1 or the batch does not fit the capacity.
        ConfigError: a number outside its range.
    """
    check_rate(rate)
    check_times(d0, d1)
    ends = check_boundaries(law, boundaries)
    continuation = continuation_probabilities(law, ends)
    _check_continuation(continuation, ends)
    shape = np.cumprod(np.concatenate([[1.0], continuation]))
    per_arrival = float(stage_work(ends, segment_prompts(law, ends)) @ shape)
    load = d1 * rate * per_arrival
    first = rate * d0 / (1.0 - load) if load < 1.0 else np.inf
    if not (load < 1.0 and within(first * per_arrival, capacity)):
        largest = 1.0 / (per_arrival * (d1 + d0 / capacity))
        raise Infeasible(
            "segments",
            f"rate {rate:g} requests/s: with these segments a request counts as {per_arrival:.0f} KV-token-iterations, "
            f"which fit only up to rate {largest:.4g}; use other segments",
        )
    return first * shape


def nested_memory(
    law: LengthLaw, n: np.ndarray, boundaries: Boundaries, *, horizon: float, risk: float, d0: float
) -> RequiredMemory:
    """Memory terms of Nested WAIT with thresholds ``n`` (real or whole): :func:`required_memory` for a length law.

    Raises:
        ConfigError: a number outside its range, or a threshold with n_k <= n_{k-1} p_k.
    """
    ends = check_boundaries(law, boundaries)
    return required_memory(
        n,
        continuation_probabilities(law, ends),
        ends,
        segment_prompts(law, ends),
        horizon=horizon,
        risk=risk,
        d0=d0,
    )


def _check_continuation(continuation: np.ndarray, ends: np.ndarray) -> None:
    sure = np.flatnonzero(continuation >= 1.0)
    if len(sure):
        k = int(sure[0])
        raise Infeasible("continuation", f"nobody finishes by boundary {ends[k]}; leave it out of the boundaries")


def check_margin(margin: float) -> None:
    """Raise ConfigError unless the margin lies in [0, 1]."""
    if not 0.0 <= margin <= 1.0:
        raise ConfigError(f"margin: must lie in [0, 1], found {margin}")


def check_in_service(in_service: int, segments: int) -> None:
    """Raise ConfigError unless ``in_service`` is a whole number with at least one request per segment."""
    if in_service != int(in_service) or in_service < segments:
        raise ConfigError(
            f"in_service: must be a whole number, at least one per segment ({segments}), found {in_service}"
        )


def _check_count(segments: int, available: int, what: str) -> None:
    if segments != int(segments) or not 1 <= segments <= available:
        raise ConfigError(f"segments: must lie in 1..{available} (there are {available} {what}), found {segments}")
