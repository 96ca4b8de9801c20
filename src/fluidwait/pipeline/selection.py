"""What the workflow makes: ``config/config.yaml`` and what ``--config`` changes in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.models import Strict, parse
from fluidwait.base.paths import project_root
from fluidwait.base.scales import split_scale
from fluidwait.base.yaml_files import load_yaml

SCALES = ("quick", "paper")
KINDS = ("experiments", "studies", "real")
"""Folders of ``config`` whose files are named."""

SOURCE = "config/config.yaml or --config"


def _names(value: Any) -> Any:
    """A list; on the command line ``a,b`` will do, and nothing at all."""
    if value is None:
        return []
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_names)]


class Selection(Strict):
    """See config/README.md."""

    scale: str = Field(min_length=1, description="quick, paper, or another key under scales of every experiment")
    experiments: Names = Field(description="names in config/experiments")
    variants: dict[str, Names] = Field(
        default_factory=dict, description="made with an experiment, but for quick scales"
    )
    studies: Names = Field(description="names in config/studies")
    real: Names = Field(description="names in config/real")
    only: Names | None = Field(
        None, description="names of experiments, studies and real targets: make these and nothing else"
    )

    @property
    def is_quick(self) -> bool:
        """Whether the variants, and what takes minutes to record, are left out."""
        return self.scale.startswith("quick")

    def made(self) -> list[str]:
        """The experiments with their variants, each once; under ``only`` just those."""
        variants = {} if self.is_quick else self.variants
        return list(dict.fromkeys(n for name in self.experiments for n in (name, *variants.get(name, []))))


def check_file() -> None:
    """Whether ``config/config.yaml`` is YAML: Snakemake's own words do not say where it is not.

    Raises:
        ConfigError: file, line and column.
    """
    load_yaml(project_root() / "config" / "config.yaml")


def read_selection(config: Mapping[str, Any]) -> Selection:
    """Check the workflow's configuration.

    Raises:
        ConfigError: an unknown key, a name that no file has, or nothing is selected.
    """
    selection = parse(Selection, dict(config), SOURCE)
    if "only" in config and not selection.only:
        raise ConfigError(f"{SOURCE}: only: names nothing (an experiment, a study or a real target, or leave it out)")
    selection = _narrowed(selection)
    if not (selection.experiments or selection.studies or selection.real):
        raise ConfigError(f"{SOURCE}: nothing to make: experiments, studies and real are empty")
    folders = {"experiments": selection.made(), "studies": selection.studies, "real": selection.real}
    for key, names in folders.items():
        _check_names(key, names, project_root() / "config" / key)
    return selection


def check_scale(selection: Selection) -> None:
    """Refuse an unknown scale where neither an experiment nor a study says which there are.

    A job of the real engine is told nothing of the experiments beside it, so that it does not depend on them.

    Raises:
        ConfigError: it is neither ``quick`` nor ``paper``.
    """
    if not selection.experiments and not selection.studies and split_scale(selection.scale)[0] not in SCALES:
        raise ConfigError(f"{SOURCE}: scale: '{selection.scale}' is not defined{nearest(selection.scale, SCALES)}")


def _narrowed(selection: Selection) -> Selection:
    """The selection without what ``only`` does not name.

    Raises:
        ConfigError: a name that no file has.
    """
    if selection.only is None:
        return selection
    kinds = {key: [name for name in selection.only if is_there(key, name)] for key in KINDS}
    known = sorted(path.stem for key in KINDS for path in (project_root() / "config" / key).glob("*.yaml"))
    for name in selection.only:
        if not any(name in names for names in kinds.values()):
            raise ConfigError(f"{SOURCE}: only: no experiment, study or real target '{name}'{nearest(name, known)}")
    return selection.model_copy(update=kinds | {"variants": {}})


def is_there(kind: str, name: str) -> bool:
    """Whether there is a file ``config/<kind>/<name>.yaml``."""
    return name in {path.stem for path in (project_root() / "config" / kind).glob("*.yaml")}


def _check_names(key: str, names: list[str], folder: Path) -> None:
    known = [path.stem for path in folder.glob("*.yaml")]
    for name in names:
        if name not in known:
            hint = nearest(Path(name).stem, sorted(known))
            raise ConfigError(f"{SOURCE}: {key}: no file config/{key}/{name}.yaml{hint}")
