"""Which prompts of a recorded trace begin alike: the column ``hash_ids``, as numbers of blocks of 16 tokens.

Traces such as Mooncake's (512 tokens a number) and Bailian's (16) publish no prompts, but a number for every block of
tokens of a prompt: where two requests have the same numbers from the first on, their prompts are equal so far.
"""

from __future__ import annotations

import numpy as np

from fluidwait.base.errors import short
from fluidwait.base.tables import Columns

COLUMN = "hash_ids"
BLOCK = 16
"""Tokens of a KV block of vLLM's, and so of a number that is handed on."""


def prompt_blocks(columns: Columns, tokens: int) -> np.ndarray:
    """Numbers of the full blocks of every prompt, an array of N tuples: equal where the prompts are, up to their end.

    Args:
        columns: ``prompt`` (tokens) and :data:`COLUMN`, whole numbers with spaces between them, one for every
            ``tokens`` tokens of the prompt; the last one may stand for fewer.

    Raises:
        ConfigError: a value is missing or no whole number, or there are too few or too many for the prompt.
    """
    known: dict[tuple[int, int], int] = {}  # by the number before, since only what begins alike is alike
    found = np.empty(len(columns["prompt"]), dtype=object)
    for row, (prompt, text) in enumerate(zip(columns["prompt"].tolist(), columns[COLUMN], strict=True)):
        before = -1
        blocks: list[int] = []
        for number in _numbers(columns, row, text, -(-prompt // tokens)):
            before = known.setdefault((before, number), len(known))
            blocks += range(before * tokens // BLOCK, (before + 1) * tokens // BLOCK)
        found[row] = tuple(blocks[: prompt // BLOCK])
    return found


def _numbers(columns: Columns, row: int, text: str | None, needed: int) -> list[int]:
    words = (text or "").split()
    for word in words:
        if not (word.isascii() and word.isdecimal()):
            fault = f"'{short(word)}' is not a whole number; numbers stand with spaces between them"
            raise columns.error(row, COLUMN, fault)
    if len(words) != needed:
        prompt = columns["prompt"][row]
        raise columns.error(
            row, COLUMN, f"{len(words)} numbers for a prompt of {prompt} tokens (nearest valid number: {needed})"
        )
    return [int(word) for word in words]
