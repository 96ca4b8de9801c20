"""What the workflow needs to know about a study: its tables and figures, and keys that say when a job runs again."""

from __future__ import annotations

from functools import cache
from typing import Any

from fluidwait.artifacts.canonical import config_hash
from fluidwait.artifacts.code import code_fingerprint, imported_modules
from fluidwait.artifacts.environment import package_versions
from fluidwait.drawing import style
from fluidwait.studies import draw, e6, gaps, overflow, scaling, toy
from fluidwait.studies.figures import FIGURES
from fluidwait.studies.registry import load_study

TABLES = {"e6": ("memory", "answers"), "e11": ("scaling", "exponents", "fcfs_gap", "unknown_gap", "toy", "overflow")}
"""Tables of each study, below ``results/<scale>/<study>``, without suffix."""


@cache
def study(name: str) -> Any:
    return load_study(name)


def check(names: list[str], scale: str) -> None:
    """Find every mistake in the configuration before any job starts.

    Raises:
        ConfigError: a study is wrong or lacks the scale; see :func:`fluidwait.studies.registry.load_study`.
    """
    for name in names:
        study(name).scale(scale)
        style.check_words((case.label for case in getattr(study(name), "cases", {}).values()), f"study {name}: cases")
        if study(name).id == "e6":
            e6.resolve(study(name))


def tables(name: str) -> tuple[str, ...]:
    return TABLES[study(name).id]


def figures(name: str) -> tuple[str, ...]:
    return tuple(FIGURES[study(name).id])


def figure_inputs(name: str, figure: str, scale: str) -> list[str]:
    """Tables that a figure reads."""
    return [f"results/{scale}/{name}/{table}" for table in draw.module_of(study(name), figure).INPUTS]


@cache
def key(name: str, table: str, scale: str) -> str:
    """Key of a table (``runs/<part>`` for a part of the runs): what decides it besides files."""
    found = study(name)
    if table.startswith("runs/"):
        cases = found.scaling[table.removeprefix("runs/")]
        return _key(scaling.__name__, scaling.recorded(found, cases, scale, labels=False))
    if table == "scaling":
        return _key(scaling.__name__, scaling.recorded(found, scaling.all_cases(found), scale))
    if table in ("fcfs_gap", "unknown_gap"):
        return _key(gaps.__name__, scaling.recorded(found, getattr(found, table), scale))
    if table == "toy":
        return _key(toy.__name__, toy.recorded(found))
    if table == "overflow":
        return _key(overflow.__name__, overflow.recorded(found, scale))
    return _key(e6.__name__, e6.recorded(found, scale))


@cache
def figure_key(name: str, figure: str, scale: str) -> str:
    """Key of a figure, which depends on its tables (files) and its code."""
    modules = imported_modules(draw.__name__, draw.module_of(study(name), figure).__name__)
    return config_hash({"scale": scale, "code": code_fingerprint(modules), "packages": package_versions()})[:16]


def _key(module: str, parts: dict[str, Any]) -> str:
    code = code_fingerprint(imported_modules(module))
    return config_hash({"parts": parts, "code": code, "packages": package_versions()})[:16]
