from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from fluid_laws import CAPACITY, D0, D1, SINGLE, TWO, law, laws
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fluidwait.base.errors import ConfigError
from fluidwait.fluid.safety import required_memory, stage_work
from fluidwait.fluid.segments import (
    continuation_probabilities,
    design,
    equal_mass_boundaries,
    even_boundaries,
    largest_remainder,
    nested_memory,
    nested_thresholds,
    reach_probabilities,
    real_nested_thresholds,
    segment_prompts,
)
from fluidwait.fluid.thresholds import Infeasible


def test_continuation_by_hand():
    lengths = law([10, 20, 30, 40], [5, 10, 20, 40], [4, 3, 2, 1])
    assert reach_probabilities(lengths, [10, 20, 40]) == pytest.approx([1.0, 0.3, 0.1])
    assert continuation_probabilities(lengths, [10, 20, 40]) == pytest.approx([0.3, 1 / 3])
    assert segment_prompts(lengths, [10, 20, 40]) == pytest.approx([20.0, 100 / 3, 40.0])


def test_worked_example_of_the_paper():
    found = design(TWO, [20, 50], in_service=30, margin=0.0)
    assert found.continuation == pytest.approx([0.3])
    assert found.ratio == pytest.approx([0.3])
    assert found.per_stage == pytest.approx([30 / 29, 9 / 29])
    assert found.caps.tolist() == [21, 9]


def test_margin_raises_the_ratio_up_to_099():
    assert design(TWO, [20, 50], 30).ratio == pytest.approx([0.35])
    assert design(SINGLE, [10, 20], 30).ratio == pytest.approx([0.99])  # nobody leaves at 10
    assert design(SINGLE, [20], 30).caps.tolist() == [30]


@settings(deadline=None)
@given(laws(most_types=6, longest=30), st.integers(1, 6), st.integers(6, 300), st.floats(0, 0.5), st.booleans())
def test_caps_sum_to_the_cap_and_follow_the_real_numbers(law, segments, in_service, margin, even):
    longest = int(law.output.max())
    assume(segments <= (longest if even else len(np.unique(law.output))))
    ends = even_boundaries(law, segments) if even else equal_mass_boundaries(law, segments)
    found = design(law, ends, in_service, margin)
    stages = np.diff(ends, prepend=0)
    assert found.caps.sum() == in_service
    assert found.caps.min() >= 1
    assert stages @ found.per_stage == pytest.approx(in_service)
    assert found.per_stage[1:] == pytest.approx(found.per_stage[:-1] * found.ratio)
    if np.all(stages * found.per_stage >= 1):
        assert np.all(np.abs(found.caps - stages * found.per_stage) < 1)
    assert np.all(found.continuation <= 1)


def test_largest_remainder():
    assert largest_remainder(np.array([1.5, 1.4, 1.1]), 4).tolist() == [2, 1, 1]
    assert largest_remainder(np.array([2.5, 2.5]), 5).tolist() == [3, 2]  # a tie goes to the earlier segment
    assert largest_remainder(np.array([4.9, 0.05, 0.05]), 5).tolist() == [3, 1, 1]


@pytest.mark.parametrize(
    ("boundaries", "message"),
    [
        ([20, 40], "must reach the longest output, 50, found 40"),
        ([20, 50, 60], "nobody gets past 50"),
        ([50, 20], "increase"),
        ([0, 50], "increase"),
        ([20, 20, 50], "increase"),
        ([20.5, 50], "whole numbers"),
        ([], "increase"),
    ],
)
def test_bad_boundaries_are_named(boundaries, message):
    with pytest.raises(ConfigError, match=f"^boundaries: .*{message}"):
        design(TWO, boundaries, 30)


@pytest.mark.parametrize(("in_service", "margin", "key"), [(1, 0.05, "in_service"), (30, -0.1, "margin")])
def test_bad_design_arguments_are_named(in_service, margin, key):
    with pytest.raises(ConfigError, match=f"^{key}: "):
        design(TWO, [20, 50], in_service, margin)


def test_equal_mass_takes_quantiles():
    lengths = law([1] * 10, range(1, 11), [1] * 10)
    assert equal_mass_boundaries(lengths, 1).tolist() == [10]
    assert equal_mass_boundaries(lengths, 2).tolist() == [5, 10]
    assert equal_mass_boundaries(lengths, 5).tolist() == [2, 4, 6, 8, 10]
    assert equal_mass_boundaries(lengths, 10).tolist() == list(range(1, 11))
    assert equal_mass_boundaries(TWO, 2).tolist() == [20, 50]


def test_equal_mass_steps_past_a_heavy_length():
    assert equal_mass_boundaries(law([1] * 4, [1, 2, 3, 9], [97, 1, 1, 1]), 3).tolist() == [1, 2, 9]
    assert equal_mass_boundaries(law([1] * 4, [1, 2, 3, 9], [1, 1, 1, 97]), 3).tolist() == [2, 3, 9]


def test_even_boundaries():
    assert even_boundaries(TWO, 4).tolist() == [12, 25, 38, 50]
    assert even_boundaries(SINGLE, 20).tolist() == list(range(1, 21))


@pytest.mark.parametrize(("cut", "segments"), [(equal_mass_boundaries, 3), (even_boundaries, 51), (even_boundaries, 0)])
def test_too_many_segments(cut, segments):
    with pytest.raises(ConfigError, match="^segments: must lie in 1.."):
        cut(TWO, segments)


# --- Nested WAIT


def test_nested_thresholds_by_hand():
    # n_2 > 0.3 n_1, n_2 < n_1: (2, 1), whose batch takes D0 + D1 * 38349 = 26 ms and serves up to 2 / 26 ms = 76.9 / s
    found = nested_thresholds(TWO, 76.0, [20, 50], D0, D1, CAPACITY)
    assert found.n.tolist() == [2, 1]
    assert found.memory == 38349.0
    assert found.iteration_time == pytest.approx(D0 + D1 * 38349)
    assert nested_memory(TWO, found.n, [20, 50], horizon=2000.0, risk=1e-3, d0=D0).base == 38349.0
    # above it: (3, 1), for 1 / 3 > 0.3
    found = nested_thresholds(TWO, 77.0, [20, 50], D0, D1, CAPACITY)
    assert found.n.tolist() == [3, 1]


def test_last_boundary_may_lie_past_the_longest_output():
    assert continuation_probabilities(TWO, [20, 60]) == pytest.approx([0.3])
    assert design(TWO, [20, 60], 30).boundaries.tolist() == [20, 60]


@given(laws(most_types=4), st.floats(0.05, 0.9))
def test_real_thresholds_meet_their_conditions_with_equality(law, load):
    ends = np.unique(law.output)
    continuation, prompts = continuation_probabilities(law, ends), segment_prompts(law, ends)
    work = stage_work(ends, prompts)
    rate = load / (work @ np.cumprod([1.0, *continuation]) * 1e-3)
    n = real_nested_thresholds(law, rate, ends, 1.0, 1e-3, math.inf)
    assert n[0] == pytest.approx(rate * (1.0 + 1e-3 * (work @ n)))
    assert n[1:] == pytest.approx(continuation * n[:-1])
    whole = nested_thresholds(law, rate, ends, 1.0, 1e-3, math.inf)
    assert np.all(whole.n >= n * (1 - 1e-9))


def test_memory_of_a_law_takes_its_continuation_and_prompts():
    lengths = law([10, 40], [20, 50], [7, 3])
    found = nested_memory(lengths, [2.5, 1.5], [20, 50], horizon=99.0, risk=0.01, d0=1.0)
    assert found == required_memory([2.5, 1.5], [0.3], [20, 50], [19.0, 40.0], horizon=99.0, risk=0.01, d0=1.0)


def test_thresholds_keep_up_with_those_who_go_on():
    plain = nested_thresholds(TWO, 110.0, [20, 50], D0, D1, math.inf)
    assert plain.n[1] / plain.n[0] > 0.3


@pytest.mark.parametrize(
    ("lengths", "rate", "boundaries", "capacity", "reason"),
    [
        (TWO, 200.0, [20, 50], math.inf, "unstable"),
        (TWO, 140.0, [20, 50], CAPACITY, "memory"),
        (TWO, 110.0, [50], CAPACITY, "segments"),
        (TWO, 20.0, [10, 20, 50], CAPACITY, "continuation"),
        (TWO, 20.0, [20, 50], 38348.0, "integrality"),
    ],
)
def test_reason_why_there_are_no_nested_thresholds(lengths, rate, boundaries, capacity, reason):
    with pytest.raises(Infeasible) as caught:
        nested_thresholds(lengths, rate, boundaries, D0, D1, capacity)
    assert caught.value.reason == reason


def _clearly_nested(n, work, continuation, rate, d0, d1, capacity):
    memory = work @ n
    ratio = n[1:] / n[:-1]
    return (
        memory <= capacity
        and rate * (d0 + d1 * memory) < n[0] * (1 - 1e-9)
        and np.all(ratio > continuation * (1 + 1e-9))
        and np.all(ratio < 1)
    )


@settings(max_examples=40, deadline=None)
@given(laws(most_types=3, longest=4), st.floats(0.05, 1.0), st.sampled_from([0.0, 0.01]))
def test_no_nested_thresholds_are_smaller_in_any_component(law, load, d1):
    ends = np.unique(law.output)
    capacity, d0 = 200.0, 1.0
    work = stage_work(ends, segment_prompts(law, ends))
    continuation = continuation_probabilities(law, ends)
    rate = load / (work[0] * (d1 + d0 / capacity))
    box = [range(1, int(capacity // w) + 1) for w in work]
    feasible = [
        n for n in itertools.product(*box) if _clearly_nested(np.array(n), work, continuation, rate, d0, d1, capacity)
    ]
    try:
        found = nested_thresholds(law, rate, ends, d0, d1, capacity)
    except Infeasible:
        assert feasible == []
        return
    assert _clearly_nested(found.n * (1 + 1e-8), work, continuation * (1 - 1e-8), rate, d0, d1, capacity * (1 + 1e-7))
    assert found.memory == pytest.approx(work @ found.n)
    assert nested_memory(law, found.n, ends, horizon=2000.0, risk=1e-3, d0=d0).total >= found.memory
    for n in feasible:
        assert np.all(np.array(n) >= found.n)
