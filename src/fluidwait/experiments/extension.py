"""An experiment that extends another: its file says what differs."""

from __future__ import annotations

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
        ConfigError: a file is missing, the files extend each other in a circle, or ``null`` leaves out what the base
            has not.
    """
    seen, layers = [path], [load_yaml(path)]
    while "extends" in layers[-1]:
        file = _base_of(seen[-1], layers[-1].pop("extends"))
        if file.resolve() in [other.resolve() for other in seen]:
            raise ConfigError(f"{seen[-1]}: extends: '{file.stem}' extends this experiment in turn")
        seen.append(file)
        layers.append(load_yaml(file))
    whole = layers.pop()
    for file, own in zip(reversed(seen[:-1]), reversed(layers), strict=True):
        whole = _over(whole, own, str(file))
    return whole


def file_of(name: str | Path) -> Path:
    """The file of the experiment of this name."""
    return project_root() / "config" / "experiments" / f"{name}.yaml"


def _base_of(path: Path, base: Any) -> Path:
    """The file of the experiment that is extended."""
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{path}: extends: must be the name of an experiment, found {base!r}")
    file = file_of(base)
    if Path(base).name != base or not is_file(file):
        known = sorted(other.stem for other in file_of("x").parent.glob("*.yaml") if other.is_file())
        raise ConfigError(f"{path}: extends: there is no experiment '{base}'{nearest(Path(base).stem, known)}")
    return file


def _over(base: dict[str, Any], own: dict[str, Any], where: str) -> dict[str, Any]:
    merged = _merged(base, own, where)
    for key in MERGED:
        entries, changes = base.get(key), own.get(key)
        if not isinstance(entries, dict) or not isinstance(changes, dict):
            continue  # replaced, left out, or of a wrong type, which the whole is checked for
        merged[key] = _merged(entries, changes, f"{where}: {key}")
        for name, change in changes.items() if key == "scales" else ():
            if isinstance(entries.get(name), dict) and isinstance(change, dict):
                merged[key][name] = _merged(entries[name], change, f"{where}: {key}.{name}")
    return merged


def _merged(base: dict[str, Any], own: dict[str, Any], where: str) -> dict[str, Any]:
    for key, value in own.items():
        if value is None and key not in base:
            hint = nearest(str(key), [str(name) for name in base])
            raise ConfigError(f"{where}: {key}: null leaves out a key that the base does not have{hint}")
    return {key: value for key, value in (base | own).items() if key not in own or value is not None}
