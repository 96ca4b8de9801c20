"""An iteration-time model from whole iterations measured on any device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fluidwait.base.errors import LARGEST, ConfigError, short
from fluidwait.base.tables import Columns, column_names, read_columns
from fluidwait.device.fitting import LEAST_TIME, four_digits, nonnegative_fit, relative_fit, six_digits
from fluidwait.device.hardware import Hardware
from fluidwait.device.hardware_file import read_template, write_hardware
from fluidwait.device.timing import SUMS

KNOT_COUNTS = (0, 4, 8, 16, 32)  # knots tried for the compute time of whole iterations; 0 is a straight line
FOLDS = 5


def calibrate_iterations(
    iterations_csv: str | Path, template: dict[str, Any] | str | Path, out: str | Path
) -> Hardware:
    """Fit ``timing.profile`` from measured iterations and write ``template`` with it to ``out`` (atomically).

    The model is base + compute(tokens) + prefill (launch, request, square, context) + decode (request, context), fitted
    to relative errors. compute is a straight line or a non-decreasing piecewise-linear table; the number of knots is
    the one with the least cross-validated error. prefill_token and per_kv stay 0: tokens = prefill tokens + decodes and
    kv tokens = prefill tokens + cached + decode context, so the data cannot tell them from the other terms.
    A fifth of the rows, held out of that choice and of its fit, gives the reported MAPE and R^2; the
    coefficients written are then refitted to all rows. The paper's linear model is fitted beside it; it is written as
    ``timing.linear`` when the template has none.

    Args:
        iterations_csv: columns tokens, prefills, prefill_tokens, prefill_squares, prefill_context, decodes,
            decode_context, kv_tokens (sums over the batch, as in ``iteration_time``) and seconds. Instead of the sums
            there may be one column ``prefill_chunks`` with ``chunk@cached`` entries separated by ``;``
            (``256@0;128@256``), empty for none, besides decodes, decode_context and seconds. A column ``group``, a
            number per line, is for an engine that plans a batch while one runs: where one iteration ends and the next
            begins is blurred there, so the seconds of each group are fitted as a whole.
        template: as in :func:`calibrate_profile`.

    Raises:
        ConfigError: a file, line or column that cannot be used, or fewer than 20 rows (or groups).
    """
    header, _ = read_template(template)
    path = Path(iterations_csv)
    table = _iterations(path)
    y = _seconds(table)
    if y.size < 20:
        what = "measured iterations" if table["group"].size == y.size else "groups of measured iterations"
        raise ConfigError(f"{path}: {y.size} {what}; at least 20 are needed to fit and to hold some out")
    order = np.random.default_rng(0).permutation(y.size)
    held, train = order[: y.size // FOLDS], order[y.size // FOLDS :]
    knots = _choose_knots(table, train)
    predicted = _predict(table, held, knots, _fit_rows(table, train, knots))
    coefficients = _fit_rows(table, np.arange(y.size), knots)
    everything = _predict(table, np.arange(y.size), knots, coefficients)
    fit = {
        "held_out": {"rows": int(held.size), **_scores(y[held], predicted)},
        "all_rows": {"rows": int(y.size), **_scores(y, everything)},
    }
    d0, d1, fit["linear"] = _fit_linear(table)
    timing = dict(header.get("timing") or {})
    if timing.get("linear") is None and d0 > 0:
        timing["linear"] = {"d0": d0, "d1": d1, "note": "d0 + d1 KV fitted to all measured iterations"}
    return write_hardware(header | {"timing": timing}, _profile_of(knots, coefficients), fit, [path], out)


def _fit_linear(table: dict[str, np.ndarray]) -> tuple[float, float, dict[str, Any]]:
    """The paper's model d0 + d1 KV (s, s/token) fitted to relative errors on all rows, and its scores there."""
    y, kv = _seconds(table), table["kv_tokens"]
    columns = _by_group(table, np.column_stack([np.ones_like(kv), kv]))
    d0, d1 = nonnegative_fit(columns, y, 1 / y)
    scores = {"rows": int(y.size), **_scores(y, columns @ np.array([d0, d1]))}
    return float(d0), float(d1), scores


def _iterations(path: Path) -> dict[str, np.ndarray]:
    """Sums over the batch and seconds, f8[rows] each, and ``group``, i8[rows]: numbers from 0 up in order of the lines.

    Without such a column every line is a group of its own.
    """
    header = column_names(path)
    chunks = "prefill_chunks" in header
    whole = dict.fromkeys(("decodes", "decode_context") if chunks else SUMS, 0)
    if grouped := "group" in header:
        whole["group"] = 0
    columns = read_columns(path, whole, {"seconds": LEAST_TIME}, text=("prefill_chunks",) if chunks else ())
    sums = _sums_of_chunks(columns) if chunks else {name: columns[name].astype(float) for name in SUMS}
    computed = sums["prefill_tokens"] + sums["decodes"]
    for row in np.flatnonzero(sums["tokens"] != computed)[:1]:
        fault = f"{sums['tokens'][row]:.0f} is not prefill_tokens + decodes = {computed[row]:.0f}"
        raise columns.error(row, "tokens", fault)
    group = _numbered(columns["group"]) if grouped else np.arange(len(columns["seconds"]))
    return sums | {"seconds": columns["seconds"], "group": group}


def _numbered(names: np.ndarray) -> np.ndarray:
    """The groups as numbers from 0 up, in the order in which they first occur."""
    _, first, member = np.unique(names, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[member]


def _by_group(table: dict[str, np.ndarray], columns: np.ndarray) -> np.ndarray:
    """Columns f8[rows, k] summed over the iterations of each group, f8[groups, k]."""
    total = np.zeros((int(table["group"].max(initial=-1)) + 1, columns.shape[1]))
    np.add.at(total, table["group"], columns)
    return total


def _seconds(table: dict[str, np.ndarray]) -> np.ndarray:
    """Seconds of each group, f8[groups]."""
    return _by_group(table, table["seconds"][:, None])[:, 0]


def _is_length(text: str) -> bool:
    return text.isdecimal() and len(text) <= 10 and int(text) <= LARGEST


def _sums_of_chunks(columns: Columns) -> dict[str, np.ndarray]:
    """The eight sums of lines that list their prefill chunks as ``chunk@cached;chunk@cached``."""
    rows = []
    for row, text in enumerate(columns["prefill_chunks"]):
        pairs = []
        for entry in filter(None, (e.strip() for e in (text or "").split(";"))):
            chunk, at, cached = entry.partition("@")
            if not at or not _is_length(chunk) or not _is_length(cached) or int(chunk) < 1:
                raise columns.error(row, "prefill_chunks", f"'{short(entry)}' is not chunk@cached, such as 256@0")
            pairs.append((int(chunk), int(cached)))
        decodes, context = int(columns["decodes"][row]), int(columns["decode_context"][row])
        chunks = sum(q for q, _ in pairs)
        squares, cross = sum(q * q for q, _ in pairs), sum(q * k for q, k in pairs)
        kv = sum(q + k for q, k in pairs) + context
        rows.append((chunks + decodes, kv, len(pairs), chunks, squares, cross, decodes, context))
    return dict(zip(SUMS, np.array(rows, float).reshape(-1, len(SUMS)).T, strict=True))


def _design(table: dict[str, np.ndarray], rows: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Columns of the groups ``rows``: base, compute (one per knot, or tokens), launch of prefills, their number,
    squares and context, decodes, decode context.
    """
    q = table["tokens"]
    if knots.size:
        left = np.concatenate([[0.0], knots[:-1]])
        compute = np.clip((q[:, None] - left) / (knots - left), 0.0, None)
        compute[:, :-1] = np.minimum(compute[:, :-1], 1.0)  # the last piece goes on for ever
    else:
        compute = q[:, None]
    terms = ("prefills", "prefill_squares", "prefill_context", "decodes", "decode_context")
    columns = [np.ones_like(q), compute, table["prefills"] > 0, *(table[t] for t in terms)]
    return _by_group(table, np.column_stack(columns))[rows]


def _fit_rows(table: dict[str, np.ndarray], rows: np.ndarray, knots: np.ndarray) -> np.ndarray:
    return relative_fit(_design(table, rows, knots), _seconds(table)[rows])


def _predict(table: dict[str, np.ndarray], rows: np.ndarray, knots: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    return _design(table, rows, knots) @ coefficients


def _choose_knots(table: dict[str, np.ndarray], train: np.ndarray) -> np.ndarray:
    """Token counts where compute may bend: the number of them with the least cross-validated relative error."""
    levels = np.unique(table["tokens"][np.isin(table["group"], train)])
    levels = levels[levels > 0]

    def error(knots: np.ndarray) -> float:
        parts = np.array_split(train, FOLDS)
        misses = []
        for i, part in enumerate(parts):
            rest = np.concatenate([p for j, p in enumerate(parts) if j != i])
            predicted = _predict(table, part, knots, _fit_rows(table, rest, knots))
            misses.append(np.abs(predicted / _seconds(table)[part] - 1))
        return float(np.concatenate(misses).mean())

    counts = [n for n in KNOT_COUNTS if n <= min(levels.size, train.size // 4)]  # four rows to a knot
    candidates = [_spread(levels, n) for n in counts]
    errors = [error(c) for c in candidates]
    near = [i for i, e in enumerate(errors) if e <= 1.05 * min(errors) + 1e-6]  # simplest of those as good as the best
    return candidates[near[0]]


def _spread(levels: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the levels, evenly by rank, the last included."""
    if count == 0:
        return np.empty(0)
    return levels[np.unique(np.linspace(0, levels.size - 1, count).round().astype(int))]


def _profile_of(knots: np.ndarray, coefficients: np.ndarray) -> dict[str, Any]:
    """The fitted coefficients as the fields of ProfileTiming."""
    pieces = max(1, knots.size)
    compute, rest = coefficients[1 : 1 + pieces], coefficients[1 + pieces :]
    prefill = ("prefill_launch", "prefill_request", "prefill_square", "prefill_context")
    names = (*prefill, "decode_request", "decode_context")
    profile = {"between": "linear", "base": float(coefficients[0]), **dict(zip(names, rest, strict=True))}
    if not knots.size:
        return profile | {"compute_slope": float(compute[0])}
    last = knots[-1] - (knots[-2] if knots.size > 1 else 0.0)
    return profile | {
        "compute_slope": float(six_digits(compute[-1] / last)),
        "tokens": [int(k) for k in knots],
        "seconds": list(six_digits(np.cumsum(compute))),
    }


def _scores(y: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """MAPE (a fraction), the largest relative error and R^2 = 1 - residual / total sum of squares."""
    relative = np.abs(predicted / y - 1)
    total = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float(((y - predicted) ** 2).sum()) / total if total > 0 else 0.0
    return {
        "mape": four_digits(relative.mean()),
        "max_relative_error": four_digits(relative.max()),
        "r2": four_digits(r2),
    }
