from __future__ import annotations

from pathlib import Path

import pytest

from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import ROOT_VARIABLE, project_root


def test_root_is_the_variable_then_the_checkout_around_us_then_the_package(tmp_path, monkeypatch):
    checkout, inner, chosen = tmp_path / "checkout", tmp_path / "checkout" / "a" / "b", tmp_path / "chosen"
    for folder in (checkout / "src" / "fluidwait", inner, chosen):
        folder.mkdir(parents=True)
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    monkeypatch.chdir(inner)
    assert project_root() == Path(__file__).resolve().parents[2]  # no Snakefile yet: not a checkout
    (checkout / "Snakefile").touch()
    assert project_root() == checkout
    monkeypatch.setenv(ROOT_VARIABLE, str(chosen))
    assert project_root() == chosen


def test_root_variable_must_name_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match=f"{ROOT_VARIABLE}=.*missing: no such folder"):
        project_root()
