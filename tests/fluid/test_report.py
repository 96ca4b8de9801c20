from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from fluid_laws import TWO, law

from fluidwait.device.hardware import load_hardware
from fluidwait.fluid.calibrated import calibrated_boundary
from fluidwait.fluid.equilibrium import boundary, equilibrium
from fluidwait.fluid.report import threshold_table
from fluidwait.fluid.thresholds import wait_thresholds
from fluidwait.workload import length_law, load_workload

HARDWARE = load_hardware("a100-80g_llama-2-7b")
CAPACITY = HARDWARE.kv_capacity_tokens
D0, D1 = HARDWARE.time_model("linear")[:2]


def test_rows_are_what_the_functions_say():
    frame, summary = threshold_table(TWO, [12.0, 22.0, 60.0, 140.0, 200.0], HARDWARE, chunk=256)
    rows = frame.to_dicts()
    state, found = equilibrium(TWO, 12.0, D0, D1), wait_thresholds(TWO, 12.0, D0, D1, CAPACITY)
    assert rows[0]["load"] == state.load
    assert rows[0]["memory_share"] == pytest.approx(state.memory / CAPACITY)
    assert rows[0]["n_star"] == pytest.approx(state.per_stage.tolist())
    assert rows[0]["thresholds"] == found.n.tolist()
    assert rows[0]["note"] == ""
    assert [r["reason"] for r in rows] == ["", "", "", "memory", "unstable"]
    assert [r["calibrated_reason"] for r in rows] == ["", "", "time", "time", "time"]
    assert rows[1]["calibrated_iteration_time"] > rows[1]["iteration_time"]
    assert rows[2]["note"] == "calibrated model unstable: time"
    assert rows[4]["iteration_time"] is rows[4]["memory"] is rows[4]["thresholds"] is rows[4]["n_star"] is None
    assert summary["policy"] == "wait"
    assert summary["boundary_rate"] == boundary(TWO, D0, D1, CAPACITY)
    edge = calibrated_boundary(TWO, HARDWARE.time_model("profile"), CAPACITY, chunk=256)
    assert summary["calibrated_boundary"]["rate"] == edge.rate


def test_dictionary_is_json_and_holds_the_table():
    frame, summary = threshold_table(TWO, [12.0, 200.0], HARDWARE, segments=2)
    again = json.loads(json.dumps(summary, allow_nan=False))
    assert pl.DataFrame(again["rates"], schema=frame.schema).equals(frame)
    assert again["policy"] == "nested_wait"
    assert again["boundaries"] == [20, 50]
    assert frame["thresholds"].to_list() == [[2, 1], None]


def test_many_types_get_nested_thresholds_in_four_segments():
    many = law([8] * 40, np.arange(1, 41), np.ones(40))
    frame, summary = threshold_table(many, [50.0], HARDWARE)
    assert summary["boundaries"] == [10, 20, 30, 40]
    assert len(frame["thresholds"][0]) == 4
    assert frame["n_star"][0] is None


def test_real_lengths_reproduce_the_memory_table_of_the_paper():
    lmsys = length_law(load_workload("lmsys-chat-1m"))
    frame, summary = threshold_table(lmsys, [50, 60, 70, 80], HARDWARE, segments=5)
    # the shipped table is binned, and near load 1 the memory multiplies the error of the mean work by 1 / (1 - load)
    assert frame["memory"].to_list() == pytest.approx([34377, 55758, 100327, 250509], rel=0.03)
    assert summary["boundary_rate"] == pytest.approx(74.1, rel=5e-3)
    assert frame["reason"].to_list()[3] == "memory"
