"""Verdicts follow from the checks, checks from the numbers; nothing is typed."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fluidwait.base.errors import ConfigError
from fluidwait.base.models import parse
from fluidwait.claims import sentences
from fluidwait.claims.claim import Check, Claim, Expect, Remedy
from fluidwait.claims.judge import Outcome, Point, _points, holds, judge, measure, query, verdict

CHECK = {"quantity": "a", "value": "wait.x", "expect": {"near": 1, "within": 1}, "why": "b"}
NUMBERS = st.floats(-1e3, 1e3)


def check(**more) -> Check:
    return Check.model_validate(CHECK | more)


def point(measured: float, half: float = 0.0) -> Point:
    return Point(None, measured, measured - half, measured + half, measured - half, measured + half)


def runs(values: dict[float, list[float]]) -> pl.DataFrame:
    rows = [{"rate": rate, "replication": i, "x": x} for rate, xs in values.items() for i, x in enumerate(xs)]
    return pl.DataFrame(rows)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ([True, True], "reproduced"),
        ([True, False], "partly"),
        ([False, False], "not reproduced"),
        ([True, None], "partly"),
        ([False, None], "not reproduced"),
        ([True, False, None], "partly"),
        ([None, None], "not testable here"),
    ],
)
def test_a_check_without_evidence_never_holds(held, expected):
    assert verdict([Outcome(check(), {}, holds=h) for h in held]) == expected


@given(NUMBERS, NUMBERS, st.floats(0, 100), st.floats(0, 100))
def test_a_value_near_the_papers_holds_exactly_when_interval_and_tolerance_meet(paper, measured, within, half):
    p = point(measured, half)
    assert holds(Expect(near=paper, within=within), p) == (p.low <= paper + within and p.high >= paper - within)


@given(NUMBERS, NUMBERS, st.floats(0, 100))
def test_a_side_must_be_shown_and_cannot_be_both(bound, measured, half):
    p = point(measured, half)
    below, above = holds(Expect(below=bound), p), holds(Expect(above=bound), p)
    assert below == (p.high < bound) and above == (p.low > bound)
    assert not (below and above)
    if holds(Expect(below=bound), p):
        assert holds(Expect(at_most=bound), p)


@given(NUMBERS, st.floats(0, 10), st.floats(0, 10), st.floats(0, 100))
def test_a_wider_interval_never_refutes_and_never_shows_more(measured, half, more, within):
    narrow, wide = point(measured, half), point(measured, half + more)
    near = Expect(near=0, within=within)
    assert holds(near, wide) or not holds(near, narrow)
    assert holds(Expect(below=0), narrow) or not holds(Expect(below=0), wide)


def test_never_means_in_no_single_run():
    almost = Point(None, 0.1, -0.1, 0.3, 0, 1)  # the interval of the mean reaches 0, one run had an eviction
    assert not holds(Expect(exactly=0), almost)
    assert holds(Expect(exactly=0), Point(None, 0, 0, 0, 0, 0))


def test_policies_are_compared_on_equal_requests():
    """Paired differences are exact although the values scatter, whatever the order of the rows."""
    wait = runs({1.0: [1.0, 5.0, 3.0]})
    sarathi = wait.with_columns(pl.col("x") + 0.5).sort("x", descending=True)
    (found,) = _points(check(value="wait.x - sarathi.x"), {"wait": wait, "sarathi": sarathi})
    assert found.measured == found.low == found.high == -0.5


def test_each_point_is_judged_on_its_own():
    frames = {"wait": runs({1.0: [1.0, 1.1], 2.0: [3.0, 3.1]})}
    assert [(p.at, p.measured) for p in _points(check(each="rate"), frames)] == [(1.0, 1.05), (2.0, 3.05)]


def test_a_change_is_taken_within_each_replication():
    frames = {"wait": runs({1.0: [1.0, 5.0], 2.0: [2.0, 6.0]})}
    found = _points(check(change={"over": "rate", "from": 1, "to": 2}), frames)
    assert [(p.measured, p.low, p.high) for p in found] == [(1.0, 1.0, 1.0)]


EVERY_EXPECTATION = [
    {"near": 0, "within": 1},
    {"between": [0, 1]},
    {"at_least": 0},
    {"at_most": 0},
    {"below": 1},
    {"above": -1},
    {"exactly": 0},
]


class Files:
    """Evidence with tables that need no files."""

    scale = "quick"

    def __init__(self, **frames: pl.DataFrame) -> None:
        self.frames = {f"results/quick/e1/{name}": frame for name, frame in frames.items()}
        self.sha256 = dict.fromkeys(self.frames, "0")

    def frame(self, path: str) -> pl.DataFrame:
        return self.frames[path]


def claim(*checks: dict, **more) -> Claim:
    data = {"id": "C1", "statement": "s", "experiment": "e1", "checks": [CHECK | c for c in checks]} | more
    return Claim.model_validate(data)


@pytest.mark.parametrize("expect", EVERY_EXPECTATION, ids=lambda e: next(iter(e)))
@pytest.mark.parametrize(
    "change",
    [
        {"value": "wait.x"},
        {"value": "wait.x", "each": "rate"},
        {"value": "wait.x", "change": {"over": "rate", "from": 1, "to": 9}},
        {"value": "x", "table": "t"},
        {"value": "x", "table": "t", "each": "rate"},
        {"value": "x", "table": "t", "least": "x"},
        {"value": "x", "table": "t", "low": "x", "high": "x"},
        # over no rows SQL has these aggregates be 0, which nobody measured
        {"value": "SUM(x)", "table": "t"},
        {"value": "COUNT(x)", "table": "t"},
        {"value": "SUM(x)", "table": "t", "low": "SUM(x)", "high": "SUM(x)"},
        {"value": "0 * COUNT(*)", "table": "t"},
        {"value": "COALESCE(MAX(x), 0)", "table": "t"},
    ],
)
def test_a_check_that_selects_nothing_holds_under_no_expectation(expect, change):
    nothing = {} if "change" in change else {"where": "rate = 9"}
    zeros = runs({1.0: [0.0, 0.0]})
    one = claim({"expect": expect} | change | nothing)
    evidence = Files(**{"metrics/wait.csv": zeros, "t": zeros})
    outcome = measure(one, one.checks[0], evidence)
    assert (outcome.point, outcome.holds) == (None, None)
    assert judge(one, evidence).verdict == "not testable here"


def test_a_claim_is_not_reproduced_by_the_one_check_of_two_that_has_evidence():
    """Both of two were expected, the points of one are not there: it came out as reproduced."""
    both = claim({"where": "rate = 1"}, {"where": "rate = 9"}, remedies=[{"setting": "s", "experiments": {"e1": "no"}}])
    found = judge(both, Files(**{"metrics/wait.csv": runs({1.0: [1.0, 1.0]})}))
    assert (found.verdict, found.trials) == ("partly", [])  # and no remedy is tried for want of evidence
    assert sentences.explanation(found).startswith("1 of 2 checks hold, 1 without evidence at this scale; ")


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("each", [None, "rate"])
@pytest.mark.parametrize("expect", EVERY_EXPECTATION, ids=lambda e: next(iter(e)))
def test_a_value_missing_among_the_rows_is_missing_evidence(missing, each, expect):
    """'Never', and 'at every rate', are not shown by the runs that have a value alone."""
    frames = {"wait": runs({1.0: [0.0, 0.0], 2.0: [0.0, missing]})}
    assert _points(check(expect=expect, each=each), frames) == []
    assert len(_points(check(expect=expect, each=each, where="rate = 1"), frames)) == 1


def test_an_interval_with_an_end_missing_is_missing_evidence():
    frames = {"data": pl.DataFrame({"x": [1.0], "a": [None], "b": [2.0]}, schema_overrides={"a": pl.Float64})}
    assert _points(check(table="t.csv", value="x", low="a", high="b"), frames) == []


def test_a_change_needs_both_ends_of_every_replication():
    change = {"over": "rate", "from": 1, "to": 2}
    assert _points(check(change=change), {"wait": runs({1.0: [1.0, 5.0], 2.0: [2.0]})}) == []
    assert _points(check(change=change), {"wait": runs({2.0: [2.0]})}) == []


def test_a_value_with_its_own_interval_is_one_row():
    """Of several rows the first was judged, whatever the others said."""
    two = pl.DataFrame({"x": [1.0, 9.0], "rate": [1.0, 2.0]})
    own = claim({"table": "t", "value": "x", "low": "x", "high": "x"})
    with pytest.raises(ConfigError, match=r"^C1: a: a value with low and high is one row, but 2 are selected"):
        judge(own, Files(t=two))
    narrowed = claim({"table": "t", "value": "x", "low": "x", "high": "x", "where": "rate = 1"})
    assert judge(narrowed, Files(t=two)).verdict == "reproduced"


def test_no_rows_are_no_evidence():
    assert _points(check(where="rate = 9"), {"wait": runs({1.0: [1.0]})}) == []


def test_a_table_may_carry_its_own_interval():
    frames = {"data": pl.DataFrame({"x": [1.0], "a": [0.5], "b": [2.0]})}
    (found,) = _points(check(table="t.csv", value="x", low="a", high="b"), frames)
    assert (found.measured, found.low, found.high) == (1.0, 0.5, 2.0)


def test_only_the_least_row_when_asked():
    frames = {"data": pl.DataFrame({"x": [1.0, 2.0, 3.0], "cost": [3, 1, 2]})}
    (found,) = _points(check(table="t.csv", value="x", least="cost"), frames)
    assert found.measured == 2.0


def test_the_query_reads_as_the_check_does():
    frames = dict.fromkeys(("wait", "sarathi"), runs({1.0: [1.0]}))
    assert query(check(value="wait.x / sarathi.x", where="rate = 1"), frames) == (
        "SELECT rate, replication, (wait.x / sarathi.x) AS value "
        "FROM wait JOIN sarathi USING (rate, replication) WHERE rate = 1"
    )


def test_a_remedy_tries_only_what_it_changes():
    remedy = Remedy(setting="s", experiments={"e1": "e1_truncated"}, policies={"wait": "wait_tuned"})
    again = remedy.applied(check(value="wait.x - wait_off.x - a.wait"), "e1")
    assert (again.experiment, again.value) == ("e1_truncated", "wait_tuned.x - wait_off.x - a.wait")
    assert remedy.applied(check(), "e2") is None
    assert Remedy(setting="s", policies={"vllm": "x"}).applied(check(), "e1") is None


def test_a_remedy_puts_all_names_in_place_at_once():
    """One after the other, a swap made the difference of a policy with itself, 0."""
    swap = Remedy(setting="s", policies={"wait": "sarathi", "sarathi": "wait"})
    again = swap.applied(check(value="wait.x - sarathi.x", where="sarathi.x > 0"), "e1")
    assert (again.value, again.where) == ("sarathi.x - wait.x", "wait.x > 0")
    chain = Remedy(setting="s", policies={"a": "b", "b": "c", "a_b": "d"})
    assert chain.applied(check(value="a.x + b.x + a_b.x"), "e1").value == "b.x + c.x + d.x"
    rows = check(table="t.csv", value="x", where="policy = 'wait'", low="wait.low", high="wait.high", least="wait.x")
    again = swap.applied(rows, "e1")
    assert (again.where, again.low, again.high, again.least) == (
        "policy = 'sarathi'",
        "sarathi.low",
        "sarathi.high",
        "sarathi.x",
    )


@pytest.mark.parametrize(
    "change",
    [
        {"expect": {"near": 1}},
        {"expect": {"within": 1}},
        {"expect": {}},
        {"expect": {"above": 1, "below": 2}},
        {"expect": {"between": [2, 1]}},
        {"value": "x"},
        {"low": "a"},
        {"each": "rate", "change": {"over": "rate", "from": 1, "to": 2}},
        {"verdict": "reproduced"},
    ],
)
def test_a_check_that_cannot_be_judged_is_refused_in_one_line(change):
    claim = {"id": "C1", "statement": "s", "experiment": "e1", "checks": [CHECK | change]}
    with pytest.raises(ValidationError):
        check(**change)
    with pytest.raises(ConfigError, match=r"^claims.yaml: checks\.0") as refused:
        parse(Claim, claim, "claims.yaml")
    assert "\n" not in str(refused.value)
