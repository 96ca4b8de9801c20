"""Where the project's files are."""

from __future__ import annotations

import os
from pathlib import Path

from fluidwait.base.errors import ConfigError

ROOT_VARIABLE = "FLUIDWAIT_ROOT"


def project_root() -> Path:
    """The folder that holds ``config/``, ``data/`` and ``workflow/``, as an absolute path.

    In this order: the environment variable ``FLUIDWAIT_ROOT``; the nearest folder at or above the current one that
    holds ``Snakefile`` and ``src/fluidwait``; the checkout the package lies in.

    Raises:
        ConfigError: ``FLUIDWAIT_ROOT`` is not a folder, or none of the three exists.
    """
    if chosen := os.environ.get(ROOT_VARIABLE):
        try:
            root = Path(chosen).expanduser()
        except RuntimeError as error:  # ~ without HOME
            raise ConfigError(f"{ROOT_VARIABLE}={chosen}: {error}") from None
        if not is_folder(root):
            raise ConfigError(f"{ROOT_VARIABLE}={chosen}: no such folder")
        return resolved(root)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "Snakefile").is_file() and (folder / "src" / "fluidwait").is_dir():
            return folder
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "src" / "fluidwait").is_dir():
        return checkout
    raise ConfigError(f"{here}: not inside a fluidwait checkout; run from one, or set {ROOT_VARIABLE} to its folder")


def resolved(path: str | Path) -> Path:
    """The absolute path without links.

    Raises:
        ConfigError: links that lead in a circle, or a folder on the way that may not be searched.
    """
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a circle, before Python 3.13
        raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def is_file(path: Path) -> bool:
    """Whether there is a file; a path that is too long, or that may not be looked at, is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder; as :func:`is_file`."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def stamp_of(path: Path) -> tuple[int, int] | None:
    """Time of the last change (ns) and size (bytes) of a file; None where there is none that may be looked at."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size
