"""Names of scales, and the sets of seeds that they can ask for."""

from __future__ import annotations

import re

SEED_STEP = 10_000
"""Between the seeds of two seed sets."""


def split_scale(name: str) -> tuple[str, int]:
    """A scale's name and its seed set: ``paper`` is ("paper", 0), ``paper-seeds2`` the same size on other seeds."""
    other = re.fullmatch(r"(.+)-seeds([1-9][0-9]{0,5})", name)
    return (other[1], int(other[2])) if other else (name, 0)
