"""Files that an artifact was made from: their hashes, and paths that mean the same on every machine."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

from fluidwait.artifacts.canonical import canonical_json, file_sha256
from fluidwait.base.models import Strict
from fluidwait.base.paths import project_root, resolved
from fluidwait.base.text_files import read_text
from fluidwait.base.yaml_files import parse_yaml

Kind = Literal["bytes", "content"]


class Input(Strict):
    """A file that an artifact was made from.

    Attributes:
        path: relative to the project root, with forward slashes; ``$FLUIDWAIT_SHARED/...`` for a file in that folder.
        sha256: of the file's bytes, or of the canonical JSON of its content.
        of: ``bytes``, or ``content`` for YAML, where comments and layout do not count.
    """

    path: str
    sha256: str
    of: Kind


def describe_input(path: str | Path, root: str | Path | None = None) -> Input:
    """The :class:`Input` of a file as it is now.

    Raises:
        ConfigError: the file is missing, unreadable, or YAML that does not parse.
    """
    path, root = Path(path), root_folder(root)
    of: Kind = "content" if path.suffix in (".yaml", ".yml") else "bytes"
    return Input(path=portable(path, root), sha256=input_sha256(path, of), of=of)


def input_sha256(path: Path, of: str) -> str:
    """Of the bytes of a file, or of its content; see :class:`Input`."""
    if of != "content":
        return file_sha256(path)
    content = parse_yaml(read_text(path), path)
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def root_folder(root: str | Path | None) -> Path:
    """The folder that recorded paths are relative to: the project's, when none is given."""
    return resolved(project_root() if root is None else root)


def portable(path: Path, root: Path) -> str:
    """The path as it is recorded; see :class:`Input`."""
    shared = os.environ.get("FLUIDWAIT_SHARED")
    full = resolved(root / path)
    if shared and full.is_relative_to(resolved(shared)) and not full.is_relative_to(root):
        return "$FLUIDWAIT_SHARED/" + full.relative_to(resolved(shared)).as_posix()
    return Path(os.path.relpath(full, root)).as_posix()


def located(recorded: str, root: Path) -> Path:
    """The file that a recorded path means on this machine."""
    head, _, rest = recorded.partition("/")
    if head == "$FLUIDWAIT_SHARED":
        return Path(os.environ.get("FLUIDWAIT_SHARED") or root.parent / "shared") / rest
    return root / recorded
