"""Sentences about judged claims, filled in from their numbers; no word in them is chosen by hand.

A word that compares ("above", "below", "within") is a function of the two numbers beside it, and
:func:`contradictions` reads a finished sentence back and compares.
"""

from __future__ import annotations

import math
import re

from fluidwait.claims.claim import Check, Claim, Expect
from fluidwait.claims.judge import Judgement, Outcome, Trial

COMPARED = re.compile(
    r"is (?P<measured>-?[\d.e+]+) \[(?P<low>-?[\d.e+]+), (?P<high>-?[\d.e+]+)\][^;]*?, "
    r"(?P<word>above|below|inside) the paper's (?P<paper>[^;(]*?)(?: \(|;|\.$)"
)


def number(value: float | None) -> str:
    """Four significant digits without an exponent, and no minus sign on a zero."""
    if value is None or math.isnan(value):
        return "-"
    shown = f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    shown = f"{value:.5f}".rstrip("0").rstrip(".") if "e" in shown else shown
    return "0" if shown in ("-0", "") else shown


def expected(expect: Expect) -> str:
    """What the paper leads one to expect, in symbols."""
    kind = expect.kind
    if kind == "near":
        return f"{number(expect.near)} ± {number(expect.within)}"
    if kind == "between":
        return f"{number(expect.between[0])} to {number(expect.between[1])}"
    symbol = {"at_least": "≥ ", "at_most": "≤ ", "below": "< ", "above": "> ", "exactly": "= "}[kind]
    return symbol + number(getattr(expect, kind))


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
    """``above``, ``below`` or ``inside`` what the paper allows."""
    low, high = expect.band()
    return "below" if measured < low else "above" if measured > high else "inside"


def measurement(outcome: Outcome) -> str:
    """What one check found, as a clause."""
    check, point = outcome.check, outcome.point
    if point is None:
        return f"{check.quantity}: no evidence at this scale"
    where = f" at {check.each} {number(point.at)}" if check.each else ""
    unit = f" {check.unit}" if check.unit else ""
    value = f"{number(point.measured)} [{number(point.low)}, {number(point.high)}]{unit}"
    at = f" ({outcome.points_holding} of {outcome.points} points hold)" if check.each else ""
    word = position(check.expect, point.measured)
    return f"{check.quantity}{where} is {value}, {word} the paper's {expected(check.expect)}{at}{_doubt(outcome)}"


def _doubt(outcome: Outcome) -> str:
    """Why a value inside does not hold, or one outside does: its interval says otherwise."""
    word = position(outcome.check.expect, outcome.point.measured)
    if outcome.holds and word != "inside":
        return " (but its interval reaches it)"
    if not outcome.holds and word == "inside":
        return (
            " (but not every run)" if outcome.check.expect.kind == "exactly" else " (but not distinguishable from it)"
        )
    return ""


def explanation(judgement: Judgement) -> str:
    """One sentence: how many checks hold, and the first that decides."""
    outcomes = [outcome for outcome in judgement.outcomes if outcome.holds is not None]
    if not outcomes:
        return _untested(judgement.claim)
    failing = [outcome for outcome in outcomes if not outcome.holds]
    what = "the first that does not" if failing else "the first of them"
    missing = len(judgement.outcomes) - len(outcomes)
    left = f"; {missing} without evidence at this scale" if missing else ""
    return f"{_count(outcomes)}{left}; {what}: {measurement((failing or outcomes)[0])}."


def _untested(claim: Claim) -> str:
    if claim.recording:
        return f"No recording {claim.recording} in data/gpu, and nothing else can stand for that device."
    return "Its points are not run at this scale."


def _count(outcomes: list[Outcome]) -> str:
    return f"{sum(bool(o.holds) for o in outcomes)} of {len(outcomes)} checks hold"


def remedy(trials: list[Trial]) -> str | None:
    """Under which of the settings tried the claim would hold; None when none was named."""
    if not trials:
        return None
    full = [t for t in trials if t.outcomes and all(o.holds for o in t.outcomes)]
    if full:
        return "; ".join(f"holds with {t.setting}: {_count(t.outcomes)}" for t in full) + "."
    tried = "; ".join(f"with {t.setting} {_count([o for o in t.outcomes if o.holds is not None])}" for t in trials)
    return f"No setting tried makes all of it hold: {tried}."


def contradictions(sentence: str, check: Check) -> list[str]:
    """What a sentence of :func:`measurement` says that its own numbers deny; empty when it is right."""
    found = []
    for match in COMPARED.finditer(sentence):
        measured, low, high = (float(match[name]) for name in ("measured", "low", "high"))
        if match["paper"] != expected(check.expect):
            found.append(f"'{match['paper']}' is not what the claim expects, {expected(check.expect)}")
        elif match["word"] != position(check.expect, measured):
            found.append(f"'{match['word']}', but {measured:g} is {position(check.expect, measured)}")
        if not low <= measured <= high:
            found.append(f"{measured:g} is outside its own interval")
    return found if found or COMPARED.search(sentence) else ["no comparison found"]
