"""CONTRIBUTING.md names commands, files and tests that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md", "README.md"])
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)\s#]+)", (ROOT / name).read_text()):
        assert "://" in target or (ROOT / target).exists(), target


def test_named_files_exist():
    named = re.findall(r"`((?:src|tests|docs|config|paper|data|workflow|\.ci)/[\w/.-]+)`", TEXT)
    assert len(named) > 10
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_fast_selection_leaves_out_modules_that_exist(request):
    conftest = next(p for p in request.config.pluginmanager.get_plugins() if hasattr(p, "slow_modules_without_a_file"))
    assert conftest.slow_modules_without_a_file() == set()


def test_the_fast_selection_is_a_selection():
    """Most tests are in it, and none that starts Snakemake."""
    assert 'pytest -m "not slow"' in TEXT
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-qq",
        "-m",
        "not slow",
        "tests/docs",
        "tests/test_docs.py",
    ]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "tests/docs/" in listed and "tests/test_docs.py" not in listed
