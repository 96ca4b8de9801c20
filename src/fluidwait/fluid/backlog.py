"""What a token is worth while requests wait: the batch size as a small Markov decision problem on the fluid model.

A larger batch serves the queue faster where its end of a stair is more efficient, and makes everybody's next token
later. State: n requests whose prompts are not computed, waiting or in prefill. Requests arrive at rate ``lambda``. In
state n, m(n) = min(n + lambda D tau, D x*) others decode, where D is the mean number of decodes of a request, tau the
iteration time in equilibrium and x* the requests per iteration at the stability boundary: as many as came lately, never
more than the boundary's batch holds. Of the b tokens of a batch, m go to decodes and p = b - m to prompts.

With V the relative cost (request x s) of a state, one more waiting request costs V(n) - V(n - 1) = v(n). Its P prompt
tokens and D decode tokens are each worth q, because each takes one place in a batch, and D tau of v is its own decode
time, which no batch size saves it. A decode token that is computed now saves tau and frees its place only if somebody
waits by then, a share omega of the time: the time B that the queue takes to empty, over B and the decode time D tau::

    q(n) = (v(n) - D tau) / (P + omega D)      omega(n) = B / (B + D tau)      B = n / (mu* - lambda)

Average cost per second g, cost rate n + m, and gain per batch p q + m (tau + omega q)::

    0 = min over b of [n + m - g + lambda v(n + 1) - (p q(n) + m (tau + omega q(n))) / tau_b]

This is solved by policy iteration; arrivals and batches change n by one at a time, so each step is one backward sweep.
What comes out is a rule without a rate or a threshold in it: of all batch sizes take the one whose tokens are worth
most per second.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fluidwait.device.tiles import end_of_tile
from fluidwait.device.timing import BatchSums, iteration_time
from fluidwait.fluid.calibrated import calibrated_boundary, calibrated_equilibrium, mean_sums

if TYPE_CHECKING:
    from fluidwait.device.timing import TimeModel
    from fluidwait.fluid.calibrated import Semantics
    from fluidwait.workload import LengthLaw

MOST_WAITING = 512
"""States of the decision problem; beyond, a token is worth what it is worth there."""

MOST_LOAD = 0.99
"""Share of the boundary's rate from which on the queue is taken for one that just empties."""

SWEEPS = 50
"""Steps of policy iteration at most; fewer than ten are usual."""


class Worth(NamedTuple):
    """What tokens are worth, and what batches cost."""

    sizes: np.ndarray  # int64[K], tokens of a batch: ends of stairs, up to the one that holds the boundary's batch
    seconds: np.ndarray  # float64[K], of a batch of that size
    prompt_token: np.ndarray  # float64[N + 1], s, by the number of requests whose prompts are not computed
    decode_token: np.ndarray  # float64[N + 1], s


def worth(
    law: LengthLaw,
    model: TimeModel,
    capacity: float,
    rate: float,
    *,
    semantics: Semantics = "serving",
    cap: float = np.inf,
    budget: float = np.inf,
) -> Worth:
    """Solve the decision problem of the module's text.

    Args:
        capacity: KV tokens. rate: requests/s. cap: requests in service. budget: tokens of a batch.
    """
    boundary = calibrated_boundary(law, model, capacity, semantics=semantics, cap=cap, token_budget=budget)
    mean = mean_sums(law, semantics=semantics)
    sizes = _sizes(boundary.tokens, budget)
    filled = np.minimum(sizes, boundary.tokens)
    seconds = np.array(
        [
            _seconds(model, mean, math.ceil(batch), batch / mean.tokens)
            for size, batch in zip(sizes, filled, strict=True)
        ]
    )
    rate = min(rate, MOST_LOAD * boundary.rate)
    step = calibrated_equilibrium(law, rate, model, semantics=semantics).iteration_time
    n = np.arange(MOST_WAITING + 1.0)
    own = mean.decodes * step
    decodes = np.minimum(n + rate * own, boundary.requests * mean.decodes)
    empties = n / (boundary.rate - rate)
    omega = empties / (empties + own)
    tokens = np.clip(np.minimum(filled[None, :], (decodes + n * mean.prefill_tokens)[:, None]), 1.0, None)
    prompts = np.maximum(tokens - decodes[:, None], 1e-9)
    chosen = np.full(len(n), len(sizes) - 1)
    share = np.maximum(mean.prefill_tokens + omega * mean.decodes, 1.0)
    for _ in range(SWEEPS):
        took, computed = seconds[chosen], prompts[np.arange(len(n)), chosen]
        gone = (computed + omega * decodes) / share / took  # requests/s, as far as it depends on v
        cost = n + decodes * (1.0 - step / took) + gone * own
        value = _differences(rate, gone, cost)
        q = np.maximum(value - own, 0.0) / share
        gain = (prompts * q[:, None] + (decodes * (step + omega * q))[:, None]) / seconds
        gain[:, :-1][filled[None, :-1] <= decodes[:, None]] = 0.0  # holds no prompts
        new = np.argmax(gain, axis=1)
        new[-1] = len(sizes) - 1  # whoever waits there is served: the chain must not drift away
        if np.array_equal(new, chosen):
            break
        chosen = new
    return Worth(sizes, seconds, q, step + omega * q)


def _sizes(tokens: float, budget: float) -> np.ndarray:
    sizes, size = [], end_of_tile(1)
    while size < min(end_of_tile(tokens), budget):
        sizes.append(size)
        size = end_of_tile(size + 1)
    return np.array([*sizes, int(min(size, budget))])


def _seconds(model: TimeModel, mean, size: int, requests: float) -> float:
    parts = [requests * part for part in mean[1:8]]
    return iteration_time(model, BatchSums._make([size, *parts, mean.kv_tokens / mean.stages]))


def _differences(rate: float, gone: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """v(n), s: what one more than n - 1 waiting requests cost, in the chain with these rates and costs; v(0) = v(1).

    Past the last state v grows as in the fluid: by 1 / (gone - rate) from state to state. All v are linear in the
    average cost g; that of state 0, with cost 0 and no batch, says which g it is: lambda v(1) = g.
    """
    last, growth = len(cost) - 1, 1.0 / (gone[-1] - rate)
    free, per_g = np.empty(len(cost)), np.empty(len(cost))  # v = free + g per_g
    free[last], per_g[last] = (cost[last] + rate * growth) * growth, -growth
    for n in range(last - 1, 0, -1):
        free[n] = (cost[n] + rate * free[n + 1]) / gone[n]
        per_g[n] = (rate * per_g[n + 1] - 1.0) / gone[n]
    value = free + rate * free[1] / (1.0 - rate * per_g[1]) * per_g
    value[0] = value[1]
    return value
