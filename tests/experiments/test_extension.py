"""An experiment that extends another: what it takes over, and mistakes in one line."""

from __future__ import annotations

import pytest
import yaml

from fluidwait.base.errors import ConfigError
from fluidwait.experiments import extension
from fluidwait.experiments.experiment import load_experiment

BASE = {
    "id": "base",
    "title": "Base",
    "hardware": "a100-80g_llama-2-7b",
    "workload": "p512d20",
    "rates": [10, 20],
    "figures": ["latency"],
    "boundary": {"resolution": 0.5},
    "scales": {
        "quick": {"requests": 100, "replications": 2, "audit_requests": 0},
        "paper": {"requests": 1000, "replications": 5, "audit_requests": 100},
    },
    "policies": {
        "sarathi": {"use": "sarathi", "label": "Sarathi"},
        "orca": {"use": "orca", "label": "Orca"},
    },
}


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Write experiments into a folder of their own."""
    monkeypatch.setattr(extension, "project_root", lambda: tmp_path)
    folder = tmp_path / "config" / "experiments"
    folder.mkdir(parents=True)

    def write(name: str, content: dict) -> str:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return str(folder / f"{name}.yaml")

    write("base", BASE)
    return write


def extended(put, **changes):
    return load_experiment(put("own", {"id": "own", "extends": "base", "title": "Own"} | changes))


def test_a_key_replaces_that_of_the_base_and_the_rest_is_taken_over(put):
    own = extended(put, rates=[5], eviction="restart")
    assert (own.id, own.title, own.rates, own.eviction) == ("own", "Own", [5.0], "restart")
    assert (own.workload, own.figures, list(own.policies)) == ("p512d20", ["latency"], ["sarathi", "orca"])


def test_entries_of_policies_and_keys_of_scales_change_alone(put):
    mine = {"use": "sarathi", "label": "Mine", "settings": {"token_budget": 1024}}
    own = extended(put, policies={"orca": None, "mine": mine}, scales={"quick": {"requests": 50}})
    assert list(own.policies) == ["sarathi", "mine"]
    assert (own.scale("quick").requests, own.scale("quick").replications) == (50, 2)
    assert own.scale("paper").requests == 1000


def test_null_leaves_out(put):
    assert extended(put, boundary=None).boundary is None


def test_an_extension_may_be_extended(put):
    put("own", {"id": "own", "extends": "base", "title": "Own", "rates": [7]})
    third = load_experiment(put("third", {"id": "third", "extends": "own", "boundary": None}))
    assert (third.title, third.rates, third.boundary) == ("Own", [7.0], None)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"extends": "bas"}, "own.yaml: extends: there is no experiment 'bas' (did you mean 'base'?)"),
        ({"extends": ""}, "own.yaml: extends: must be the name of an experiment, found ''"),
        ({"extends": []}, "own.yaml: extends: must be the name of an experiment, found []"),
        ({"extends": "../experiments/base"}, "there is no experiment '../experiments/base' (did you mean 'base'?)"),
        ({"extends": "own"}, "own.yaml: extends: 'own' extends this experiment in turn"),
        ({"tilte": None}, "own.yaml: tilte: null leaves out a key that the base does not have"),
        ({"policies": {"saratih": None}}, "policies: saratih: null leaves out a key that the base does not have"),
        ({"scales": {"quick": {"nope": None}}}, "scales.quick: nope: null leaves out a key that the base does not"),
        ({"scales": {"quick": {"requests": "x"}}}, "own.yaml: scales.quick.requests: input should be"),
        ({"policies": None}, "own.yaml: policies: required key is missing"),
    ],
)
def test_a_mistake_is_one_line(changes, told, put):
    with pytest.raises(ConfigError) as error:
        extended(put, **changes)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("scales", [[1], 5])
def test_a_mistake_in_the_base_names_the_base(scales, put):
    put("base", BASE | {"scales": scales})
    with pytest.raises(ConfigError, match=r"base\.yaml: scales"):
        extended(put, scales={"quick": {"requests": 50}})
    put("base", BASE | {"rates": "abc"})
    with pytest.raises(ConfigError, match=r"base\.yaml: rates"):
        extended(put)
