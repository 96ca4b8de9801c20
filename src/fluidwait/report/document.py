"""The report as two artifacts: its numbers, ``report.json``, and the page that prints them, ``report.pdf``.

``paper/report.typ`` holds the words and no results; it reads the numbers, which :func:`~fluidwait.report.gather.gather`
takes from the tables, figures and claims that the workflow hands over. What was not made is left out of the report and
named in it.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from fluidwait.artifacts.canonical import config_hash
from fluidwait.artifacts.code import code_fingerprint, imported_modules
from fluidwait.artifacts.environment import PACKAGES
from fluidwait.artifacts.inputs import describe_input
from fluidwait.artifacts.sidecar import write_artifact
from fluidwait.base.errors import ConfigError
from fluidwait.base.files import check_output
from fluidwait.base.paths import project_root, resolved
from fluidwait.claims.claim import claims_path
from fluidwait.drawing.reading import read_json
from fluidwait.report.gather import gather
from fluidwait.report.made import Files
from fluidwait.report.typesetting import STYLE, environment, typeset


@cache
def key() -> str:
    """Key of the rules that make the report: its code, the configuration it tells of, and the packages."""
    told = {file.path: file.sha256 for file in map(describe_input, _told())}
    parts = {"code": code_fingerprint(imported_modules(__name__)), "packages": environment(), "told": told}
    return config_hash(parts)[:16]


def _told() -> list[Path]:
    """Configuration files that the report tells of beside the tables: also what was not made has a title."""
    root = project_root()
    folders = ("config/experiments", "config/studies", "data/hardware")
    return [p for folder in folders for p in sorted((root / folder).glob("*.yaml"))] + [claims_path()]


def write_data(scale: str, files: Files, out: str | Path) -> None:
    """Write :func:`gather` as JSON, an artifact; the same errors."""
    check_output(out)
    files = sorted(map(str, files))
    data = gather(scale, files)
    write_artifact(
        out,
        lambda path, _: path.write_text(_json(data), encoding="utf-8"),
        config={"scale": scale, "environment": data["packages"]},
        inputs=[*_read_by_gather(files), *_told()],
        code=imported_modules(__name__),
        rule="report_data",
    )


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _read_by_gather(files: list[str]) -> list[Path]:
    """The files themselves, and of each figure the formats that are read instead of the PNG."""
    read = []
    for path in map(Path, files):
        read += [path.with_suffix(".pdf"), path.with_suffix(".txt")] if path.suffix == ".png" else [path]
    return read


def write_pdf(source: str | Path, data: str | Path, out: str | Path) -> None:
    """Typeset ``source``, which reads ``data``, as PDF: no date, fixed fonts, the configuration hash inside.

    Raises:
        ConfigError: a file is missing, or Typst refuses the source; its message names the line.
    """
    root = project_root()
    source, data = root / source, root / data
    for path in (source, data):
        if not resolved(path).is_relative_to(resolved(root)):
            raise ConfigError(f"{path}: must lie in the project folder {root}, the only one that Typst reads")
    check_output(out)
    figures = read_json(data).get("figures", {}).values() if data.suffix == ".json" else ()
    write_artifact(
        out,
        lambda path, key: path.write_bytes(typeset(source, data, key)),
        config={"environment": environment()},
        inputs=[source, data, root / STYLE, *(root / figure["file"].lstrip("/") for figure in figures)],
        code=imported_modules(__name__),
        packages=(*PACKAGES, "typst"),
        rule=source.stem,
    )
