"""Every test of the command line runs in an empty folder."""

from __future__ import annotations

import pytest

from fluidwait.base.paths import ROOT_VARIABLE


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
