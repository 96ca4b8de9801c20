"""Text and JSON files, with one clear line for whatever is wrong with one."""

from __future__ import annotations

import difflib
import json
import stat
from pathlib import Path
from typing import Any

from fluidwait.base.errors import ConfigError, nearest

_LOOKS_LIKE = {
    b"\x1f\x8b": "compressed with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"PAR1": "Parquet",
    b"ARROW1": "an Arrow file",
    b"%PDF": "PDF",
    b"\x89PNG": "PNG",
    b"\x89HDF": "HDF5",
    b"SQLite": "an SQLite database",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}
"""First bytes of what is taken for text by mistake."""


def read_text(path: str | Path, kind: str = "text") -> str:
    """The text of a UTF-8 file, without a byte order mark. The only place where text files are read.

    Args:
        kind: what the text should be, for the message.

    Raises:
        ConfigError: the file is missing, unreadable, or not UTF-8; says what it looks like instead.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):  # /dev/zero never ends
            raise ConfigError(f"{path}: cannot be read as {kind} (a device, not a file)")
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{nearest(path.name, _siblings(path))}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(f"{path}: cannot be read as {kind} ({getattr(error, 'strerror', None) or error})") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read as {kind} ({_not_text(content, error)})") from None


def _not_text(content: bytes, error: UnicodeDecodeError) -> str:
    for start, kind in _LOOKS_LIKE.items():
        if content.startswith(start):
            return f"it looks like {kind}; UTF-8 text is needed"
    line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
    kind = "binary data" if b"\0" in content else "text in another encoding"
    return f"line {line}: byte 0x{byte:02x} is not UTF-8; it looks like {kind}"


def read_json(path: str | Path) -> Any:
    """The value of a JSON file.

    Raises:
        ConfigError: what :func:`read_text` raises, or it is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from None


def _siblings(path: Path) -> list[str]:
    try:
        near = [p.name for p in path.parent.iterdir()]
    except OSError:
        return []
    return difflib.get_close_matches(path.name, near, n=1, cutoff=0.5)
