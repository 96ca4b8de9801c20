"""From evidence to verdicts: measure every check, compare it with what the paper leads one to expect, and count.

Verdicts follow from the checks alone. *reproduced*: all hold; *partly*: some do; *not reproduced*: none does;
*not testable here*: there is no evidence to be had, for want of a recording or of the points at this scale. A check
without evidence never holds: not one whose selection is empty, nor one with a value missing in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import polars as pl

from fluidwait.base.errors import ConfigError
from fluidwait.base.tables import highest, lowest
from fluidwait.claims.claim import Change, Check, Claim, Expect
from fluidwait.claims.evidence import Evidence, other_recordings, tables
from fluidwait.stats.metrics import mean_interval

REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_TESTABLE = "reproduced", "partly", "not reproduced", "not testable here"
VERDICTS = (REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_TESTABLE)

KEYS = ("rate", "requests", "replication")
"""Columns that tell which requests a run met: policies are compared on equal ones."""


class Point(NamedTuple):
    """A measured value with its 95 % interval; without replications the interval is the value itself."""

    at: float | None  # of the column `each`
    measured: float
    low: float
    high: float
    least: float  # over the single runs
    most: float


class Outcome(NamedTuple):
    """A judged check. ``point`` is the one that decides: the farthest from what is expected."""

    check: Check
    artifacts: dict[str, str]  # path: SHA-256
    point: Point | None = None
    holds: bool | None = None  # None: no evidence
    points: int = 0
    points_holding: int = 0


class Trial(NamedTuple):
    """The checks of a claim under one of its remedies."""

    setting: str
    outcomes: list[Outcome]


class Judgement(NamedTuple):
    """A judged claim."""

    claim: Claim
    verdict: str
    outcomes: list[Outcome]
    trials: list[Trial]
    beside: Mapping[str, list[Outcome]] = MappingProxyType({})
    """By device that the claim is not about: what its recording says. It decides nothing."""


def judge(claim: Claim, evidence: Evidence) -> Judgement:
    """Measure and judge a claim; its remedies are tried only when it does not reproduce.

    Raises:
        ConfigError: evidence is missing, or a check's SQL does not fit its tables.
        EvidenceError: evidence is not what its sidecar says.
    """
    outcomes = [measure(claim, check, evidence) for check in claim.checks]
    found, trials = verdict(outcomes), []
    if any(outcome.holds is False for outcome in outcomes):  # what only lacks evidence needs no remedy
        for remedy in claim.remedies:
            changed = [again for check in claim.checks if (again := remedy.applied(check, claim.experiment))]
            trials.append(Trial(remedy.setting, [measure(claim, check, evidence) for check in changed]))
    return Judgement(claim, found, outcomes, trials, _beside(claim, evidence) if found == NOT_TESTABLE else {})


def _beside(claim: Claim, evidence: Evidence) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for check in claim.checks if claim.recording else ():
        for folder in other_recordings(claim, check):
            found.setdefault(Path(folder).name, []).append(measure(claim, check, evidence, folder))
    return found


def verdict(outcomes: list[Outcome]) -> str:
    """The verdict that follows from the checks; one without evidence does not hold."""
    held = [outcome.holds for outcome in outcomes]
    if all(one is None for one in held):
        return NOT_TESTABLE
    return REPRODUCED if all(held) else PARTLY if any(held) else NOT_REPRODUCED


def measure(claim: Claim, check: Check, evidence: Evidence, device: str | None = None) -> Outcome:
    """Compute a check's value at each of its points and judge it, for another device's recording if one is named."""
    files = tables(claim, check, evidence.scale, device)
    if files is None:
        return Outcome(check, {})
    frames = {name: evidence.frame(path) for name, path in files.items()}
    artifacts = {path: evidence.sha256[path] for path in files.values()}
    try:
        points = _points(check, frames)
    except (pl.exceptions.PolarsError, ConfigError) as error:
        raise ConfigError(f"{claim.id}: {check.quantity}: {str(error).splitlines()[0]} (in {check.value})") from None
    if not points:
        return Outcome(check, artifacts)
    decisive = min(points, key=lambda point: _margin(check.expect, point))
    held = [holds(check.expect, point) for point in points]
    return Outcome(check, artifacts, decisive, all(held), len(held), sum(held))


def holds(expect: Expect, point: Point) -> bool:
    """Whether a measured value is what the paper leads one to expect; see :class:`.Expect`."""
    return _margin(expect, point) >= 0


def _margin(expect: Expect, point: Point) -> float:
    """How far a point is from not holding; negative when it does not."""
    low, high = expect.band()
    if expect.kind == "exactly":
        return -max(abs(point.least - low), abs(point.most - low))
    if expect.kind == "below":
        return math.nextafter(high, -math.inf) - point.high
    if expect.kind == "above":
        return point.low - math.nextafter(low, math.inf)
    return min(point.high - low, high - point.low)


def query(check: Check, frames: dict[str, pl.DataFrame]) -> str:
    """The SQL of a check: columns value, those of :data:`KEYS` that there are, and low and high if it has them."""
    keys = _keys(frames)
    wanted = [f"({check.value}) AS value"]
    if check.low:
        wanted += [f"({check.low}) AS low", f"({check.high}) AS high"]
    kept = keys if check.table is None else [check.each] if check.each else []
    first_row = f" ORDER BY {check.least} LIMIT 1" if check.least else ""
    return f"SELECT {', '.join([*kept, *wanted])} {_selection(check, frames)}{first_row}"


def _keys(frames: dict[str, pl.DataFrame]) -> list[str]:
    return [key for key in KEYS if all(key in frame.columns for frame in frames.values())]


def _selection(check: Check, frames: dict[str, pl.DataFrame]) -> str:
    first, *others = frames
    joined = " ".join([f"FROM {first}", *(f"JOIN {name} USING ({', '.join(_keys(frames))})" for name in others)])
    return f"{joined} WHERE {check.where}" if check.where else joined


def _points(check: Check, frames: dict[str, pl.DataFrame]) -> list[Point]:
    """The values to judge; none without evidence: no row is selected, or a row has no value."""
    sql = pl.SQLContext(frames, eager=True)
    # Asked by itself, because a sum or a count over no rows is a value, 0.
    if sql.execute(f"SELECT COUNT(*) AS n {_selection(check, frames)}").item() == 0:
        return []
    rows = sql.execute(query(check, frames))
    rows = rows.sort([key for key in KEYS if key in rows.columns])  # a join keeps no order, and sums depend on it
    if check.change:
        rows = _changes(rows, check.change)
    if rows.is_empty() or _lacking(rows):
        return []
    if check.each:
        return [_point(at, part) for (at,), part in rows.group_by(check.each, maintain_order=True)]
    return [_point(None, rows)]


def _lacking(rows: pl.DataFrame) -> bool:
    """Whether a value, or an end of its interval, is missing or no number in any of the rows.

    An infinite value is what a division by nothing leaves: no evidence of "at least".
    """
    numbers = rows.select(pl.col(name).cast(pl.Float64) for name in ("value", "low", "high") if name in rows.columns)
    wrong = pl.all().is_null() | pl.all().is_nan() | pl.col("value").is_infinite()
    return bool(numbers.select(pl.any_horizontal(wrong).any()).item())


def _changes(rows: pl.DataFrame, change: Change) -> pl.DataFrame:
    """Value at the later point less value at the earlier one, of the same replication."""
    at = pl.col(change.over)
    early, late = (rows.filter(at == x).select("replication", "value") for x in (change.start, change.stop))
    if early.is_empty() or late.is_empty():
        return early.clear()
    both = late.join(early, on="replication", how="full", coalesce=True, suffix="_early")  # a missing one shows
    return both.select("replication", value=pl.col("value") - pl.col("value_early"))


def _point(at: float | None, rows: pl.DataFrame) -> Point:
    values = rows["value"].cast(pl.Float64)
    least, most = float(lowest(values)), float(highest(values))
    if "low" in rows.columns:
        if len(rows) > 1:
            raise ConfigError(f"a value with low and high is one row, but {len(rows)} are selected; narrow 'where'")
        return Point(at, float(values[0]), float(rows["low"][0]), float(rows["high"][0]), least, most)
    interval = mean_interval(values)
    if interval.count == 1:
        return Point(at, interval.mean, interval.mean, interval.mean, least, most)
    return Point(at, interval.mean, interval.low, interval.high, least, most)
