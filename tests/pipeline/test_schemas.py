"""The JSON Schemas say what the models say, and the committed files are them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from fluidwait import policies
from fluidwait.pipeline import schemas
from fluidwait.studies.registry import MODELS

jsonschema = pytest.importorskip(
    "jsonschema", reason="jsonschema is not installed; it comes with Snakemake (pip install 'fluidwait[workflow]')"
)

CHECKOUT = Path(__file__).resolve().parents[2]
KINDS = {"workloads": "workload", "experiments": "experiment", "real": "real", "paper": "claims"}
FILES = [
    *sorted((CHECKOUT / "config").glob("*/*.yaml")),
    *sorted((CHECKOUT / "data" / "hardware").glob("*.yaml")),
    CHECKOUT / "paper" / "claims.yaml",
]


def schema_of(path: Path, data: dict) -> dict:
    folder = path.parent.name
    named = {"policies": lambda: f"policy_{data['policy']}", "studies": lambda: f"study_{data['id']}"}
    kind = named[folder]() if folder in named else KINDS.get(folder, "hardware")
    return schemas.schemas()[f"{kind}{schemas.SUFFIX}"]


def faults(schema: dict, data) -> list[str]:
    return [e.message for e in jsonschema.Draft202012Validator(schema).iter_errors(data)]


def test_the_committed_files_match_the_models():
    assert schemas.differences(CHECKOUT / "workflow" / "schemas") == []


def test_every_kind_of_file_and_every_policy_has_a_schema():
    kinds = {name.removesuffix(schemas.SUFFIX) for name in schemas.schemas()}
    assert kinds == {
        "workload",
        "hardware",
        "experiment",
        "claims",
        "real",
        *(f"study_{name}" for name in MODELS),
        *(f"policy_{name}" for name in policies.names()),
    }


@pytest.mark.parametrize("name", schemas.schemas())
def test_a_schema_is_valid_itself(name):
    jsonschema.Draft202012Validator.check_schema(json.loads(schemas.text(schemas.schemas()[name])))


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_file_that_ships_is_accepted_and_a_misspelt_key_is_not(path):
    data = yaml.safe_load(path.read_text())
    schema = schema_of(path, data)
    assert faults(schema, data) == []
    assert faults(schema, data | {"misspelt": 1})
    assert faults(schema, {key: value for key, value in data.items() if key != next(iter(schema["required"]))})


def test_only_an_experiment_that_extends_another_may_leave_keys_out():
    schema = schemas.schemas()["experiment.schema.json"]
    change = {"id": "mine", "rates": None, "scales": {"quick": {"requests": 50}}, "policies": {"wait": None}}
    assert faults(schema, change | {"extends": "e1"}) == []
    for wrong in (
        {},
        {"extends": 3},
        {"extends": "e1", "scales": {"quick": {"request": 50}}},
        {"extends": "e1", "i": 1},
    ):
        assert faults(schema, change | wrong)
    for needed in ("title", "rates", "policies"):
        whole = yaml.safe_load((CHECKOUT / "config" / "experiments" / "e1.yaml").read_text())
        assert faults(schema, whole) == []
        assert faults(schema, {key: value for key, value in whole.items() if key != needed})
        assert faults(schema, whole | {needed: None})


def test_infinity_as_a_default_moves_into_the_description():
    schema = schemas.schemas()["policy_wait.schema.json"]["properties"]["max_wait"]
    assert "default" not in schema and schema["description"].endswith("(default: .inf)")
    assert faults(schema, float("inf")) == [] and faults(schema, -1)


def test_a_schema_refuses_the_settings_of_another_policy():
    data = yaml.safe_load((CHECKOUT / "config" / "policies" / "sarathi.yaml").read_text())
    assert faults(schemas.schemas()["policy_orca.schema.json"], data)
