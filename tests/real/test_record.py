"""Recording on the real engine: cut short, gone on with, complete; then drawn, with and without vLLM."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import psutil
import pytest

from fluidwait.artifacts.verify import verify
from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import ROOT_VARIABLE
from fluidwait.device.iteration_times import SUMS
from fluidwait.device.timing import BatchSums
from fluidwait.engines.vllm.calibrate import COLUMNS
from fluidwait.engines.vllm.load import engine as loadgen_engine
from fluidwait.real import bundle as bundles
from fluidwait.real.bundle import Points, read_bundle
from fluidwait.real.fidelity import fit, generations, replay
from fluidwait.real.gains import runs, steps
from fluidwait.real.record import record
from fluidwait.real.replica import Simulator
from fluidwait.real.steps import machine_steps
from fluidwait.real.target import load_target
from fluidwait.stats.metrics import check_run
from projects import make_project

TARGET = """
id: small
title: small
device: cpu
model: {name: small, layers: 2, hidden: 64, query_heads: 2, kv_heads: 2, head_dim: 32, mlp_hidden: 128,
        bytes_per_weight: 4, bytes_per_kv: 4}
engine: {dtype: float32, block_size: 32, kv_blocks: 64, max_model_len: 256, max_num_seqs: 16,
         max_num_batched_tokens: 128, enforce_eager: true, vocabulary: 256,
         environment: {VLLM_CPU_KVCACHE_SPACE: "1", VLLM_CPU_OMP_THREADS_BIND: "CORE"}}
budget: 600
bursts: {batch: [1, 4, 8], prompt: [8, 64], output: 4, repeats: 1}
mixed: {workload: lmsys-short, requests: 20, in_flight: [4]}
sweeps: [{workload: p64d20, in_flight: 4, token_budgets: [32], seconds: 0.2}]
validation: {workload: lmsys-short, requests: 20, in_flight: [2]}
generation: {prompt: 16, output: 4, batch: [1, 2, 4], extrapolated: [8], repeats: 1}
variants:
  single: {title: single, workload: p64d20, requests: 12, replications: 2, shares: [0.3], policies: [stock, wait]}
  memory: {title: memory, workload: p64d20, requests: 12, replications: 1, shares: [0.3], kv_blocks: 9,
           policies: [stock, wait, auto]}
policies:
  stock: {label: vLLM}
  auto: {label: auto mode, use: auto, settings: {refresh: 0.5}}
  wait: {label: WAIT, use: wait_chunked, settings: {max_wait: 0.05}}
"""


@pytest.fixture(scope="module")
def target_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("target") / "small.yaml"
    path.write_text(TARGET.replace("CORE", str(min(os.sched_getaffinity(0)))))
    return path


@pytest.fixture(scope="module")
def recorded(target_file, tmp_path_factory):
    """(folder, what was said when it was cut short, then when it went on, then when nothing was left to do)."""
    pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")
    from vllm import envs

    folder, said = tmp_path_factory.mktemp("recording") / "small", []
    # Tests in which an engine runs in this process leave the environment that it needs, and vLLM a copy of it.
    envs.disable_envs_cache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")  # with a worker that is bound to a core
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "")  # set by the target, and put back
        for change in ({"budget": 0.001}, {}, {}):
            lines: list[str] = []
            record(load_target(target_file, change), folder, lines.append)
            said.append((lines, read_bundle(folder).about))
    return folder, said


def point_rows(folder, name):
    """Iterations of a finished point, in the order of COLUMNS."""
    return json.loads((folder / ".points" / f"{name}.json").read_text())["data"]["rows"]


def test_a_recording_cut_short_keeps_its_points_and_goes_on(recorded):
    folder, ((first, cut), (second, whole), _) = recorded
    assert "out of time after 0 of 7 runs" in first[-1] and (cut.points, cut.planned) == (5, 12)
    assert not cut.complete and whole.complete and whole.points == 12
    assert "measuring bursts" in first and "measuring bursts" not in second
    assert len([line for line in second if line.startswith("measuring")]) == 7
    assert (folder / "requests.parquet").is_file()


def test_a_finished_recording_starts_no_engine(recorded):
    _, said = recorded
    third, about = said[2]
    assert not [line for line in third if line.startswith(("measuring", "starting"))]
    assert about.complete and about == said[1][1]


def test_policies_take_turns_in_alternating_order(recorded):
    _, (_, (lines, _), _) = recorded
    runs = [line.removeprefix("measuring ") for line in lines if line.startswith("measuring")]
    assert [run.split(",")[:2] for run in runs] == [
        ["single", "stock"],
        ["single", "wait"],
        ["memory", "stock"],
        ["memory", "wait"],
        ["memory", "auto"],
        ["single", "wait"],
        ["single", "stock"],
    ]


def test_a_bundle_describes_itself(recorded):
    folder, _ = recorded
    about = read_bundle(folder).about
    assert about.engine["version"] == loadgen_engine.engine_version()
    assert about.engine["settled"]["max_num_seqs"] == 16 and about.device["cores"] > 0
    assert set(about.files) == {
        *bundles.TABLES,
        *bundles.RUNS,
        bundles.VALIDATION,
        "time_model.csv",
        "single.csv",
    }
    assert set(about.data) == {"lmsys-chat-1m.csv"} and len(about.config_hash) == 64
    assert sum((folder / name).stat().st_size for name in about.files) < 200_000


def test_a_sweep_keeps_batches_within_its_token_budget(recorded):
    folder, _ = recorded
    place = COLUMNS.index("tokens")
    swept, burst = ([row[place] for row in point_rows(folder, name)] for name in ("sweeps", "bursts"))
    assert max(swept) == 32 and max(burst) == 128  # of prompts of 64 tokens; the engine's own limit is back
    tokens = pl.read_csv(folder / "iterations.csv")["tokens"]
    assert set(swept) | set(burst) <= set(tokens)


def test_the_other_load_judges_the_fit_without_taking_part(recorded):
    folder, _ = recorded
    assert pl.read_csv(folder / "iterations.csv")["count"].sum() == sum(
        len(point_rows(folder, name)) for name in ("bursts", "mixed", "sweeps")
    )
    other = pl.read_csv(folder / "validation.csv")["count"].sum()
    assert other == len(point_rows(folder, "validation")) > 0
    bundle = read_bundle(folder)
    row = fit(bundle, generations(bundle)).filter(pl.col("sample") == "other load")
    iterations = pl.read_csv(folder / "validation.csv")
    model = Simulator(bundle)  # one iteration of the table stands for `count` equal ones
    errors = [
        abs(model.seconds(BatchSums(*b)) / s - 1)
        for b, s in zip(iterations.select(SUMS).rows(), iterations["seconds"], strict=True)
    ]
    assert row["rows"].to_list() == [other]
    assert row["mape"][0] == pytest.approx(np.average(errors, weights=iterations["count"]))


def test_the_auto_mode_is_measured_and_not_simulated(recorded):
    folder, _ = recorded
    bundle = read_bundle(folder)
    metrics, cost = runs(bundle), steps(bundle)
    assert metrics.filter(pl.col("policy") == "auto").height == 1
    assert "auto" not in {run.point["policy"] for run in replay(bundle)}
    row = cost.filter(variant="memory", policy="auto").to_dicts()[0]
    assert row["iterations"] > 20 and 0 < row["planning_median"] < row["iteration"] and 0 < row["share"] < 1


def test_the_pace_of_the_machine_lies_in_the_bundle(recorded):
    folder, _ = recorded
    bundle = read_bundle(folder)
    paces = bundle.paces()
    if len(os.sched_getaffinity(0)) < 2:  # the worker is bound to no fewer cores than all, so there is no meter
        assert bundle.about.pace is None and not paces
        return
    assert bundle.about.pace > 0 and set(paces) == {
        "bursts",
        "mixed",
        "sweeps",
        "validation",
        "generations",
        *(r.run_id for r in bundle.runs()),
    }
    for run in bundle.runs():
        pace, end = paces[run.run_id], run.columns["completion"].max()
        assert np.all(np.diff(pace.time) > 0) and pace.time[-1] > end - 1
        assert 0.2 < pace.during(0.0, end) < 5


def test_what_claims_are_judged_by_lies_in_the_bundle(recorded):
    folder, _ = recorded
    fitted = pl.read_csv(folder / "time_model.csv")
    assert fitted.columns == ["mape", "r_squared", "error_256"] and fitted["mape"][0] >= 0
    single = pl.read_csv(folder / "single.csv")
    assert single.columns == ["rate", "wait", "baseline"] and single.height == 1
    means = [r.columns["completion"] - r.columns["arrival"] for r in read_bundle(folder).runs()]
    assert min(map(np.min, means)) < single["wait"][0] < max(map(np.max, means))


def test_every_request_of_every_run_is_there(recorded):
    folder, _ = recorded
    runs = list(read_bundle(folder).runs())
    assert len(runs) == 7
    for run in runs:
        check_run(run.columns)
        assert len(run.columns["arrival"]) == 12 and run.parameters["drift_largest"] < 5
    sent = pl.read_parquet(folder / "sent.parquet")
    assert sent.height == 84 and sent["sent"].min() >= 0


def test_the_same_requests_go_to_every_policy(recorded):
    folder, _ = recorded
    arrivals = {}
    for run in read_bundle(folder).runs():
        point = run.parameters
        arrivals.setdefault((point["variant"], point["replication"]), []).append(run.columns["arrival"])
    for first, *others in arrivals.values():
        assert others and all(np.array_equal(first, other) for other in others)


def test_tables_and_figures_of_a_bundle(recorded, tmp_path, monkeypatch):
    folder, _ = recorded
    monkeypatch.setenv(ROOT_VARIABLE, str(make_project(tmp_path)))
    tables, *figures = machine_steps("small", str(folder), "tiny")
    tables.make()
    before = {name: (tmp_path / name).read_bytes() for name in tables.outputs}
    tables.make()
    assert before == {name: (tmp_path / name).read_bytes() for name in tables.outputs}
    e9, e10 = (tmp_path / "results" / "tiny" / name / "small" for name in ("e9", "e10"))
    reality = pl.read_csv(e9 / "reality.csv")
    assert reality.height == 4 and reality["requests"].sum() == 72
    assert reality["median_error"].is_between(0, 10).all()
    gain = pl.read_csv(e10 / "gain.csv")
    assert set(gain["policy"]) == {"wait", "auto"} and gain["share"].null_count() == 3
    for figure in figures:
        figure.make()
    drawn = tmp_path / "figures" / "tiny"
    assert "not measured by this run" in (drawn / "e9_small.txt").read_text()
    assert (drawn / "e9_small.png").stat().st_size > 10_000
    shutil.copytree(folder, tmp_path / "recordings" / "cpu")
    for step in machine_steps("cpu", "recordings/cpu", "tiny"):
        step.make()
    assert "Measured by this run" in (drawn / "e10_cpu.txt").read_text()
    assert verify(tmp_path / "results") == verify(tmp_path / "figures") == []


def test_a_recording_told_to_end_takes_its_engine_along(target_file, tmp_path):
    pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")
    command = [
        sys.executable,
        "-m",
        "fluidwait",
        "real",
        "record",
        str(target_file),
        "--out",
        str(tmp_path / "out"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in process.stdout:  # until the engine runs and the first point is measured
            if line.startswith("measuring mixed"):
                break
        engine = psutil.Process(process.pid).children(recursive=True)
        assert engine
        process.terminate()
        assert process.wait(60) == 130
    gone, alive = psutil.wait_procs(engine, timeout=30)
    assert len(gone) == len(engine) and not alive
    assert (tmp_path / "out" / ".points" / "bursts.json").is_file()


def test_a_changed_bundle_is_refused(recorded, tmp_path):
    folder, _ = recorded
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "generations.csv").write_text("batch\n1\n")
    with pytest.raises(ConfigError, match="generations.csv: changed since the bundle was recorded"):
        read_bundle(copy)


def test_keeping_a_bundle_leaves_out_what_is_only_needed_to_go_on(recorded, tmp_path, monkeypatch):
    folder, _ = recorded
    monkeypatch.setattr(bundles, "project_root", lambda: tmp_path)
    kept = bundles.keep(read_bundle(folder))
    assert kept.parent == tmp_path / "data" / "cpu"
    assert {p.name for p in kept.iterdir()} == {*read_bundle(folder).about.files, bundles.DESCRIPTION}
    assert bundles.committed("cpu") == [kept] and read_bundle(kept).about.complete


def test_points_of_another_configuration_do_not_count(tmp_path):
    points = Points(tmp_path)
    points.put("run", "key", [1.5])
    assert points.get("run", "key") == [1.5]
    assert points.get("run", "other") is None and points.get("walk", "key") is None
    (tmp_path / ".points" / "run.json").write_text(json.dumps({"key": "key"})[:-3])
    assert points.get("run", "key") is None


def test_without_vllm_recording_is_one_clear_line(target_file, tmp_path, monkeypatch):
    def missing(name):
        raise loadgen_engine.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(loadgen_engine.importlib.metadata, "version", missing)
    with pytest.raises(ConfigError, match="vLLM is not installed here"):
        record(load_target(target_file), tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out").exists()


def test_a_gpu_target_without_a_gpu_is_one_clear_line(target_file, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(loadgen_engine, "engine_version", lambda: "0.32.0")
    target = load_target(target_file, {"device": "gpu"})
    with pytest.raises(ConfigError, match="no NVIDIA GPU here"):
        record(target, tmp_path / "out", lambda line: None)
