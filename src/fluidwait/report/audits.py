"""Vidur's repetitions of our runs, added up."""

from __future__ import annotations

from typing import Any

from fluidwait.base.tables import load_table
from fluidwait.report.made import Made, natural


def audit(made: Made) -> dict[str, Any]:
    """Vidur's repetitions of our runs: how many, and the largest difference in s of any request's times."""
    rows = []
    for (name, table), path in sorted(made.tables.items(), key=lambda item: natural(item[0][0])):
        if table == "audit.csv":
            rows += [{"experiment": name} | row for row in load_table(path).to_dicts()]
    by_experiment = [
        {"experiment": name} | _audited([row for row in rows if row["experiment"] == name])
        for name in dict.fromkeys(row["experiment"] for row in rows)
    ]
    return {"all": _audited(rows), "experiments": by_experiment}


def _audited(rows: list[dict[str, Any]]) -> dict[str, Any]:
    differences = [row[key] for row in rows for key in ("max_abs_first_token", "max_abs_completion")]
    return {
        "policies": len({row["policy"] for row in rows}),
        "runs": len(rows),
        "native": sum(row["scheduler"] == "Vidur's" for row in rows),
        "requests": sum(row["requests"] for row in rows),
        "evictions": sum(row["evictions"] for row in rows),
        "largest": max(differences, default=None),
    }
