"""The requests of an experiment: offered at the rate that its axis says, different in every replication, or refused."""

from __future__ import annotations

import json
import re
import shutil

import making
import numpy as np
import polars as pl
import pytest
import yaml

from fluidwait.artifacts.records import iter_runs
from fluidwait.artifacts.sidecar import read_sidecar
from fluidwait.base.errors import ConfigError
from fluidwait.base.models import parse
from fluidwait.base.paths import ROOT_VARIABLE
from fluidwait.cli import main
from fluidwait.experiments import audit, drawing
from fluidwait.experiments.experiment import Experiment
from fluidwait.experiments.figures import latency
from fluidwait.experiments.kinds import figure_kind
from fluidwait.experiments.setting import check_requests, resolve
from projects import CHECKOUT

FIXED = {"kind": "fixed", "prompt": 512, "output": 20}
SEGMENTS = [{"until": 6, "rate": 5}, {"until": 12, "rate": 15}]
RATES = [2.0, 8.0]


def experiment(workload, **change) -> Experiment:
    scale = {"requests": 200, "replications": 2, "tuning_requests": 100, "audit_requests": 50}
    data = {
        "id": "own",
        "title": "Own",
        "hardware": "a100-80g_llama-2-7b",
        "workload": str(workload),
        "rates": RATES,
        "scales": {"tiny": scale | change.pop("scale", {})},
        "policies": {"sarathi": {"use": "sarathi", "label": "Sarathi"}, "vllm": {"use": "vllm_v1", "label": "vLLM"}},
    }
    return parse(Experiment, data | change, "own.yaml")


GRID = {"tuned": {"use": "sarathi", "label": "Tuned", "grid": {"token_budget": [256, 512]}}}


@pytest.fixture
def workload(tmp_path):
    def write(lengths=FIXED, **arrivals):
        path = tmp_path / "own.workload.yaml"
        path.write_text(yaml.safe_dump({"name": "own", "lengths": lengths, "arrivals": arrivals}))
        return path

    return write


@pytest.fixture
def trace(tmp_path, workload):
    """A replayed trace of 1,000 rows, ten times faster in its second half; prompts count the rows."""
    arrival = np.cumsum(np.repeat([1.0, 0.1], 500))
    lines = [f"{time:.1f},{row},{10 + row % 20}" for row, time in enumerate(arrival, start=1)]
    (tmp_path / "rows.csv").write_text("\n".join(["arrival,prompt,output", *lines, ""]))
    return workload({"kind": "trace", "file": "rows.csv"}, process="trace")


def made(own: Experiment, folder):
    """Everything that the latency figure reads, made as the workflow makes it."""
    tables = {}
    for key in own.policies:
        making.sweep(own, key, "tiny", folder / "records" / f"{key}.parquet")
        tables[key] = folder / "metrics" / f"{key}.csv"
        making.metrics(own, folder / "records" / f"{key}.parquet", tables[key])
    making.summary(own, tables, folder / "summary.csv")
    making.stability(own, tables, folder / "stability.csv")
    making.thresholds(own, "tiny", folder / "thresholds.csv")
    return list(iter_runs(folder / "records" / "sarathi.parquet"))


def assert_no_boundary(own: Experiment, folder) -> str:
    """There is no λ* in any table, none is drawn; returns the figure's caption."""
    for key in own.policies:
        table = pl.read_csv(folder / "metrics" / f"{key}.csv")
        assert table["stable"].null_count() == table["drift"].null_count() == table.height
    table = pl.read_csv(folder / "stability.csv")
    assert table["grid_lambda_star"].null_count() == table["lambda_star"].null_count() == table.height
    about = drawing.described(resolve(own), "tiny", figure_kind("latency"))
    figure = latency.make(folder, about)
    panel = figure.axes[2]
    assert [text.get_text() for text in panel.texts if "none" in text.get_text()] == ["none: the rate changes"] * 2
    assert not {line.get_label() for line in panel.lines} & set(own.policies)  # no marker of λ*
    caption = latency.caption(folder, about)
    assert "The rate of the arrivals changes, so there is no λ*" in caption
    return caption


# --- the rate asked for is the rate offered -------------------------------------------------------------------------


def test_a_sweep_of_a_profile_offers_its_rates(workload, tmp_path):
    """Segments of 5 and 15 requests/s were multiplied by the rates: ten times the load of the axis."""
    own = experiment(workload(process="piecewise", repeat=True, segments=SEGMENTS))
    for run in made(own, tmp_path):
        arrival, rate = run.columns["arrival"], run.parameters["rate"]
        assert len(arrival) / arrival[-1] == pytest.approx(rate, rel=4 / np.sqrt(len(arrival)))
    table = pl.read_csv(tmp_path / "summary.csv").filter(pl.col("policy") == "sarathi")
    # served as fast as it comes; the middle half of 200 requests does not hold whole passes of the profile
    assert np.allclose(table["completion_rate"], RATES, rtol=0.35)
    assert (table["mean_latency_low"] < table["mean_latency_high"]).all()
    assert_no_boundary(own, tmp_path)


def test_thresholds_and_fluid_bound_of_a_profile_are_those_of_its_mean_rate(workload, tmp_path):
    tables = []
    for arrivals in ({"process": "piecewise", "repeat": True, "segments": SEGMENTS}, {"process": "poisson"}):
        own = experiment(workload(**arrivals))
        setting = resolve(own)
        assert setting.context(8.0).rate == 8.0
        out = tmp_path / f"{arrivals['process']}.csv"
        making.thresholds(own, "tiny", out)
        tables.append(out.read_bytes())
    assert tables[0] == tables[1]


def test_simulate_offers_the_rate_asked_for_and_plans_for_it(workload, capsys):
    path = workload(process="piecewise", repeat=True, segments=SEGMENTS)
    command = ["simulate", "--policy", "sarathi", "--workload", str(path), "--requests", "600", "--rate", "2"]
    assert main(command) == 0
    offered = float(re.search(r"([\d.]+) arrivals/s", capsys.readouterr().out).group(1))
    assert offered == pytest.approx(2.0, rel=4 / np.sqrt(600))
    assert main([*command[:-4], "--requests", "10", "--rate", "2"]) == 2
    assert "10 requests last 7.333 s of a profile of 12 s and would come at 1.364 requests/s" in capsys.readouterr().err


def test_a_sweep_of_a_trace_offers_its_rates_over_the_rows_used(trace, tmp_path):
    """Stretched over the whole file and then cut, its first rows came at 0.55 of the rate."""
    own = experiment(trace)
    runs = made(own, tmp_path)
    for run in runs:
        arrival, rate = run.columns["arrival"], run.parameters["rate"]
        assert (len(arrival) - 1) / (arrival[-1] - arrival[0]) == pytest.approx(rate, rel=1e-12)
    rows = [(run.columns["prompt_tokens"][0], run.columns["prompt_tokens"][-1]) for run in runs]
    assert rows == [(1, 200), (501, 700)] * 2
    assert [(run.parameters["first_row"], run.parameters["last_row"]) for run in runs] == rows
    table = pl.read_csv(tmp_path / "summary.csv")
    assert (table["mean_latency_low"] < table["mean_latency_high"]).all()  # replications differ, so no width of 0
    used = {"rows": 1000, "used": [[1, 200], [501, 700]], "left_out": 600}
    assert read_sidecar(tmp_path / "records" / "sarathi.parquet").config["trace"] == used
    caption = assert_no_boundary(own, tmp_path)
    assert "2 replication(s) (rows 1 to 200, 501 to 700 of the 1000 of the trace, 600 left out)" in caption


def test_one_stretch_is_one_replication_without_an_interval(trace, tmp_path):
    own = experiment(trace, scale={"requests": 700, "replications": 1})
    made(own, tmp_path)
    table = pl.read_csv(tmp_path / "summary.csv")
    assert table["mean_latency_low"].is_nan().all() and table["replications"].to_list() == [1] * 4


def test_tuning_sees_other_rows_of_a_trace_than_the_evaluation(trace):
    """Both were the rows at its beginning, whatever the seeds."""
    setting = resolve(experiment(trace, policies=GRID, scale={"tuning_replications": 2}))
    check_requests(setting, "tiny")
    evaluation = [setting.evaluation("tiny", 200, 2.0, r).prompt for r in range(2)]
    tuning = [setting.tuning("tiny", 2.0, r).prompt for r in range(2)]
    rows = np.concatenate([*evaluation, *tuning])
    assert len(set(rows.tolist())) == len(rows) == 600


def test_the_audit_repeats_the_first_requests_of_the_runs_themselves(trace, monkeypatch):
    class Stop(Exception):
        pass

    def look(requests, *_):
        raise Stop(requests)

    monkeypatch.setattr(audit, "simulate", look)
    setting = resolve(experiment(trace))
    with pytest.raises(Stop) as seen:
        audit._compare(setting, "sarathi", "tiny", {}, (2.0, 200, 1))
    whole = setting.evaluation("tiny", 200, 2.0, 1)
    assert all((part == column[:50]).all() for part, column in zip(seen.value.args[0], whole, strict=True))


def test_simulate_says_which_rows_it_replays(trace, capsys):
    command = ["simulate", "--policy", "sarathi", "--workload", str(trace), "--requests", "300", "--rate", "2"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "2 arrivals/s\nrows 1 to 300 of the 1000 of the trace, 700 left out\n" in said


def test_a_percentile_of_too_few_requests_is_not_given(workload, capsys):
    path = workload(process="poisson", rate=2.0)
    given = {}
    for n in (30, 100, 200):
        assert main(["simulate", "--policy", "sarathi", "--workload", str(path), "--requests", str(n)]) == 0
        shown = dict(re.findall(r"^(9\d) % latency +([\d.-]+)", capsys.readouterr().out, re.MULTILINE))
        given[n] = [percent for percent, value in shown.items() if value != "-"]
    assert given == {30: [], 100: ["95"], 200: ["95", "99"]}  # of windows of half as many


# --- what cannot be offered is refused before anything runs ---------------------------------------------------------

NO_BOUNDARY = {"boundary": {"resolution": 0.1}}
PIECEWISE = {"process": "piecewise", "repeat": True, "segments": SEGMENTS}


@pytest.mark.parametrize(
    ("arrivals", "change", "message"),
    [
        (
            {"process": "deterministic"},
            {},
            "scales.tiny.replications: all 2 would be the same requests, of one kind at equal distances (nearest valid "
            "value: 1)",
        ),
        (PIECEWISE, NO_BOUNDARY, "boundary: arrivals 'piecewise' have no constant rate, so no λ*; leave the key out"),
        (
            PIECEWISE | {"segments": [{"until": 600, "rate": 5}, {"until": 1200, "rate": 15}]},
            {},
            "scales.tiny: rate 2: 200 requests last 200 s of a profile of 1200 s and would come at 1 requests/s, where "
            "2 are asked for (nearest valid number of requests: 2400)",
        ),
        (
            PIECEWISE | {"repeat": False},
            {},
            "scales.tiny: rate 2: 200 requests last 70.67 s of a profile of 12 s and would come at 2.83 requests/s, "
            "where 2 are asked for (nearest valid number of requests: 24, or repeat: true)",
        ),
        (PIECEWISE, {"traces": {"rates": [100.0]}}, "scales.tiny: rate 100: 200 requests last "),
        (
            {"process": "poisson"},
            {"rates": [1e-300, 2.0]},
            "scales.tiny: rate 1e-300: 200 requests would last 2e+302 s, but times are exact enough up to 1e+09 s only "
            "(nearest valid value: 2e-07)",
        ),
    ],
)
def test_requests_that_are_not_what_a_scale_says_are_refused(workload, tmp_path, arrivals, change, message):
    assert_refused(experiment(workload(**arrivals), **change), tmp_path, f"experiment own: {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"scale": {"requests": 400, "replications": 3}},
            "scales.tiny.replications: 3 stretches of 400 requests, but {file} has 1000 rows (nearest valid value: 2)",
        ),
        (
            {"scale": {"requests": 400}, "policies": GRID},
            "scales.tiny.replications: 2 stretches of 400 requests and 1 for tuning, but {file} has 1000 rows (nearest "
            "valid value: 1)",
        ),
        (
            {"scale": {"requests": 1200}},
            "scales.tiny: 1200 requests in 1 stretch(es), one for each replication, but {file} has 1000 rows (nearest "
            "valid number of requests: 1000)",
        ),
        (
            {"traces": {"rates": [2.0], "replication": 2}},
            "traces.replication: 2 is not among the stretches of the replayed trace at scale 'tiny' (nearest valid "
            "value: 1)",
        ),
        (NO_BOUNDARY, "boundary: arrivals 'trace' have no constant rate, so no λ*; leave the key out"),
    ],
)
def test_a_trace_with_too_few_rows_is_refused(trace, tmp_path, change, message):
    assert_refused(experiment(trace, **change), tmp_path, message.format(file=tmp_path / "rows.csv"))


def assert_refused(own: Experiment, folder, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        check_requests(resolve(own), "tiny")
    assert "\n" not in str(error.value)
    key = next(iter(own.policies))
    with pytest.raises(ConfigError):
        making.sweep(own, key, "tiny", folder / "out.parquet")
    assert not list(folder.glob("out*"))


def test_other_seeds_of_requests_that_have_none_are_refused(trace, workload):
    """Scale 'tiny-seeds2' would have shown that results hold on other requests, with the same ones."""
    message = "scale 'tiny-seeds2': its requests are the same on any seeds (nearest valid: 'tiny')"
    for path in (trace, workload(process="deterministic")):
        own = experiment(path, scale={"replications": 1})
        with pytest.raises(ConfigError, match=re.escape(message)):
            check_requests(resolve(own), "tiny-seeds2")
    own = experiment(workload(process="poisson"))
    check_requests(resolve(own), "tiny-seeds2")


# --- requests longer than the model takes ---------------------------------------------------------------------------

LONG = (
    ": a request of 14000 prompt and 50 output tokens needs 14050 tokens of KV cache, but max_model_len of "
    "the hardware is 4096 (longest prompt that fits: 4095)"
)
ONE_RUN = ["simulate", "--policy", "sarathi", "--workload", "{w}", "--rate", "1", "--requests", "50", "--out", "{out}"]
COMMANDS = {
    "simulate": ONE_RUN,
    "vidur": [*ONE_RUN, "--engine", "vidur"],
    "paper": [*ONE_RUN, "--semantics", "paper"],
    "sweep": ["make", "sweep/own/sarathi", "--scale", "tiny"],
    "audit": ["make", "audit/own", "--scale", "tiny"],
    "all thresholds": ["make", "thresholds", "--scale", "tiny", "--only", "own"],
    "thresholds of an experiment": ["thresholds", "{e}", "--json", "{out}"],
    "thresholds": ["thresholds", "{q}", "--json", "{out}"],
    "study": ["make", "study_memory/long", "--scale", "quick"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_requests_longer_than_the_model_takes_are_refused_by_every_command(
    workload, tmp_path, monkeypatch, capsys, command
):
    """A model of 4,096 tokens served requests of 14,050."""
    w = workload({"kind": "fixed", "prompt": 14_000, "output": 50}, process="poisson")
    project = tmp_path / "project"
    shutil.copytree(CHECKOUT / "config", project / "config")
    shutil.copytree(CHECKOUT / "data" / "hardware", project / "data" / "hardware")
    monkeypatch.setenv(ROOT_VARIABLE, str(project))
    e, s = project / "config/experiments/own.yaml", project / "config/studies/long.yaml"
    files = {"e": e, "q": tmp_path / "q.yaml", "out": tmp_path / "out"}
    own = experiment(w)
    files["e"].write_text(yaml.safe_dump(json.loads(own.model_dump_json(exclude_none=True))))
    files["q"].write_text(yaml.safe_dump({"hardware": own.hardware, "workload": str(w), "rates": [1.0]}))
    study = yaml.safe_load(s.with_name("e6.yaml").read_text())
    s.write_text(yaml.safe_dump(study | {"workload": str(w)}))
    before = set(tmp_path.rglob("*"))
    assert main([part.format(w=w, **files) for part in COMMANDS[command]]) == 2
    said = capsys.readouterr().err
    assert LONG in said.replace("\n", " ") and said.count("\n") == 1
    assert set(tmp_path.rglob("*")) == before
