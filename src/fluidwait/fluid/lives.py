"""Quotas, caps and batches from how long requests stay, with room for the spread of their lengths.

In flow balance x requests enter per iteration, and x P(output > t) of them are at stage t of their output, so x is the
number in service over the mean life E[output]. The paper's own rule (:func:`fluidwait.fluid.segments.design`) counts
every request to the end of its segment instead. With equal lengths that is the same; with random ones it admits too
few.

Lengths are random, so whatever a batch holds spreads about that mean. Entries are evenly spaced and lives independent,
so a number that counts a request of age t with probability p_t has variance x sum_t p_t (1 - p_t). Every limit leaves
room for ``ROOM`` standard deviations. With equal lengths all p_t are 0 or 1: there is no spread, and no room is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fluidwait.device.timing import BatchSums, iteration_time
from fluidwait.fluid.calibrated import Semantics, life_sums
from fluidwait.fluid.segments import LARGEST_RATIO, Boundaries, check_boundaries, check_in_service, check_margin
from fluidwait.fluid.thresholds import enough

if TYPE_CHECKING:
    from fluidwait.device.timing import TimeModel
    from fluidwait.workload import LengthLaw

ROOM = 2.0  # standard deviations


class LifeDesign(NamedTuple):
    """Quotas and caps of "WAIT with chunked prefill" for L segments, from the mean life.

    flow     f8[L], requests that reach each segment per batch in flow balance
    quota    f8[L], requests per batch that may enter each segment: flow, and room for how many leave it or reach it
    caps     i8[L], requests per segment, >= 1, with room
    highest  requests in service, with room
    """

    flow: np.ndarray
    quota: np.ndarray
    caps: np.ndarray
    highest: int


def survival(lengths: np.ndarray, share: np.ndarray) -> np.ndarray:
    """P(length > t) for t = 0 .. longest - 1, f8; exactly 1 and 0 where it is sure, up to rounding."""
    mass = np.bincount(lengths.astype(np.int64), weights=share)
    longer = 1.0 - np.cumsum(mass)[:-1] / np.sum(mass)
    return np.where(longer > 1.0 - 1e-12, 1.0, np.where(longer < 1e-12, 0.0, longer))


def life_design(
    law: LengthLaw, boundaries: Boundaries, in_service: int, margin: float = 0.05, prefills: float = 0.0
) -> LifeDesign:
    """Quotas and caps for ``in_service`` requests in service on average.

    With S(t) = P(output > t), x = in_service / sum_t S(t), and a flow that the margin raises from segment to segment,
    R_k = prod_{i=2..k} q_i with q_i = p_i, or min(p_i + margin, 0.99) when that is larger::

        flow_k = x R_k      quota_1 = x + ROOM sqrt(x sum_t f(t) (1 - f(t))), f the law of the output length
        quota_k = flow_k + ROOM sqrt(x S (1 - S)), S = S(r_{k-1})
        cap_k = x R_k / S(r_{k-1}) sum_{t in segment k} S(t) + ROOM sqrt(x sum_{t in segment k} S(t) (1 - S(t)))

    Segment 1 may take in what leaves the system in one batch, so that a place is not empty for long. It also holds the
    requests in prefill: ``prefills`` iterations each, on average, and one whose prefill takes longer because the batch
    is full, x prefills + 1 more. No cap exceeds the number in service. Example:
    boundaries 20 and 50 for outputs of 20 (share .7) and 50 (.3), margin 0, 29 in service: one request per batch enters
    and .3 go on; caps 20 and 9 + 2 sqrt(6.3), rounded up to 15.

    Raises:
        ConfigError: bad boundaries, margin outside [0, 1], or in_service smaller than the number of segments.
    """
    ends = check_boundaries(law, boundaries)
    check_margin(margin)
    check_in_service(in_service, len(ends))
    alive = np.zeros(ends[-1])  # past the longest output nobody is left
    outputs = survival(law.output, law.share)
    alive[: len(outputs)] = outputs
    starts = np.concatenate([[0], ends[:-1]])
    reach = alive[starts]
    lifted = np.cumprod(np.concatenate([[1.0], threshold_ratio(reach[1:] / reach[:-1], margin)]))
    x = in_service / alive.sum()
    ending = -np.diff(alive, append=0.0)
    moves = np.concatenate([[np.sum(ending * (1.0 - ending))], (reach * (1.0 - reach))[1:]])
    mean = x * lifted / reach * np.add.reduceat(alive, starts)
    spread = ROOM * np.sqrt(x * np.add.reduceat(alive * (1.0 - alive), starts))
    if prefills > 0:
        mean[0] += x * prefills + 1.0
    highest = int(enough(in_service + ROOM * np.sqrt(x * np.sum(alive * (1.0 - alive)))))
    caps = np.clip(enough(mean + spread), 1, highest)
    return LifeDesign(x * lifted, x * lifted + ROOM * np.sqrt(x * moves), caps, highest)


def batch_room(law: LengthLaw, requests: float, chunk: int, semantics: Semantics) -> float:
    """``ROOM`` standard deviations of the tokens of a batch into which ``requests`` requests enter evenly.

    A request in its k-th prefill chunk adds that chunk's tokens, one that decodes adds 1, and a finished one none. That
    a longer prompt also starts to decode later is left out.
    """
    alive = survival(law.output, law.share)
    variance = np.sum(alive * (1.0 - alive))
    if semantics != "decode":
        longer = survival(law.prompt, law.share)
        chunks = np.add.reduceat(longer, np.arange(0, len(longer), chunk))  # mean tokens of the k-th chunk
        variance += max(float(law.share @ life_sums(law, chunk, semantics).prefill_squares) - np.sum(chunks**2), 0.0)
    return ROOM * float(np.sqrt(requests * variance))


def cheapest_batch(model: TimeModel, decodes: float, least: int, most: int) -> int:
    """The batch of ``least`` to ``most`` tokens whose prefill tokens take the least compute time each.

    ``decodes`` tokens of it are there anyhow. The compute time is a staircase, so this is the end of a stair where one
    lies in between; of equal ones the largest.
    """
    if most == least:
        return least

    def seconds(tokens: int) -> float:
        return iteration_time(model, BatchSums(tokens))

    alone = seconds(int(np.ceil(decodes)))
    sizes = range(most, max(least, int(decodes) + 1) - 1, -1)
    return min(sizes, key=lambda tokens: (seconds(tokens) - alone) / (tokens - decodes), default=most)


def threshold_ratio(continuation: np.ndarray, margin: float) -> np.ndarray:
    """Lower bound q_k of n_k / n_{k-1}: p_k plus the margin, but the margin never lifts it past 0.99."""
    return np.maximum(continuation, np.minimum(continuation + margin, LARGEST_RATIO))
