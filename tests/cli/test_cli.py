"""What the commands do and print."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from command_cases import (
    A100,
    RUN,
    SIMULATE,
    cells,
    fixed,
    hardware,
    measurements,
    question,
    succeeds,
    write,
)

from fluidwait import cli, policies
from fluidwait.artifacts import records
from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import ROOT_VARIABLE
from fluidwait.cli.simulate import Engine
from fluidwait.device.hardware import load_hardware
from fluidwait.stats.metrics import run_metrics
from projects import make_project, plan_of


def test_thresholds_of_a_small_file(capsys):
    printed = succeeds(capsys, "thresholds", write("q.yaml", question(rates=[12, 400])))
    summary = json.loads(succeeds(capsys, "thresholds", "q.yaml", "--json", "-"))
    assert succeeds(capsys, "thresholds", "q.yaml", "--json", "out.json") == printed
    assert json.loads(Path("out.json").read_text()) == summary
    law_work = 21 * (512 + 10)  # (l' + 1)(l + l'/2)
    timing = load_hardware(A100).timing.linear
    expected = timing.d0 / (1 - timing.d1 * 12 * law_work)
    assert summary["rates"][0]["iteration_time"] == pytest.approx(expected, rel=1e-12)
    assert cells(printed, "12 ")[:2] == [f"{1e3 * expected:.4g}", f"{12 * law_work * expected:.0f}"]
    assert cells(printed, "400 ")[:4] == ["-"] * 4
    assert "no thresholds: unstable" in printed and summary["rates"][1]["iteration_time"] is None


def test_thresholds_of_an_experiment(capsys):
    data = question(
        id="e",
        title="t",
        rates={"start": 10, "stop": 14, "step": 2},
        scales={},
        policies={"a": {"use": "sarathi", "label": "A"}},
    )
    printed = succeeds(capsys, "thresholds", write("e.yaml", data))
    small = succeeds(capsys, "thresholds", write("q.yaml", question(rates=[10, 12, 14])))
    assert printed == small


def test_thresholds_per_segment(capsys):
    data = question(workload="two_types", boundaries=[20, 50])
    assert "Nested WAIT, one per segment, ends [20, 50]" in succeeds(capsys, "thresholds", write("q.yaml", data))
    assert "ends [20, 50]" in succeeds(
        capsys, "thresholds", write("q.yaml", question(workload="two_types", segments=2))
    )


def test_segments_beside_boundaries_are_refused(capsys):
    """The boundaries were taken, without a word of the segments."""
    path = write("q.yaml", question(workload="two_types", segments=4, boundaries=[20, 50]))
    assert cli.main(["thresholds", path]) == 2
    assert capsys.readouterr().err.startswith("fluidwait: error: q.yaml: (top level): segments and boundaries both say")


def test_calibrate_iterations_prints_what_it_left_over(capsys):
    path = write("h.yaml", hardware())
    printed = succeeds(capsys, "calibrate", "iterations", measurements(), "--template", path, "--out", "mine.yaml")
    fit = load_hardware("mine.yaml").fit
    assert cells(printed, "held_out  mape") == [f"{fit['held_out']['mape']:.4g}"]
    assert fit["all_rows"]["mape"] < 1e-3  # the measurements are of the fitted form
    assert "wrote mine.yaml" in printed
    succeeds(capsys, *RUN, "--hardware", "mine.yaml")


def test_calibrate_profile_takes_several_attention_files(capsys):
    shape = load_hardware(A100).model
    sizes = f"{shape.query_heads},{shape.kv_heads},{shape.hidden},{shape.mlp_hidden}"
    header = "num_tokens,num_tensor_parallel_workers,n_head,n_kv_head,n_embd,n_expanded_embd,time_stats.mlp.median"
    compute = "\n".join([header, *(f"{q},1,{sizes},{0.1 + q / 1000}" for q in (1, 64, 128, 256))])
    header = "phase,num_requests,chunk_tokens,cached_tokens,median_ms_per_layer"
    chunks = itertools.product((64, 128, 256), (0, 512))
    prefill = "\n".join([header, *(f"prefill,1,{q},{k},{0.01 + 1e-6 * q * (q + k)}" for q, k in chunks)])
    counts = itertools.product((1, 8), (100, 900))
    decode = "\n".join([header, *(f"decode,{n},0,{k},{0.01 + 1e-5 * n * (k + 1)}" for n, k in counts)])
    files = [write(n, f"{t}\n") for n, t in (("c.csv", compute), ("p.csv", prefill), ("d.csv", decode))]
    path = write("h.yaml", hardware())
    printed = succeeds(capsys, "calibrate", "profile", *files, "--template", path, "--out", "mine.yaml")
    assert cells(printed, "prefill_attention  points") == ["6"] and cells(printed, "decode_attention   points") == ["4"]
    assert load_hardware("mine.yaml").timing.profile.tokens == [1, 64, 128, 256]


def test_table_counts_the_requests(capsys):
    data = write("t.csv", "n,in,out\n0,5,7\n1,5,7\n2,900,7\n3,5,90\n")
    columns = ["--prompt-column", "in", "--output-column", "out", "--max-prompt", "499", "--max-output", "50"]
    printed = succeeds(capsys, "table", data, "--out", "deep/o.csv", *columns)
    assert [cells(printed, name) for name in ("rows", "too_long", "kept", "cells")] == [["4"], ["2"], ["2"], ["1"]]
    assert Path("deep/o.csv").read_text().splitlines()[-1] == "5,7,2"


def test_simulate_prints_and_records_the_same_run(capsys):
    printed = succeeds(capsys, *RUN, "--out", "deep/run.parquet")
    (run,) = records.iter_runs("deep/run.parquet")
    assert run.parameters == {"rate": 12.0, "requests": 200, "seed": 1, "replication": 0}
    metrics = run_metrics(run.columns)
    assert cells(printed, "mean latency") == [f"{metrics.mean_latency:.4g}", "s"]
    assert cells(printed, "99 % latency") == [f"{metrics.p99_latency:.4g}", "s"]
    assert cells(printed, "mean time per output token") == [f"{1e3 * metrics.mean_tpot:.4g}", "ms"]
    assert cells(printed, "evictions") == ["0"]
    first = Path("deep/run.parquet").read_bytes()
    assert succeeds(capsys, *RUN, "--out", "deep/run.parquet") == printed
    assert Path("deep/run.parquet").read_bytes() == first
    assert succeeds(capsys, "verify", "deep") == "1 artifacts checked, 0 findings\n"


def test_what_is_compiled_once_is_not_compiled_again(tmp_path):
    """Neither for another engine setting, rate or workload, nor for requests read back from a file."""
    project = make_project(tmp_path / "project")
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), ROOT_VARIABLE: str(project)}

    def compiled(*arguments):
        done = subprocess.run([sys.executable, "-m", "fluidwait", *arguments], env=environment, text=True)
        assert done.returncode == 0
        return {path.name for path in tmp_path.rglob("*.nbc")}

    first = compiled("compile", "sarathi")
    assert len([name for name in first if "._run_sarathi_" in name]) == 1
    assert compiled(*SIMULATE, "--workload", "lmsys-short", "--rate", "3", "--semantics", "paper") == first
    swept = ("make", "sweep/e3_tight/sarathi", "--scale", "quick")
    assert {name for name in compiled(*swept) if "_run_" in name} == {name for name in first if "_run_" in name}


def test_simulate_is_one_and_the_same_in_vidur(capsys):
    if not find_spec("vidur"):
        pytest.skip("Vidur is not installed (pip install 'fluidwait[vidur]')")
    names = (Engine.simulator, Engine.vidur)
    ours, vidur = (succeeds(capsys, *RUN, "--engine", name, "--out", f"{name}.parquet") for name in names)
    assert cells(ours, "mean latency") == cells(vidur, "mean latency")
    assert cells(ours, "iterations") == cells(vidur, "iterations")
    (a,), (b,) = (records.iter_runs(f"{name}.parquet") for name in names)
    np.testing.assert_allclose(a.columns["completion"], b.columns["completion"], rtol=0, atol=1e-9)
    assert a.config_hash != b.config_hash


def test_simulate_under_the_semantics_of_the_paper(capsys):
    """A lone request takes l' + 1 iterations of d0 + d1 (l + s)."""
    work = write("w.yaml", fixed(prompt=100, output=9))
    how = ["--semantics", "paper", "--time-model", "linear"]
    printed = succeeds(
        capsys, "simulate", "--policy", "vllm_v1", "--workload", work, "--rate", "1", "--requests", "1", *how
    )
    timing = load_hardware(A100).timing.linear
    expected = sum(timing.d0 + timing.d1 * (100 + s) for s in range(10))
    assert cells(printed, "mean latency") == [f"{expected:.4g}", "s"]
    assert cells(printed, "iterations") == ["10"]


def test_simulate_names_the_timing_that_a_policy_lacks(capsys):
    data = hardware()
    del data["timing"]["linear"]
    path = write("h.yaml", data)
    succeeds(capsys, *RUN, "--hardware", path)
    assert cli.main(["simulate", "--policy", "wait", *RUN[3:], "--hardware", path]) == 2
    assert "timing.linear: 'wait' needs the paper's d0 and d1" in capsys.readouterr().err


def test_verify_says_what_is_wrong(capsys):
    succeeds(capsys, *RUN, "--out", "results/run.parquet")
    write("results/notes.txt", "by hand")
    with Path("results/run.parquet").open("ab") as file:
        file.write(b"x")
    assert cli.main(["verify", "results"]) == 1
    told = capsys.readouterr()
    assert told.err == ""
    assert told.out.splitlines() == [
        "notes.txt: untracked: has no sidecar",
        "run.parquet: altered: its bytes are not those that were written",
        "1 artifacts checked, 2 findings",
    ]


def test_policies_lists_every_policy_and_setting(capsys):
    printed = succeeds(capsys, "policies")
    for name in policies.names():
        assert f"\n{name}: " in f"\n{printed}"
        for key in policies.load_policy({"policy": name}).module.Settings.model_fields:
            assert f"\n  {key} " in printed
    sarathi = printed[printed.index("\nsarathi: ") :]
    assert cells(sarathi, "token_budget")[0] == "512" and cells(printed, "max_wait")[0] == ".inf"


def test_schemas_are_written_and_compared(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    assert cli.main(["schemas", "--check"]) == 1
    assert "workload.schema.json: missing" in capsys.readouterr().out
    succeeds(capsys, "schemas")
    assert "match" in succeeds(capsys, "schemas", "--check")
    folder = tmp_path / "workflow" / "schemas"
    (folder / "hardware.schema.json").write_text("{}")
    (folder / "old.schema.json").write_text("{}")
    assert cli.main(["schemas", "--check"]) == 1
    out = capsys.readouterr().out
    assert "hardware.schema.json: differs from its model" in out and "old.schema.json: belongs to no model" in out
    succeeds(capsys, "schemas")
    assert not (folder / "old.schema.json").exists()
    assert "match" in succeeds(capsys, "schemas", "--check")


def test_a_step_whose_last_file_fails_leaves_none_of_its_tables(tmp_path, capsys, monkeypatch):
    from fluidwait.experiments import bisection

    project = make_project(tmp_path / "project")
    monkeypatch.setenv(ROOT_VARIABLE, str(project))
    results = project / "results" / "tiny" / "small"

    def refuses(*_):
        assert (results / "records/sarathi.parquet").exists() and (results / "metrics/sarathi.csv").exists()
        raise ConfigError("request 3 does not fit")

    monkeypatch.setattr(bisection, "_table", refuses)
    small = {
        "id": "small",
        "title": "t",
        "hardware": A100,
        "workload": "p512d20",
        "rates": [10, 12],
        "scales": {"tiny": {"requests": 40, "replications": 1, "tuning_requests": 40, "audit_requests": 0}},
        "policies": {"sarathi": {"use": "sarathi", "label": "Sarathi"}},
    }
    write(str(project / "config" / "experiments" / "small.yaml"), small)
    assert cli.main(["make", "sweep/small/sarathi", "--scale", "tiny"]) == 2
    assert "does not fit" in capsys.readouterr().err
    assert [path for path in (project / "results").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("there", ["a folder", "a pipe"])
def test_a_report_that_cannot_be_written_leaves_no_data(there, tmp_path, monkeypatch):
    project = make_project(tmp_path / "project")
    monkeypatch.setenv(ROOT_VARIABLE, str(project))
    folder = project / "results" / "quick"
    folder.mkdir(parents=True)
    pdf = folder / "report.pdf"
    {"a folder": pdf.mkdir, "a pipe": lambda: os.mkfifo(pdf)}[there]()
    with pytest.raises(ConfigError, match=r"report\.pdf: cannot be written"):
        plan_of("quick").step("report").make()
    assert list(folder.iterdir()) == [pdf]


def test_a_report_that_cannot_be_typeset_leaves_no_data(tmp_path, monkeypatch):
    project = make_project(tmp_path / "project")
    monkeypatch.setenv(ROOT_VARIABLE, str(project))
    (project / "paper" / "report.typ").write_text("#unknown")
    with pytest.raises(ConfigError, match=r"^\S*report\.typ: error: unknown variable.*$"):
        plan_of("quick").step("report").make()
    assert list((project / "results" / "quick").iterdir()) == []
