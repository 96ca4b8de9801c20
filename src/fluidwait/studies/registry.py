"""The studies that ship, and reading one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.models import parse
from fluidwait.base.paths import is_file, project_root
from fluidwait.base.yaml_files import load_yaml
from fluidwait.studies.e6 import E6, check
from fluidwait.studies.e10 import E10
from fluidwait.studies.e11 import E11
from fluidwait.studies.e12 import E12
from fluidwait.studies.study import Study

MODELS: dict[str, type[Study]] = {"e6": E6, "e10": E10, "e11": E11, "e12": E12}
"""The model of each study, by its id."""


def load_study(path_or_name: str | Path) -> Any:
    """Read a study; a name without a suffix means ``config/studies/<name>.yaml``. Its ``id`` tells its kind.

    Raises:
        ConfigError: the file is missing or wrong.
    """
    path = Path(path_or_name)
    if path.suffix != ".yaml":
        path = project_root() / "config" / "studies" / f"{path_or_name}.yaml"
    data = load_yaml(path)
    if "id" not in data:
        raise ConfigError(f"{path}: id: required key is missing (valid: {', '.join(MODELS)})")
    if not isinstance(data["id"], str) or data["id"] not in MODELS:
        raise ConfigError(f"{path}: id: '{data['id']}' is not a study{nearest(str(data['id']), list(MODELS))}")
    study = parse(MODELS[data["id"]], data, path)
    _check_files(study, path)
    return study


def _check_files(study: Study, path: Path) -> None:
    """Whether the files are there that it names; a path of a file is left to whoever reads it."""
    for key, folder, name in study.named_files():
        if Path(name).name == name and not is_file(project_root() / folder / f"{Path(name).stem}.yaml"):
            known = sorted(file.stem for file in (project_root() / folder).glob("*.yaml"))
            raise ConfigError(f"{path}: {key}: no file {folder}/{name}.yaml{nearest(name, known)}")


def check_study(name: str, study: Study, scale: str) -> None:
    """Find mistakes in a study before any of its steps is made.

    Raises:
        ConfigError: it has no such scale, a label that cannot be drawn, or names what is missing or wrong.
    """
    from fluidwait.drawing import style

    study.scale(scale)
    style.check_words((case.label for case in getattr(study, "cases", {}).values()), f"study {name}: cases")
    style.check_words((load.label for load in getattr(study, "loads", {}).values()), f"study {name}: loads")
    if isinstance(study, E6):
        check(study)
    if isinstance(study, E10):
        from fluidwait.studies import clock  # it imports the compiler

        clock.check(study, scale)
    if isinstance(study, E12):
        from fluidwait.studies import frontier

        frontier.check(study, scale)
