"""An iteration-time model from the times of single kernels of vLLM, batches that mix prefills and decodes included.

The recipe is the same for every device. It was chosen by the errors of kernels alone (docs/real-engine.md has its
history):

1. **Dense operators** by tokens: every layer runs each of them once and the norm twice; embedding and final norm run
   once per iteration. Between two measured numbers of tokens a straight line holds.
2. **Output head and sampler** by requests in the batch, lines in between.
3. **Batches that only decode**: attention as measured, by the number of decodes and the KV tokens of each, lines in
   between.
4. **Batches that prefill**, for every measured number of decodes beside the chunk, none included: launch, token, square
   and context of the chunk, context of the decodes, and the longest request of the batch, by non-negative least
   squares; lines in between. Rows count by 1 / sqrt(attention x iteration), as in
   :mod:`fluidwait.device.operator_times`, those with no more KV tokens than the memory holds.
5. **Decodes of unequal length, alone**, for every measured number of decodes: seconds per token by which the longest
   exceeds the mean. Kept if that lowers the held-out error of these kernels. Beside a prefill nothing is fitted to
   unequal lengths: the longest request is in 4 already, and its error on them is reported.

No time of a recording is an input.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fluidwait.base.errors import ConfigError
from fluidwait.base.models import parse
from fluidwait.base.tables import Columns, read_columns
from fluidwait.device.fitting import LEAST_TIME, four_digits, nonnegative_fit, six_digits
from fluidwait.device.hardware import Alone, Beside, Hardware, by_count
from fluidwait.device.hardware_file import read_template, write_hardware
from fluidwait.device.operator_times import slope_beyond

DENSE, HEAD, ATTENTION, UNEVEN = (f"kernel_{name}.csv" for name in ("dense", "per_sequence", "attention", "skew"))
ONCE = ("embedding", "final_layernorm")
TWICE = ("layernorm",)  # per layer; all others once
US = 1e-6
FOLDS = 5


class Batches(NamedTuple):
    """Measured batches: one chunk at most, and decodes. Arrays of equal length."""

    chunk: np.ndarray  # tokens, 0 without a prefill
    cached: np.ndarray  # tokens before the chunk
    decodes: np.ndarray
    context: np.ndarray  # KV tokens that the decodes read
    longest: np.ndarray  # KV tokens of the longest request
    seconds: np.ndarray  # of all layers

    def rows(self, chosen: np.ndarray) -> Batches:
        return Batches(*(column[chosen] for column in self))


def calibrate_kernels(folder: str | Path, template: dict[str, Any] | str | Path, out: str | Path) -> Hardware:
    """Fit ``timing.profile`` from kernel times and write ``template`` with it to ``out`` (atomically).

    Args:
        folder: holds ``kernel_dense.csv`` (layer, tokens, time_us per layer), ``kernel_per_sequence.csv`` (layer,
            sequences, time_us), ``kernel_attention.csv`` (prefill_chunk, kv_prefill, n_decode, kv_decode, time_us per
            layer) and, if decodes of unequal length were measured, ``kernel_skew.csv`` (n decodes of which nb have
            kv_big cached tokens and the others kvs, beside a chunk of pc tokens on kp cached ones; t_skew_us, and
            t_mean_us when all have kv_mean).
        template: the hardware file without ``timing.profile`` and ``fit`` (or with: they are replaced).

    Raises:
        ConfigError: a file, line or column that cannot be used.
    """
    folder = Path(folder)
    header, shape = read_template(template)
    hardware = parse(Hardware, header, template if not isinstance(template, dict) else "template")
    room = hardware.kv_blocks * hardware.block_size
    tokens, seconds = _dense(folder / DENSE, shape.layers)
    sequences, head = _summed(folder / HEAD, "sequences", {})
    batches = _attention(folder / ATTENTION, shape.layers)
    batches = batches.rows((batches.chunk == 0) | (batches.cached + batches.chunk + batches.context <= room))
    whole = batches.seconds + np.interp(batches.chunk + batches.decodes, tokens, seconds)
    alone, beside, fit = _fit_attention(batches, whole, folder / ATTENTION)
    if (folder / UNEVEN).is_file():
        uneven = read_columns(
            folder / UNEVEN, dict.fromkeys(("n", "nb", "pc", "kp", "kv_big", "kvs", "kv_mean"), 0), TIMES
        )
        alone, fit["unequal_decodes"] = _fit_uneven(uneven, alone, room)
        fit["unequal_beside_prefill"] = _judge_uneven(uneven, beside, room)
    profile = {
        "between": "linear",
        "compute_slope": slope_beyond(tokens, seconds),
        "attention": {"alone": alone.model_dump(), "beside": beside.model_dump()},
        "per_sequence": {"requests": sequences.tolist(), "seconds": head.tolist()},
        "tokens": tokens.tolist(),
        "seconds": seconds.tolist(),
    }
    fit = {"dense": _between(tokens, seconds), "head_and_sampler": _between(sequences, head), **fit}
    inputs = [folder / name for name in (DENSE, HEAD, ATTENTION, UNEVEN) if (folder / name).is_file()]
    return write_hardware(header, profile, fit, inputs, out)


# --- tables ----------------------------------------------------------------------------------------------------------


def _dense(path: Path, layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of tokens i8[n], increasing, and seconds f8[n] of an iteration without attention, head and sampler."""
    return _summed(path, "tokens", dict.fromkeys(ONCE, 1) | dict.fromkeys(TWICE, 2 * layers), layers)


def _summed(path: Path, by: str, times: dict[str, int], otherwise: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Measured numbers and the seconds that all operators take, each as often as ``times`` says.

    Raises:
        ConfigError: an operator was not measured at a number at which another was.
    """
    columns = read_columns(path, {by: 1}, {"time_us": LEAST_TIME}, text=("layer",))
    counts = np.unique(columns[by])
    total = np.zeros(counts.size)
    for layer in dict.fromkeys(columns["layer"]):
        own = columns["layer"] == layer
        at, first = np.unique(columns[by][own], return_index=True)
        if not np.array_equal(at, counts):
            missing = sorted(set(counts.tolist()) - set(at.tolist()))
            raise ConfigError(f"{path}: column 'layer': '{layer}' has no row with {by} = {missing[0]}, others have")
        total += times.get(layer, otherwise) * columns["time_us"][own][first]
    return counts, six_digits(total * US)


def _between(counts: np.ndarray, seconds: np.ndarray) -> dict[str, float | int]:
    """Relative errors of a straight line at every second entry, left out."""
    left = np.arange(counts.size) % 2 == 1
    left[-1] = False
    error = np.interp(counts[left], counts[~left], seconds[~left]) / seconds[left] - 1
    return {"entries": int(counts.size), **_errors(error, "left_out_")}


# --- attention -------------------------------------------------------------------------------------------------------


def _attention(path: Path, layers: int) -> Batches:
    whole = dict.fromkeys(("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"), 0)
    columns = read_columns(path, whole, {"time_us": LEAST_TIME})
    for row in np.flatnonzero((columns["prefill_chunk"] == 0) & (columns["n_decode"] == 0))[:1]:
        raise columns.error(row, "n_decode", "'0' decodes and no prefill chunk are no batch")
    chunk, cached, decodes, each = (columns[name].astype(float) for name in whole)
    return _batches(chunk, cached, decodes, decodes * (each + 1), each + 1, columns["time_us"] * US * layers)


def _batches(chunk, cached, decodes, context, longest, seconds) -> Batches:
    """``longest`` of the decodes; that of the batch may be the one that prefills."""
    longest = np.maximum(np.where(decodes > 0, longest, 0.0), np.where(chunk > 0, cached + chunk, 0.0))
    return Batches(chunk, cached, decodes, context, longest, seconds)


def _fit_attention(batches: Batches, whole: np.ndarray, path: Path) -> tuple[Alone, Beside, dict[str, Any]]:
    """Attention without and with a prefill in the batch, and residuals.

    Raises:
        ConfigError: too few batches of one kind.
    """
    prefills = batches.chunk > 0
    if np.unique(batches.longest[~prefills]).size < 2 or not prefills.any():
        raise ConfigError(f"{path}: column 'prefill_chunk': too few batches with, or without, a prefill")
    alone = _table_alone(batches.rows(~prefills))
    own, whole_alone, whole = batches.rows(prefills), whole[~prefills], whole[prefills]
    weight = 1 / np.sqrt(own.seconds * whole)
    beside = _fit_beside(own, weight)
    fold, held = np.random.default_rng(0).integers(0, FOLDS, weight.size), np.empty(weight.size)
    for k in range(FOLDS):
        held[fold == k] = _time_beside(_fit_beside(own.rows(fold != k), weight[fold != k]), own.rows(fold == k))
    predicted, mixed = _time_beside(beside, own), own.decodes > 0
    fit = {
        "decodes_alone": _left_out(batches.rows(~prefills), whole_alone),
        "prefill": _residuals(predicted[~mixed], own.seconds[~mixed], whole[~mixed]),
        "mixed": _residuals(predicted[mixed], own.seconds[mixed], whole[mixed]),
        "mixed_held_out": _residuals(held[mixed], own.seconds[mixed], whole[mixed]),
    }
    return alone, beside, fit


def _table_alone(batches: Batches) -> Alone:
    """Attention as measured; lengths that were not measured with some number of decodes lie on straight lines."""
    decodes, lengths = np.unique(batches.decodes), np.unique(batches.longest)
    rows = [_by_length(batches.rows(batches.decodes == n), lengths) for n in decodes]
    return Alone(
        decodes=[int(n) for n in decodes],
        lengths=[int(length) for length in lengths],
        seconds=[six_digits(row).tolist() for row in rows],
        uneven=[0.0] * decodes.size,
    )


def _by_length(of: Batches, at: np.ndarray) -> np.ndarray:
    """Seconds at these lengths, on straight lines through the batches; the last line goes on."""
    x, first = np.unique(of.longest, return_index=True)
    y = of.seconds[first]
    slope = max(0.0, (y[-1] - y[-2]) / (x[-1] - x[-2])) if x.size > 1 else 0.0
    return np.interp(at, x, y) + slope * np.maximum(at - x[-1], 0.0)


def _left_out(of: Batches, whole: np.ndarray) -> dict[str, float | int]:
    """Residuals at every second length, left out, of each number of decodes."""
    predicted, judged = of.seconds.copy(), np.zeros(of.seconds.size, dtype=bool)
    for n in np.unique(of.decodes):
        rows = np.flatnonzero(of.decodes == n)
        left = rows[np.argsort(of.longest[rows])][1:-1:2]
        kept = np.setdiff1d(rows, left)
        predicted[left], judged[left] = _by_length(of.rows(kept), of.longest[left]), True
    found = _residuals(predicted[judged], of.seconds[judged], whole[judged])
    return {"entries": int(of.seconds.size)} | {f"left_out_{name}": value for name, value in found.items()}


def _fit_beside(batches: Batches, weight: np.ndarray) -> Beside:
    """The coefficients for every number of decodes."""
    counts, design = np.unique(batches.decodes), _design(batches)
    own = [batches.decodes == count for count in counts]
    found = np.array([nonnegative_fit(design[rows], batches.seconds[rows], weight[rows]) for rows in own])
    names = [name for name in Beside.model_fields if name != "decodes"]
    return Beside(decodes=[int(count) for count in counts], **dict(zip(names, found.T.tolist(), strict=True)))


def _design(of: Batches) -> np.ndarray:
    """A column for each coefficient of :class:`Beside`."""
    prefill = (np.ones_like(of.chunk), of.chunk, of.chunk**2, of.chunk * of.cached)
    return np.column_stack([*prefill, of.longest, of.context])


def _time_alone(alone: Alone, of: Batches) -> np.ndarray:
    """Seconds of batches that only decode."""
    mean, table, uneven = of.context / of.decodes, alone.table(), by_count(alone.decodes, [alone.uneven])
    d = np.minimum(of.decodes.astype(int), len(table) - 1)
    even = np.array([np.interp(m, alone.lengths, row) for m, row in zip(mean, table[d], strict=True)])
    return even + uneven[d, 0] * (of.longest - mean)


def _time_beside(beside: Beside, of: Batches) -> np.ndarray:
    """Seconds of batches that prefill."""
    table = beside.table()
    return (table[np.minimum(of.decodes.astype(int), len(table) - 1)] * _design(of)).sum(axis=1)


# --- unequal lengths -------------------------------------------------------------------------------------------------

TIMES = dict.fromkeys(("t_mean_us", "t_skew_us"), LEAST_TIME)


def _pairs(columns: Columns, room: int, prefills: bool) -> tuple[Batches, Batches]:
    """The same batches with decodes of unequal and of equal length, those that fit the KV memory.

    Their seconds are microseconds as measured, of which only the ratio is used.
    """
    n, few, chunk, cached, big, small, mean = (
        columns[name].astype(float) for name in ("n", "nb", "pc", "kp", "kv_big", "kvs", "kv_mean")
    )
    context = few * (big + 1) + (n - few) * (small + 1)
    used = (context + chunk + cached <= room) & ((chunk > 0) == prefills)
    unequal = _batches(chunk, cached, n, context, big + 1, columns["t_skew_us"])
    equal = _batches(chunk, cached, n, n * (mean + 1), mean + 1, columns["t_mean_us"])
    return unequal.rows(used), equal.rows(used)


def _fit_uneven(columns: Columns, alone: Alone, room: int) -> tuple[Alone, dict[str, Any]]:
    """``alone`` with the cost of unequal lengths, if that lowers the held-out error, and both errors."""
    unequal, equal = _pairs(columns, room, prefills=False)
    if not unequal.seconds.size:
        return alone, {"points": 0}
    ratio, base = unequal.seconds / equal.seconds, _time_alone(alone, equal)
    gap = unequal.longest - unequal.context / unequal.decodes
    extra = ratio * base - _time_alone(alone, unequal)

    def fitted(rows: np.ndarray) -> Alone:
        counts = np.unique(unequal.decodes[rows])
        per = [_slope(gap[own], extra[own], base[own]) for own in (rows & (unequal.decodes == n) for n in counts)]
        return alone.model_copy(
            update={"uneven": six_digits(np.interp(alone.decodes, [1, *counts], [0.0, *per])).tolist()}
        )

    fold, held = np.random.default_rng(0).integers(0, FOLDS, gap.size), np.empty(gap.size)
    for k in range(FOLDS):
        held[fold == k] = _time_alone(fitted(fold != k), unequal.rows(fold == k))
    without = _errors(_time_alone(alone, unequal) / (ratio * base) - 1, "without_")
    with_it = _errors(held / (ratio * base) - 1, "held_out_")
    kept = with_it["held_out_mean"] < without["without_mean"]
    residuals = {"points": int(gap.size), "kept": "yes" if kept else "no", **without, **with_it}
    return fitted(np.ones(gap.size, dtype=bool)) if kept else alone, residuals


def _slope(x: np.ndarray, y: np.ndarray, scale: np.ndarray) -> float:
    """Of a line through 0, not negative, with the least errors relative to ``scale``; 0 where all ``x`` are."""
    square = float((x**2 / scale**2).sum())
    return max(0.0, float((x * y / scale**2).sum()) / square) if square > 0 else 0.0


def _judge_uneven(columns: Columns, beside: Beside, room: int) -> dict[str, Any]:
    """Errors on unequal decodes beside a prefill, to which nothing was fitted, and those if lengths did not matter."""
    unequal, equal = _pairs(columns, room, prefills=True)
    ratio = unequal.seconds / equal.seconds
    predicted = _time_beside(beside, unequal) / _time_beside(beside, equal)
    without, with_it = _errors(1 / ratio - 1, "without_"), _errors(predicted / ratio - 1, "")
    return {"points": int(ratio.size), **without, **with_it}


# --- residuals -------------------------------------------------------------------------------------------------------


def _errors(error: np.ndarray, prefix: str) -> dict[str, float]:
    """Median, mean and largest of relative errors; nothing of none."""
    if not error.size:
        return {}
    size = np.abs(error)
    found = {"median": np.median(size), "mean": size.mean(), "max": size.max()}
    return {prefix + name: four_digits(value) for name, value in found.items()}


def _residuals(predicted: np.ndarray, seconds: np.ndarray, whole: np.ndarray) -> dict[str, float | int]:
    """Errors of the kernels, and as shares of the iteration: their mean, and their mean with the sign."""
    if not seconds.size:
        return {"points": 0}
    own, share = (predicted - seconds) / seconds, (predicted - seconds) / whole
    iteration = {"iteration_error_mean": np.abs(share).mean(), "iteration_error_bias": share.mean()}
    rounded = {name: four_digits(value) for name, value in iteration.items()}
    return {"points": int(seconds.size), **_errors(own, "relative_error_"), **rounded}
