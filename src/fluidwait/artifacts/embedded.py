"""The configuration hash inside a file, for formats that have a place for it."""

from __future__ import annotations

import re
from pathlib import Path

from fluidwait.base.errors import ConfigError

HASH_MARK = "fluidwait-config:"
"""What stands before the hash in the metadata of a figure."""


def embedded_hash(path: str | Path) -> str | None:
    """The configuration hash inside a Parquet, PNG, SVG or PDF file; None when it holds none.

    Raises:
        ConfigError: the file is missing, or not what its suffix says.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        import pyarrow.parquet

        try:
            metadata = pyarrow.parquet.read_metadata(path).metadata or {}
        except (OSError, pyarrow.ArrowException):
            raise ConfigError(f"{path}: not a readable Parquet file") from None
        return metadata.get(b"config_hash", b"").decode() or None
    try:
        match = re.search(HASH_MARK.encode() + rb"([0-9a-f]{64})", path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    return match[1].decode() if match else None
