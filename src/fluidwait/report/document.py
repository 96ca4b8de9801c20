"""The report as two artifacts: its numbers, ``report.json``, and the page that prints them, ``report.pdf``.

``paper/report.typ`` holds the words and no results; it reads the numbers, which :func:`~fluidwait.report.gather.gather`
takes from the tables, figures and claims that the workflow hands over. What was not made is left out of the report and
named in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fluidwait.artifacts.code import imported_modules
from fluidwait.artifacts.environment import PACKAGES
from fluidwait.artifacts.step import Artifact, Deferred, names
from fluidwait.base.paths import project_root
from fluidwait.claims.claim import claims_path
from fluidwait.drawing.reading import read_json
from fluidwait.report.gather import gather
from fluidwait.report.made import Files
from fluidwait.report.typesetting import STYLE, environment, typeset

_PDF_CODE = imported_modules(__name__)
_PDF_PACKAGES = (*PACKAGES, "typst")


def _told() -> list[Path]:
    """Configuration files that the report tells of beside the tables: also what was not made has a title."""
    root = project_root()
    folders = ("config/experiments", "config/studies", "data/hardware")
    return [p for folder in folders for p in sorted((root / folder).glob("*.yaml"))] + [claims_path()]


def data_product(scale: str, files: Files) -> Artifact:
    """:func:`~fluidwait.report.gather.gather` of these files, as JSON; the same errors."""
    paths = sorted(map(str, files))
    return Artifact(
        lambda path, _: path.write_text(_json(gather(scale, paths)), encoding="utf-8"),
        {"scale": scale, "environment": environment()},
        imported_modules(__name__),
        rule="report_data",
        inputs=names([*_read_by_gather(paths), *_told()]),
    )


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _read_by_gather(files: list[str]) -> list[Path]:
    """The files themselves, and of each figure the formats that are read instead of the PNG."""
    read = []
    for path in map(Path, files):
        read += [path.with_suffix(".pdf"), path.with_suffix(".txt")] if path.suffix == ".png" else [path]
    return read


def pdf_product(source: str, data: str) -> Deferred:
    """``source``, which reads ``data``, typeset as PDF: no date, fixed fonts, the configuration hash inside.

    Both are paths from the project's root: Typst reads nothing outside. ``data`` says which figures the page has.
    """
    return Deferred(
        lambda: _pdf(source, data), {"environment": environment()}, _PDF_CODE, (source, data, STYLE), _PDF_PACKAGES
    )


def _pdf(source: str, data: str) -> Artifact:
    root = project_root()
    figures = read_json(root / data).get("figures", {}).values() if data.endswith(".json") else ()
    return Artifact(
        lambda path, key: path.write_bytes(typeset(root / source, root / data, key)),
        {"environment": environment()},
        _PDF_CODE,
        rule=Path(source).stem,
        inputs=(source, data, STYLE, *(figure["file"].lstrip("/") for figure in figures)),
        packages=_PDF_PACKAGES,
    )
