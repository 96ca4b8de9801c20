"""The list of policies has the user's own, and every mistake in one."""

from __future__ import annotations

import pytest
from command_cases import (
    cells,
)

from fluidwait import cli, policies
from fluidwait.base.paths import ROOT_VARIABLE

POLICY = '''"""Everything at once. More."""

from pydantic import Field

from fluidwait.policies.contract import PolicySettings, jit


class Settings(PolicySettings):
    most: int = Field(7, description="requests in service")
    least: int = Field(description="requests waiting")


@jit
def plan(view, knobs, memory, out):
    return 0, float("inf")
'''


@pytest.fixture
def own_project(tmp_path, monkeypatch):
    """A project with one good policy, one that settings name wrongly, and two with a mistake each."""
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    settings = tmp_path / "config" / "policies"
    settings.mkdir(parents=True)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "mine.py").write_text(POLICY)
    (tmp_path / "policies" / "typo.py").write_text(POLICY.replace("return 0", "retrun 0"))
    (tmp_path / "policies" / "unused.py").write_text(POLICY.replace("def plan", "def plam"))
    (settings / "mine.yaml").write_text("{policy: policies/mine.py, least: 3}")
    (settings / "more.yaml").write_text("{policy: policies/mine.py, lest: 3}")
    (settings / "typo.yaml").write_text("policy: policies/typo.py")
    (settings / "typo_too.yaml").write_text("policy: policies/typo.py")
    (settings / "broken.yaml").write_text("policy: [")
    return tmp_path


def test_policies_lists_the_users_own_beside_every_mistake(own_project, capsys):
    assert cli.main(["policies"]) == 2
    told = capsys.readouterr()
    for name in policies.names():
        assert f"\n{name}: " in f"\n{told.out}"
    mine = told.out[told.out.index("\nmine (policies/mine.py): Everything at once. More\n") :]
    assert cells(mine, "most") == ["7", "requests", "in", "service"]
    assert cells(mine, "least")[0] == "(required)"
    lines = told.err.splitlines()
    assert all(line.startswith("fluidwait: error: ") for line in lines) and len(lines) == 4
    for says in (
        "broken.yaml: not valid YAML",
        "more.yaml: lest: unknown key (did you mean 'least'?)",
        "policy: policies/typo.py:15: SyntaxError",
        "folder policies: policy: policies/unused.py: defines no 'plan'",
    ):
        assert len([line for line in lines if says in line]) == 1
