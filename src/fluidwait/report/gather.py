"""Every number that the report prints, gathered from the tables, figures and claims that the workflow hands over."""

from __future__ import annotations

from typing import Any

from fluidwait.claims.scorecard import warning
from fluidwait.experiments.audit import TOLERANCE
from fluidwait.report.audits import audit
from fluidwait.report.captions import figures_of, hoist
from fluidwait.report.claimed import claims_of, counts, experiments_tried, unjudged
from fluidwait.report.made import Files, Made, configured, natural
from fluidwait.report.printed import printed_tables
from fluidwait.report.sizes import describe, hardware_of, totals
from fluidwait.report.typesetting import environment
from fluidwait.workload import TruncatedPoissonArrivals


def gather(scale: str, files: Files) -> dict[str, Any]:
    """What the report of a scale needs, from exactly these ``files`` of ``results/<scale>`` and ``figures/<scale>``.

    Args:
        scale: name of the scale, the folder below ``results/`` and ``figures/``.
        files: paths relative to the project folder, or absolute; files of no use to the report are passed over. Of a
            figure the ``.png`` stands for all its formats.

    Returns:
        ``scale``; ``experiments`` (identity and sizes, in the order of their ids) and ``missing`` (those configured in
        ``config/`` and not among the files); ``totals``; ``claims`` with ``verdicts`` (number of claims by verdict),
        ``unjudged`` and ``warning``; ``figures`` with ``reading`` (what captions of one kind have in common) and
        ``aside`` (not shown); ``audit`` with ``tolerance`` (s); ``tables``; ``hardware``; ``truncation`` (how much
        faster truncated arrivals come, a share); ``packages``.

    Raises:
        ConfigError: a file is missing or is not what its name says.
    """
    made = Made(scale, files)
    known = configured()
    present = sorted(made.names(known), key=natural)
    experiments = [describe(name, known.get(name, {}), made) for name in present]
    claims = claims_of(made)
    figures = figures_of(made, known, claims)
    return {
        "scale": scale,
        "experiments": experiments,
        "missing": [{"id": i, "title": known[i]["title"]} for i in sorted(known, key=natural) if i not in present],
        "totals": totals(experiments),
        "claims": claims,
        "verdicts": counts(claim["verdict"] for claim in claims),
        "unjudged": unjudged(claims),
        "warning": warning(scale) if claims else None,
        "reading": hoist([figure for figure in figures.values() if figure["shown"]]),
        "figures": figures,
        "aside": [name for name, figure in figures.items() if not figure["shown"]],
        "tolerance": TOLERANCE,
        "truncation": 1.0 / TruncatedPoissonArrivals(process="poisson_truncated").mean_unit_gap() - 1.0,
        "audit": audit(made),
        "tables": printed_tables(made, experiments_tried(claims)),
        "hardware": hardware_of(experiments),
        "packages": environment(),
    }
