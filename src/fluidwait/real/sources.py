"""Which recordings of the real engine there are to draw, and whether this machine is to be recorded."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.paths import project_root
from fluidwait.drawing import style
from fluidwait.real import bundle as bundles
from fluidwait.real.target import load_target

TARGETS = ("cpu", "gpu")
RECORDINGS = "recordings"
"""Folder of what this checkout measured itself; the bundles below ``data`` come with the project."""


def has_engine() -> bool:
    """Whether vLLM is installed here."""
    return importlib.util.find_spec("vllm") is not None


def check(targets: list[str]) -> None:
    """Find every mistake before any job starts.

    Raises:
        ConfigError: an unknown target, or one whose configuration is wrong.
    """
    for name in targets:
        if name not in TARGETS:
            raise ConfigError(f"config/config.yaml: real: '{name}' is not a target{nearest(name, list(TARGETS))}")
        target = load_target(name)
        style.check_words((curve.label for curve in target.policies.values()), f"config/real/{name}.yaml: policies")


@cache
def sources(targets: tuple[str, ...], measure: bool = True) -> dict[str, str]:
    """Folders of the bundles to draw by the name their results go under, relative to the project.

    A target goes under its own name: on this machine's recording when vLLM is here (a CPU) or one was made (a GPU),
    else on the newest that comes with the project. Other GPU bundles of the project go under their machine's name.

    Args:
        measure: whether the CPU may be measured now; without it only what comes with the project is drawn.
    """
    found = {}
    for name in targets:
        known = [_relative(folder) for folder in bundles.committed(name)]
        fresh = f"{RECORDINGS}/{name}"
        own = name != "cpu" or measure
        if own and ((name == "cpu" and has_engine()) or (project_root() / fresh / bundles.DESCRIPTION).is_file()):
            found[name] = fresh
        elif known:
            found[name] = max(known, key=lambda folder: bundles.read_bundle(project_root() / folder).about.recorded)
        found |= {f"gpu-{Path(folder).name}": folder for folder in known if name == "gpu" and folder != found.get(name)}
    return found


def is_fresh(folder: str) -> bool:
    """Whether the bundle was recorded here, not delivered with the project."""
    return Path(folder).parts[0] == RECORDINGS


def _relative(folder: Path) -> str:
    return folder.relative_to(project_root()).as_posix()
