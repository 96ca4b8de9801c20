"""An iteration-time model from operator times: everything but attention by tokens, attention kernels by their shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluidwait.base.errors import LARGEST, ConfigError, nearest, short
from fluidwait.base.tables import column_names, read_columns
from fluidwait.device.fitting import LEAST_TIME, four_digits, nonnegative_fit, six_digits
from fluidwait.device.hardware import Hardware, ModelShape
from fluidwait.device.hardware_file import read_template, write_hardware

OPERATOR_PREFIX, OPERATOR_SUFFIX = "time_stats.", ".median"
MS = 1e-3


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
    header, shape = read_template(template)
    attention_files = [attention_csv] if isinstance(attention_csv, str | Path) else list(attention_csv)
    tokens, seconds = _compute_table(Path(compute_csv), shape)
    slope = slope_beyond(tokens, seconds)
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
    return write_hardware(header, profile, fit, [compute_csv, *attention_files], out)


def _compute_table(path: Path, shape: ModelShape) -> tuple[np.ndarray, np.ndarray]:
    """Distinct token counts i8[n], increasing, and seconds f8[n] of one iteration without attention."""
    operators = [c for c in column_names(path) if c.startswith(OPERATOR_PREFIX) and c.endswith(OPERATOR_SUFFIX)]
    operators = [c for c in operators if c != f"{OPERATOR_PREFIX}emb{OPERATOR_SUFFIX}"]
    if not operators:
        raise ConfigError(f"{path}: no column {OPERATOR_PREFIX}<operator>{OPERATOR_SUFFIX} with operator times")
    sizes = {"n_head": shape.query_heads, "n_kv_head": shape.kv_heads, "n_embd": shape.hidden}
    sizes["n_expanded_embd"] = shape.mlp_hidden
    workers = "num_tensor_parallel_workers"
    columns = read_columns(path, {"num_tokens": 1}, dict.fromkeys((workers, *sizes, *operators), 0))
    used = columns[workers] == 1
    for column, expected in sizes.items():
        for row in np.flatnonzero(used & (columns[column] != expected))[:1]:
            raise columns.error(row, column, f"{columns[column][row]:g} is not {expected}, as {shape.name} has")
    tokens = np.unique(columns["num_tokens"][used])
    if len(tokens) < 2:
        raise ConfigError(f"{path}: column '{workers}': fewer than two token counts with the value 1")
    times = sum((columns[operator] for operator in operators), np.zeros(len(used)))
    medians = [np.median(times[used & (columns["num_tokens"] == count)]) for count in tokens]
    return tokens, six_digits(np.array(medians) * MS * shape.layers)


def slope_beyond(tokens: np.ndarray, seconds: np.ndarray) -> float:
    """Seconds per token beyond the table: the mean slope of its upper half, where single steps no longer show."""
    middle = int(np.searchsorted(tokens, tokens[-1] / 2))
    middle = min(middle, len(tokens) - 2)
    return float(six_digits(max(0.0, (seconds[-1] - seconds[middle]) / (tokens[-1] - tokens[middle]))))


def _attention_rows(path: Path) -> list[tuple[str, int, int, int, float]]:
    """(phase, requests, chunk, cached, ms per layer) of every line."""
    whole = {"num_requests": 1, "chunk_tokens": 0, "cached_tokens": 0}
    columns = read_columns(path, whole, {"median_ms_per_layer": LEAST_TIME}, text=("phase",))
    rows = list(zip(columns["phase"], *(columns[name] for name in (*whole, "median_ms_per_layer")), strict=True))
    for row, (phase, _, chunk, _, _) in enumerate(rows):
        if phase not in ("prefill", "decode"):
            hint = nearest(phase or "", ["prefill", "decode"])
            raise columns.error(row, "phase", f"'{short(phase or '')}' is not a phase{hint}")
        if phase == "prefill" and chunk < 1:
            raise columns.error(row, "chunk_tokens", f"'{chunk}' is out of range, must be 1 to {LARGEST}")
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
    coefficients = nonnegative_fit(x, y, 1 / np.sqrt(y * whole))
    error = x @ coefficients - y
    fit = {
        "points": len(used),
        "mean_relative_error": four_digits(np.abs(error / y).mean()),
        "max_relative_error": four_digits(np.abs(error / y).max()),
        "mean_iteration_error": four_digits(np.abs(error / whole).mean()),
        "max_iteration_error": four_digits(np.abs(error / whole).max()),
    }
    return list(coefficients), fit
