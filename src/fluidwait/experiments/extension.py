"""An experiment that extends another: its file says what differs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.paths import is_file, project_root
from fluidwait.base.yaml_files import load_yaml

MERGED = ("scales", "policies")
"""Keys under which an experiment that extends another changes single entries."""


def read_extended(path: Path) -> dict[str, Any]:
    """The keys of an experiment's file over those of the experiment that it ``extends``.

    A key replaces that of the base; under ``scales`` and ``policies`` the entries do, and in a scale its keys. ``null``
    leaves a key of the base out.

    Raises:
        ConfigError: a file is missing, or the files extend each other in a circle.
    """
    seen, layers = [path], [load_yaml(path)]
    while base := layers[-1].pop("extends", None):
        if not isinstance(base, str):
            raise ConfigError(f"{seen[-1]}: extends: must be the name of an experiment, found {base!r}")
        file = file_of(base)
        if not is_file(file):
            hint = nearest(base, sorted(other.stem for other in file.parent.glob("*.yaml")))
            raise ConfigError(f"{seen[-1]}: extends: there is no experiment '{base}'{hint}")
        if file.resolve() in [other.resolve() for other in seen]:
            raise ConfigError(f"{seen[-1]}: extends: '{base}' extends this experiment in turn")
        seen.append(file)
        layers.append(load_yaml(file))
    return functools.reduce(_over, reversed(layers))


def _over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = _merged(base, own)
    for key in MERGED:
        if isinstance(base.get(key), dict) and isinstance(own.get(key), dict):
            merged[key] = _merged(base[key], own[key])
    for name, scale in (own.get("scales") or {}).items() if isinstance(own.get("scales"), dict) else ():
        known = (base.get("scales") or {}).get(name)
        if isinstance(known, dict) and isinstance(scale, dict):
            merged["scales"][name] = _merged(known, scale)
    return merged


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (base | own).items() if key not in own or value is not None}


def file_of(name: str | Path) -> Path:
    """The file of the experiment of this name."""
    return project_root() / "config" / "experiments" / f"{name}.yaml"
