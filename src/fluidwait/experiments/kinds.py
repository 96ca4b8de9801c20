"""Kinds of figures and tables of an experiment: files found by name, shipped or the user's own."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from fluidwait.base.errors import ConfigError, FluidwaitError, nearest
from fluidwait.base.paths import project_root
from fluidwait.experiments.experiment import KEY, Experiment

CALLED = ("make", "caption", "policies", "table", "identity", "check")
"""Functions that a kind has or may have."""

LISTED = ("INPUTS", "FILES", "CODE")
"""Lists of names that a kind has or may have."""

EVERY_EXPERIMENT = ("thresholds", "summary", "stability", "audit")
"""Tables that are no kind."""


class Kind(NamedTuple):
    """A kind of figure or table.

    Attributes:
        name: of its files: the last part of ``figures/<scale>/<experiment>_<name>.png``.
        code: its module, or its file, for a fingerprint of the code.
    """

    name: str
    module: ModuleType
    code: str

    def inputs(self, folder: str, policies: list[str]) -> tuple[str, ...]:
        """The experiment's tables that it reads, in ``folder``, each once."""
        try:
            named = [name.format(policy=key) for name in self.listed("INPUTS") for key in policies]
        except (KeyError, ValueError, IndexError):
            raise ConfigError(f"{self.code}: INPUTS: the only word in braces is {{policy}}") from None
        return tuple(f"{folder}/{name}" for name in dict.fromkeys(named))

    def listed(self, name: str) -> tuple[str, ...]:
        """What the file lists under this name: names of files or modules; nothing where it has no such list.

        Raises:
            ConfigError: it is no list of names.
        """
        found = getattr(self.module, name, ())
        if not isinstance(found, tuple | list) or not all(isinstance(item, str) for item in found):
            raise ConfigError(f"{self.code}: {name} must be a list of names, found {found!r}")
        return tuple(found)


def figure_kind(name: str) -> Kind:
    """A kind of figure, by the name of a file in ``experiments/figures``, or the path of one of the user's.

    Raises:
        ConfigError: there is none, or the file has not what a kind must have.
    """
    return _kind("figures", name, ("INPUTS", "make", "caption"))


def table_kind(name: str) -> Kind:
    """A kind of table; as :func:`figure_kind`."""
    kind = _kind("tables", name, ("table",))
    if kind.name in EVERY_EXPERIMENT:
        raise ConfigError(f"tables: {name}: every experiment has a table '{kind.name}'; give the file another name")
    return kind


def figure_kinds(experiment: Experiment) -> list[Kind]:
    """The figures of an experiment, in its order."""
    return _distinct("figures", [figure_kind(name) for name in experiment.figures])


def table_kinds(experiment: Experiment) -> list[Kind]:
    """The tables of an experiment: those that it lists, and those that its figures read."""
    read = {Path(name).stem for kind in figure_kinds(experiment) for name in kind.listed("INPUTS")}
    own = _distinct("tables", [table_kind(name) for name in experiment.tables])
    known = {kind.name for kind in own}
    return own + [table_kind(name) for name in _shipped("tables") if name in read - known]


def _distinct(key: str, kinds: list[Kind]) -> list[Kind]:
    """These kinds; refuses two files of one name, whose outputs would be one."""
    files: dict[str, str] = {}
    for kind in kinds:
        if (other := files.setdefault(kind.name, kind.code)) != kind.code:
            raise ConfigError(f"{key}: {other} and {kind.code}: two files of one name; give one another name")
    return kinds


def _kind(folder: str, name: str, needed: tuple[str, ...]) -> Kind:
    if name.endswith(".py"):
        module, code = _own(folder, name), name
    else:
        code = f"{_package(folder)}.{name}"
        if name not in _shipped(folder):
            hint = nearest(name, _shipped(folder))
            raise ConfigError(f"{folder}: '{name}' is not a kind of {folder.removesuffix('s')}{hint}")
        module = importlib.import_module(code)
    for part in needed:
        if not hasattr(module, part):
            raise ConfigError(f"{folder}: {name}: defines no '{part}'")
        if part in CALLED and not callable(getattr(module, part)):
            raise ConfigError(f"{folder}: {name}: {part} must be a function")
    kind = Kind(Path(name).stem, module, code)
    for listed in LISTED:
        kind.listed(listed)
    return kind


def _package(folder: str) -> str:
    return f"{__package__}.{folder}"


def _shipped(folder: str) -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / folder)]))


def _own(folder: str, name: str) -> ModuleType:
    """The module of a file of the user's, as it is now."""
    path = project_root() / name
    if not KEY.fullmatch(path.stem):
        raise ConfigError(f"{folder}: {name}: the name of the file consists of letters, digits and _ . + -")
    if not path.is_file():
        near = sorted(other.relative_to(project_root()).as_posix() for other in path.parent.glob("*.py"))
        raise ConfigError(f"{folder}: no such file {name}{nearest(name, near)}")
    if path.stem in _shipped(folder):
        raise ConfigError(f"{folder}: {name}: '{path.stem}' ships with fluidwait; give the file another name")
    spec = importlib.util.spec_from_file_location(f"fluidwait_{folder}_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # as of every file with this suffix
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # before it runs: a dataclass looks its module up
    with _mistakes_of(path, f"{folder}: {name}"):
        spec.loader.exec_module(module)
    for called in CALLED:  # later, when a step is made
        if callable(function := getattr(module, called, None)):
            setattr(module, called, _mistakes_of(path, f"{folder}: {name}")(function))
    return module


@contextlib.contextmanager
def _mistakes_of(path: Path, where: str) -> Iterator[None]:
    """Tell an error that Python finds in a file of the user's in one line: file, line, what."""
    try:
        yield
    except FluidwaitError:
        raise
    except (Exception, SystemExit) as error:
        frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            frames = [error.lineno]
        line = frames[-1] if frames else None
        at = f"{where}:{line}" if line else where
        raise ConfigError(f"{at}: {type(error).__name__}: {error}") from error
