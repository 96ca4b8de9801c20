"""Fit an iteration-time model from measurements and write it as a hardware file.

Two kinds of input. :func:`calibrate_profile` takes operator times: a table of everything but attention by tokens in the
batch, and attention kernels by their shape. :func:`calibrate_iterations` takes whole iterations measured on any device.
:func:`derive_linear` recovers the paper's d0 and d1 from its memory table.

Coefficients are non-negative least squares: beyond the measurements a batch never takes less time than a part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy  # its parts are loaded when first used
import yaml

from fluidwait.base.errors import LARGEST, ConfigError, nearest, short
from fluidwait.base.files import write_output
from fluidwait.base.models import parse
from fluidwait.base.tables import csv_records
from fluidwait.base.yaml_files import load_yaml
from fluidwait.device.hardware import Hardware, LinearTiming, ModelShape

SUMS = (
    "tokens",
    "prefills",
    "prefill_tokens",
    "prefill_squares",
    "prefill_context",
    "decodes",
    "decode_context",
    "kv_tokens",
)
OPERATOR_PREFIX, OPERATOR_SUFFIX = "time_stats.", ".median"
MS = 1e-3
KNOT_COUNTS = (0, 4, 8, 16, 32)  # knots tried for the compute time of whole iterations; 0 is a straight line
FOLDS = 5
LEAST_TIME = 1e-12  # of a measurement: less is a mistake in its unit, and its weight in a fit has no end
REWEIGHTED = 4  # rounds of weights


class LinearFit(NamedTuple):
    """d0 (s per iteration), d1 (s per KV token) and the largest relative error of the memories they give back."""

    d0: float
    d1: float
    max_relative_error: float


def derive_linear(rates: Sequence[float], memories: Sequence[float], mean_work: float) -> LinearFit:
    """The d0 and d1 behind a table of M* by arrival rate.

    M* = d0 W / (1 - d1 W) with W = rate x mean work, so M*/W = d0 + d1 M*: a straight line, fitted here with relative
    weights.

    Args:
        rates: requests/s, at least two. memories: M* in tokens, one per rate. mean_work: mean w of a request, KV
            tokens x iterations.

    Raises:
        ConfigError: fewer than two pairs, lengths that differ, or a value that is not positive and finite.
    """
    rate, memory = np.asarray(rates, float), np.asarray(memories, float)
    if rate.shape != memory.shape or rate.ndim != 1 or rate.size < 2:
        raise ConfigError(f"memory table: needs at least two (rate, M*) pairs, found {rate.size} and {memory.size}")
    values = np.concatenate([rate, memory, [mean_work]])
    if not np.all(np.isfinite(values) & (values > 0)):
        raise ConfigError("memory table: rates, memories and mean work must be positive and finite")
    work = rate * mean_work
    y = memory / work
    (d0, d1), _ = scipy.optimize.nnls(np.column_stack([np.ones_like(y), memory]) / y[:, None], np.ones_like(y))
    with np.errstate(divide="ignore"):
        again = d0 * work / (1 - d1 * work)
    return LinearFit(float(d0), float(d1), float(np.abs(again / memory - 1).max()))


def calibrate_profile(
    compute_csv: str | Path,
    attention_csv: str | Path | Sequence[str | Path],
    template: dict[str, Any] | str | Path,
    out: str | Path,
) -> Hardware:
    """Fit ``timing.profile`` from operator times and write ``template`` with it to ``out`` (atomically).

    Compute: an iteration is ``layers`` x the sum of all operators but ``emb``, medians, tensor parallel 1. The table is
    kept as measured (a repeated token count: the median of its rows). Between entries the next larger one holds, since
    kernels pad to whole tiles: with every second entry up to 1,024 tokens of the A100 profile left out, that predicts
    it within 1.5 % on average and 6.1 % at worst, a straight line within 2.1 % and 14.6 %. Beyond the table: the mean
    slope of its upper half.

    Attention: per layer, ``prefill`` rows give request, token, square and context coefficients and ``decode`` rows
    launch, request and context. Rows are weighted by 1 / sqrt(attention x (attention + compute)): between relative
    error of the term, which would spend itself on kernels too short to matter, and that of the whole iteration.

    Args:
        compute_csv: columns ``time_stats.<operator>.median`` (ms per layer), ``num_tokens``,
            ``num_tensor_parallel_workers``, and the model's shape.
        attention_csv: one file or several with columns phase (prefill or decode), num_requests, chunk_tokens,
            cached_tokens, median_ms_per_layer.
        template: the hardware file without ``timing.profile`` and ``fit`` (or with: they are replaced).

    Raises:
        ConfigError: a file, line or column that cannot be used; the profile is of another model than the template.
    """
    header, shape = _template(template)
    attention_files = [attention_csv] if isinstance(attention_csv, str | Path) else list(attention_csv)
    tokens, seconds = _compute_table(Path(compute_csv), shape)
    slope = _slope_beyond(tokens, seconds)
    rows = [row for path in attention_files for row in _attention_rows(Path(path))]
    prefill, prefill_fit = _fit_attention("prefill", rows, shape, tokens, seconds, attention_files)
    decode, decode_fit = _fit_attention("decode", rows, shape, tokens, seconds, attention_files)
    profile = {
        "between": "step",
        "compute_slope": slope,
        **dict(zip(("prefill_request", "prefill_token", "prefill_square", "prefill_context"), prefill, strict=True)),
        **dict(zip(("decode_launch", "decode_request", "decode_context"), decode, strict=True)),
        "tokens": [int(t) for t in tokens],
        "seconds": list(seconds),
    }
    fit = {
        "compute": {"entries": len(tokens), "rule": "medians as measured"},
        "prefill_attention": prefill_fit,
        "decode_attention": decode_fit,
    }
    return _write(header, profile, fit, [compute_csv, *attention_files], out)


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
    header, _ = _template(template)
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
    return _write(header | {"timing": timing}, _profile_of(knots, coefficients), fit, [path], out)


def _fit_linear(table: dict[str, np.ndarray]) -> tuple[float, float, dict[str, Any]]:
    """The paper's model d0 + d1 KV (s, s/token) fitted to relative errors on all rows, and its scores there."""
    y, kv = _seconds(table), table["kv_tokens"]
    columns = _by_group(table, np.column_stack([np.ones_like(kv), kv]))
    d0, d1 = _nnls(columns, y, 1 / y)
    scores = {"rows": int(y.size), **_scores(y, columns @ np.array([d0, d1]))}
    return float(d0), float(d1), scores


# ---------------------------------------------------------------- operator profile


def _compute_table(path: Path, shape: ModelShape) -> tuple[np.ndarray, np.ndarray]:
    """Distinct token counts i8[n], increasing, and seconds f8[n] of one iteration without attention."""
    columns = _columns(path)
    operators = [c for c in columns if c.startswith(OPERATOR_PREFIX) and c.endswith(OPERATOR_SUFFIX)]
    operators = [c for c in operators if c != f"{OPERATOR_PREFIX}emb{OPERATOR_SUFFIX}"]
    if not operators:
        raise ConfigError(f"{path}: line 1: no column {OPERATOR_PREFIX}<operator>{OPERATOR_SUFFIX} with operator times")
    sizes = {"n_head": shape.query_heads, "n_kv_head": shape.kv_heads, "n_embd": shape.hidden}
    sizes["n_expanded_embd"] = shape.mlp_hidden
    workers = "num_tensor_parallel_workers"
    samples: dict[int, list[float]] = {}
    for line, row in _read(path, ("num_tokens", workers, *sizes, *operators)):
        if _number(path, line, workers, row) != 1:
            continue
        for column, expected in sizes.items():
            if _number(path, line, column, row) != expected:
                found = short(row[column])
                raise ConfigError(
                    f"{path}: line {line}: column '{column}': {found} is not {expected}, as {shape.name} has"
                )
        tokens = _whole(path, line, "num_tokens", row, least=1)
        samples.setdefault(tokens, []).append(sum(_number(path, line, c, row) for c in operators))
    if len(samples) < 2:
        raise ConfigError(f"{path}: column '{workers}': fewer than two token counts with the value 1")
    tokens = np.array(sorted(samples))
    seconds = np.array([np.median(samples[t]) for t in tokens]) * MS * shape.layers
    return tokens, _round(seconds)


def _slope_beyond(tokens: np.ndarray, seconds: np.ndarray) -> float:
    """Seconds per token beyond the table: the mean slope of its upper half, where single steps no longer show."""
    middle = int(np.searchsorted(tokens, tokens[-1] / 2))
    middle = min(middle, len(tokens) - 2)
    return float(_round(max(0.0, (seconds[-1] - seconds[middle]) / (tokens[-1] - tokens[middle]))))


def _attention_rows(path: Path) -> list[tuple[str, int, int, int, float]]:
    """(phase, requests, chunk, cached, ms per layer) of every line."""
    rows = []
    for line, row in _read(path, ("phase", "num_requests", "chunk_tokens", "cached_tokens", "median_ms_per_layer")):
        phase = row["phase"].strip()
        if phase not in ("prefill", "decode"):
            hint = nearest(phase, ["prefill", "decode"])
            raise ConfigError(f"{path}: line {line}: column 'phase': '{short(phase)}' is not a phase{hint}")
        requests = _whole(path, line, "num_requests", row, least=1)
        chunk = _whole(path, line, "chunk_tokens", row, least=1 if phase == "prefill" else 0)
        cached = _whole(path, line, "cached_tokens", row, least=0)
        rows.append((phase, requests, chunk, cached, _number(path, line, "median_ms_per_layer", row, positive=True)))
    return rows


def _fit_attention(
    phase: str,
    rows: list[tuple],
    shape: ModelShape,
    tokens: np.ndarray,
    seconds: np.ndarray,
    files: Sequence[str | Path],
) -> tuple[list[float], dict[str, float | int]]:
    """Coefficients (s, all layers) of one phase and its residuals, absolute and as a share of the iteration."""
    used = [r for r in rows if r[0] == phase]
    data = np.array([r[1:] for r in used], float).reshape(-1, 4)
    requests, chunk, cached, y = data[:, 0], data[:, 1], data[:, 2], data[:, 3] * MS * shape.layers
    if phase == "prefill":
        x = np.column_stack([requests, requests * chunk, requests * chunk**2, requests * chunk * cached])
        computed = requests * chunk
    else:
        x = np.column_stack([np.ones_like(y), requests, requests * (cached + 1)])
        computed = requests
    if len({r[1:4] for r in used}) < x.shape[1]:
        names = ", ".join(str(f) for f in files)
        raise ConfigError(f"{names}: column 'phase': fewer than {x.shape[1]} different shapes of '{phase}'")
    whole = y + np.interp(computed, tokens, seconds)
    coefficients = _nnls(x, y, 1 / np.sqrt(y * whole))
    error = x @ coefficients - y
    fit = {
        "points": len(used),
        "mean_relative_error": _short(np.abs(error / y).mean()),
        "max_relative_error": _short(np.abs(error / y).max()),
        "mean_iteration_error": _short(np.abs(error / whole).mean()),
        "max_iteration_error": _short(np.abs(error / whole).max()),
    }
    return list(coefficients), fit


# ---------------------------------------------------------------- whole iterations


def _iterations(path: Path) -> dict[str, np.ndarray]:
    """Sums over the batch and seconds, f8[rows] each, and ``group``, i8[rows]: numbers from 0 up in order of the lines.

    Without such a column every line is a group of its own.
    """
    columns = _columns(path)
    chunks = "prefill_chunks" in columns
    needed = ("prefill_chunks", "decodes", "decode_context", "seconds") if chunks else (*SUMS, "seconds")
    rows, groups = [], {}
    for line, row in _read(path, needed):
        sums = _sums_of_chunks(path, line, row) if chunks else [_whole(path, line, c, row, least=0) for c in SUMS]
        named = dict(zip(SUMS, sums, strict=True))
        if named["tokens"] != named["prefill_tokens"] + named["decodes"]:
            raise ConfigError(
                f"{path}: line {line}: column 'tokens': {named['tokens']} is not prefill_tokens + decodes = "
                f"{named['prefill_tokens'] + named['decodes']}"
            )
        group = _whole(path, line, "group", row, least=0) if "group" in columns else len(rows)
        rows.append([*sums, _number(path, line, "seconds", row, positive=True), groups.setdefault(group, len(groups))])
    table = np.array(rows, float).reshape(-1, len(SUMS) + 2)
    named = dict(zip((*SUMS, "seconds", "group"), table.T, strict=True))
    return named | {"group": named["group"].astype(np.int64)}


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


def _sums_of_chunks(path: Path, line: int, row: dict[str, str]) -> list[int]:
    """The eight sums of a line that lists its prefill chunks as ``chunk@cached;chunk@cached``."""
    pairs = []
    for entry in filter(None, (e.strip() for e in row["prefill_chunks"].split(";"))):
        chunk, at, cached = entry.partition("@")
        if not at or not _is_length(chunk) or not _is_length(cached) or int(chunk) < 1:
            raise ConfigError(
                f"{path}: line {line}: column 'prefill_chunks': '{short(entry)}' is not chunk@cached, such as 256@0"
            )
        pairs.append((int(chunk), int(cached)))
    decodes = _whole(path, line, "decodes", row, least=0)
    context = _whole(path, line, "decode_context", row, least=0)
    chunks = sum(q for q, _ in pairs)
    squares, cross = sum(q * q for q, _ in pairs), sum(q * k for q, k in pairs)
    kv = sum(q + k for q, k in pairs) + context
    return [chunks + decodes, len(pairs), chunks, squares, cross, decodes, context, kv]


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
    return _relative(_design(table, rows, knots), _seconds(table)[rows])


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
    names = ("prefill_launch", "prefill_request", "prefill_square", "prefill_context")
    names += ("decode_request", "decode_context")
    profile = {"between": "linear", "base": float(coefficients[0]), **dict(zip(names, rest, strict=True))}
    if not knots.size:
        return profile | {"compute_slope": float(compute[0])}
    last = knots[-1] - (knots[-2] if knots.size > 1 else 0.0)
    return profile | {
        "compute_slope": float(_round(compute[-1] / last)),
        "tokens": [int(k) for k in knots],
        "seconds": list(_round(np.cumsum(compute))),
    }


def _scores(y: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """MAPE (a fraction), the largest relative error and R^2 = 1 - residual / total sum of squares."""
    relative = np.abs(predicted / y - 1)
    total = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float(((y - predicted) ** 2).sum()) / total if total > 0 else 0.0
    return {"mape": _short(relative.mean()), "max_relative_error": _short(relative.max()), "r2": _short(r2)}


# ---------------------------------------------------------------- shared


def _relative(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Non-negative coefficients with the least relative errors.

    Relative to what is predicted, not to what was measured: rows that happened to be measured short would count most,
    and with measurements that scatter by s the fit would be low by 2 s^2 (2 % for s = 0.1). Weights that come from the
    fit before settle in a few rounds.
    """
    coefficients = _nnls(x, y, 1 / y)
    for _ in range(REWEIGHTED):
        coefficients = _nnls(x, y, 1 / np.maximum(x @ coefficients, 1e-3 * y))
    return coefficients


def _nnls(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Non-negative coefficients c minimising sum (weight (x c - y))^2, to six digits so that they print the same."""
    design = x * weight[:, None]
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1.0  # a term that never occurs gets coefficient 0
    coefficients, _ = scipy.optimize.nnls(design / scale, y * weight)
    return _round(coefficients / scale)


def _round(values: Any) -> np.ndarray:
    """To six significant digits: beyond what is measured, and the same on every machine."""
    return np.vectorize(lambda v: float(f"{v:.6g}"), otypes=[float])(values)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _template(template: dict[str, Any] | str | Path) -> tuple[dict[str, Any], ModelShape]:
    """The header of a hardware file, without measured times and residuals, checked."""
    name = "template" if isinstance(template, dict) else str(template)
    header = dict(template) if isinstance(template, dict) else load_yaml(template)
    header.pop("fit", None)
    if isinstance(header.get("timing"), dict):
        header["timing"] = {k: v for k, v in header["timing"].items() if k != "profile"}
    return header, parse(Hardware, header, name).model


def _write(
    header: dict[str, Any], profile: dict[str, Any], fit: dict[str, Any], inputs: Sequence[str | Path], out: str | Path
) -> Hardware:
    """Write the hardware file, its inputs named and pinned by hash; return what was written."""
    source = dict(header.get("source") or {})
    source = {k: v for k, v in source.items() if not k.startswith("sha256 of ")}
    for path in map(Path, inputs):
        source[f"sha256 of {path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    profile = {k: float(v) if isinstance(v, np.floating) else v for k, v in profile.items()}
    if "seconds" in profile:
        profile["seconds"] = [float(s) for s in profile["seconds"]]
    data = {k: v for k, v in header.items() if k not in ("source", "timing")}
    data |= {"source": source, "timing": {**(header.get("timing") or {}), "profile": profile}, "fit": fit}
    hardware = parse(Hardware, data, out)
    write_output(out, yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=110))
    return hardware


class _Dumper(yaml.SafeDumper):
    """Mappings one key a line, number lists wrapped, strings plain."""


_Dumper.add_representer(list, lambda d, v: d.represent_sequence("tag:yaml.org,2002:seq", v, flow_style=True))
_Dumper.add_representer(dict, lambda d, v: d.represent_mapping("tag:yaml.org,2002:map", v.items(), flow_style=False))


def _columns(path: Path) -> list[str]:
    """Names in the first line of a CSV file."""
    return [c.strip() for c in next(csv_records(path), (1, []))[1]]


def _read(path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) of every data line; every needed column is there."""
    present = _columns(path)
    for column in needed:
        if column not in present:
            raise ConfigError(f"{path}: line 1: column '{column}' is missing{_found(column, present)}")
    rows = []
    for line, cells in islice(csv_records(path), 1, None):
        if not cells:
            continue
        if len(cells) != len(present):
            raise ConfigError(f"{path}: line {line}: {len(cells)} cells, the header has {len(present)}")
        rows.append((line, dict(zip(present, cells, strict=True))))
    if not rows:
        raise ConfigError(f"{path}: no data lines")
    return rows


def _found(column: str, present: list[str]) -> str:
    hint = nearest(column, present)
    return hint.replace("did you mean", "nearest column:").replace("?)", ")").replace("(valid:", "(columns:")


def _number(path: Path, line: int, column: str, row: dict[str, str], positive: bool = False) -> float:
    try:
        value = float(row[column])
    except ValueError:
        raise ConfigError(
            f"{path}: line {line}: column '{column}': not a number, found '{short(row[column])}'"
        ) from None
    if not (LEAST_TIME if positive else 0) <= value <= LARGEST:
        bound = f"at most {LARGEST}" if value > LARGEST else "more than 0" if positive else "at least 0"
        raise ConfigError(f"{path}: line {line}: column '{column}': must be {bound}, found {short(row[column])}")
    return value


def _whole(path: Path, line: int, column: str, row: dict[str, str], least: int) -> int:
    value = _number(path, line, column, row)
    if value != int(value) or value < least:
        raise ConfigError(
            f"{path}: line {line}: column '{column}': must be a whole number from {least}, found {short(row[column])}"
        )
    return int(value)


def linear_timing(fit: LinearFit, note: str = "") -> LinearTiming:
    """A :class:`LinearFit` as the ``timing.linear`` of a hardware file, six digits."""
    return LinearTiming(d0=float(_round(fit.d0)), d1=float(_round(fit.d1)), note=note)
