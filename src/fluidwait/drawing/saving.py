"""Saving figures: equal figures have equal bytes, and each carries its configuration hash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fluidwait.artifacts.embedded import HASH_MARK


def figure_metadata(key: str, suffix: str) -> dict[str, str | None]:
    """Matplotlib ``metadata`` that carries the configuration hash and no date, so equal figures have equal bytes.

    Raises:
        ValueError: the format is none of ``.png``, ``.svg`` and ``.pdf``.
    """
    mark = HASH_MARK + key
    if suffix == ".png":
        return {"Software": None, "Description": mark}
    if suffix == ".svg":
        return {"Date": None, "Creator": None, "Description": mark}
    if suffix == ".pdf":
        return {"CreationDate": None, "Creator": None, "Producer": None, "Keywords": mark}
    raise ValueError(f"figures are written as .png, .svg or .pdf, not '{suffix}'")


def save_figure(figure: Any, path: str | Path, key: str, dpi: float = 200.0) -> None:
    """Save a Matplotlib figure with byte-identical results for equal figures; the format follows the suffix."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "fluidwait"}):  # element ids of SVG are random without a fixed salt
        figure.savefig(path, dpi=dpi, metadata=figure_metadata(key, Path(path).suffix))
