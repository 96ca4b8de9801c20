"""What there is to tell of: the files handed over, by what they are, and what is configured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import is_file, project_root
from fluidwait.base.text_files import read_json as json_value
from fluidwait.base.yaml_files import load_yaml

MEASURED = {"e9": {"title": "Iteration times on real machines"}, "e10": {"title": "A real engine on real machines"}}
"""Experiments without a file of their own: their recordings name the machines."""

Files = Iterable[str | Path]


class Made:
    """The files handed over, by what they are."""

    def __init__(self, scale: str, files: Files) -> None:
        root = project_root()
        self.tables: dict[tuple[str, str], Path] = {}  # by experiment and path below its folder
        self.shared: dict[str, Path] = {}  # by path below the folder of the scale
        self.figures: dict[str, Path] = {}  # by name, the PNG
        for file in files:
            parts = _below(Path(file), root).parts
            if parts[:2] == ("results", scale) and len(parts) > 3:
                self.tables[parts[2], "/".join(parts[3:])] = root / Path(*parts)
            elif parts[:2] == ("results", scale):
                self.shared[parts[2]] = root / Path(*parts)
            elif parts[:2] == ("figures", scale) and parts[-1].endswith(".png"):
                self.figures[Path(parts[-1]).stem] = root / Path(*parts)

    def names(self, known: Mapping[str, Any]) -> set[str]:
        """Experiments and studies that the files belong to."""
        return {name for name, _ in self.tables} | {owner_of(name, known) for name in self.figures} - {""}


def _below(path: Path, root: Path) -> Path:
    full = path if path.is_absolute() else root / path
    if not is_file(full):
        raise ConfigError(f"{path}: no such file")
    return full.relative_to(root) if full.is_relative_to(root) else path


def configured() -> dict[str, dict[str, Any]]:
    """The YAML of every experiment and study, by the file's name, and what is measured on real machines."""
    folders = (project_root() / "config" / name for name in ("experiments", "studies"))
    return MEASURED | {path.stem: load_yaml(path) for folder in folders for path in sorted(folder.glob("*.yaml"))}


def natural(name: str) -> list[Any]:
    """Sorts ``e2`` before ``e10``."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def owner_of(figure: str, known: Mapping[str, Any]) -> str:
    """The experiment of a figure, ``e3_tight`` of ``e3_tight_latency``; nothing for a figure of all experiments."""
    return max((name for name in known if f"{figure}_".startswith(f"{name}_")), key=len, default="")


def read_list(path: Path) -> list[dict[str, Any]]:
    """A JSON list of objects.

    Raises:
        ConfigError: it is not.
    """
    data = json_value(path)
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise ConfigError(f"{path}: not a list of objects")
    return data
