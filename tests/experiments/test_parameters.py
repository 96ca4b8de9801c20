from __future__ import annotations

import making
import polars as pl
import pytest

from fluidwait.artifacts.verify import verify
from fluidwait.base.paths import project_root
from fluidwait.experiments import parameters
from fluidwait.experiments.experiment import load_experiment
from fluidwait.experiments.setting import resolve

NAMES = ("e2", "e3_tight", "e3_tight_recompute", "e8")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "parameters.csv"
    making.parameters([load_experiment(name) for name in NAMES], "paper", out)
    return out


@pytest.fixture(scope="module")
def table(made):
    return pl.read_csv(made, infer_schema=False)


def test_a_row_per_experiment_and_policy(table):
    expected = [(name, key) for name in NAMES for key in load_experiment(name).policies]
    assert table.select("experiment", "policy").rows() == expected


def test_every_setting_of_every_policy_is_said(table):
    """A setting is empty exactly where the policy has none of that name."""
    for row in table.iter_rows(named=True):
        setting = resolve(load_experiment(row["experiment"]))
        entry = setting.experiment.entry(row["policy"])
        names = set(setting.policy(row["policy"], entry.combinations()[0]).settings.model_dump())
        first = table.columns.index("tuning_replications") + 1
        assert {name for name in table.columns[first:] if row[name] is not None} == names


def test_values(table):
    def row(experiment, policy):
        return table.filter(experiment=experiment, policy=policy).row(0, named=True)

    tight = row("e3_tight", "sarathi")
    assert (tight["memory_margin"], tight["capacity_tokens"], tight["blocks"]) == ("0.6", "36864", "2304")
    assert (tight["eviction"], tight["semantics"], tight["max_requests"]) == ("restart", "serving", "256")
    assert (tight["grid_size"], tight["tuning_seed"], tight["chunk"]) == ("1", None, None)
    fluid = row("e8", "wait")
    knobs = resolve(load_experiment("e8")).policy("wait")
    assert fluid["in_service"].startswith("fluid: ") and int(fluid["in_service"][7:]) > 0
    assert (fluid["gate"], fluid["max_wait"]) == ("true", f"{knobs.settings.max_wait:g}")
    assert fluid["semantics"] == "decode"
    tuned = row("e2", "sarathi_tuned")
    assert (tuned["grid_size"], tuned["max_requests"]) == ("57", "tuned: 32 64 256")
    assert (tuned["tuning_seed"], tuned["boundaries"]) == ("1001", None)
    assert row("e2", "wait_tuned")["batch_tokens"] == "none"
    assert row("e2", "wait")["boundaries"] == "20 50"


def test_the_same_bytes_again_and_nothing_to_complain_of(made, tmp_path):
    again = tmp_path / "parameters.csv"
    making.parameters([load_experiment(name) for name in NAMES], "paper", again)
    assert again.read_bytes() == made.read_bytes()
    assert verify(made.parent, project_root()) == []


def test_the_identity_follows_settings_and_labels():
    experiment = load_experiment("e2")
    before = parameters.settings_identity(resolve(experiment), "paper")
    other = experiment.model_copy(update={"memory_margin": 0.2})
    assert parameters.settings_identity(resolve(other), "paper") != before
    entry = experiment.policies["wait"]
    renamed = experiment.policies | {"wait": entry.model_copy(update={"label": "Another"})}
    again = parameters.settings_identity(resolve(experiment.model_copy(update={"policies": renamed})), "paper")
    assert again != before


def test_e3_tight_is_run_with_either_eviction(table):
    """The same server, policies and lengths; only what an eviction loses differs, and where the rates lie."""
    rows = {
        name: {row["policy"]: row for row in table.filter(experiment=name).iter_rows(named=True)}
        for name in ("e3_tight", "e3_tight_recompute")
    }
    for key, recompute in rows["e3_tight_recompute"].items():
        differs = {name for name, value in rows["e3_tight"][key].items() if recompute[name] != value}
        assert differs <= {"experiment", "title", "rates", "eviction"}
        assert (rows["e3_tight"][key]["eviction"], recompute["eviction"]) == ("restart", "recompute")


@pytest.mark.parametrize(
    "path", sorted((project_root() / "config" / "experiments").glob("*.yaml")), ids=lambda p: p.stem
)
def test_the_papers_grid_and_its_numbers_have_the_papers_quotas(path):
    """Tuned on the paper's grid, or a remedy that stands for published numbers; the fixed rule has the default."""
    experiment = load_experiment(path.stem)
    setting = resolve(experiment)
    for key, entry in experiment.policies.items():
        if entry.use == "wait_chunked" and key in ("wait", "wait_tuned"):
            stands_for_the_paper = key == "wait_tuned" or path.stem.endswith(("_small_batches", "_cap_96"))
            quotas = setting.policy(key, entry.combinations()[0]).settings.quotas
            assert quotas == ("paper" if stands_for_the_paper else "mean_life")
