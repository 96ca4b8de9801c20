"""Table of the fluid model over a range of rates: what ``fluidwait thresholds`` prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from fluidwait.fluid.calibrated import Semantics, calibrated_boundary, calibrated_equilibrium
from fluidwait.fluid.equilibrium import boundary, equilibrium
from fluidwait.fluid.segments import Boundaries, NestedThresholds, equal_mass_boundaries, nested_thresholds
from fluidwait.fluid.thresholds import Infeasible, Thresholds, wait_thresholds

if TYPE_CHECKING:
    from fluidwait.device.hardware import Hardware
    from fluidwait.device.timing import TimeModel
    from fluidwait.workload import LengthLaw

MOST_TYPES = 16  # with more types the thresholds are those of Nested WAIT, and n* per type is left out
DEFAULT_SEGMENTS = 4

SCHEMA: dict[str, Any] = {
    "rate": pl.Float64,
    "load": pl.Float64,
    "iteration_time": pl.Float64,
    "memory": pl.Float64,
    "memory_share": pl.Float64,
    "n_star": pl.List(pl.Float64),
    "thresholds": pl.List(pl.Int64),
    "threshold_memory": pl.Float64,
    "reason": pl.String,
    "calibrated_iteration_time": pl.Float64,
    "calibrated_memory": pl.Float64,
    "calibrated_in_service": pl.Float64,
    "calibrated_reason": pl.String,
    "note": pl.String,
}


def threshold_table(
    law: LengthLaw,
    rates: Sequence[float],
    hardware: Hardware,
    *,
    boundaries: Boundaries | None = None,
    segments: int | None = None,
    chunk: int | None = None,
    semantics: Semantics = "serving",
    token_budget: float = math.inf,
    cap: float = math.inf,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Equilibrium, thresholds and calibrated equilibrium for each rate, as a table and as a JSON-ready dictionary.

    Columns (null where nothing finite exists; times in s, memory in KV tokens): rate, load, iteration_time (Delta T*),
    memory (M*), memory_share (M*/C), n_star (per type, null with more than 16 types), thresholds and threshold_memory
    (of a full batch), reason (why there are none), calibrated_iteration_time, calibrated_memory,
    calibrated_in_service, calibrated_reason, note.

    The paper's model uses the hardware's linear time model, the calibrated one its profile. Thresholds are those of
    WAIT, one per type; of Nested WAIT, one per segment, when ``boundaries`` or a number of ``segments`` of equal mass
    is given, and with 4 segments when there are more than 16 types.

    The dictionary adds: policy, boundaries, capacity, boundary_rate (M* = C), calibrated_boundary (rate, binding,
    batch).

    Raises:
        ConfigError: a number outside its range, or hardware without one of the two time models.
    """
    linear, profile = hardware.time_model("linear"), hardware.time_model("profile")
    capacity = float(hardware.kv_capacity_tokens)
    limits: dict[str, Any] = {"chunk": chunk, "semantics": semantics, "token_budget": token_budget, "cap": cap}
    if boundaries is None and (segments is not None or len(law.share) > MOST_TYPES):
        boundaries = equal_mass_boundaries(law, segments or DEFAULT_SEGMENTS)
    edge = calibrated_boundary(law, profile, capacity, **limits)
    rows = [
        _paper_columns(law, float(rate), linear, capacity, boundaries)
        | _calibrated_columns(law, float(rate), profile, capacity, limits)
        for rate in rates
    ]
    for row in rows:
        row["note"] = _note(row)
    summary = {
        "policy": "wait" if boundaries is None else "nested_wait",
        "boundaries": None if boundaries is None else [int(b) for b in boundaries],
        "capacity": capacity,
        "boundary_rate": _finite(boundary(law, linear.base, linear.per_kv, capacity)),
        "calibrated_boundary": edge._asdict(),
        "rates": rows,
    }
    return pl.DataFrame(rows, schema=SCHEMA), summary


def _paper_columns(
    law: LengthLaw, rate: float, linear: TimeModel, capacity: float, boundaries: Boundaries | None
) -> dict[str, Any]:
    d0, d1 = linear.base, linear.per_kv
    state = equilibrium(law, rate, d0, d1)
    found: Thresholds | NestedThresholds | None = None
    reason = ""
    try:
        if boundaries is None:
            found = wait_thresholds(law, rate, d0, d1, capacity)
        else:
            found = nested_thresholds(law, rate, boundaries, d0, d1, capacity)
    except Infeasible as error:
        reason = error.reason
    listed = state.stable and len(law.share) <= MOST_TYPES
    return {
        "rate": rate,
        "load": state.load,
        "iteration_time": _finite(state.iteration_time),
        "memory": _finite(state.memory),
        "memory_share": _finite(state.memory / capacity),
        "n_star": state.per_stage.tolist() if listed else None,
        "thresholds": found.n.tolist() if found else None,
        "threshold_memory": found.memory if found else None,
        "reason": reason,
    }


def _calibrated_columns(
    law: LengthLaw, rate: float, profile: TimeModel, capacity: float, limits: dict[str, Any]
) -> dict[str, Any]:
    state = calibrated_equilibrium(law, rate, profile, capacity=capacity, **limits)
    return {
        "calibrated_iteration_time": _finite(state.iteration_time),
        "calibrated_memory": _finite(state.memory),
        "calibrated_in_service": _finite(state.in_service),
        "calibrated_reason": state.reason,
    }


def _note(row: dict[str, Any]) -> str:
    """What the two models say about the rate, in one phrase."""
    paper = f"no thresholds: {row['reason']}" if row["reason"] else ""
    calibrated = f"calibrated model unstable: {row['calibrated_reason']}" if row["calibrated_reason"] else ""
    return "; ".join(part for part in (paper, calibrated) if part)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
