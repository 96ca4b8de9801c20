"""fluidwait in a notebook: the lines of its documentation run, and give the numbers that the commands give."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import fluidwait as fw
from fluidwait import api
from fluidwait.artifacts import records
from fluidwait.artifacts.code import imported_modules
from fluidwait.base.errors import ConfigError
from fluidwait.cli import main
from fluidwait.experiments import summary
from fluidwait.experiments import sweep as sweeps
from fluidwait.experiments.setting import resolve
from fluidwait.stats.metrics import Metrics

CHECKOUT = Path(__file__).resolve().parents[2]
LINES = textwrap.dedent(api.__doc__.split("::\n", 1)[1].split("\n``fw.sweep_experiment", 1)[0])


def in_python(lines: str, folder: Path, **environment: str) -> str:
    """What the lines print in a Python of their own, started in ``folder``."""
    whole = {key: value for key, value in os.environ.items() if key not in ("FLUIDWAIT_ROOT", "PYTHONPATH")}
    whole |= {"PYTHONPATH": str(CHECKOUT / "src")} | environment
    done = subprocess.run([sys.executable, "-c", lines], cwd=folder, env=whole, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# --- as a user has it ----------------------------------------------------------------------------------------------


def test_the_ten_lines_run_in_an_empty_folder(tmp_path):
    assert len([line for line in LINES.splitlines() if line.strip()]) <= 10
    printed = in_python(LINES, tmp_path, FLUIDWAIT_ROOT=str(CHECKOUT))
    run = fw.simulate("wait_chunked", fw.generate("p512d20", rate=20, requests=2000))
    assert printed.startswith(f"mean latency {run.metrics.mean_latency:.3f} s, {run.metrics.evictions} evictions\n")
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["latency.png"]


def test_importing_it_loads_nothing_else(tmp_path):
    lines = (
        "import sys, fluidwait; print([m for m in sys.modules if m.startswith('fluidwait.')], 'numpy' in sys.modules)"
    )
    assert in_python(lines, tmp_path) == "[] False\n"


def test_every_name_is_there_and_told():
    assert fw.__all__ == api.__all__ and set(fw.__all__) <= set(dir(fw))
    assert all(getattr(fw, name) is getattr(api, name) for name in fw.__all__)
    with pytest.raises(AttributeError, match="module 'fluidwait' has no attribute 'simulat'"):
        fw.simulat  # noqa: B018


def test_the_readme_shows_these_lines():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert f"```python\n{LINES.strip()}\n```" in readme


def test_no_result_depends_on_the_notebook():
    for module in ("fluidwait.experiments.sweep", "fluidwait.engines.simulator", "fluidwait.report.document"):
        assert not [name for name in imported_modules(module) if name.startswith("fluidwait.api")]


# --- the same numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["sarathi", "wait_chunked"])
def test_a_run_is_that_of_the_command(policy, tmp_path):
    out = tmp_path / "run.parquet"
    words = f"simulate --policy {policy} --workload p512d20 --rate 18 --requests 300 --seed 4 --out {out}"
    assert main(words.split()) == 0
    (run,) = records.iter_runs(out)
    ours = fw.simulate(policy, fw.generate("p512d20", rate=18, requests=300, seed=4))
    for name, column in run.columns.items():
        np.testing.assert_array_equal(ours.columns[name], column, err_msg=name)
    assert ours.requests.columns == list(ours.columns) and ours.requests.height == 300


EXPERIMENT = """
id: small
title: A small one
hardware: a100-80g_llama-2-7b
workload: p512d20
rates: [10, 20]
seed: 5
scales: {tiny: {requests: 200, replications: 2, tuning_requests: 40, audit_requests: 0}}
policies:
  sarathi: {use: sarathi, label: Sarathi}
  tuned: {use: sarathi, label: tuned, grid: {token_budget: [128, 512]}}
"""


def test_a_policy_that_learns_needs_to_be_told_nothing(capsys):
    """As the plug-in in its auto mode: faster than vLLM's own scheduler, without hardware, lengths or rate."""
    traffic = fw.generate("p512d20", rate=22, requests=1500)
    learned = fw.simulate("fluid_budget", traffic, semantics="vllm", learns=True)
    stock = fw.simulate("vllm_v1", traffic, semantics="vllm")
    assert learned.metrics.mean_latency < 0.8 * stock.metrics.mean_latency
    line = "simulate --policy fluid_budget --workload p512d20 --rate 22 --requests 1500 --semantics vllm --learns"
    assert main(line.split()) == 0
    assert f"{learned.metrics.mean_latency:.4g}" in capsys.readouterr().out


def test_a_sweep_is_that_of_an_experiment(tmp_path):
    (tmp_path / "small.yaml").write_text(EXPERIMENT)
    experiment = fw.load_experiment(tmp_path / "small.yaml")
    runs, metrics = tmp_path / "runs.parquet", tmp_path / "metrics.csv"
    sweeps.records(resolve(experiment), "sarathi", "tiny").make(runs)
    summary.metrics(experiment, str(runs)).make(metrics)
    expected = pl.read_csv(metrics)
    table = fw.sweep(["sarathi"], "p512d20", rates=[10, 20], requests=200, replications=2, seed=5)
    for name in ("rate", "replication", *Metrics._fields):
        assert table[name].to_list() == expected[name].to_list(), name


def test_an_experiment_is_swept_as_by_the_workflow(tmp_path):
    (tmp_path / "small.yaml").write_text(EXPERIMENT)
    setting = resolve(fw.load_experiment(tmp_path / "small.yaml"))
    table = fw.sweep_experiment(setting.experiment, "tiny")
    assert table["policy"].unique(maintain_order=True).to_list() == ["sarathi", "tuned"]
    for key, tuning in (("sarathi", None), ("tuned", str(tmp_path / "tuning.csv"))):
        if tuning is not None:
            sweeps.tuning(setting, key, "tiny").make(Path(tuning))
        runs, metrics = tmp_path / f"{key}.parquet", tmp_path / f"{key}.csv"
        sweeps.records(setting, key, "tiny", tuning).make(runs)
        summary.metrics(setting.experiment, str(runs)).make(metrics)
        ours, expected = table.filter(policy=key), pl.read_csv(metrics)
        for name in ("rate", "replication", *Metrics._fields):
            assert ours[name].to_list() == expected[name].to_list(), name


def test_a_sweep_gives_every_policy_the_same_requests():
    table = fw.sweep(["sarathi", "orca"], "p512d20", rates=[8, 12], requests=100, replications=2)
    assert table["policy"].to_list() == ["sarathi"] * 4 + ["orca"] * 4
    assert table["rate"].to_list() == [8.0, 8.0, 12.0, 12.0] * 2
    assert table["replication"].to_list() == [0, 1] * 4
    one = fw.simulate("orca", fw.generate("p512d20", rate=12, requests=100, replication=1))
    assert table.row(7, named=True) | {"policy": "orca"} == {
        "policy": "orca",
        "rate": 12.0,
        "replication": 1,
        **one.metrics._asdict(),
    }


def test_the_figure_shows_the_means(tmp_path):
    table = fw.sweep(["sarathi", "orca"], "p512d20", rates=[8, 12], requests=100, replications=2)
    figure = fw.plot(table, "p95_latency")
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for policy in ("sarathi", "orca"):
        means = table.filter(policy=policy).group_by("rate", maintain_order=True).agg(pl.col("p95_latency").mean())
        np.testing.assert_allclose(lines[policy].get_ydata(), means["p95_latency"])
    assert figure.axes[0].get_ylabel() == "95 % latency (s)"
    assert figure._repr_png_().startswith(b"\x89PNG")


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            lambda: fw.simulate("fluid_budget", fw.generate("p512d20", 9, 40), learns=True),
            "learns: the plug-in learns inside",
        ),
        (
            lambda: fw.simulate("sarathi", fw.generate("p512d20", 9, 40), semantics="vllm", learns=True),
            "learns: 'sarathi' is no policy for that",
        ),
        (lambda: fw.generate("p512d2", rate=1), "did you mean 'p512d20'"),
        (lambda: fw.generate("p512d20"), "arrivals.rate: not set"),
        (lambda: fw.simulate("sarati", fw.generate("p512d20", 1, 10)), "did you mean 'sarathi.yaml'"),
        (lambda: fw.simulate("orca", fw.generate("p512d20", 1, 10), engine="vidr"), "engine: 'vidr' is none of"),
        (lambda: fw.sweep(["orca", "orca"], "p512d20", [1]), "two policies are called 'orca'"),
        (lambda: fw.sweep([], "p512d20", [1]), "needs a policy, a rate and a replication"),
        (lambda: fw.sweep(["orca", "wait"], "p512d20", [10, 400]), "no feasible thresholds"),
        (lambda: fw.sweep_experiment("e1", "tiny"), "scale 'tiny' is not defined"),
        (lambda: fw.sweep_experiment("e1", "quick", ["orac"]), "no policy 'orac'"),
        (lambda: fw.plot(pl.DataFrame({"a": [1]})), "no column"),
        (lambda: fw.plot(pl.DataFrame({"a": [1]}), "mean_latncy"), "did you mean 'mean_latency'"),
    ],
)
def test_mistakes_are_one_line(wrong, says):
    with pytest.raises(ConfigError) as error:
        wrong()
    assert says in str(error.value) and "\n" not in str(error.value)
