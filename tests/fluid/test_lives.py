"""Quotas, caps and batches from the mean life: by hand, against the paper's rule, and against drawn lives."""

from __future__ import annotations

import numpy as np
import pytest
from fluid_laws import SINGLE, TWO, law, laws
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fluidwait.base.errors import ConfigError
from fluidwait.device.timing import linear
from fluidwait.fluid.lives import batch_room, cheapest_batch, life_design, survival
from fluidwait.fluid.segments import design, equal_mass_boundaries

# One unit of compute time per started 64 tokens.
STAIRS = linear(1.0, 0.0)._replace(compute=np.ceil(np.arange(513) / 64), compute_slope=1 / 64)


def test_survival_by_hand():
    alive = survival(np.array([1.0, 3.0, 3.0]), np.array([0.5, 0.25, 0.25]))
    assert alive.tolist() == [1.0, 0.5, 0.5]


def test_survival_is_sure_where_shares_are_rounded():
    share = np.full(7, 1 / 7)
    assert survival(np.full(7, 4.0), share).tolist() == [1.0] * 4


def test_two_types_by_hand():
    """Mean output 29, so 29 in service are one entry per batch, of which .3 get past 20."""
    found = life_design(TWO, [20, 50], in_service=29, margin=0.0)
    assert found.flow == pytest.approx([1.0, 0.3])
    assert found.quota == pytest.approx([1 + 2 * np.sqrt(2 * 0.7 * 0.3), 0.3 + 2 * np.sqrt(0.3 * 0.7)])
    assert found.caps.tolist() == [20, 15]  # 9 + 2 sqrt(30 x .3 x .7) = 14.02
    assert found.highest == 35


def test_segment_1_has_room_for_prefills():
    """Of prompts that take 3 iterations, 3 requests are in prefill, and one more when the batch is full."""
    assert life_design(TWO, [20, 50], 29, 0.0, prefills=3.0).caps.tolist() == [24, 15]
    assert life_design(SINGLE, [20], 29, prefills=3.0).caps.tolist() == [29]


def test_the_margin_raises_later_segments_and_takes_nothing_from_the_first():
    found = life_design(TWO, [20, 50], in_service=29, margin=0.05)
    assert found.flow == pytest.approx([1.0, 0.35])
    assert found.caps.tolist() == [20, 16]


@pytest.mark.parametrize(("output", "in_service"), [(20, 29), (1000, 37), (7, 40)])
def test_equal_lengths_are_the_papers_rule(output, in_service):
    lengths = law([512, 64], [output, output], [0.3, 0.7])
    mine, papers = life_design(lengths, [output], in_service), design(lengths, [output], in_service)
    assert mine.flow.tolist() == mine.quota.tolist() == papers.per_stage.tolist()
    assert mine.caps.tolist() == papers.caps.tolist()
    assert mine.highest == in_service


def test_equal_lengths_flow_through_all_segments():
    found = life_design(SINGLE, [5, 20], in_service=40)
    assert found.flow.tolist() == found.quota.tolist() == [2.0, 2.0]
    assert found.caps.tolist() == [10, 30]


@settings(deadline=None)
@given(laws(most_types=6, longest=30), st.integers(1, 6), st.integers(6, 300), st.floats(0, 0.5))
def test_flow_is_the_number_in_service_over_the_mean_life(lengths, segments, in_service, margin):
    assume(segments <= len(np.unique(lengths.output)))
    ends = equal_mass_boundaries(lengths, segments)
    found = life_design(lengths, ends, in_service, margin)
    assert found.flow[0] * (lengths.share @ lengths.output) == pytest.approx(in_service)
    assert np.all(found.quota >= found.flow) and found.highest >= in_service
    assert found.caps.sum() >= in_service
    assert found.flow[0] >= design(lengths, ends, in_service, margin).per_stage[0] * (1 - 1e-9)


def test_room_is_the_spread_of_drawn_batches():
    """Three requests enter every iteration; prompts are prefilled by 8 tokens, then outputs one by one."""
    lengths, entries, iterations = law([5, 20, 40], [3, 30, 12], [5, 3, 2]), 3, 40_000
    generator = np.random.default_rng(7)
    tokens, inside = np.zeros(iterations + 100), np.zeros(iterations + 100)
    draws = generator.choice(3, size=(iterations, entries), p=lengths.share)
    for kind, (prompt, output) in enumerate(zip(lengths.prompt, lengths.output, strict=True)):
        life = [8.0] * int(prompt // 8) + [prompt % 8] * int(prompt % 8 > 0) + [1.0] * int(output - 1)
        counts = (draws == kind).sum(axis=1)
        for age, computed in enumerate(life):
            tokens[age : age + iterations] += counts * computed
        for age in range(int(output)):
            inside[age : age + iterations] += counts
    steady = slice(100, iterations)
    assert batch_room(lengths, entries, 8, "serving") == pytest.approx(2 * tokens[steady].std(), rel=0.1)
    room = life_design(lengths, [30], 3 * 13, 0.0).highest - 3 * 13
    assert room == pytest.approx(2 * inside[steady].std(), abs=1.0)


def test_prompts_that_come_prefilled_spread_nothing():
    random_prompts = law([5, 200], [20, 20], [1, 1])
    assert batch_room(random_prompts, 3.0, 64, "decode") == 0.0
    assert batch_room(random_prompts, 3.0, 64, "serving") > 0.0


def test_the_cheapest_batch_ends_on_a_stair():
    assert cheapest_batch(STAIRS, 31.5, 58, 66) == 64  # up to there prefills are free beside the decodes
    assert cheapest_batch(STAIRS, 130.2, 150, 400) == 192
    assert cheapest_batch(STAIRS, 31.5, 70, 80) == 80  # no end of a stair in between
    assert cheapest_batch(STAIRS, 31.5, 58, 58) == 58


def test_where_tokens_cost_nothing_the_largest_batch_is_as_cheap():
    assert cheapest_batch(linear(0.01, 1e-6), 31.5, 58, 66) == 66


def test_a_batch_of_decodes_only():
    assert cheapest_batch(STAIRS, 55.0, 55, 55) == 55
    assert cheapest_batch(STAIRS, 55.0, 55, 60) == 60


@pytest.mark.parametrize(("in_service", "margin", "key"), [(1, 0.05, "in_service"), (30, -0.1, "margin")])
def test_bad_arguments_are_named(in_service, margin, key):
    with pytest.raises(ConfigError, match=key):
        life_design(TWO, [20, 50], in_service, margin)
