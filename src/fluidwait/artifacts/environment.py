"""What an artifact was made with: package versions and the state of the checkout."""

from __future__ import annotations

import functools
import importlib.metadata
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fluidwait

PACKAGES = ("fluidwait", "numpy", "scipy", "numba", "vidur", "polars", "pyarrow", "matplotlib")
"""Packages whose version can change the bytes of an artifact."""


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Version of each of the packages that is installed."""
    found = {name: fluidwait.__version__ if name == "fluidwait" else _version(name) for name in sorted(names)}
    return {name: version for name, version in found.items() if version is not None}


@functools.cache
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def git_state(root: Path) -> dict[str, Any] | None:
    """``{"commit": ..., "dirty": ...}`` of the checkout at ``root`` when first asked; None without git or a commit."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()
