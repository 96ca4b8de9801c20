from __future__ import annotations

from pathlib import Path

import pytest

from fluidwait.config import ConfigError
from fluidwait.paths import ROOT_VARIABLE, atomic_path, project_root


def test_root_is_the_variable_then_the_checkout_around_us_then_the_package(tmp_path, monkeypatch):
    checkout, inner, chosen = tmp_path / "checkout", tmp_path / "checkout" / "a" / "b", tmp_path / "chosen"
    for folder in (checkout / "src" / "fluidwait", inner, chosen):
        folder.mkdir(parents=True)
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    monkeypatch.chdir(inner)
    assert project_root() == Path(__file__).resolve().parents[1]  # no Snakefile yet: not a checkout
    (checkout / "Snakefile").touch()
    assert project_root() == checkout
    monkeypatch.setenv(ROOT_VARIABLE, str(chosen))
    assert project_root() == chosen


def test_root_variable_must_name_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match=f"{ROOT_VARIABLE}=.*missing: no such folder"):
        project_root()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "result.csv"
    with atomic_path(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["result.csv"]
