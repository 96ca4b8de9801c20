"""E11, scaling: the quantities of the theorems against zeta T, and their exponents.

With equality in WAIT's conditions the paper bounds the throughput gap by O((zeta T)^-1/2) and the service-normalised
latency and TTFT by O((zeta T)^1/2); with strict inequalities by O(1 / (zeta T)) and O(1). Nested WAIT with strict
conditions obeys the latter. Nested WAIT "at equality" (n_k = p_k n_{k-1}, Delta T(n) = n_1 / rate, memory without
limit) lies outside its theorem, which demands n_k > p_k n_{k-1}; it is run to show what happens there.

Exponents are least-squares slopes in log-log over the last ``fit_decades`` decades of each case, of the mean over
replications, with percentile bootstrap intervals over whole replications. They are upper bounds in the theorems: a
smaller exponent obeys them too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import polars as pl

from fluidwait.artifacts.step import Artifact
from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.tables import column_names, load_table
from fluidwait.stats.exponents import fit_exponent
from fluidwait.stats.metrics import mean_interval
from fluidwait.studies.cases import run_cases
from fluidwait.studies.e11 import E11
from fluidwait.studies.measure import QUANTITIES
from fluidwait.studies.study import seed_at, table_product

LAST = 1.0
"""Decades of the second fit, at the end."""


def runs(study: E11, part: str, scale: str) -> Artifact:
    """The cases of one part of the table: one row per replication and horizon."""
    keys = study.scaling[part]
    return table_product(
        lambda: run_cases(study, keys, scale),
        identity=recorded(study, keys, scale, labels=False),
        module=__name__,
        rule="study_runs",
    )


def scaling(study: E11, tables: tuple[str, ...], scale: str) -> Artifact:
    """One row per case, quantity and horizon: the mean over replications with its 95 % t interval.

    Args:
        tables: of :func:`runs`, all parts.
    """
    return _of_all(lambda: curves(study, _read(tables)), study, tables, scale)


def exponents(study: E11, tables: tuple[str, ...], scale: str) -> Artifact:
    """One row per case and quantity: exponent, low, high, expected, decades, replications, last_decade (same interval).

    ``expected`` is the exponent in the theorem's bound; ``last_decade`` is fitted over the last decade alone, where
    what is constant or of lower order (requests in service, service times) counts least.
    """
    return _of_all(lambda: fitted(study, _read(tables), seed_at(study.seed, scale)), study, tables, scale)


def _of_all(table: Callable[[], pl.DataFrame], study: E11, tables: tuple[str, ...], scale: str) -> Artifact:
    config = recorded(study, all_cases(study), scale)
    return table_product(table, identity=config, module=__name__, rule="study_scaling", inputs=tables)


def curves(study: E11, runs: pl.DataFrame) -> pl.DataFrame:
    """The scaling table of the rows of :func:`fluidwait.studies.cases.run_cases`."""
    rows = []
    for (key, horizon), group in runs.group_by(["case", "zeta_t"], maintain_order=True):
        case = study.cases[key]
        about = {"case": key, "label": case.label, "policy": case.policy, "slack": case.slack}
        for quantity in QUANTITIES:
            mean, low, high = mean_interval(group[quantity].to_numpy())[:3]
            at = {"zeta_t": horizon, "iterations": group["iterations"][0]}
            rows.append(
                about
                | {"quantity": quantity}
                | at
                | {"mean": mean, "low": low, "high": high, "replications": len(group)}
            )
    return pl.DataFrame(rows)


def fitted(study: E11, runs: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The exponents table of the same rows."""
    rows = []
    for (key,), group in runs.group_by(["case"], maintain_order=True):
        x = group["zeta_t"].unique().sort().to_numpy()
        for quantity, expected in study.expected(study.cases[key]).items():
            values = group.sort("replication", "zeta_t")[quantity].to_numpy().reshape(-1, len(x))
            found, last = (fit_exponent(x, values, decades, seed) for decades in (study.fit_decades, LAST))
            rows.append(
                {
                    "case": key,
                    "quantity": quantity,
                    "exponent": found.value,
                    "low": found.low,
                    "high": found.high,
                    "expected": expected,
                    "decades": found.decades,
                    "replications": len(values),
                    "last_decade": last.value,
                    "last_decade_low": last.low,
                    "last_decade_high": last.high,
                }
            )
    return pl.DataFrame(rows)


def recorded(study: E11, keys: list[str], scale: str, labels: bool = True) -> dict:
    """Everything in the configuration that decides the runs of these cases, and their labels where these count."""
    whole = study.model_dump(mode="json")
    cases = {key: whole["cases"][key] for key in keys}
    if not labels:
        cases = {key: {k: v for k, v in case.items() if k != "label"} for key, case in cases.items()}
    shared = ("first_horizon", "horizons_per_decade", "fit_decades")
    return {
        "study": study.id,
        "seed": seed_at(study.seed, scale),
        "scale": study.scale(scale).model_dump(mode="json", exclude={"overflow"}),
        "cases": cases,
        "instances": {name: whole["instances"][name] for name in sorted({case["instance"] for case in cases.values()})},
        **{name: whole[name] for name in shared},
    }


def all_cases(study: E11) -> list[str]:
    """Keys of the cases of the table, part by part."""
    return [key for part in study.scaling.values() for key in part]


def _read(tables: Iterable[str]) -> pl.DataFrame:
    """The runs of all parts.

    Raises:
        ConfigError: a file is missing or not a table of runs.
    """
    for table in tables:
        names = column_names(table)
        for name in ("case", "replication", "zeta_t", "iterations", *QUANTITIES):
            if name not in names:
                raise ConfigError(f"{table}: no column '{name}'{nearest(name, names)}")
    return pl.concat([load_table(table, schema_overrides={"thresholds": pl.String}) for table in tables])
