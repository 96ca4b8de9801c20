"""The stair of compute times: kernels work on tiles of tokens, so a batch costs what the end of its tile costs."""

from __future__ import annotations

import math

TILE, WIDE_TILE = 64, 128
"""Tokens by which the compute time of a batch grows in steps: up to WIDE_TILE tokens, and beyond."""


def end_of_tile(tokens: float) -> int:
    """The least number of tokens from ``tokens`` on at which the compute time is about to step up."""
    tile = TILE if tokens <= WIDE_TILE else WIDE_TILE
    return tile * math.ceil(tokens / tile)


def beginning_of_tile(end: int) -> int:
    """The least number of tokens of the tile that ends at ``end``."""
    return end - (TILE if end <= WIDE_TILE else WIDE_TILE) + 1
