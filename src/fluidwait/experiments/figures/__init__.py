"""Figures: one file per kind, one style, and a registry.

Every kind is a pair of functions that read the result tables of one experiment (see ``INPUTS`` of each file) and share
a signature: ``make(results_dir, experiment) -> {name: figure}``, ``caption(results_dir, experiment) -> {name: text}``,
with ``results_dir`` the folder ``results/<scale>/<experiment>`` and ``experiment`` a mapping with ``id``, ``title``,
``labels`` (policy key to label, in the order of drawing) and optional ``baseline`` and ``scale``. Figures are saved by
:func:`fluidwait.drawing.saving.save_figure`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from matplotlib.figure import Figure

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.experiments.figures import audit, gap, horizon, latency, memory, mstar, reference, tuning

Experiment = Mapping[str, Any]

_KINDS: dict[str, ModuleType] = {
    "latency": latency,
    "gap": gap,
    "horizon": horizon,
    "memory": memory,
    "reference": reference,
    "mstar": mstar,
    "audit": audit,
    "tuning": tuning,
}

KINDS = tuple(_KINDS)
"""Names of all kinds. ``tuning`` makes one figure per tuned policy, every other kind one figure."""


def make(kind: str, results_dir: str | Path, experiment: Experiment) -> dict[str, Figure]:
    """The figures of one kind, by file name without suffix.

    Raises:
        ConfigError: no such kind, or what its tables lack; see the ``make`` of its file.
    """
    return _module(kind).make(Path(results_dir), experiment)


def captions(kind: str, results_dir: str | Path, experiment: Experiment) -> dict[str, str]:
    """The captions of one kind, by the names of :func:`make`; the same errors."""
    return _module(kind).caption(Path(results_dir), experiment)


def inputs(kind: str, results_dir: str | Path, experiment: Experiment) -> list[Path]:
    """The files that :func:`make` and :func:`captions` read, whether they exist or not; the same errors."""
    names = [name.format(policy=key) for name in _module(kind).INPUTS for key in experiment["labels"]]
    return [Path(results_dir) / name for name in dict.fromkeys(names)]


def _module(kind: str) -> ModuleType:
    if kind not in _KINDS:
        raise ConfigError(f"figures: '{kind}' is not a kind of figure{nearest(kind, list(_KINDS))}")
    return _KINDS[kind]
