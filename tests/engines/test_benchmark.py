"""The benchmark of the simulator runs, and finds what it is meant to find."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fluidwait.base.paths import project_root

pytest.importorskip("vidur", reason="Vidur is not installed (pip install 'fluidwait[vidur]')")


def test_quick_benchmark(tmp_path):
    out = tmp_path / "benchmark.json"
    script = project_root() / "benchmarks" / "simulator_vs_vidur.py"
    done = subprocess.run([sys.executable, script, "--quick", "--out", out], capture_output=True, text=True, check=True)
    tables = json.loads(out.read_text())
    assert len(tables["against_vidur"]) == 6
    for row in tables["against_vidur"]:
        assert row["max_apart_s"] <= 1e-9
        assert row["ratio"] > 50  # hundreds to thousands; far below that something is broken
    for row in tables["first_calls"]:
        assert row["load_s"] < row["compile_s"]
    assert [row["requests"] for row in tables["scaling"]] == [10_000]
    assert tables["scaling"][0]["bytes_per_request"] < 2000
    assert done.stdout.count("\n\n") == 2
