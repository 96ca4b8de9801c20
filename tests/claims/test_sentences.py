"""Sentences say what their numbers say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluidwait.base.numbers import plain_number
from fluidwait.claims import sentences
from fluidwait.claims.claim import Check, Claim, Expect
from fluidwait.claims.judge import Judgement, Outcome, Point, Trial, holds, verdict

NUMBERS = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-3)
EXPECTS = st.one_of(
    st.builds(lambda near, within: Expect(near=near, within=within), NUMBERS, st.floats(0, 1e3)),
    st.builds(lambda a, b: Expect(between=(min(a, b), max(a, b))), NUMBERS, NUMBERS),
    *(st.builds(lambda x, k=kind: Expect(**{k: x}), NUMBERS) for kind in ("at_least", "at_most", "below", "above")),
)


def outcome(expect: Expect, measured: float, half: float = 0.0, each: str | None = None) -> Outcome:
    check = Check(quantity="latency", unit="s", value="wait.x", each=each, expect=expect, why="w")
    point = Point(12.0 if each else None, measured, measured - half, measured + half, measured, measured)
    return Outcome(check, {"a.csv": "0"}, point, holds(expect, point), 1, int(holds(expect, point)))


def judged(outcomes: list[Outcome], trials: list[Trial] = (), recording: str | None = None) -> Judgement:
    checks = [o.check for o in outcomes]
    claim = Claim(id="C1", statement="s", experiment="e1", checks=checks, recording=recording)
    return Judgement(claim, verdict(outcomes), outcomes, list(trials))


@given(EXPECTS, NUMBERS, st.floats(0, 1e3), st.booleans())
def test_no_sentence_contradicts_its_numbers(expect, measured, half, each):
    found = outcome(expect, measured, half, "rate" if each else None)
    assert sentences.contradictions(sentences.measurement(found), found.check) == []
    assert sentences.contradictions(sentences.explanation(judged([found])), found.check) == []


@pytest.mark.parametrize(("measured", "word"), [(3.0, "above"), (1.0, "below"), (2.0, "within")])
@pytest.mark.parametrize("other", ["above", "below", "within"])
def test_a_changed_word_is_a_contradiction(measured, word, other):
    found = outcome(Expect(near=2, within=0.5), measured, 0.1)
    changed = sentences.measurement(found).replace(f"{word} what", f"{other} what")
    assert bool(sentences.contradictions(changed, found.check)) == (other != word)


def test_a_changed_number_is_a_contradiction():
    found = outcome(Expect(below=0), -1.0, 0.1)
    sentence = sentences.measurement(found)
    assert "is -1 [-1.1, -0.9] s, within what the paper says, < 0" in sentence
    assert sentences.contradictions(sentence.replace("is -1 ", "is 1 "), found.check)
    assert sentences.contradictions(sentence.replace("< 0", "> 0"), found.check)
    assert sentences.contradictions("latency is fine", found.check)


@given(EXPECTS, NUMBERS)
def test_the_distance_is_zero_within_and_has_the_sign_of_the_word(expect, measured):
    distance, position = sentences.distance(expect, measured), sentences.position(expect, measured)
    if expect.near is not None:
        assert distance == measured - expect.near
    elif position == "within":
        assert distance == 0
    else:
        assert distance >= 0 if position == "above" else distance <= 0


def test_doubt_is_told():
    assert "not distinguishable" in sentences.measurement(outcome(Expect(below=0), -1.0, 2.0))
    assert "its interval reaches it" in sentences.measurement(outcome(Expect(near=0, within=1), 1.5, 1.0))


def test_the_explanation_names_the_first_check_that_fails():
    good, bad = outcome(Expect(at_most=1), 0.5), outcome(Expect(at_most=1), 7.0)
    text = sentences.explanation(judged([good, bad]))
    assert text.startswith("1 of 2 checks hold; the first that does not: latency is 7 s, above")


def test_without_a_recording_the_device_is_named():
    nothing = Outcome(outcome(Expect(at_most=1), 0.5).check, {})
    assert "a100*" in sentences.explanation(judged([nothing], recording="a100*"))
    assert sentences.explanation(judged([nothing])) == "Its points are not run at this scale."


def test_a_remedy_counts_only_when_it_covers_the_whole_claim():
    bad, good = outcome(Expect(at_most=1), 7.0), outcome(Expect(at_most=1), 0.5)
    assert sentences.remedy(judged([bad])) is None
    full = sentences.remedy(judged([bad, bad], [Trial("a cap", [good, good])]))
    assert full == "It holds in full under another setting: with a cap 2 of 2 checks hold."
    both = sentences.remedy(judged([bad, bad], [Trial("no gate", [bad, good]), Trial("a cap", [good, good])]))
    assert both == f"{full} Tried as well: with no gate 1 of 2 checks hold."
    unknown = Outcome(good.check, {})
    open_ = sentences.remedy(judged([bad, bad], [Trial("a cap", [good, unknown])]))
    assert open_ == (
        "No setting tried makes all of it hold: with a cap 1 of 2 checks hold, 1 without evidence at this scale."
    )
    half = sentences.remedy(judged([bad, bad], [Trial("a cap", [good])]))
    assert half == "No setting tried makes all of it hold: with a cap 1 of 1 checks hold."


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (-0.0, "0"), (34387.49, "34387"), (0.00001, "0.00001"), (-1.23456, "-1.235"), (9999.96, "9999.96")],
)
def test_numbers_are_short_and_without_exponents(value, shown):
    assert plain_number(value) == shown
