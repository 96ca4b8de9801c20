"""Every experiment that ships: it resolves, its policies can be prepared, its grids are of equal size."""

from __future__ import annotations

import pytest

from fluidwait.base.errors import ConfigError
from fluidwait.base.models import parse
from fluidwait.base.paths import project_root
from fluidwait.base.yaml_files import load_yaml
from fluidwait.experiments.experiment import RateRange, load_experiment
from fluidwait.experiments.kinds import figure_kinds
from fluidwait.experiments.setting import resolve
from fluidwait.experiments.steps import tuned
from fluidwait.pipeline import plan as plans
from projects import plan_of

NAMES = sorted(path.stem for path in (project_root() / "config" / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_of_every_experiment_can_be_prepared(name):
    experiment = load_experiment(name)
    assert experiment.id == name
    assert [kind.name for kind in figure_kinds(experiment)] == experiment.figures
    setting = resolve(experiment)
    for scale in ("quick", "paper"):
        first, *_, last = experiment.rates_at(scale)
        for key, entry in experiment.policies.items():
            for rate in (first, last):
                policy = setting.policy(key, entry.combinations()[-1])
                policy.prepare(setting.context(rate))


@pytest.mark.parametrize("name", NAMES)
def test_tuned_policies_of_an_experiment_try_equally_many_combinations(name):
    sizes = {len(entry.combinations()) for entry in load_experiment(name).policies.values() if entry.grid}
    assert len(sizes) <= 1


def test_the_workflow_makes_every_experiment_that_ships():
    config = load_yaml(project_root() / "config" / "config.yaml")
    variants = [name for names in config["variants"].values() for name in names]
    assert set(config["variants"]) <= set(config["experiments"])
    assert sorted([*config["experiments"], *variants]) == NAMES


def test_a_key_is_tuned_in_every_experiment_or_in_none(monkeypatch):
    """The workflow chooses the rule that makes a policy's results by its key."""
    keys = {key for name in NAMES for key in tuned(load_experiment(name))}
    assert keys and all(key.endswith("tuned") for key in keys)
    assert {"sweep", "tuned_sweep"} <= set(plan_of("paper", NAMES).rules())
    other = load_experiment("e2")
    plain = {key: entry.model_copy(update={"grid": None}) for key, entry in other.policies.items()}
    monkeypatch.setattr(
        plans,
        "load_experiment",
        lambda name: other.model_copy(update={"policies": plain}) if name == "e2" else load_experiment(name),
    )
    with pytest.raises(
        ConfigError, match=r"^experiment e2: policies.sarathi_tuned: no grid here, but one in experiment e1"
    ):
        plan_of("quick", ["e1", "e2"]).rules()


def test_a_range_without_end_is_refused():
    with pytest.raises(ConfigError) as error:
        parse(RateRange, {"start": 1, "stop": 1e18, "step": 1e-3}, "e.yaml")
    assert "more than 10000 rates (nearest valid step: 1e+14)" in str(error.value)
    assert len(parse(RateRange, {"start": 1, "stop": 2, "step": 0.001}, "e.yaml").values()) == 1001
