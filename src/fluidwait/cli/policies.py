"""``fluidwait policies``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from fluidwait.base.errors import FluidwaitError
from fluidwait.cli.exits import MISUSED, tell
from fluidwait.cli.printing import print_table


def policies() -> None:
    """List the policies that ship with fluidwait, and your own, with their settings and defaults.

    Your own are those that a file in config/policies names, and the files in the project's folder policies.
    """
    from fluidwait.policies import find_module, names

    mistakes: list[str] = []
    for name in names():
        _print_policy(name, find_module(name, "policy"))
    for path, module in _own_policies(mistakes):
        _print_policy(f"{Path(path).stem} ({path})", module)
    for mistake in mistakes:
        tell(mistake)
    if mistakes:
        raise typer.Exit(MISUSED)


def _own_policies(mistakes: list[str]) -> Iterator[tuple[str, Any]]:
    """(path, module) of every policy of the user's, each once; what is wrong with one goes to ``mistakes``."""
    from fluidwait.base.paths import project_root
    from fluidwait.policies import find_module, load_policy

    root = project_root()
    settings = sorted((root / "config" / "policies").glob("*.yaml"))
    named = {path: _policy_of(path, mistakes) for path in settings}
    sources = {f"policies/{path.name}": "folder policies" for path in (root / "policies").glob("[!_]*.py")}
    sources |= {used: str(path) for path, used in named.items() if used.endswith(".py")}
    broken = set()
    for path, source in sorted(sources.items()):
        try:
            yield path, find_module(path, source)
        except FluidwaitError as error:
            mistakes.append(str(error))
            broken.add(path)
    for file, used in named.items():
        if used and used not in broken:
            _note(mistakes, load_policy, file)


def _policy_of(path: Path, mistakes: list[str]) -> str:
    """What stands after ``policy:`` in a file of settings; empty where nothing that can be looked at does."""
    from fluidwait.base.yaml_files import load_yaml

    data = _note(mistakes, load_yaml, path)
    return str(data.get("policy") or "") if data else ""


def _note(mistakes: list[str], load: Callable[[Path], Any], path: Path) -> Any:
    """What ``load`` makes of the file; None, and a line in ``mistakes``, where it refuses it."""
    try:
        return load(path)
    except FluidwaitError as error:
        mistakes.append(str(error))
        return None


def _print_policy(title: str, module: Any) -> None:
    print(f"{title}: {_first_paragraph(module.__doc__ or '')}")
    fields = module.Settings.model_fields.items()
    print_table(None, [(f"  {key}", _default(field), field.description or "") for key, field in fields])
    print()


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split()).rstrip(".").replace("``", "")


def _default(field: Any) -> str:
    if field.is_required():
        return "(required)"
    words = {"True": "true", "False": "false", "None": "none", "inf": ".inf"}  # as YAML has them
    return words.get(str(field.default), str(field.default))
