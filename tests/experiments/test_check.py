"""Mistakes in the configuration of an experiment, found before any of its jobs starts: one line each."""

from __future__ import annotations

import re
import shutil

import pytest

from fluidwait.base.errors import FluidwaitError
from fluidwait.base.paths import ROOT_VARIABLE
from fluidwait.experiments import check
from fluidwait.experiments.experiment import load_experiment
from fluidwait.experiments.setting import resolve
from fluidwait.pipeline import selection
from fluidwait.pipeline.plan import Plan
from projects import CHECKOUT, plan_of

FILE = "config/experiments/small.yaml"
EXPERIMENT = """
id: small
title: Small
hardware: a100-80g_llama-2-7b
workload: p512d20
rates: [12, 24]
figures: [latency, gap, memory]
traces: {rates: [24], policies: [sarathi]}
scales:
  tiny: {requests: 80, replications: 2, tuning_requests: 60, audit_requests: 40}
policies:
  sarathi: {use: sarathi, label: Sarathi}
  wait: {use: wait_chunked, label: WAIT, settings: {chunk: 512}}
  tuned: {use: wait_chunked, label: "WAIT, tuned", grid: {in_service: [10, 30]}}
"""
SARATHI = "{use: sarathi, label: Sarathi}"
GRID = r"\{in_service: \[10, 30\]\}"
AUDITED = r"latency, gap, memory\][\s\S]*audit_requests: 40"
NO_AUDIT = "audit]\nscales:\n  tiny: {requests: 80, replications: 2, tuning_requests: 60, audit_requests: 0"
TRACE = "name: short\nlengths: {kind: trace, file: data/short.csv}\narrivals: {process: trace}\n"

MISTAKES = {  # file, old text, new text, what is told
    "a gap alone": (FILE, "  wait: .*\n  tuned: .*\n", "", "figures: 'gap' compares policies, and there is only"),
    "a policy's file": (
        "config/policies/sarathi.yaml",
        r"token_budget: .*",
        "token_budget: -1",
        "config/policies/sarathi.yaml: token_budget: ",
    ),
    "no policies": (FILE, r"policies:\n(.*\n)*", "policies: {}\n", "small.yaml: policies: "),
    "too long for one": (
        FILE,
        SARATHI,
        "{use: vllm_v0, label: V, settings: {token_cap: 256}}",
        "(nearest valid value: 256)",
    ),
    "reserves too little": (
        FILE,
        SARATHI,
        "{use: orca, label: O, settings: {max_model_len: 96}}",
        "policies.sarathi: request 0",
    ),
    "a key": (FILE, "title:", "tittle:", "small.yaml: tittle: unknown key (did you mean 'title'?)"),
    "a key of a policy": ("config/policies/sarathi.yaml", "token_budget", "tokens", "tokens: unknown key"),
    "a key of the hardware": (
        "data/hardware/a100-80g_llama-2-7b.yaml",
        "block_size",
        "blocks",
        "(did you mean 'block_size'?)",
    ),
    "a key of the workload": ("config/workloads/p512d20.yaml", "\nlengths", "\nlenghts", "(did you mean 'lengths'?)"),
    "the hardware": (
        FILE,
        "a100-80g_llama",
        "a100-8g_llama",
        "no such file (did you mean 'a100-80g_llama-2-7b.yaml'?)",
    ),
    "the workload": (FILE, "workload: p512d20", "workload: p512d2", "(did you mean 'p512d20'?)"),
    "a policy": (FILE, "use: sarathi", "use: sarati", "no such file (did you mean 'sarathi.yaml'?)"),
    "a scale": (FILE, "tiny:", "tinny:", "experiment small: scale 'tiny' is not defined (did you mean 'tinny'?)"),
    "a figure": (
        FILE,
        "latency, gap",
        "latency, gaps",
        "figures: 'gaps' is not a kind of figure (did you mean 'gap'?)",
    ),
    "a figure twice": (FILE, "latency, gap", "latency, latency", "figures: 'latency' is there twice"),
    "audit without runs": (FILE, AUDITED, NO_AUDIT, "needs audit_requests of the scale and audit_share"),
    "the id": (
        FILE,
        "id: small",
        "id: smal",
        "id: must be the name of the file, found 'smal' (nearest valid value: 'small')",
    ),
    "an empty grid": (FILE, GRID, "{in_service: []}", "small.yaml: policies.tuned.grid.in_service: "),
    "a key in a grid": (FILE, GRID, "{in_servic: [10]}", "in_servic: unknown key (did you mean 'in_service'?)"),
    "a value in a grid": (
        FILE,
        GRID,
        "{in_service: [10, ten]}",
        "policies.tuned.grid: in_service: input should be a valid",
    ),
    "a grid all refused": (FILE, GRID, "{segments: [1000]}", "policies.tuned: segments: must lie in 1..1"),
    "a rate of a trace": (
        FILE,
        r"rates: \[24\], policies: \[sarathi\]",
        "rates: [20]",
        "traces.rates: 20 is not a rate",
    ),
    "a policy of a trace": (
        FILE,
        r"policies: \[sarathi\]",
        "policies: [sarthi]",
        "no policy 'sarthi' (did you mean 'sarathi'?)",
    ),
    "memory without traces": (FILE, "traces: .*\n", "", "figures: 'memory' needs traces"),
    "the bracket": (FILE, "scales:", "boundary: {resolution: 1, low: 30}\nscales:", "goes from 30 to 24 requests/s"),
    "a step beyond the bracket": (
        FILE,
        "scales:",
        "boundary: {resolution: 13}\nscales:",
        "boundary.resolution: 13 requests/s in a search from 12 to 24 (nearest valid value: 12)",
    ),
    "a step without end": (
        FILE,
        "scales:",
        "boundary: {resolution: 1.0e-9}\nscales:",
        "boundary.resolution: 1e-09 requests/s in a search from 12 to 24 (nearest valid value: 2.4e-05)",
    ),
    "a bracket without end": (
        FILE,
        "scales:",
        "boundary: {resolution: 1, high: .inf}\nscales:",
        "small.yaml: boundary.high: input should be a finite number",
    ),
    "a trace at no rate": (FILE, r"rates: \[24\], policies", "rates: [.inf], policies", "traces.rates.0: "),
    "rates that fall": (
        FILE,
        r"\[12, 24\]",
        "[24, 12]",
        "small.yaml: rates: must be increasing rates above 0 requests/s, but 12 follows 24",
    ),
    "replications without end": (
        FILE,
        "replications: 2",
        "replications: 900000000",
        "scales.tiny.replications: input should be less than or equal to 10000",
    ),
    "another policy under the same name": (
        FILE,
        SARATHI,
        "{use: sarathi, label: Sarathi, settings: {policy: vllm_v1}}",
        "small.yaml: policies.sarathi.settings: 'policy' is no setting",
    ),
    "policies in a grid": (FILE, GRID, "{policy: [orca]}", "policies.tuned.grid: 'policy' is no setting"),
    "a grid of nothing": (FILE, GRID, "{}", "policies.tuned.grid: dictionary should have at least 1 item"),
    "a formula that is none": (FILE, "label: Sarathi", r"label: '$\foo$'", "policies: '$\\foo$': what stands between"),
    "one label twice": (FILE, "label: Sarathi", "label: WAIT", "small.yaml: policies: "),
    "an empty label": (FILE, "label: Sarathi", "label: ' '", "policies.sarathi.label: must be printable text on one"),
    "a title of two lines": (FILE, "title: .*", 'title: "a\\nb"', "small.yaml: title: must be printable text on one"),
    "rates of a scale": (
        FILE,
        "requests: 80,",
        "requests: 80, rates: [3, 1],",
        "scales.tiny.rates: must be increasing rates",
    ),
    "endless rates": (FILE, r"\[12, 24\]", "[12, .inf]", "small.yaml: rates: must be increasing rates above 0"),
    "a million rates": (
        FILE,
        r"\[12, 24\]",
        "{start: 1, stop: 9, step: 1.0e-6}",
        "rates: more than 10000 rates (nearest valid step: 0.0008)",
    ),
    "a range without step": (
        FILE,
        r"\[12, 24\]",
        "{start: 1, stop: 9}",
        "small.yaml: rates.step: required key is missing",
    ),
    "few requests": (
        FILE,
        "requests: 80,",
        "requests: 8,",
        "scales.tiny.requests: input should be greater than or equal to 40",
    ),
    "a path as key": (FILE, "  wait:", "  wa/it:", "policies: 'wa/it': a key consists of letters, digits and _ . + -"),
    "a setting": (FILE, "chunk: 512", "chunk: many", "policies.wait: chunk: input should be a valid integer"),
    "no label": (FILE, ", label: Sarathi", "", "small.yaml: policies.sarathi.label: required key is missing"),
    "no data for a figure": (FILE, "latency, gap, memory", "reference", "which is not there"),
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    shutil.copytree(CHECKOUT / "config", tmp_path / "config")
    (tmp_path / "data").mkdir()
    shutil.copytree(CHECKOUT / "data" / "hardware", tmp_path / "data" / "hardware")
    (tmp_path / FILE).write_text(EXPERIMENT)
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    return tmp_path


def test_the_experiment_itself_passes(project):
    plan_of("tiny", ["small"]).check()


def test_any_number_of_policies_of_one_family_can_be_drawn(project):
    more = "".join(f"  wait_{i}: {{use: wait_chunked, label: W{i}}}\n" for i in range(12))
    (project / FILE).write_text(EXPERIMENT + more)
    plan_of("tiny", ["small"]).check()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(project, mistake):
    name, old, new, expected = MISTAKES[mistake]
    path = project / name
    text = path.read_text()
    wrong = re.sub(old, lambda _: new, text, count=1)
    assert wrong != text
    path.write_text(wrong)
    with pytest.raises(FluidwaitError) as error:
        plan_of("tiny", ["small"]).check()
    told = str(error.value)
    assert expected in told and "\n" not in told, told


def test_a_trace_with_too_few_rows(project):
    """However it is replayed, a run of 80 requests does not come out of 30 rows."""
    (project / "config" / "workloads" / "short.yaml").write_text(TRACE)
    rows = "".join(f"{i},100,10\n" for i in range(30))
    (project / "data" / "short.csv").write_text(f"arrival,prompt,output\n{rows}")
    (project / FILE).write_text(EXPERIMENT.replace("workload: p512d20", "workload: short"))
    with pytest.raises(FluidwaitError, match="experiment small: .*30"):
        plan_of("tiny", ["small"]).check()


@pytest.mark.parametrize("scale", ["quick", "paper"])
def test_every_experiment_that_ships_passes(scale):
    for path in sorted((CHECKOUT / "config" / "experiments").glob("*.yaml")):
        experiment = load_experiment(path)
        if scale in experiment.scales:
            check.check(resolve(experiment), scale)


CONFIG = {
    "scale": "paper",
    "experiments": "e1",
    "variants": {"e1": ["e7_single", "e1"]},
    "studies": None,
    "real": "cpu",
}


def test_names_may_come_as_one_word():
    chosen = selection.read_selection(CONFIG | {"experiments": "e1, e2,e1"})
    assert (chosen.made(), chosen.studies, chosen.real) == (["e1", "e7_single", "e2"], [], ["cpu"])
    assert selection.read_selection(CONFIG | {"scale": "quick"}).made() == ["e1"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"experiment": "e1"}, "experiment: unknown key (did you mean 'experiments'?)"),
        ({"experiments": "e1,e9"}, "experiments: no file config/experiments/e9.yaml"),
        ({"experiments": "config/experiments/e1.yaml"}, "(did you mean 'e1'?)"),
        ({"variants": {"e1": ["e7_singel"]}}, "no file config/experiments/e7_singel.yaml (did you mean 'e7_single'?)"),
        ({"studies": "e7"}, "studies: no file config/studies/e7.yaml (did you mean 'e6'?)"),
        ({"real": "cpus"}, "real: no file config/real/cpus.yaml (did you mean 'cpu'?)"),
        ({"scale": 3}, "scale: input should be a valid string, found 3"),
        ({"scale": "papr", "experiments": []}, "scale: 'papr' is not defined (did you mean 'paper'?)"),
        ({"studies": {}}, "studies: input should be a valid list"),
    ],
    ids=str,
)
def test_a_mistake_in_what_is_chosen_is_one_line(change, told):
    with pytest.raises(FluidwaitError) as error:
        Plan(selection.read_selection(CONFIG | change)).check()
    assert str(error.value).startswith("config/config.yaml or --config: ") and told in str(error.value)
