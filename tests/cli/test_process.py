"""The command in its process: what it starts, how it ends, and surroundings that are broken."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_cases import (
    OUTPUTS,
    RUN,
    SIMULATE,
    everything,
    fixed,
    in_a_process,
    succeeds,
    write,
)

from fluidwait import cli
from fluidwait.artifacts import verify as verification
from fluidwait.base.errors import FluidwaitError


def test_the_installed_command_is_this_one():
    (entry,) = (e for e in importlib.metadata.entry_points(group="console_scripts") if e.name == "fluidwait")
    assert entry.value == "fluidwait.cli:main"


def test_starting_up_imports_nothing_heavy():
    heavy = {"pydantic", "yaml", "numpy", "numba", "scipy", "polars", "pyarrow", "matplotlib", "vidur"}
    code = f"import sys, fluidwait.cli; fluidwait.cli.main([]); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: fluidwait") and done.stdout.endswith("[]\n")


def test_an_interruption_is_quiet(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(verification, "verify", interrupted)
    assert cli.main(["verify", "."]) == 130
    assert capsys.readouterr() == ("", "")


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(verification, "verify", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["verify", "."])


def test_python_runs_the_package():
    done = in_a_process("--help")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("Usage: fluidwait ")


def test_a_full_screen_is_one_line():
    """Standard output goes to a disk that is full."""
    for command in (["policies"], ["--help"], [*RUN, "--out", "run.parquet"]):
        done = in_a_process(*command, redirect="> /dev/full")
        assert done.returncode == 2
        assert done.stderr == "fluidwait: error: standard output: No space left on device\n"
    assert everything() == {}  # the run was written before what it prints: the command failed all the same


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_cannot_be_told_leaves_no_file(name):
    """The file is written, then the screen's disk is full: the command failed, and nothing says otherwise."""
    arguments = OUTPUTS[name]("out")
    before = everything()
    done = in_a_process(*arguments, redirect="> /dev/full")
    assert done.returncode == 2 and done.stderr == "fluidwait: error: standard output: No space left on device\n"
    assert everything() == before


def test_a_closed_screen_is_no_error():
    done = in_a_process("policies", redirect=">&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_has_enough_is_no_traceback():
    done = in_a_process("policies", redirect="| head -c 1")
    assert done.stderr == ""


def test_a_screen_with_ascii_only():
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    write("claims.yaml", {"claims": []})
    name = "w-é≥.yaml"
    done = in_a_process(*SIMULATE, "--workload", name, "--rate", "1", **ascii_only)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no such file" in done.stderr
    named = write("w.yaml", fixed() | {"name": "at least ≥"})
    done = in_a_process(*SIMULATE, "--workload", named, "--rate", "1", **ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert "at least \\u2265" in done.stdout


def test_a_home_that_is_not_known():
    for root in ("~nobody-of-that-name/x", "~/x"):
        done = in_a_process(*RUN, HOME=None, FLUIDWAIT_ROOT=root)
        assert done.returncode == 2
        assert done.stderr.startswith(f"fluidwait: error: FLUIDWAIT_ROOT={root}: ") and done.stderr.count("\n") == 1


def test_numba_without_a_folder_for_its_machine_code(capsys, monkeypatch):
    """A checkout and a home folder that are both read-only: the variable that helps is named."""
    from numba.core import caching

    from fluidwait.device import timing

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    for folder, says in ((None, "; set NUMBA_CACHE_DIR to a folder"), ("/gone", "NUMBA_CACHE_DIR=/gone: Numba cannot")):
        monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
        if folder:
            monkeypatch.setenv("NUMBA_CACHE_DIR", folder)
        with pytest.raises(FluidwaitError) as error:
            timing.kept_on_disk(lambda x: x)
        assert says in str(error.value) and "\n" not in str(error.value)


def test_errors_of_the_system_and_of_tables_are_one_line(capsys, monkeypatch):
    import polars as pl

    for error, says in (
        (PermissionError(13, "Permission denied", "/locked"), "/locked: Permission denied"),
        (MemoryError("Unable to allocate 8 TiB"), "not enough memory (Unable to allocate 8 TiB)"),
        (pl.exceptions.ColumnNotFoundError("rate\n\nmore"), "not the one that this command reads: rate"),
    ):

        def fails(*_, error=error):
            raise error

        monkeypatch.setattr("fluidwait.artifacts.verify.verify", fails)
        Path("results").mkdir(exist_ok=True)
        assert cli.main(["verify", "results"]) == 2
        told = capsys.readouterr()
        assert says in told.err and told.err.count("\n") == 1


def test_paths_that_cannot_be_looked_at(capsys):
    Path("loop").symlink_to("loop")
    Path("results").mkdir()
    for path in ("loop", "loop/results", "x" * 5000):
        assert cli.main(["verify", path]) == 2
        told = capsys.readouterr()
        assert told.out == "" and told.err.count("\n") == 1
    Path("results/circle").symlink_to("circle")
    assert cli.main(["verify", "results"]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_an_input_of_a_sidecar_that_is_a_circle_of_links(capsys):
    succeeds(capsys, *RUN, "--out", "results/run.parquet")
    sidecar = json.loads(Path("results/run.parquet.json").read_text())
    Path("circle").symlink_to("circle")
    sidecar["inputs"] = [{"path": str(Path("circle").absolute()), "sha256": "0" * 64, "of": "bytes"}]
    write("results/run.parquet.json", json.dumps(sidecar))
    assert cli.main(["verify", "results"]) == 1
    assert "is gone" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look anywhere: run the tests as another user")
def test_a_folder_that_may_not_be_searched_is_told(capsys):
    Path("results/locked").mkdir(parents=True)
    Path("results/locked").chmod(0)
    try:
        assert cli.main(["verify", "results"]) == 2
        assert "locked: cannot be read (Permission denied)" in capsys.readouterr().err
    finally:
        Path("results/locked").chmod(0o755)
