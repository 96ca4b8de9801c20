"""How numbers are written in tables and sentences: four digits, a dash for nothing."""

from __future__ import annotations

import math


def number(value: float | None, unit: float = 1.0) -> str:
    """Of ``value`` x ``unit``, without an exponent for what is counted in thousands."""
    if value is None or math.isnan(value):
        return "-"
    value = value * unit
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def plain_number(value: float | None) -> str:
    """As :func:`number`, but five decimals at most where those have an exponent, and no minus sign on a zero."""
    shown = number(value)
    if "e" in shown and value is not None:
        shown = f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.5f}".rstrip("0").rstrip(".")
    return "0" if shown in ("-0", "") else shown
