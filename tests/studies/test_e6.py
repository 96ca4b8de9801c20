"""E6 computes what the paper's formulas say, and its terms behave as formulas of this kind must."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_studies import e6, e6_data

from fluidwait.base.errors import ConfigError
from fluidwait.base.models import parse
from fluidwait.fluid.equilibrium import equilibrium, kv_work
from fluidwait.fluid.segments import nested_memory
from fluidwait.studies import e6 as module
from fluidwait.studies.e6 import E6, Choice


@pytest.fixture(scope="module")
def computed() -> tuple:
    study = e6()
    setting = module.resolve(study)
    return study, setting, module.terms(study, setting, study.main, study.scale("tiny").segments)


def test_terms_sum_to_the_total_and_none_is_negative(computed):
    table = computed[2]
    assert len(table) == 2 * 2 * 2 * 4
    assert np.allclose(table["base"] + table["queue"] + table["buffer"], table["total"])
    assert table.select(pl.col("base", "queue", "buffer").min()).min_horizontal()[0] >= 0


def test_they_are_those_of_the_fluid_model(computed):
    study, setting, table = computed
    cut = module.segmented(setting, "equal_mass", 4)
    shape = np.cumprod([1.0, *module.ratios(cut.continuation, 0.05)])
    n = 50 * equilibrium(setting.law, 50, setting.d0, setting.d1).iteration_time * shape
    expected = nested_memory(setting.law, n, cut.ends, horizon=20, risk=0.1, d0=setting.d0)
    row = table.filter(
        (pl.col("rate") == 50) & (pl.col("horizon") == 20) & (pl.col("delta") == 0.1) & (pl.col("segments") == 4)
    ).row(0, named=True)
    assert (row["base"], row["queue"], row["buffer"]) == pytest.approx(expected[:3])


def test_one_segment_counts_every_request_as_the_longest_and_has_no_queue(computed):
    study, setting, table = computed
    rows = table.filter(pl.col("segments") == 1)
    longest, prompt = setting.law.output.max(), setting.law.share @ setting.law.prompt
    work = (longest + 1) * (prompt + longest / 2)
    assert rows["base"].to_numpy() == pytest.approx(rows["rate"] * setting.reference * work)
    assert rows["queue"].max() == rows["buffer"].max() == 0
    assert work > kv_work(setting.law).mean


def test_only_the_buffer_grows_with_the_horizon_and_with_a_smaller_risk(computed):
    table = computed[2].filter(pl.col("segments") > 1)
    for change in ("horizon", "delta"):
        keys = ["rate", "segments", *({"horizon", "delta"} - {change})]
        for _, rows in table.group_by(keys):
            rows = rows.sort(change, descending=change == "delta")
            assert np.all(np.diff(rows["buffer"]) > 0)
            assert rows["base"].n_unique() == rows["queue"].n_unique() == 1
    per_rate = table.pivot(on="rate", index=["horizon", "delta", "segments"], values="buffer")
    assert np.allclose(per_rate["50.0"], per_rate["500.0"])  # the buffer does not depend on the scale of n


def test_the_buffer_grows_by_the_same_step_per_decade_of_risk(computed):
    grown = module.growth(computed[2].filter(pl.col("rate") == 50))
    assert grown["buffer_fit"] > 0.9999
    assert grown["buffer_per_decade_horizon"] == pytest.approx(grown["buffer_per_decade_risk"], rel=0.01)


@given(p=st.lists(st.floats(0.001, 0.9999), min_size=1, max_size=20), margin=st.floats(0.001, 0.9))
def test_ratios_lie_strictly_between_the_continuation_probability_and_one(p, margin):
    q = module.ratios(np.array(p), margin)
    assert np.all(np.array(p) < q) and np.all(q < 1)


def test_thresholds_of_their_own_iteration_time_meet_their_condition_with_equality(computed):
    study, setting, _ = computed
    choice = Choice(iteration="own", margin=0.05)
    cut = module.segmented(setting, "equal_mass", 8)
    shape = np.cumprod([1.0, *module.ratios(cut.continuation, 0.05)])
    rate = 10.0
    n = module.first_threshold(setting, choice, rate, float(cut.work @ shape))
    assert n == pytest.approx(rate * (setting.d0 + setting.d1 * n * float(cut.work @ shape)))
    assert module.first_threshold(setting, choice, 500.0, float(cut.work @ shape)) is None


@pytest.mark.parametrize(
    ("total", "shape"),
    [
        ([3, 2, 1, 2, 3], True),
        ([3, 2, 1], False),
        ([1, 2, 3], False),
        ([3, 1, 3, 2, 4], False),
        ([3, 2, 2.001, 4], True),
    ],
)
def test_a_curve_is_u_shaped_when_it_falls_and_rises(total, shape):
    n = len(total)
    table = pl.DataFrame(
        {"segments": range(1, n + 1), "base": [0.6 * t for t in total], "queue": [0.1] * n, "buffer": [0.2] * n}
    ).with_columns(total=pl.Series(total, dtype=pl.Float64))
    found = module.answer(table)
    assert found["u_shaped"] is shape and found["best"] == int(np.argmin(total)) + 1
    assert found["base_dominates"] and found["base_dominates_to"] == n


def test_no_thresholds_give_empty_answers():
    study = e6(alternatives={"own": {"iteration": "own"}}, rates=[500])
    setting = module.resolve(study)
    table = module.terms(study, setting, study.alternatives["own"], [1, 2])
    assert table["total"].null_count() == len(table)
    assert set(module.answer(table.drop_nulls()).values()) == {None} == set(module.growth(table).values())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reference_rate": 500}, "reference_rate: 500 requests/s have no equilibrium"),
        ({"workload": "lmsys-chat-1"}, "did you mean 'lmsys-chat-1m'?"),
    ],
)
def test_what_cannot_be_resolved_is_one_line(changes, told):
    with pytest.raises(ConfigError) as caught:
        module.resolve(e6(**changes))
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"risks": [0.0]}, "risks.0: input should be greater than 0"),
        ({"main": {"cuts": "evn"}}, "main.cuts: 'evn' is not a valid value (did you mean 'even'?)"),
        ({"scales": {"tiny": {"segments": [2, 1, 3]}}}, "must increase"),
    ],
)
def test_bad_configuration_is_one_line(changes, told):
    with pytest.raises(ConfigError) as caught:
        parse(E6, e6_data() | {"scales": {}} | changes, "e6.yaml")
    assert str(caught.value).startswith("e6.yaml: ") and told in str(caught.value) and "\n" not in str(caught.value)
