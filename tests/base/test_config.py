"""One clear line for every mistake in a configuration."""

from __future__ import annotations

import gzip
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.base.models import Strict, load, parse
from fluidwait.base.tables import csv_records
from fluidwait.base.text_files import read_json, read_text
from fluidwait.base.yaml_files import load_yaml


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


# --- what YAML can say and no setting is ------------------------------------------------------------------------------


class Sizes(Strict):
    n: int
    word: str = ""
    list_: list[int] = []
    seed: int = 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("n: 2020-02-30T99:99:99Z", "n: input should be a valid integer"),
        ("n: 2024-05-01", "found '2024-05-01'"),
        ("n: !!timestamp x", "n: input should be a valid integer"),
        ("n: 9223372036854775808", "n: a whole number beyond 64 bits (nearest valid value: 1000000000)"),
        ("n: 9223372036854775807", "n: 9223372036854775807 is out of range (nearest valid value: 1000000000)"),
        ("n: 1.0e+18", "n: 1000000000000000000 is out of range (nearest valid value: 1000000000)"),
        ("n: -1000000001", "n: -1000000001 is out of range (nearest valid value: -1000000000)"),
        ("n: 1\nlist_: [1, 1000000000000000000000000000000]", "list_.1: a whole number beyond 64 bits"),
        ("n: 1\nlist_: [1, 1000000000000]", "list_: 1000000000000 is out of range"),
        ("n: " + "9" * 5000, "line 1, column 4: not a whole number that can be read"),
        ('n: 1\nword: "a\\0b"', "word: holds the character U+0000"),
        ('n: 1\nword: "\\ud800"', "line 2, column 10: found invalid Unicode character escape code"),
        ('n: 1\n"a\\0": 1', "a?: holds the character U+0000"),
        ("n: &a [*a]", "n: nested too deeply, or aliases without end"),
        ("n: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("n: !!int x", "not valid YAML"),
        ("n: !!bool x", "not valid YAML"),
        ("n: 1\nword: " + "x" * 300 + "\nlist_: " + "y" * 300, "found 'yyyyy"),
    ],
)
def test_values_that_no_setting_can_have_are_one_line(tmp_path, text, says):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(Sizes, path)
    assert str(error.value).startswith(f"{path}: ") and says in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < len(str(path)) + 200


def test_aliases_that_multiply_are_refused_at_once(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    )
    with pytest.raises(ConfigError, match="aliases without end"):
        load_yaml(path)


def test_a_seed_is_a_name_and_may_be_large(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("n: 1000000000\nseed: 20241126123456789\n")
    assert load(Sizes, path) == Sizes(n=10**9, seed=20241126123456789)


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (gzip.compress(b"n: 1", mtime=0), "it looks like compressed with gzip"),
        ("n: 1".encode("utf-16"), "it looks like UTF-16 text"),
        (b"PAR1 and so on \xff", "it looks like Parquet"),
        (b"n: 1\nword: \xe9t\xe9", "line 2: byte 0xe9 is not UTF-8; it looks like text in another encoding"),
        (b"\xff\0\0", "it looks like binary data"),
    ],
)
def test_what_is_no_text_is_told_by_its_looks(tmp_path, content, looks):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    for read in (load_yaml, read_text, read_json, lambda path: list(csv_records(path))):
        with pytest.raises(ConfigError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: cannot be read as ") and looks in str(error.value)


def test_text_with_a_byte_order_mark_is_text(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfn: 1")
    assert load_yaml(path) == {"n": 1}


def test_json_that_is_none(tmp_path):
    path = tmp_path / "a.json"
    for text in ("{", "[" * 100_000, ""):
        path.write_text(text)
        with pytest.raises(ConfigError, match="a.json: not valid JSON"):
            read_json(path)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_not_read(device):
    """The first of them has no end."""
    with pytest.raises(ConfigError, match=r"cannot be read as \w+ \(a device, not a file\)"):
        load_yaml(device)
