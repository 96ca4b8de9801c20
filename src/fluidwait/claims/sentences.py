"""Sentences about judged claims, filled in from their numbers; no word in them is chosen by hand.

A word that compares ("above", "below", "within") is a function of the two numbers beside it, and
:func:`contradictions` reads a finished sentence back and compares.
"""

from __future__ import annotations

import re

from fluidwait.base.numbers import plain_number
from fluidwait.claims.claim import Check, Claim, Expect
from fluidwait.claims.judge import Judgement, Outcome, Point, Trial

COMPARED = re.compile(
    r"is (?P<measured>-?[\d.]+)(?: \[(?P<low>-?[\d.]+), (?P<high>-?[\d.]+)\])?[^;]*?, "
    r"(?P<word>above|below|within) what the paper says, (?P<paper>[^;(]*?)(?: \(|;|\.$|$)"
)


def expected(expect: Expect) -> str:
    """What the paper leads one to expect, in symbols."""
    kind = expect.kind
    if kind == "near":
        return f"{plain_number(expect.near)} ± {plain_number(expect.within)}"
    if expect.between is not None:
        return f"{plain_number(expect.between[0])} to {plain_number(expect.between[1])}"
    symbol = {"at_least": "≥ ", "at_most": "≤ ", "below": "< ", "above": "> ", "exactly": "= "}[kind]
    return symbol + plain_number(getattr(expect, kind))


def reference(expect: Expect, measured: float) -> float:
    """The number that a measured value's distance is counted from: the paper's value, or the nearest of its bounds."""
    if expect.near is not None:
        return expect.near
    low, high = expect.band()
    return low if measured < low else high if measured > high else measured


def distance(expect: Expect, measured: float) -> float:
    """Measured value less the paper's, or less the nearest bound of the paper's range when outside it."""
    return measured - reference(expect, measured)


def position(expect: Expect, measured: float) -> str:
    """``above``, ``below`` or ``within`` what the paper allows."""
    low, high = expect.band()
    if measured < low or (expect.kind == "above" and measured == low):
        return "below"
    return "above" if measured > high or (expect.kind == "below" and measured == high) else "within"


def measurement(outcome: Outcome) -> str:
    """What one check found, as a clause."""
    check, point = outcome.check, outcome.point
    if point is None:
        return f"{check.quantity}: no evidence"
    where = f" at {check.each} {plain_number(point.at)}" if check.each else ""
    interval = f" [{plain_number(point.low)}, {plain_number(point.high)}]" if point.low < point.high else ""
    value = f"{plain_number(point.measured)}{interval}{' ' if check.unit else ''}{check.unit}"
    at = f" ({outcome.points_holding} of {outcome.points} points hold)" if check.each else ""
    shown = position(check.expect, float(plain_number(point.measured)))  # the word fits the digits that are shown
    says = f"{shown} what the paper says, {expected(check.expect)}"
    return f"{check.quantity}{where} is {value}, {says}{at}{_doubt(outcome, point)}"


def _doubt(outcome: Outcome, point: Point) -> str:
    """Why a value within does not hold, or one outside does: its interval says otherwise."""
    word = position(outcome.check.expect, point.measured)
    if outcome.holds and word != "within":
        return " (but its interval reaches it)"
    if not outcome.holds and word == "within":
        return (
            " (but not every run)" if outcome.check.expect.kind == "exactly" else " (but not distinguishable from it)"
        )
    return ""


def explanation(judgement: Judgement) -> str:
    """One sentence: how many checks hold, and the first that decides."""
    outcomes = _judged(judgement.outcomes)
    if not outcomes:
        return " ".join([_untested(judgement.claim), *_beside(judgement)])
    failing = [outcome for outcome in outcomes if not outcome.holds]
    what = "the first that does not" if failing else "the first of them"
    return f"{_count(judgement.outcomes)}; {what}: {measurement((failing or outcomes)[0])}."


def _untested(claim: Claim) -> str:
    if claim.recording:
        return f"No recording {claim.recording} in data/gpu, and nothing else can stand for that device."
    return "Its points are not run at this scale."


def _beside(judgement: Judgement) -> list[str]:
    """What other devices say, one sentence each."""
    return [
        f"On another device, {device}: {'; '.join(_value(o.check, o.point) for o in outcomes if o.point)}."
        for device, outcomes in judgement.beside.items()
    ]


def _value(check: Check, point: Point) -> str:
    """Quantity and value, without a judgement."""
    return f"{check.quantity} {plain_number(point.measured)}{' ' if check.unit else ''}{check.unit}"


def _count(outcomes: list[Outcome]) -> str:
    missing = len(outcomes) - len(_judged(outcomes))
    left = f", {missing} without evidence at this scale" if missing else ""
    return f"{sum(bool(o.holds) for o in outcomes)} of {len(outcomes)} checks hold{left}"


def remedy(judgement: Judgement) -> str | None:
    """Under which of the settings tried the claim would hold; None when none was named."""
    if not judgement.trials:
        return None
    complete = [trial for trial in judgement.trials if _complete(trial, judgement.claim)]
    others = [trial for trial in judgement.trials if not _complete(trial, judgement.claim)]
    if not complete:
        return f"No setting tried makes all of it hold: {_tried(others)}."
    also = f" Tried as well: {_tried(others)}." if others else ""
    return f"It holds in full under another setting: {_tried(complete)}.{also}"


def _tried(trials: list[Trial]) -> str:
    return "; ".join(f"with {trial.setting} {_count(trial.outcomes)}" for trial in trials)


def _complete(trial: Trial, claim: Claim) -> bool:
    return len(trial.outcomes) == len(claim.checks) and all(outcome.holds for outcome in trial.outcomes)


def _judged(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.holds is not None]


def contradictions(sentence: str, check: Check) -> list[str]:
    """What a sentence of :func:`measurement` says that its own numbers deny; empty when it is right."""
    found = []
    for match in COMPARED.finditer(sentence):
        measured = float(match["measured"])
        low, high = (float(match[end] or measured) for end in ("low", "high"))
        if match["paper"] != expected(check.expect):
            found.append(f"'{match['paper']}' is not what the claim expects, {expected(check.expect)}")
        elif match["word"] != position(check.expect, measured):
            found.append(f"'{match['word']}', but {measured:g} is {position(check.expect, measured)}")
        if not low <= measured <= high:
            found.append(f"{measured:g} is outside its own interval")
    return found if found or COMPARED.search(sentence) else ["no comparison found"]
