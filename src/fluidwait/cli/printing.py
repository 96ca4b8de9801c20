"""How tables and JSON appear on the screen, and what is said when a file cannot be written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fluidwait.base.errors import ConfigError
from fluidwait.base.files import check_output


def print_table(header: Sequence[str] | None, rows: Iterable[Sequence[str]]) -> None:
    """Columns two spaces apart, numbers to the right."""
    rows = [*([header] if header else []), *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))] if rows else []
    numeric = [any(_is_number(row[i]) for row in rows) for i in range(len(widths))]
    for row in rows:
        cells = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)]
        print("  ".join(cells).rstrip())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def json_text(value: Any) -> str:
    """JSON with two spaces; infinities and NaN as null, which is what JSON has for them."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy
        return _finite(value.tolist())
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Tell an operating system's refusal to write ``out`` as the user's mistake that it is."""
    check_output(out)
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror or error})") from None
