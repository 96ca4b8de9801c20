"""Judged claims on paper: JSON with every number, a table as CSV and Markdown, and the same on the screen."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.step import Artifact, names, text
from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import project_root
from fluidwait.base.scales import split_scale
from fluidwait.base.text_files import read_json
from fluidwait.claims import sentences
from fluidwait.claims.claim import claims_path
from fluidwait.claims.judge import VERDICTS, Judgement, Outcome

FULL = "paper"
"""The scale whose verdicts count."""

CODE = imported_modules(__name__)


def as_data(judgement: Judgement, scale: str) -> dict[str, Any]:
    """One claim as it stands in ``claims.json``."""
    return {
        "id": judgement.claim.id,
        "statement": judgement.claim.statement,
        "experiment": judgement.claim.experiment,
        "scale": scale,
        "verdict": judgement.verdict,
        "explanation": sentences.explanation(judgement),
        "checks": [_check(outcome) for outcome in judgement.outcomes],
        "remedy": sentences.remedy(judgement),
        "remedies": [
            {"setting": trial.setting, "checks": [_check(outcome) for outcome in trial.outcomes]}
            for trial in judgement.trials
        ],
    }


def _check(outcome: Outcome) -> dict[str, Any]:
    check, point = outcome.check, outcome.point
    measured: dict[str, float | None] = {"measured": None, "low": None, "high": None, "at": None, "distance": None}
    if point is not None:
        measured = {"measured": point.measured, "low": point.low, "high": point.high, "at": point.at}
        measured["distance"] = sentences.distance(check.expect, point.measured)
    return {
        "quantity": check.quantity,
        "unit": check.unit,
        "paper": sentences.expected(check.expect),
        **measured,
        "tolerance": check.expect.within,
        "why": check.why,
        "holds": outcome.holds,
        "points": outcome.points,
        "points_holding": outcome.points_holding,
        "artifact": list(outcome.artifacts),
        "sha256": list(outcome.artifacts.values()),
        "sentence": sentences.measurement(outcome),
    }


FILES = ("claims.json", "scorecard.csv", "scorecard.md")


def products(judgements: list[Judgement], scale: str) -> tuple[Artifact, ...]:
    """The judged claims as products for :data:`FILES`."""
    data = [as_data(judgement, scale) for judgement in judgements]
    texts = (
        json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        table(data).write_csv(),
        markdown(data, scale),
    )
    identity = {"scale": scale, "claims": [judgement.claim.id for judgement in judgements]}
    inputs = names([claims_path(), *_evidence(judgements)])
    return tuple(Artifact(text(words), identity, CODE, rule="claims", inputs=inputs) for words in texts)


def _evidence(judgements: list[Judgement]) -> list[Path]:
    outcomes = [o for j in judgements for o in (*j.outcomes, *(o for trial in j.trials for o in trial.outcomes))]
    outcomes += [o for j in judgements for beside in j.beside.values() for o in beside]
    return [project_root() / path for path in sorted({path for outcome in outcomes for path in outcome.artifacts})]


def table(data: list[dict[str, Any]]) -> pl.DataFrame:
    """One row per claim."""
    rows = [
        {
            "id": claim["id"],
            "experiment": claim["experiment"],
            "scale": claim["scale"],
            "verdict": claim["verdict"],
            "holding": sum(bool(check["holds"]) for check in claim["checks"]),
            "checks": len(claim["checks"]),
            "statement": claim["statement"],
            "explanation": claim["explanation"],
            "remedy": claim["remedy"] or "",
        }
        for claim in data
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def summary(data: list[dict[str, Any]]) -> str:
    """How many claims got which verdict."""
    counts = Counter(claim["verdict"] for claim in data)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])


def warning(scale: str) -> str | None:
    """What a scale other than the paper's cannot show; None for the paper's sizes on any seeds."""
    if split_scale(scale)[0] == FULL:
        return None
    return (
        f"Scale {scale}: few replications of short runs. Its verdicts show that everything works; "
        "they are not evidence for claims near a boundary."
    )


def markdown(data: list[dict[str, Any]], scale: str) -> str:
    """The scorecard as a page: a table of verdicts, then every check."""
    lines = [f"# Claims of the paper, scale {scale}", "", f"{summary(data)[0].upper()}{summary(data)[1:]}.", ""]
    if note := warning(scale):
        lines += [f"**{note}**", ""]
    lines += ["| claim | statement | verdict | checks | why |", "|---|---|---|---|---|"]
    for claim in data:
        held = sum(bool(check["holds"]) for check in claim["checks"])
        why = " ".join(filter(None, (claim["explanation"], claim["remedy"])))
        cells = [claim["id"], claim["statement"], f"**{claim['verdict']}**", f"{held} of {len(claim['checks'])}", why]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    for claim in data:
        lines += ["", f"## {claim['id']}: {claim['verdict']}", ""]
        lines += [f"* {_mark(check)} {check['sentence']}." for check in claim["checks"]]
        for remedy in claim["remedies"]:
            lines += ["", f"With {remedy['setting']}:", ""]
            lines += [f"* {_mark(check)} {check['sentence']}." for check in remedy["checks"]]
    return "\n".join(lines) + "\n"


def _mark(check: dict[str, Any]) -> str:
    return {True: "holds:", False: "does not hold:", None: "not judged:"}[check["holds"]]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def show(data: list[dict[str, Any]], scale: str) -> None:
    """Print the scorecard as a table as wide as the terminal."""
    from rich.console import Console
    from rich.table import Table

    colours = dict(zip(VERDICTS, ("green", "yellow", "red", "dim"), strict=True))
    shown = Table("claim", "verdict", "checks", "why", show_lines=True)
    for claim in data:
        held = sum(bool(check["holds"]) for check in claim["checks"])
        why = " ".join(filter(None, (claim["explanation"], claim["remedy"])))
        verdict = f"[{colours[claim['verdict']]}]{claim['verdict']}[/]"
        shown.add_row(claim["id"], verdict, f"{held}/{len(claim['checks'])}", why.replace("[", "\\["))
    console = Console()
    console.print(f"Claims of scale {scale}")
    console.print(shown)
    console.print(summary(data))
    if note := warning(scale):
        console.print(note)


def differences(ours: list[dict[str, Any]], other: Path, *, common: bool = False) -> list[str]:
    """One line for each claim whose verdict differs from that of another ``claims.json``, or is in only one of them.

    With ``common`` claims that were not judged here do not count.

    Raises:
        ConfigError: the other file cannot be read, or is not a list of claims.
    """
    theirs = _verdicts(other)
    names = [claim["id"] for claim in ours]
    found = {claim["id"]: claim["verdict"] for claim in ours}
    names += [name for name in theirs if name not in found and not common]
    return [
        f"{name}: {found.get(name, 'absent')}, but {theirs.get(name, 'absent')} in {other}"
        for name in names
        if found.get(name) != theirs.get(name)
    ]


def _verdicts(path: Path) -> dict[str, str]:
    try:
        return {claim["id"]: claim["verdict"] for claim in _list(read_json(path))}
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{path}: not a claims.json of fluidwait") from None


def _list(data: Any) -> list:
    if not isinstance(data, list):
        raise TypeError
    return data
