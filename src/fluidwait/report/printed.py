"""Tables that a report prints, shortened: what all rows share is said once, long lists by their ends."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from fluidwait.base.tables import load_table
from fluidwait.report.made import Made, natural

SIZES = ("rates", "requests", "replications", "seed", "memory_margin", "capacity_tokens")
SETUP = ("experiment", "workload", "arrivals", *SIZES, "semantics", "eviction", "time_model")
"""Columns of ``parameters.csv`` that all policies of an experiment share, as far as they are printed."""

FIRST_SETTING = "max_requests"
"""Column of ``parameters.csv`` at which the settings of the policies begin."""


def printed_tables(made: Made, tried: set[str]) -> dict[str, Any]:
    """Rows of the tables that the report prints, without what is only tried as a remedy; none of what was not made."""
    stability = [(name, table) for name, table in made.tables if table == "stability.csv"]
    tables = {
        "boundaries": _rows(made.shared.get("boundaries.csv")),
        "stability": [
            {"experiment": key[0]} | row
            for key in sorted(stability, key=lambda key: natural(key[0]))
            for row in _rows(made.tables[key])
        ],
        "exponents": [
            row for (_, table), path in made.tables.items() if table == "exponents.csv" for row in _rows(path)
        ],
    }
    tables = {name: [row for row in rows if row.get("experiment") not in tried] for name, rows in tables.items()}
    parameters = [row for row in _rows(made.shared.get("parameters.csv")) if row["experiment"] not in tried]
    tables |= {"setups": setups(parameters), "settings": settings(parameters)}
    common = take_common(tables["setups"]) | take_common([row["settings"] for row in tables["settings"]])
    return {name: rows for name, rows in tables.items() if rows} | ({"everywhere": common} if parameters else {})


def _rows(path: Path | None) -> list[dict[str, Any]]:
    return [] if path is None else read_rows(path)


def setups(parameters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What all policies of an experiment share: one row for each experiment."""
    rows = [{name: _in_short(row[name]) for name in SETUP if name in row} for row in parameters]
    return [row for i, row in enumerate(rows) if row not in rows[:i]]


def settings(parameters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The policies: one row for each label and settings, with the experiments that have it so."""
    found: dict[str, dict[str, Any]] = {}
    for row in parameters:
        names = list(row)[list(row).index(FIRST_SETTING) :]
        chosen = {name: _in_short(row[name]) for name in names if row[name] not in (None, "none")}
        policy = {"label": row["label"], "policy": row["name"], "combinations": row["grid_size"], "settings": chosen}
        entry = found.setdefault(json.dumps(policy), policy | {"experiments": []})
        entry["experiments"].append(row["experiment"])
    return list(found.values())


def take_common(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Take out of the rows whatever has the same value wherever it is given, in two rows or more; returns it."""
    values: dict[str, list[Any]] = {}
    for name, value in (item for row in rows for item in row.items()):
        values.setdefault(name, []).append(value)
    common = {
        name: found[0] for name, found in values.items() if len(found) > 1 and found.count(found[0]) == len(found)
    }
    for row in rows:
        for name in common.keys() & row.keys():
            del row[name]
    return common


def _in_short(value: Any) -> Any:
    """A setting; of a list of more than two values its ends and how many there are."""
    if not isinstance(value, str):
        return value
    words = "tuned: " if value.startswith("tuned: ") else ""
    listed = value.removeprefix(words).split()
    if len(listed) < 3 or not all(re.fullmatch(r"[\d.]+", item) for item in listed):
        return value
    return f"{words}{listed[0]} to {listed[-1]} ({len(listed)})"


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a CSV file as they are written: numbers as numbers, nothing as None, the rest as text.

    Raises:
        ConfigError: the file is missing or is no table.
    """
    table = load_table(path, infer_schema=False, comment_prefix="#")
    return [{key: _value(text) for key, text in row.items()} for row in table.to_dicts()]


def _value(text: str | None) -> Any:
    if not text:
        return None
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if math.isfinite(value) else str(value)
    return text
