"""One clear line for every mistake in a configuration."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from fluidwait.config import ConfigError, Strict, load, load_yaml, nearest, parse


class Poisson(Strict):
    process: Literal["poisson"]
    rate: float = 1.0


class Gamma(Strict):
    process: Literal["gamma"]
    shape: float


class Piece(Strict):
    seconds: float
    rate: float


class Piecewise(Strict):
    process: Literal["piecewise"]
    pieces: list[Piece]


class Policy(Strict):
    name: Literal["wait", "nested_wait", "sarathi"]
    thresholds: list[int] = []
    max_wait: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _few(self):
        if len(self.thresholds) > 3:
            raise ValueError("At most three thresholds")
        return self


class Experiment(Strict):
    name: str
    arrivals: Annotated[Poisson | Gamma | Piecewise, Field(discriminator="process")]
    policies: list[Policy] = []
    by_label: dict[str, Policy] = {}
    note: str | None = None
    spare: Policy | None = None


GOOD = {"name": "e1", "arrivals": {"process": "poisson", "rate": 12}}


def message(**changes):
    with pytest.raises(ConfigError) as caught:
        parse(Experiment, GOOD | changes, "e1.yaml")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("e1.yaml: ")
    return text.removeprefix("e1.yaml: ")


def test_good_configuration():
    experiment = parse(Experiment, GOOD | {"policies": [{"name": "wait"}]}, "e1.yaml")
    assert experiment.arrivals == Poisson(process="poisson", rate=12.0)
    with pytest.raises(ValueError, match="frozen"):
        experiment.name = "e2"


def test_infinite_wait_is_allowed():
    text = "name: e1\narrivals: {process: poisson}\npolicies: [{name: wait, max_wait: .inf}]\n"
    assert parse(Experiment, _yaml(text), "e1.yaml").policies[0].max_wait == float("inf")


def _yaml(text):
    import yaml

    return yaml.safe_load(text)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"polices": []}, "polices: unknown key (did you mean 'policies'?)"),
        ({"qqqq": 1}, "qqqq: unknown key (valid: arrivals, by_label, name, note, policies, spare)"),
        (
            {"policies": [{"name": "wait"}, {"name": "wait", "maxwait": 3}]},
            "policies.1.maxwait: unknown key (did you mean 'max_wait'?)",
        ),
        (
            {"arrivals": {"process": "poisson", "rat": 3}},
            "arrivals.rat: unknown key (did you mean 'rate'?)",
        ),
        (
            {"arrivals": {"process": "gamma", "shape": 1, "zzz": 3}},
            "arrivals.zzz: unknown key (valid: process, shape)",
        ),
        (
            {"arrivals": {"process": "piecewise", "pieces": [{"seconds": 1, "rate": 1, "second": 1}]}},
            "arrivals.pieces.0.second: unknown key (did you mean 'seconds'?)",
        ),
        (
            {"by_label": {"a": {"name": "wait", "max_wiat": 2}}},
            "by_label.a.max_wiat: unknown key (did you mean 'max_wait'?)",
        ),
        ({"spare": {"name": "wait", "threshold": []}}, "spare.threshold: unknown key (did you mean 'thresholds'?)"),
    ],
)
def test_unknown_key(changes, expected):
    assert message(**changes) == expected


def test_typo_is_told_rather_than_the_key_it_leaves_missing():
    with pytest.raises(ConfigError, match=r"nane: unknown key \(did you mean 'name'\?\)"):
        parse(Experiment, {"nane": "e1", "arrivals": {"process": "poisson"}}, "e1.yaml")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"arrivals": {"process": "gamma"}}, "arrivals.shape: required key is missing"),
        ({"policies": [{}]}, "policies.0.name: required key is missing"),
        ({"arrivals": {"rate": 3}}, "arrivals.process: required key is missing (valid: gamma, piecewise, poisson)"),
    ],
)
def test_missing_key(changes, expected):
    assert message(**changes) == expected


def test_missing_top_level_key():
    with pytest.raises(ConfigError, match=r"^e1\.yaml: arrivals: required key is missing$"):
        parse(Experiment, {"name": "e1"}, "e1.yaml")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"policies": [{"name": "wiat"}]},
            "policies.0.name: 'wiat' is not a valid value (did you mean 'wait'?)",
        ),
        (
            {"arrivals": {"process": "poison"}},
            "arrivals.process: 'poison' is not a valid value (did you mean 'poisson'?)",
        ),
        (
            {"arrivals": {"process": 7}},
            "arrivals.process: '7' is not a valid value (valid: gamma, piecewise, poisson)",
        ),
    ],
)
def test_value_that_is_not_offered(changes, expected):
    assert message(**changes) == expected


@pytest.mark.parametrize(
    ("changes", "key", "found"),
    [
        ({"arrivals": {"process": "poisson", "rate": "fast"}}, "arrivals.rate", "found 'fast'"),
        ({"policies": [{"name": "wait", "thresholds": [1, 2.5]}]}, "policies.0.thresholds.1", "found 2.5"),
        ({"policies": [{"name": "wait", "max_wait": 0}]}, "policies.0.max_wait", "greater than 0, found 0"),
        ({"policies": {"name": "wait"}}, "policies", "valid list"),
        ({"name": 3}, "name", "valid string, found 3"),
        ({"arrivals": "poisson"}, "arrivals", "found 'poisson'"),
        ({"policies": [{"name": "wait", "thresholds": [1, 2, 3, 4]}]}, "policies.0", "at most three thresholds"),
    ],
)
def test_wrong_type_or_value(changes, key, found):
    text = message(**changes)
    assert text.startswith(f"{key}: ")
    assert text.endswith(found)


def test_file(tmp_path):
    path = tmp_path / "e1.yaml"
    path.write_text("name: e1\narrivals: {process: gamma, shape: 2}\n")
    assert load(Experiment, path).arrivals.shape == 2
    path.write_text("name: e1\narrivals: {process: gamma, shap: 2}\n")
    with pytest.raises(ConfigError) as caught:
        load(Experiment, path)
    assert str(caught.value) == f"{path}: arrivals.shap: unknown key (did you mean 'shape'?)"


def test_missing_file_names_the_near_one(tmp_path):
    (tmp_path / "e1_single_type.yaml").write_text("")
    (tmp_path / "hardware.yaml").write_text("")
    with pytest.raises(ConfigError) as caught:
        load_yaml(tmp_path / "e1_singel_type.yaml")
    assert str(caught.value) == (f"{tmp_path}/e1_singel_type.yaml: no such file (did you mean 'e1_single_type.yaml'?)")
    with pytest.raises(ConfigError, match=r"no such file$"):
        load_yaml(tmp_path / "no_folder" / "x.yaml")
    with pytest.raises(ConfigError, match=r"no such file$"):
        load_yaml(tmp_path / "qqqqqqqqqqqq.yaml")


def test_folder_instead_of_a_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load_yaml(tmp_path)
    assert "\n" not in str(caught.value)


def test_not_text(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(path)


@pytest.mark.parametrize("text", ["a: [1, 2\nb: 3\n", "a: 'x\n", "\t- a", "a: b: c", "a: \x07"])
def test_not_yaml(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"not valid YAML") as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)


def test_position_of_a_yaml_mistake(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("name: e1\nrate: a: b\n")
    with pytest.raises(ConfigError, match=r"not valid YAML at line 2, column 8"):
        load_yaml(path)


def test_key_given_twice(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("rate: 12\nname: e1\nrate: 13\n")
    with pytest.raises(ConfigError, match=r"x\.yaml: not valid YAML at line 3, column 1: key 'rate' again"):
        load_yaml(path)


@pytest.mark.parametrize(("text", "kind"), [("- a\n", "list"), ("3\n", "int"), ("", "nothing")])
def test_not_a_mapping(tmp_path, text, kind):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"expected a mapping of keys to values, found {kind}$"):
        load_yaml(path)


def test_numbers_as_keys(tmp_path):
    with pytest.raises(ConfigError, match="12: ") as caught:
        parse(Experiment, GOOD | {12: "x"}, "e1.yaml")
    assert "\n" not in str(caught.value)


def test_nearest():
    assert nearest("sarathy", ["wait", "sarathi"]) == " (did you mean 'sarathi'?)"
    assert nearest("x", ("wait", "sarathi")) == " (valid: sarathi, wait)"
    assert nearest("x", []) == ""
