"""Every experiment that ships: it resolves, its policies can be prepared, its grids are of equal size."""

from __future__ import annotations

import pytest

from fluidwait.config import load_yaml
from fluidwait.experiments.experiment import load_experiment, resolve
from fluidwait.figures import KINDS
from fluidwait.paths import project_root

NAMES = sorted(path.stem for path in (project_root() / "config" / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_of_every_experiment_can_be_prepared(name):
    experiment = load_experiment(name)
    assert experiment.id == name
    assert set(experiment.figures) <= set(KINDS)
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


def test_the_workflow_makes_experiments_that_exist():
    assert set(load_yaml(project_root() / "config" / "config.yaml")["experiments"]) <= set(NAMES)
