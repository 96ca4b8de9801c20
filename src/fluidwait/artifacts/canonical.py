"""One JSON text for one value, and hashes of it and of files."""

from __future__ import annotations

import datetime
import enum
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from fluidwait.base.errors import ConfigError


def canonical_json(value: Any) -> str:
    """JSON text that is equal exactly when the values are: sorted keys, no whitespace, floats by ``repr``.

    Models, tuples, paths, dates and NumPy numbers become their plain JSON counterpart; infinities and NaN, which JSON
    cannot say, become the strings ``inf``, ``-inf`` and ``nan`` (which parse back to the same float).

    Raises:
        TypeError: the value holds something that has no canonical form, such as a set.
    """
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def config_hash(config: Mapping[str, Any] | BaseModel) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of ``config``."""
    return hashlib.sha256(canonical_json(config).encode("utf-8", "surrogatepass")).hexdigest()


def file_sha256(path: str | Path) -> str:
    """SHA-256 (64 hex digits) of the bytes of a file.

    Raises:
        ConfigError: the file is missing or unreadable.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


def plain(value: Any) -> Any:
    """The value in what JSON can say; :func:`canonical_json` tells how."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if isinstance(value, os.PathLike):
        return Path(value).as_posix()
    if isinstance(value, datetime.date):  # YAML reads an unquoted date as one
        return value.isoformat()
    if isinstance(value, Mapping):
        return _plain_mapping(value)
    if isinstance(value, list | tuple):
        if set(map(type, value)) <= {float} and all(map(math.isfinite, value)):  # a long table of times, mostly
            return list(value)
        return [plain(item) for item in value]
    raise TypeError(f"no canonical JSON for {type(value).__name__}")


def _plain_mapping(value: Mapping) -> dict[str, Any]:
    items = {key if isinstance(key, str) else canonical_json(key): plain(item) for key, item in value.items()}
    if len(items) != len(value):
        raise TypeError("no canonical JSON for a mapping with both a number and its text as keys")
    return items
