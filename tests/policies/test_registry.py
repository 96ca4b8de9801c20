"""Finding policies by name or file, and what a user is told when that fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import fluidwait.policies
from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import project_root
from fluidwait.policies import load_policy, names

ALL = [
    *(
        "a_min",
        "eb_plus",
        "flow_control",
        "fluid_budget",
        "fluid_lookahead",
        "lightllm",
        "lmdeploy",
        "mcsf",
        "nested_wait",
        "orca",
        "ppas",
    ),
    *("sarathi", "sglang", "sorted_f", "svf", "tgi", "trtllm", "vllm_v0", "vllm_v1", "wait", "wait_chunked"),
]

FILE = """
from fluidwait.policies.contract import PolicySettings, jit


class Settings(PolicySettings):
    most: int = 3


@jit
def plan(view, knobs, memory, out):
    return 0, float("inf")
"""


def refusal(spec, source="policy") -> str:
    with pytest.raises(ConfigError) as error:
        load_policy(spec, source)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_names():
    assert set(ALL) <= set(names())
    shipped = {p.stem for p in Path(fluidwait.policies.__file__).parent.glob("*.py")}
    assert set(names()) == shipped - {"__init__", "contract", "file", "policy", "tools"}


@pytest.mark.parametrize("name", ALL)
def test_every_policy_has_a_default_file(name):
    policy = load_policy(name)
    assert policy.name == name
    assert policy.settings == load_policy(project_root() / "config" / "policies" / f"{name}.yaml").settings


def test_settings_become_knobs():
    policy = load_policy({"policy": "sarathi", "token_budget": 384})
    knobs = policy.prepare(None)
    assert (knobs.token_budget, knobs.max_requests) == (384, 256)


def test_unknown_policy_names_the_nearest():
    assert refusal({"policy": "sarathy"}) == "policy: policy: 'sarathy' is not a policy (did you mean 'sarathi'?)"
    assert "contract" not in names()
    assert "is not a policy" in refusal({"policy": "contract"})


def test_missing_policy():
    text = refusal({"token_budget": 5}, "e1.yaml")
    assert text.startswith("e1.yaml: policy: required key is missing")
    assert "wait_chunked" in text


def test_unknown_setting_names_the_nearest():
    text = refusal({"policy": "sarathi", "token_budgets": 5}, "e1.yaml")
    assert text == "e1.yaml: token_budgets: unknown key (did you mean 'token_budget'?)"


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        ({"policy": "sarathi", "token_budget": 0}, "token_budget"),
        ({"policy": "sarathi", "max_requests": -1}, "max_requests"),
        ({"policy": "vllm_v1", "token_budget": 1.5}, "token_budget"),
        ({"policy": "fluid_budget", "batch_tokens": 0}, "batch_tokens"),
        ({"policy": "fluid_budget", "headroom": 0.9}, "headroom"),
        ({"policy": "wait", "max_wait": -0.1}, "max_wait"),
        ({"policy": "wait", "thresholds": "fluids"}, "thresholds"),
        ({"policy": "wait_chunked", "chunk": 0}, "chunk"),
        ({"policy": "wait_chunked", "slack": 1.0}, "slack"),
        ({"policy": "nested_wait", "segments": 0}, "segments"),
        ({"policy": "trtllm", "mode": "no_evicts"}, "mode"),
        ({"policy": "eb_plus", "threshold": 1.0}, "threshold"),
        ({"policy": "flow_control", "per_step": 0}, "per_step"),
    ],
)
def test_out_of_range(spec, key):
    assert refusal(spec, "e1.yaml").startswith(f"e1.yaml: {key}")


def test_missing_file():
    assert "sarathy" in refusal("sarathy")
    assert refusal({"policy": "no/such.py"}).startswith("policy: policy: no such file ")


def test_policy_from_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    policy = load_policy({"policy": str(path), "most": 5})
    assert (policy.name, policy.prepare(None).most) == ("mine", 5)
    assert load_policy({"policy": str(path)}).module is policy.module  # so that it compiles once
    assert "unknown key (did you mean 'most'?)" in refusal({"policy": str(path), "mots": 5})


@pytest.mark.parametrize("part", ["Settings", "plan"])
def test_incomplete_file(tmp_path, part):
    """Told every time, not only at the first attempt."""
    path = tmp_path / f"without_{part.lower()}.py"
    path.write_text(FILE.replace(f"class {part}", "class Other").replace(f"def {part}", "def other"))
    for _ in range(2):
        assert refusal({"policy": str(path)}) == f"policy: policy: {path}: defines no '{part}'"


def test_file_that_cannot_be_imported(tmp_path):
    path = tmp_path / "broken_policy.py"
    path.write_text("import no_such_module_at_all\n")
    text = refusal({"policy": str(path)})
    assert text.startswith(f"policy: policy: {path}:1: ModuleNotFoundError: No module named 'no_such_module_at_all' (")
    assert "fluidwait_policy_broken_policy" not in sys.modules
