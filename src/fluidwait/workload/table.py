"""Joint histograms of prompt and output lengths: made from a data set, small enough to ship, and read back.

A table is a CSV file with columns ``prompt``, ``output`` and ``count``: each row is one (prompt, output) pair in tokens
that stands for ``count`` requests. Pairs are exact up to 100 tokens and binned beyond (:func:`bin_width`); a row is the
mean of the pairs of its bin, rounded to whole tokens. A law drawn from a table therefore *is* the table: what
:func:`fluidwait.workload.sampling.generate` draws and what the fluid model computes with agree exactly.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.files import write_output
from fluidwait.base.tables import read_columns

EXACT_UP_TO = 100  # tokens: bins are one token wide up to here


class Table(NamedTuple):
    """Joint histogram of lengths, int64 arrays of shape (cells,): tokens, tokens, requests."""

    prompt: np.ndarray
    output: np.ndarray
    count: np.ndarray  # type: ignore[assignment]  # hides tuple.count, which nobody asks of a table


EMPTY = ("refuse", "drop", "one")
"""What :func:`make_table` may do with an empty prompt or output, a length of 0 tokens, which no engine serves."""


class TableSummary(NamedTuple):
    """What :func:`make_table` kept of the data set, in requests, and the cells of the table it made."""

    rows: int
    too_long: int
    empty: int  # of those not too long; dropped, or kept as one token, as asked
    kept: int
    cells: int


def make_table(
    csv_in: str | Path,
    out: str | Path,
    *,
    prompt_column: str = "prompt",
    output_column: str = "output",
    max_prompt: int | None = None,
    max_output: int | None = None,
    max_total: int | None = None,
    empty: str = "refuse",
    source: str | None = None,
) -> TableSummary:
    """Turn a data set of requests into a table file for ``lengths: {kind: table}``.

    Args:
        csv_in: CSV with one request per row; only the two named columns are read.
        out: the table to write; it appears under its name only when it is complete.
        prompt_column, output_column: names of the columns with the lengths, tokens.
        max_prompt, max_output, max_total: longest prompt, output and sum of both kept, tokens, inclusive.
        empty: what becomes of requests with an empty prompt or output: ``refuse`` the data set, ``drop`` them, or take
            the length for ``one`` token. The table's header counts them.
        source: one line saying where the data come from, for the table's header; the file's name when None.

    Raises:
        ConfigError: one line for a file that is missing, empty or unreadable, a missing column, a value that is not
            a whole number of tokens (file, line, column), a limit below 1, empty requests that are not to be there,
            nothing left, or an unwritable ``out``.
    """
    if empty not in EMPTY:
        raise ConfigError(f"empty: must be refuse, drop or one, found '{empty}'{nearest(empty, list(EMPTY))}")
    limits = {"prompt": max_prompt, "output": max_output, "prompt + output": max_total}
    for name, limit in (("max_prompt", max_prompt), ("max_output", max_output), ("max_total", max_total)):
        if limit is not None and limit < 1:
            raise ConfigError(f"{name}: must be at least 1, found {limit}")
    if prompt_column == output_column:
        raise ConfigError(f"{csv_in}: prompts and outputs cannot both be column '{prompt_column}'")
    columns = read_columns(csv_in, {prompt_column: 0, output_column: 0})
    prompt, output = columns[prompt_column], columns[output_column]
    short = _within(prompt, max_prompt) & _within(output, max_output) & _within(prompt + output, max_total)
    bare = short & ((prompt == 0) | (output == 0))
    if empty == "refuse" and bare.any():
        first = int(np.argmax(bare))
        raise ConfigError(
            f"{csv_in}: {np.count_nonzero(bare)} of {bare.size} requests have an empty prompt or output, the first "
            f"{prompt[first]} + {output[first]} in row {first + 1} (say what becomes of them: empty: drop or one)"
        )
    kept = short & ~bare if empty == "drop" else short
    if not kept.any():
        why = "all are too long" if not short.any() else "all are too long or empty"
        raise ConfigError(f"{csv_in}: no request is left of {kept.size}: {why}")
    table = histogram(np.maximum(prompt[kept], 1), np.maximum(output[kept], 1))
    if max_total is not None:  # both means of a cell may have been rounded up
        table = table._replace(prompt=np.minimum(table.prompt, np.maximum(max_total - table.output, 1)))
    summary = TableSummary(
        rows=kept.size,
        too_long=int((~short).sum()),
        empty=int(bare.sum()),
        kept=int(kept.sum()),
        cells=table.count.size,
    )
    header = _header(source or Path(csv_in).name, limits, empty, summary)
    _write(table, header, Path(out))
    return summary


def histogram(prompt: np.ndarray, output: np.ndarray) -> Table:
    """Bin pairs of lengths (int64 of shape (N,), tokens >= 1) and represent every bin by its mean pair.

    Means are rounded half to even, which leaves the overall means in place. Rows are in increasing order.
    """
    cells, member, count = np.unique(
        np.column_stack([bin_upper(prompt), bin_upper(output)]), axis=0, return_inverse=True, return_counts=True
    )
    mean_prompt = np.rint(np.bincount(member.ravel(), prompt, minlength=len(cells)) / count).astype(np.int64)
    mean_output = np.rint(np.bincount(member.ravel(), output, minlength=len(cells)) / count).astype(np.int64)
    return Table(mean_prompt, mean_output, count.astype(np.int64))


def bin_width(length: np.ndarray) -> np.ndarray:
    """Width in tokens of the bin of each length: the smallest w of 1, 2, 5, 10, 20, 50, ... with length <= 100 w.

    So 1 up to 100 tokens, 2 up to 200, 5 up to 500, 10 up to 1000: at most 2.5 % of the length.
    """
    widths = np.array([step * 10**power for power in range(9) for step in (1, 2, 5)], dtype=np.int64)
    return widths[np.searchsorted(EXACT_UP_TO * widths, length, side="left")]


def bin_upper(length: np.ndarray) -> np.ndarray:
    """Largest length of the bin of each length, tokens.

    A bin holds (upper - w, upper] with upper a multiple of w. Round lengths are therefore edges, and shares such as
    P(output <= 50) or P(output > 300) survive the binning exactly.
    """
    width = bin_width(length)
    return -(-length // width) * width


def read_table(path: str | Path, max_prompt: int | None = None, max_output: int | None = None) -> Table:
    """Read a table file, keeping the pairs with ``prompt <= max_prompt`` and ``output <= max_output`` (tokens).

    Raises:
        ConfigError: the file cannot be read or holds a bad value (line and column named), or the limits leave nothing.
    """
    columns = read_columns(path, {"prompt": 1, "output": 1, "count": 1})
    table = Table(columns["prompt"], columns["output"], columns["count"])
    kept = _within(table.prompt, max_prompt) & _within(table.output, max_output)
    if not kept.any():
        shortest = int(np.argmin(table.prompt + table.output))
        raise ConfigError(
            f"{path}: no pair has prompt <= {max_prompt} and output <= {max_output}; "
            f"the shortest is {table.prompt[shortest]} + {table.output[shortest]}"
        )
    return Table(*(column[kept] for column in table))


def _within(length: np.ndarray, limit: int | None) -> np.ndarray:
    return np.ones(length.shape, dtype=bool) if limit is None else length <= limit


def _header(source: str, limits: dict[str, int | None], empty: str, summary: TableSummary) -> list[str]:
    if empty == "drop":
        kept = f"{summary.empty} with an empty prompt or output dropped, {summary.kept} kept"
    else:
        kept = f"{summary.kept} kept, {summary.empty} of them with an empty prompt or output"
        kept += ", counted as 1 token" if empty == "one" else ""
    filters = [f"{name} <= {most}" for name, most in limits.items() if most is not None]
    return [
        "Joint histogram of request lengths, tokens. Each row stands for `count` requests.",
        f"source: {' '.join(source.split())}",
        f"filter: {' and '.join(filters or ['none'])}",
        f"requests: {summary.rows} read, {summary.too_long} too long dropped, {kept}",
        f"cells: {summary.cells}, widths 1 token up to {EXACT_UP_TO}, then 2 up to 200, 5 up to 500, ...; "
        "a row is the rounded mean of its cell",
        "made by: fluidwait table",
    ]


def _write(table: Table, header: list[str], out: Path) -> None:
    rows = np.column_stack(table).tolist()
    text = "".join(f"# {line}\n" for line in header) + "prompt,output,count\n"
    text += "".join(f"{prompt},{output},{count}\n" for prompt, output, count in rows)
    write_output(out, text)
