"""CSV files: the only reader, with one clear line for whatever is wrong in one.

:func:`read_columns` reads what a user may have written, :func:`load_table` what the project wrote itself.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from fluidwait.base.errors import LARGEST, ConfigError, nearest, short
from fluidwait.base.text_files import read_text

TABLE_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What Polars raises at a file that is no table."""


def csv_lines(path: str | Path) -> Iterator[str]:
    """Lines of a CSV file as they are, one at a time; the errors of :func:`read_text`."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            yield from file
    except (OSError, ValueError):  # a UnicodeDecodeError is a ValueError
        read_text(path, "CSV text")  # says what is wrong
        raise


def csv_records(path: str | Path, above: int = 0, **dialect: Any) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every record of a CSV file below its first ``above`` lines.

    Raises:
        ConfigError: what :func:`read_text` raises, or a quote without end.
    """
    reader, line = csv.reader(islice(csv_lines(path), above, None), **dialect), above + 1
    try:
        for record in reader:
            yield line, record
            line = above + 1 + reader.line_num
    except csv.Error as error:
        told = f"{error}: a quote without end?" if "field larger" in str(error) else str(error)
        raise ConfigError(f"{path}: line {line}: cannot be read as CSV text ({told})") from None


def lowest(numbers: pl.Series) -> float:
    """The least of a column of numbers; Polars' own method has the type of whatever a column may hold."""
    return cast(float, numbers.min())


def highest(numbers: pl.Series) -> float:
    """The greatest of a column of numbers; as :func:`lowest`."""
    return cast(float, numbers.max())


def load_table(path: str | Path, *, having: Iterable[str] = (), **options: Any) -> pl.DataFrame:
    """A table that the project wrote, with the types that Polars finds or ``options`` of ``polars.read_csv`` say.

    Raises:
        ConfigError: the file is missing, unreadable, or no table with the columns ``having``.
    """
    for _ in csv_lines(path):  # missing, or no text
        pass
    try:
        table = pl.read_csv(path, **options)
    except (*TABLE_ERRORS, OSError) as error:
        raise ConfigError(f"{path}: not the table that it should be ({str(error).splitlines()[0]})") from None
    for column in having:
        if column not in table.columns:
            raise ConfigError(f"{path}: not the table that it should be (it has no column '{column}')")
    return table


def column_names(path: str | Path) -> list[str]:
    """The header of a CSV file. Lines that start with ``#`` above the header are comments.

    Raises:
        ConfigError: the file is missing, unreadable, not UTF-8 text, or empty.
    """
    return _header(Path(path))[1]


class Columns(dict[str, np.ndarray]):
    """Columns of a CSV file by name, arrays of equal length, which know the lines that they come from."""

    def __init__(self, values: Mapping[str, np.ndarray], line_of: _Lines) -> None:
        super().__init__(values)
        self._line_of = line_of

    def error(self, row: int, column: str, fault: str) -> ConfigError:
        """The error of a value, by its row (from 0) in the arrays; names file, line and column."""
        return _error(self._line_of, row, column, fault)


def read_columns(
    path: str | Path,
    whole: Mapping[str, int],
    real: Sequence[str] | Mapping[str, float] = (),
    text: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> Columns:
    """Read the named columns; other columns and blank lines are ignored.

    Args:
        path: a CSV file in UTF-8; see :func:`column_names` for its comments.
        whole: columns of whole numbers with the smallest value allowed in each.
        real: columns of finite numbers, with the smallest value allowed in each where there is one.
        text: columns of text, None where empty.
        optional: columns of numbers, finite or not, NaN where empty.

    Returns:
        Arrays of equal length by column name: int64 for ``whole``, float64 for ``real`` and ``optional``, objects for
        ``text``.

    Raises:
        ConfigError: what :func:`column_names` raises; a column is missing or there twice; there are no rows; a row has
            too many fields; a value is empty, not a number, not whole, or out of range, from the smallest allowed to
            1e9 (names line and column).
    """
    path = Path(path)
    above, header = _header(path)
    wanted = [*whole, *real, *text, *optional]
    for name in wanted:
        if name not in header:
            raise ConfigError(f"{path}: no column '{name}'{nearest(name, [h for h in header if h])}")
        if header.count(name) > 1:
            raise ConfigError(f"{path}: {header.count(name)} columns '{name}'; only one can be meant")
    cells = _text_columns(path, above, header, wanted)
    rows = _without_blank_lines(cells.with_row_index("row"), path, above)
    if rows.is_empty():
        raise ConfigError(f"{path}: no rows below the header")
    line_of = _Lines(path, above, rows["row"])
    least = dict(real) if isinstance(real, Mapping) else dict.fromkeys(real)
    values = {name: _whole(rows[name], line_of, smallest) for name, smallest in whole.items()}
    values |= {name: _real(rows[name], line_of, smallest) for name, smallest in least.items()}
    values |= {name: rows[name].to_numpy() for name in text}
    values |= {name: _optional(rows[name], line_of) for name in optional}
    return Columns(values, line_of)


def _header(path: Path) -> tuple[int, list[str]]:
    """Number of lines above the header, and the header's names."""
    for above, line in enumerate(csv_lines(path)):
        if line.strip() and not line.startswith("#"):
            return above, [name.strip() for name in next(csv_records(path, above, skipinitialspace=True))[1]]
    raise ConfigError(f"{path}: the file is empty")


def _text_columns(path: Path, above: int, header: list[str], names: list[str]) -> pl.DataFrame:
    """The columns as text, null where empty."""
    places = [header.index(name) for name in names]
    in_file_order = sorted(range(len(names)), key=places.__getitem__)
    try:
        frame = pl.read_csv(path, skip_lines=above, infer_schema=False, columns=sorted(places))
    except pl.exceptions.NoDataError:
        raise ConfigError(f"{path}: no rows below the header") from None
    except (*TABLE_ERRORS, OSError) as error:
        raise ConfigError(f"{path}: {_why_unreadable(path, above, len(header), error)}") from None
    frame.columns = [names[i] for i in in_file_order]  # as the header has them, without spaces around
    stripped = frame.with_columns(pl.all().str.strip_chars())
    return stripped.with_columns(pl.when(pl.all() != "").then(pl.all()))


def _without_blank_lines(rows: pl.DataFrame, path: Path, above: int) -> pl.DataFrame:
    empty = pl.all_horizontal(pl.exclude("row").is_null())
    if not rows.select(empty.any()).item():
        return rows
    # Empty in the columns read is not blank when another column has text: that row lacks its values.
    blank = [row for row, (_, record) in enumerate(_records(path, above)) if not any(f.strip() for f in record)]
    return rows.filter(~(empty & pl.col("row").is_in(blank)))


def _why_unreadable(path: Path, above: int, fields: int, error: Exception) -> str:
    try:
        wrong = [(line, len(record)) for line, record in _records(path, above) if len(record) not in (0, fields)]
    except ConfigError as mistake:
        return str(mistake).removeprefix(f"{path}: ")
    for line, found in sorted(wrong, key=lambda w: w[1] < fields):  # a row too short may be a missing value
        return f"line {line}: {found} fields where the header has {fields}"
    return f"cannot be read as CSV text ({str(error).splitlines()[0]})"


def _records(path: Path, above: int) -> islice:
    """Line number and fields of every record below the header."""
    return islice(csv_records(path, above), 1, None)


class _Lines:
    """Line number in the file of a row that was read, looked up only once something is wrong with it."""

    def __init__(self, path: Path, above: int, rows: pl.Series) -> None:
        self.path, self.above, self.rows = path, above, rows

    def __call__(self, row: int) -> int:
        return next(islice(_records(self.path, self.above), self.rows[int(row)], None))[0]


def _whole(text: pl.Series, line_of: _Lines, least: int) -> np.ndarray:
    values = _floats(text)
    _check((values == np.rint(values)) & (values >= least) & (values <= LARGEST), text, values, line_of, least)
    return values.astype(np.int64)


def _real(text: pl.Series, line_of: _Lines, least: float | None) -> np.ndarray:
    values = _floats(text)
    in_range = np.isfinite(values) if least is None else (values >= least) & (values <= LARGEST)
    _check(in_range, text, values, line_of, least, whole=False)
    return values


def _optional(text: pl.Series, line_of: _Lines) -> np.ndarray:
    values = _floats(text)
    said = text.is_not_null().to_numpy() & ~text.str.to_lowercase().eq("nan").fill_null(False).to_numpy()
    _check(~(np.isnan(values) & said), text, values, line_of, None, whole=False)
    return values


def _floats(text: pl.Series) -> np.ndarray:
    """Numbers, NaN where there is none."""
    return text.cast(pl.Float64, strict=False).to_numpy()


def _check(
    good: np.ndarray, text: pl.Series, values: np.ndarray, line_of: _Lines, least: float | None, whole: bool = True
) -> None:
    """Refuse the first value that is not good."""
    if not good.all():
        row = int(np.argmin(good))
        raise _error(line_of, row, text.name, _fault(text[row], values[row], least, whole))


def _fault(text: str | None, value: float, least: float | None, whole: bool) -> str:
    if text is None:
        return "the value is missing"
    if not np.isfinite(value):
        return f"'{short(text)}' is not a number"
    if whole and value != np.rint(value):
        return f"'{short(text)}' is not a whole number (nearest: {value:.0f})"
    return f"'{short(text)}' is out of range, must be {least:g} to {LARGEST}"


def _error(line_of: _Lines, row: int, column: str, fault: str) -> ConfigError:
    return ConfigError(f"{line_of.path}: line {line_of(row)}, column '{column}': {fault}")
