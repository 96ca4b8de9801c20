"""E6: the memory of Nested WAIT, term by term, against the number of segments L.

    base      M^pi = sum_k n_k (l_k + s_k) delta_k                            every stage of every segment full
    queue     sum_{k>=2} (l_k + r_{k-1}) n_k                                  paused below the threshold
    buffer    sum_{k>=2} (l_k + r_{k-1}) ln(L (1 + T/d0) / delta) / theta_k   overflow probability <= delta up to T

With few segments every request counts as longer than it is, so base is large. With many there are many queues between
segments.

**Where the setting is open.** The terms need thresholds for every L, and the paper does not say which. Here
n_k = n_1 prod q_i with q_k = p_k + margin, at most 0.99, or half-way from p_k to 1 where p_k is larger than 0.98
(theta_k > 0 needs q_k > p_k, and q_k < 1 keeps later segments smaller); n_1 = rate x iteration time. A ``Choice`` fixes

* ``cuts``: boundaries at equally likely output lengths (``equal_mass``) or equally long segments (``even``);
* ``margin``: the paper's eta in its experiments is 0.05;
* ``iteration``: the time over which n_1 is collected. ``reference``: Delta T* of the fluid equilibrium at
  ``reference_rate``, for all L and rates. ``empty``: d0. ``full``: d0 + d1 C. ``own``: that of the thresholds
  themselves, Delta T(n), which exists only while segments are fine enough and the rate low enough.

At 500 requests/s d1 W is above 1, so no policy is stable on the device and ``own`` has no solution there: the row is
left empty. ``reference`` then stands for a device with a tenth of d1 (and ten times the memory), on which 500
requests/s have the load that 50 have here. On one that is ten times as fast in d0 as well (the paper's zeta = 10) the
terms at 500 requests/s over T are those at 50 over 10 T.

The thresholds are real-valued: whole ones jump with L. n_1 scales base and queue alike and leaves the buffer alone,
as theta_k depends on the ratios q_k only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field, field_validator

from fluidwait.artifacts.step import Artifact, names
from fluidwait.base.errors import ConfigError
from fluidwait.base.models import Strict
from fluidwait.device.hardware import load_hardware
from fluidwait.fluid.equilibrium import equilibrium
from fluidwait.fluid.safety import required_memory, stage_work
from fluidwait.fluid.segments import continuation_probabilities, equal_mass_boundaries, even_boundaries, segment_prompts
from fluidwait.studies.study import Study, table_product
from fluidwait.workload import LengthLaw, check_fits, input_files, length_law, load_workload

MOST_RATIO = 0.99

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Risk = Annotated[float, Field(gt=0, lt=1)]
TERMS = ("base", "queue", "buffer", "total")


class Choice(Strict):
    """How thresholds follow from a number of segments; see the module."""

    cuts: Literal["equal_mass", "even"] = "equal_mass"
    margin: float = Field(default=0.05, gt=0, lt=1, description="added to the continuation probabilities")
    iteration: Literal["reference", "empty", "full", "own"] = "reference"


class E6Scale(Strict):
    """The numbers of segments to compute."""

    segments: list[Annotated[int, Field(ge=1)]] = Field(min_length=3)

    @field_validator("segments")
    @classmethod
    def _increasing(cls, segments):
        if sorted(set(segments)) != segments:
            raise ValueError("must increase")
        return segments


class E6(Study):
    """See config/README.md for every key."""

    id: Literal["e6"]
    hardware: str = Field(description="file in data/hardware, by name; needs d0 and d1")
    workload: str = Field(description="file in config/workloads, by name")
    rates: list[Positive] = Field(min_length=1, description="requests/s")
    reference_rate: Positive = Field(description="requests/s; see iteration")
    horizons: list[Positive] = Field(min_length=1, description="T, s")
    risks: list[Risk] = Field(min_length=1, description="overflow probabilities delta")
    main: Choice = Choice()
    alternatives: dict[str, Choice] = Field(default_factory=dict, description="other choices, by name")
    scales: dict[str, E6Scale]

    def named_files(self) -> Iterator[tuple[str, str, str]]:
        yield "hardware", "data/hardware", self.hardware
        yield "workload", "config/workloads", self.workload

    def choices(self) -> dict[str, Choice]:
        """All choices by name, ``main`` first."""
        return {"main": self.main} | self.alternatives


class Setting(NamedTuple):
    """A device, its workload, and what the study compares with."""

    law: LengthLaw
    d0: float  # s
    d1: float  # s per KV token
    capacity: float  # KV tokens
    reference: float  # s, Delta T* at the reference rate
    segments: dict  # what `segmented` has computed


def resolve(study: E6) -> Setting:
    """Load what the study names.

    Raises:
        ConfigError: a file is missing or wrong, the device has no d0 and d1, there is no equilibrium at the reference
            rate, or the workload has too few lengths for a number of segments.
    """
    hardware, workload = load_hardware(study.hardware), load_workload(study.workload)
    linear, law = hardware.timing.linear, length_law(workload)
    check_fits(law, hardware.kv_capacity_tokens, f"study {study.id}: workload {workload.name}", hardware.max_model_len)
    if linear is None:
        raise ConfigError(f"study {study.id}: hardware: {hardware.name} has no timing.linear (d0 and d1)")
    reference = equilibrium(law, study.reference_rate, linear.d0, linear.d1)
    if not reference.stable:
        raise ConfigError(
            f"study {study.id}: reference_rate: {study.reference_rate:g} requests/s have no equilibrium (d1 W = "
            f"{reference.load:.3g}); nearest valid: below {study.reference_rate / reference.load:.4g}"
        )
    capacity = hardware.kv_capacity_tokens
    return Setting(law, linear.d0, linear.d1, capacity, reference.iteration_time, {})


def check(study: E6) -> None:
    """Find what :func:`resolve` finds, before anything is written."""
    resolve(study)


def memory(study: E6, scale: str) -> Artifact:
    """The memory terms of the main choice: rate, horizon, delta, segments, base, queue, buffer, total (tokens)."""
    return _product(lambda: terms(study, resolve(study), study.main, study.scale(scale).segments), study, scale)


def answers(study: E6, scale: str) -> Artifact:
    """What the terms say under every choice; see :func:`answer`."""
    return _product(lambda: _answers(study, scale), study, scale)


def _answers(study: E6, scale: str) -> pl.DataFrame:
    setting, rows = resolve(study), []
    for name, choice in study.choices().items():
        table = terms(study, setting, choice, study.scale(scale).segments)
        for rate in study.rates:
            here = table.filter(pl.col("rate") == rate)
            about = {"choice": name, **choice.model_dump(mode="json"), "rate": rate}
            for horizon in study.horizons:
                for risk in study.risks:
                    at = here.filter((pl.col("horizon") == horizon) & (pl.col("delta") == risk)).drop_nulls()
                    rows.append(about | {"horizon": horizon, "delta": risk} | answer(at) | growth(here))
    return pl.DataFrame(rows, infer_schema_length=None)


def terms(study: E6, setting: Setting, choice: Choice, segments: list[int]) -> pl.DataFrame:
    """One row per rate, horizon, delta and number of segments; terms are null where there are no thresholds."""
    rows = []
    for count in segments:
        cut = segmented(setting, choice.cuts, count)
        shape = np.cumprod(np.concatenate([[1.0], ratios(cut.continuation, choice.margin)]))
        first = {rate: first_threshold(setting, choice, rate, float(cut.work @ shape)) for rate in study.rates}
        for horizon, risk in itertools.product(study.horizons, study.risks):
            # theta_k depends on the ratios alone, so thresholds n_1 x shape scale base and queue and keep the buffer
            unit = required_memory(
                shape, cut.continuation, cut.ends, cut.prompts, horizon=horizon, risk=risk, d0=setting.d0
            )
            for rate, n in first.items():
                at = {"rate": rate, "horizon": horizon, "delta": risk, "segments": count}
                values: tuple[Any, ...] = (None,) * 4
                if n is not None:
                    base, queue = n * unit.base, n * unit.queue
                    values = (base, queue, unit.buffer, base + queue + unit.buffer)
                rows.append(at | dict(zip(TERMS, values, strict=True)))
    schema = {"rate": pl.Float64, "horizon": pl.Float64, "delta": pl.Float64, "segments": pl.Int64}
    table = pl.DataFrame(rows, schema=schema | dict.fromkeys(TERMS, pl.Float64))
    return table.sort("rate", "horizon", "delta", "segments", descending=[False, False, True, False])


class Segments(NamedTuple):
    """The segments of a length law, L of them."""

    ends: np.ndarray  # i8[L], boundaries r_1..r_L
    continuation: np.ndarray  # f8[L-1], p_2..p_L
    prompts: np.ndarray  # f8[L], mean prompt of those who reach the segment
    work: np.ndarray  # f8[L], KV tokens with one request in every stage


def segmented(setting: Setting, cuts: str, count: int) -> Segments:
    """``count`` segments at equally likely output lengths or of equal length; computed once for all choices."""
    if (cuts, count) not in setting.segments:
        ends = (equal_mass_boundaries if cuts == "equal_mass" else even_boundaries)(setting.law, count)
        prompts = segment_prompts(setting.law, ends)
        found = Segments(ends, continuation_probabilities(setting.law, ends), prompts, stage_work(ends, prompts))
        setting.segments[cuts, count] = found
    return setting.segments[cuts, count]


def first_threshold(setting: Setting, choice: Choice, rate: float, work: float) -> float | None:
    """n_1 = rate x iteration time; None where the choice has none (``own``).

    ``work`` is the KV tokens of a batch with n_1 = 1. Under ``own``, n_1 = rate (d0 + d1 n_1 work).
    """
    if choice.iteration == "own":
        load = setting.d1 * rate * work
        return rate * setting.d0 / (1.0 - load) if load < 1.0 else None
    full = setting.d0 + setting.d1 * setting.capacity
    return rate * {"reference": setting.reference, "empty": setting.d0, "full": full}[choice.iteration]


def ratios(p: np.ndarray, margin: float) -> np.ndarray:
    """q_k = n_k / n_{k-1}, strictly between p_k < 1 and 1; see the module."""
    return np.minimum(p + margin, np.maximum(MOST_RATIO, (1.0 + p) / 2.0))


def answer(table: pl.DataFrame) -> dict:
    """What one curve (a row per L) says.

    best (L of the least total), best_total, total_first and total_last (at the least and the largest L), u_shaped (the
    least lies inside, and the total falls up to it and rises after it but for 1 % of its own size), base_share (base /
    total at the best L), least_base_share (over all L), base_dominates (base is the largest term at the best L).
    """
    if table.is_empty():
        names = ("best", "best_total", "total_first", "total_last", "u_shaped")
        return dict.fromkeys((*names, "base_share", "least_base_share", "base_dominates", "base_dominates_to"))
    total, base = table["total"].to_numpy(), table["base"].to_numpy()
    least, share = int(np.argmin(total)), base / total
    largest_term = (base >= table["queue"].to_numpy()) & (base >= table["buffer"].to_numpy())
    kept = len(base) if largest_term.all() else int(np.argmin(largest_term))
    return {
        "best": table["segments"][least],
        "best_total": total[least],
        "total_first": total[0],
        "total_last": total[-1],
        "u_shaped": bool(0 < least < len(total) - 1 and _falls_then_rises(total, least)),
        "base_share": share[least],
        "least_base_share": share.min(),
        "base_dominates": bool(largest_term[least]),
        "base_dominates_to": table["segments"][kept - 1] if kept else None,
    }


def _falls_then_rises(total: np.ndarray, least: int, tolerance: float = 0.01) -> bool:
    steps = np.diff(total) / total[:-1]
    return bool(np.all(steps[:least] <= tolerance) and np.all(steps[least:] >= -tolerance))


def growth(table: pl.DataFrame) -> dict:
    """How the buffer grows, from a least-squares plane of the buffer over ln T and ln 1/delta at the largest L.

    buffer_per_decade_horizon, buffer_per_decade_risk (tokens for ten times T, for a tenth of delta), buffer_fit (R^2),
    buffer_span (largest over least buffer). All null without a buffer.
    """
    names = ("buffer_per_decade_horizon", "buffer_per_decade_risk", "buffer_fit", "buffer_span")
    known = table.drop_nulls().filter(pl.col("buffer") > 0)
    if known.is_empty():
        return dict.fromkeys(names)
    known = known.filter(pl.col("segments") == known["segments"].max())
    buffer = known["buffer"].to_numpy()
    across = np.column_stack([np.ones(len(buffer)), np.log10(known["horizon"]), -np.log10(known["delta"])])
    plane, *_ = np.linalg.lstsq(across, buffer, rcond=None)
    spread = np.sum((buffer - buffer.mean()) ** 2)
    fit = 1.0 - float(np.sum((buffer - across @ plane) ** 2) / spread) if spread > 0 else None
    return dict(zip(names, (plane[1], plane[2], fit, buffer.max() / buffer.min()), strict=True))


def recorded(study: E6, scale: str) -> dict:
    """Everything in the configuration that decides the tables."""
    hardware, workload = load_hardware(study.hardware), load_workload(study.workload)
    return study.model_dump(mode="json", exclude={"scales", "title"}) | {
        "segments": study.scale(scale).segments,
        "hardware": hardware.model_dump(mode="json", exclude={"source", "fit"}),
        "workload": workload.model_dump(mode="json"),
    }


def _product(table: Callable[[], pl.DataFrame], study: E6, scale: str) -> Artifact:
    inputs = names(input_files(load_workload(study.workload)))
    return table_product(table, identity=recorded(study, scale), module=__name__, rule="study_memory", inputs=inputs)
