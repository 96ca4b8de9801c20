"""What a token is worth while requests wait: the decision problem's equation, its limits, and no better rule nearby."""

from __future__ import annotations

import numpy as np
import pytest

from fluidwait.device.hardware import load_hardware
from fluidwait.device.tiles import end_of_tile
from fluidwait.fluid import backlog
from fluidwait.fluid.backlog import MOST_WAITING, worth
from fluidwait.fluid.calibrated import calibrated_boundary, calibrated_equilibrium, mean_sums
from fluidwait.workload import LengthLaw

A100 = load_hardware("a100-80g_llama-2-7b").time_model("profile")
CAPACITY = 135_168.0


def law(prompt, output, share=(1.0,)) -> LengthLaw:
    return LengthLaw(np.array(prompt, dtype=float), np.array(output, dtype=float), np.array(share))


SINGLE = law([512], [20])
TWO = law([512, 512], [20, 50], [0.7, 0.3])
LONG = law([512], [1000])
LAWS = {"single": SINGLE, "two": TWO, "long": LONG, "prompts": law([2000], [50])}


@pytest.mark.parametrize("of", LAWS)
def test_sizes_end_stairs_up_to_the_batch_of_the_boundary(of):
    found = worth(LAWS[of], A100, CAPACITY, 1.0)
    assert all(size == end_of_tile(size) for size in found.sizes)
    assert np.all(np.diff(found.sizes) > 0) and np.all(np.diff(found.seconds) > 0)
    boundary = calibrated_boundary(LAWS[of], A100, CAPACITY)
    assert found.sizes[-1] == end_of_tile(boundary.tokens)
    assert worth(LAWS[of], A100, CAPACITY, 1.0, budget=100.0).sizes[-1] == 100


@pytest.mark.parametrize("of", LAWS)
@pytest.mark.parametrize("share", [0.5, 0.85, 0.95])
def test_the_longer_the_queue_the_more_a_token_is_worth(of, share):
    rate = share * calibrated_boundary(LAWS[of], A100, CAPACITY).rate
    found = worth(LAWS[of], A100, CAPACITY, rate)
    assert found.prompt_token.shape == found.decode_token.shape == (MOST_WAITING + 1,)
    assert np.all(np.diff(found.prompt_token[1:]) >= 0)
    assert np.all(np.diff(found.decode_token[1:]) >= 0)
    step = calibrated_equilibrium(LAWS[of], rate, A100).iteration_time
    assert found.decode_token[0] == pytest.approx(step)  # nobody waits: a decode saves its own time only
    assert waiting_costs(LAWS[of], min(1.03 * rate, 0.99 * rate / share), 5) > waiting_costs(LAWS[of], rate, 5)


def waiting_costs(lengths: LengthLaw, rate: float, n: int) -> float:
    """v(n), s: its tokens' worth and its own decode time."""
    found, mean = worth(lengths, A100, CAPACITY, rate), mean_sums(lengths)
    own = mean.decodes * found.decode_token[0]
    externality = found.decode_token[n] - found.decode_token[0]  # omega q
    return own + mean.prefill_tokens * found.prompt_token[n] + mean.decodes * externality


@pytest.mark.parametrize("of", LAWS)
@pytest.mark.parametrize("share", [0.6, 0.9])
def test_the_values_solve_the_equation_of_average_cost(of, share):
    """0 = min over b of [n + m - g + lambda v(n + 1) - gain / tau_b], written down here once more from the text."""
    mean, bound = mean_sums(LAWS[of]), calibrated_boundary(LAWS[of], A100, CAPACITY)
    rate = share * bound.rate
    found = worth(LAWS[of], A100, CAPACITY, rate)
    step = calibrated_equilibrium(LAWS[of], rate, A100).iteration_time
    own, tokens = mean.decodes * step, np.minimum(found.sizes, bound.tokens)
    residual = []
    for n in range(1, 200):
        m = min(n + rate * own, bound.requests * mean.decodes)
        q, after = found.prompt_token[n], found.prompt_token[n + 1]
        following = (n + 1) / (bound.rate - rate)
        v = own + after * (mean.prefill_tokens + following / (following + own) * mean.decodes)
        taken = np.maximum(np.minimum(tokens, m + n * mean.prefill_tokens) - m, 1e-9)
        gain = np.where(tokens > m, (taken * q + m * found.decode_token[n]) / found.seconds, -np.inf)
        residual.append(n + m + rate * v - gain.max())
    assert np.ptp(residual) <= 1e-6 * np.abs(residual).max()  # the average cost per second, in every state


def test_a_queue_of_any_length_gets_the_most_efficient_stair_and_none_the_quickest():
    """512 + 20 on the A100: 768 tokens carry most per second; one prompt in a light load gets no more than it needs."""
    found = worth(SINGLE, A100, CAPACITY, 22.0)

    def best(n, decodes, prompts):
        computed = np.minimum(found.sizes - decodes, prompts)
        value = computed * found.prompt_token[n] + decodes * found.decode_token[n]
        return int(found.sizes[np.argmax(value / found.seconds)])

    assert best(MOST_WAITING, 15, 10**6) == 768
    assert best(1, 15, 512) < 768


def test_no_other_size_in_a_single_state_costs_less():
    """The average cost of the chain, written out, under the rule and under the rule with one state changed."""
    mean, bound = mean_sums(SINGLE), calibrated_boundary(SINGLE, A100, CAPACITY)
    rate = 22.0
    found = worth(SINGLE, A100, CAPACITY, rate)
    n = np.arange(MOST_WAITING + 1.0)
    own = mean.decodes * found.decode_token[0]
    empties = n / (bound.rate - rate)
    omega = empties / (empties + own)
    m = np.minimum(n + rate * own, bound.requests * mean.decodes)
    tokens = np.minimum(np.minimum(found.sizes, bound.tokens)[None, :], (m + n * mean.prefill_tokens)[:, None])
    taken = np.maximum(tokens - m[:, None], 1e-9)
    gain = (taken * found.prompt_token[:, None] + (m * found.decode_token)[:, None]) / found.seconds
    gain[:, :-1][found.sizes[None, :-1] <= m[:, None]] = 0.0
    rule = gain.argmax(axis=1)

    def average(chosen):
        computed, took = taken[np.arange(len(n)), chosen], found.seconds[chosen]
        gone = (computed + omega * m) / (mean.prefill_tokens + omega * mean.decodes) / took
        cost = n + m * (1 - found.decode_token[0] / took) + gone * own
        weight = np.concatenate([[0.0], np.cumsum(np.log(rate) - np.log(gone[1:]))])
        weight = np.exp(weight - weight.max())
        return weight @ np.concatenate([[0.0], cost[1:]]) / weight.sum()

    least = average(rule)
    for state in (1, 2, 3, 5, 10, 20, 40):
        for size in range(len(found.sizes)):
            if found.sizes[size] > m[state]:
                other = rule.copy()
                other[state] = size
                assert average(other) >= least * (1 - 1e-9)


def test_overload_counts_as_a_load_just_below_the_boundary():
    bound = calibrated_boundary(SINGLE, A100, CAPACITY).rate
    over, almost = (worth(SINGLE, A100, CAPACITY, f * bound) for f in (3.0, backlog.MOST_LOAD))
    np.testing.assert_array_equal(over.prompt_token, almost.prompt_token)


def test_prompts_computed_elsewhere():
    found = worth(law([630], [20]), A100, CAPACITY, 20.0, semantics="decode")
    assert np.all(np.isfinite(found.prompt_token)) and np.all(found.decode_token > 0)
