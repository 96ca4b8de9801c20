"""Typst sets the page: one font, the DejaVu Sans that ships with Matplotlib and that the figures are drawn in, and no
date, so that the same inputs give the same bytes on every machine.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from fluidwait.artifacts.environment import PACKAGES, package_versions
from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import project_root, resolved

STYLE = "paper/style.typ"
"""What every document of ``paper/`` looks like."""


def environment() -> dict[str, str]:
    """Versions that decide the report's bytes."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python} | package_versions((*PACKAGES, "typst"))


def typeset(source: Path, data: Path, key: str, **options: Any) -> Any:
    """Bytes of the PDF, or of what ``options`` of ``typst.compile`` ask for.

    Raises:
        ConfigError: Typst refuses the source.
    """
    import matplotlib
    import typst

    root = resolved(project_root())
    try:
        return typst.compile(
            str(resolved(source)),
            root=str(root),
            font_paths=[f"{matplotlib.get_data_path()}/fonts/ttf"],
            ignore_system_fonts=True,
            sys_inputs={"data": f"/{resolved(data).relative_to(root).as_posix()}", "hash": key},
            **options,
        )
    except typst.TypstError as error:
        raise ConfigError(f"{source}: {' '.join((error.diagnostic or error.message).split())}") from None
