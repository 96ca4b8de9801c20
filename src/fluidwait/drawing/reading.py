"""Reading what figures show: CSV tables and the description of the experiment, with one clear line per mistake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from fluidwait.base import text_files
from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.paths import resolved
from fluidwait.base.tables import highest, lowest, read_columns
from fluidwait.stats.metrics import WINDOW


class Shown(NamedTuple):
    """What a figure must know about its experiment."""

    id: str
    title: str
    labels: dict[str, str]  # policy key to label, in the order of drawing
    baseline: str  # key of the policy that others are compared with
    scale: str
    window: float  # share of the requests, in the middle, that is measured
    constant_rate: bool = True  # of the arrivals; without one there is no λ*
    replayed: str | None = None  # which rows of a trace were, in words


def shown(experiment: Mapping[str, Any], results_dir: str | Path) -> Shown:
    """Read an experiment-like mapping: ``id``, ``title``, ``labels`` (key to label, in order), optional ``baseline``
    (else ``sarathi``, or the first of that name), ``window`` (else 0.5), ``scale`` (else the name of the folder above),
    ``constant_rate`` (else true), ``replayed``.

    Raises:
        ConfigError: a key is missing, there are no labels, or the baseline is not among them.
    """
    for key in ("id", "title", "labels"):
        if not experiment.get(key):
            raise ConfigError(f"experiment: {key}: required key is missing")
    labels = {str(key): str(label) for key, label in experiment["labels"].items()}
    guess = next((key for key in sorted(labels) if key.startswith("sarathi")), next(iter(labels)))
    baseline = experiment.get("baseline") or guess
    if baseline not in labels:
        raise ConfigError(f"experiment: baseline: '{baseline}' is not a policy{nearest(baseline, list(labels))}")
    scale = experiment.get("scale") or resolved(results_dir).parent.name
    window = float(experiment.get("window") or WINDOW)
    names = str(experiment["id"]), str(experiment["title"])
    constant, replayed = bool(experiment.get("constant_rate", True)), experiment.get("replayed")
    return Shown(*names, labels, baseline, str(scale), window, constant, replayed)


def read_table(
    path: str | Path, numbers: Sequence[str], text: Sequence[str] = (), optional: Sequence[str] = ()
) -> pl.DataFrame:
    """Columns of a CSV: ``numbers`` as finite Float64, ``text`` as String, ``optional`` as Float64, NaN where empty.

    Raises:
        ConfigError: what :func:`~fluidwait.base.tables.read_columns` raises.
    """
    columns = read_columns(path, {}, numbers, text, optional)
    types = {name: pl.String if name in text else pl.Float64 for name in (*numbers, *optional, *text)}
    return pl.DataFrame({name: pl.Series(columns[name], dtype=kind) for name, kind in types.items()})


def of_policy(table: pl.DataFrame, key: str, path: str | Path) -> pl.DataFrame:
    """The rows of one policy, by rate.

    Raises:
        ConfigError: there are none.
    """
    rows = table.filter(pl.col("policy") == key)
    if rows.is_empty():
        raise ConfigError(f"{path}: no rows of policy '{key}'{nearest(key, table['policy'].unique().to_list())}")
    return rows.sort("rate") if "rate" in rows.columns else rows


def read_json(path: str | Path, *keys: str) -> dict[str, Any]:
    """A JSON object that has a number or a text under each of the keys; ``a.b`` is key b of the object under a.

    Raises:
        ConfigError: the file is missing or not JSON, or a key is missing or null.
    """
    data = text_files.read_json(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: not a JSON object")
    for key in keys:
        inside: Any = data
        for part in key.split("."):
            if not isinstance(inside, dict) or part not in inside:
                raise ConfigError(f"{path}: {key}: required key is missing")
            inside = inside[part]
        if inside is None:
            raise ConfigError(f"{path}: {key}: the value is missing")
    return data


def sample(summary: pl.DataFrame, about: Shown) -> str:
    """How much was run, in the words of a caption. Needs the columns ``requests`` and ``replications``."""
    rows = f" ({about.replayed})" if about.replayed else ""
    return (
        f"{runs(summary)}{rows}, metrics over the central {100 * about.window:g} % of requests by arrival order, "
        f"scale '{about.scale}'"
    )


def runs(summary: pl.DataFrame) -> str:
    """``N = ... requests per run, ... replication(s)``."""
    return f"N = {_range(summary['requests'])} requests per run, {_range(summary['replications'])} replication(s)"


def _range(values: pl.Series) -> str:
    low, high = lowest(values), highest(values)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
