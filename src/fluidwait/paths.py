"""Where the project's files are, and how a file gets its final name only when it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fluidwait.config import ConfigError

ROOT_VARIABLE = "FLUIDWAIT_ROOT"


def project_root() -> Path:
    """The folder that holds ``config/``, ``data/`` and ``workflow/``, as an absolute path.

    In this order: the environment variable ``FLUIDWAIT_ROOT``; the nearest folder at or above the current one that
    holds ``Snakefile`` and ``src/fluidwait``; the checkout the package lies in.

    Raises:
        ConfigError: ``FLUIDWAIT_ROOT`` is not a folder, or none of the three exists.
    """
    if chosen := os.environ.get(ROOT_VARIABLE):
        root = Path(chosen).expanduser()
        if not root.is_dir():
            raise ConfigError(f"{ROOT_VARIABLE}={chosen}: no such folder")
        return root.resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "Snakefile").is_file() and (folder / "src" / "fluidwait").is_dir():
            return folder
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "src" / "fluidwait").is_dir():
        return checkout
    raise ConfigError(f"{here}: not inside a fluidwait checkout; run from one, or set {ROOT_VARIABLE} to its folder")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is renamed to ``path``, on any error removed.

    Whoever looks at ``path`` sees the old file or the whole new one, also when the process is killed in between.
    The folder is made when it is missing.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
