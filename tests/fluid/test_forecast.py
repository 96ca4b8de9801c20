"""What is known of outputs and memory beforehand, against sums written out and draws."""

from __future__ import annotations

import numpy as np
import pytest

from fluidwait.fluid.forecast import CLASSES, flow_tokens, output_ends, predicted_classes
from fluidwait.workload import LengthLaw

MIXED = LengthLaw(np.array([100.0, 30.0, 512.0]), np.array([7.0, 40.0, 90.0]), np.array([0.5, 0.3, 0.2]))


def test_the_flow_is_the_sum_over_those_who_come():
    at = np.array([0, 1, 5, 40, 90, 200])
    held = np.zeros(91)
    for prompt, output, share in zip(*MIXED, strict=True):
        for age in range(1, int(output) + 1):
            held[age] += share * (prompt + age + 8)
    rate = 1000.0 / held.sum()  # per iteration: at this rate memory is full
    wanted = [rate * held[: min(h, 90) + 1].sum() for h in at]
    np.testing.assert_allclose(flow_tokens(MIXED, 1000.0, 16, at), wanted)


def test_the_flow_fills_memory_in_a_life():
    flow = flow_tokens(MIXED, 1000.0, 16, np.arange(300))
    assert flow[0] == 0 and np.all(np.diff(flow) >= 0) and flow[90] == pytest.approx(1000.0) == flow[-1]


def test_ends_keep_the_mean_of_what_is_left():
    generator = np.random.default_rng(3)
    output, share = generator.integers(1, 400, 60).astype(float), generator.random(60)
    for age in (0, 3, 50, 200):
        beyond = output > age
        ends = output_ends(output, share, np.array([age]), 8)[0]
        assert np.all(np.diff(ends) >= 0) and ends[0] > age
        assert ends.mean() == pytest.approx(np.average(output[beyond], weights=share[beyond]), abs=0.5)


def test_equal_outputs_end_together_and_past_the_longest_nothing_is_longer():
    ends = output_ends(np.array([50.0]), np.ones(1), np.array([0, 49, 50, 80]), 4)
    assert ends.tolist() == [[50] * 4] * 4


@pytest.mark.parametrize("error", [0.25, 1.0])
def test_classes_hold_the_outputs_that_were_predicted_so(error):
    """By drawing: the mean output of those whose prediction falls into a class."""
    edges, weight = predicted_classes(MIXED, error)
    assert edges.shape == (CLASSES,) and edges[0] == 1.0 and np.all(np.diff(edges) > 0)
    generator = np.random.default_rng(1)
    output = generator.choice(MIXED.output, 400_000, p=MIXED.share)
    predicted = output * np.exp(error * generator.standard_normal(len(output)))
    into = np.clip(np.searchsorted(edges, predicted, side="right") - 1, 0, None)
    for c in range(CLASSES):
        drawn = output[into == c]
        if len(drawn) > 500:
            expected = np.average(MIXED.output, weights=weight[c])
            assert expected == pytest.approx(drawn.mean(), abs=5 * drawn.std() / len(drawn) ** 0.5 + 1e-3)


def test_classes_into_which_nothing_falls_have_the_law_itself():
    _, weight = predicted_classes(MIXED, 1e-9)
    np.testing.assert_array_equal(weight[1], MIXED.share)
    assert np.all(weight.sum(axis=1) > 0)
