"""The errors that are told in one line, and the words in which they are told."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LARGEST = 1_000_000_000
"""Of any whole number that is read: sums and products of lengths then stay exact, and sizes can be counted up to."""

MOST_NAMES = 60
"""That a message lists."""


class FluidwaitError(Exception):
    """A mistake of the user or of the input, told in one line. The command line prints it without a traceback."""


class ConfigError(FluidwaitError):
    """A configuration file or an input file that cannot be used as it is."""


def short(value: Any) -> str:
    """A wrong value for a message: on one line, and not longer than tells what it is."""
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(word: str, valid: list[str] | tuple[str, ...]) -> str:
    """`` (did you mean 'x'?)``, or the valid names when none is near; empty when there are none."""
    if not valid:
        return ""
    close = difflib.get_close_matches(str(word), list(valid), n=1, cutoff=0.5)
    if close:
        return f" (did you mean '{short(close[0])}'?)"
    listed = ", ".join(map(short, sorted(valid)[:MOST_NAMES]))
    return f" (valid: {listed}{', ...' if len(valid) > MOST_NAMES else ''})"


@contextmanager
def named(where: str) -> Iterator[None]:
    """Put ``where`` in front of an error that does not say it yet."""
    try:
        yield
    except FluidwaitError as error:
        text = str(error)
        raise type(error)(text if where in text else f"{where}: {text}") from error.__cause__
