"""Where the project's files are."""

from __future__ import annotations

import os
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
