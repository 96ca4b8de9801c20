"""The judged claims that a report prints, and which experiments they are about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fluidwait.claims.claim import load_claims
from fluidwait.report.made import Made, read_list


def claims_of(made: Made) -> list[dict[str, Any]]:
    """Judged claims with the experiments that their checks read, and without what the report does not print."""
    path = made.shared.get("claims.json")
    if path is None:
        return []
    kept = ("id", "statement", "experiment", "verdict", "explanation", "remedy", "checks")
    return [
        {key: claim[key] for key in kept}
        | {"reads": _read_by(claim["checks"]), "tries": _read_by(c for r in claim["remedies"] for c in r["checks"])}
        for claim in read_list(path)
    ]


def _read_by(checks: Iterable[Mapping[str, Any]]) -> list[str]:
    """Experiments whose tables the checks read."""
    paths = [path.split("/") for check in checks for path in check["artifact"]]
    return list(dict.fromkeys(parts[2] for parts in paths if parts[0] == "results" and len(parts) > 3))


def experiments_tested(claims: list[dict[str, Any]]) -> set[str]:
    """Experiments that the claims are about."""
    return {name for claim in claims for name in (claim["experiment"], *claim["reads"])}


def experiments_tried(claims: list[dict[str, Any]]) -> set[str]:
    """Experiments that serve as remedies only: other settings of those that claims are about."""
    return {name for claim in claims for name in claim["tries"]} - experiments_tested(claims)


def unjudged(claims: list[dict[str, Any]]) -> list[str]:
    judged = {claim["id"] for claim in claims}
    return [claim.id for claim in load_claims() if claim.id not in judged] if claims else []


def counts(values: Iterable[str]) -> dict[str, int]:
    values = list(values)
    return {value: values.count(value) for value in dict.fromkeys(values)}
