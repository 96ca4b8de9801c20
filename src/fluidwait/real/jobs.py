"""What the workflow needs to know about the real engine: which bundles there are to draw, and when to record anew."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from fluidwait.artifacts.canonical import config_hash
from fluidwait.artifacts.code import code_fingerprint, imported_modules
from fluidwait.artifacts.environment import package_versions
from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.paths import project_root
from fluidwait.drawing import style
from fluidwait.real import bundle as bundles
from fluidwait.real import draw, pace, tables
from fluidwait.real.figures import FIGURES
from fluidwait.real.target import load_target

TARGETS = ("cpu", "gpu")
TABLES = {"e9": ("generations", "fit", "pairs", "reality"), "e10": ("runs", "summary", "gain", "steps")}
"""Tables of each experiment, below ``results/<scale>/<experiment>/<machine>``, without suffix."""

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


def figures() -> list[str]:
    return list(FIGURES)


@cache
def record_key(name: str) -> str:
    """Key of a recording: a changed target, scheduler or policy measures again."""
    target = load_target(name)
    code = code_fingerprint(target.code())
    return config_hash({"target": target.model_dump(exclude={"budget"}), "code": code, "meter": pace.COMPUTATION})[:16]


@cache
def table_key() -> str:
    return config_hash({"code": code_fingerprint(tables.CODE), "packages": package_versions()})[:16]


@cache
def figure_key() -> str:
    modules = imported_modules(draw.__name__)
    return config_hash({"code": code_fingerprint(modules), "packages": package_versions()})[:16]


def _relative(folder: Path) -> str:
    return folder.relative_to(project_root()).as_posix()
