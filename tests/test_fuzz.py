"""A small run of the fuzzer ends without a fault, and it finds what it is meant to find."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.util import find_spec

import pytest

from fluidwait.base.paths import project_root

SCRIPT = project_root() / "benchmarks" / "fuzz.py"
SIZES = {"inputs": 300, "commands": 4, "simulations": 150, "vidur": 25}


@pytest.mark.parametrize("kind", SIZES)
def test_a_small_run_has_no_fault(kind):
    if find_spec("vidur") is None:  # its cases are shared with the tests of agreement
        pytest.skip("Vidur is not installed (pip install 'fluidwait[vidur]')")
    count = str(SIZES[kind])
    command = [sys.executable, str(SCRIPT), "--only", kind, "--seed", "70000", "--count", count]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert done.stdout.endswith("; 0 faults\n")


@pytest.fixture
def fuzz(monkeypatch):
    if find_spec("vidur") is None:
        pytest.skip("Vidur is not installed (pip install 'fluidwait[vidur]')")
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAKE_WORKER = """
import sys, time
first = int(sys.argv[3])
for seed in range(first, first + int(sys.argv[4])):
    print("at", seed, flush=True)
    if seed == 2: time.sleep(60)
    if seed == 4: sys.exit(9)
    print("fault 'no'" if seed == 1 else "done read", flush=True)
"""


def test_hangs_and_deaths_of_a_worker_are_told_with_their_seed(fuzz, tmp_path, monkeypatch, capsys):
    worker = tmp_path / "worker.py"
    worker.write_text(FAKE_WORKER)
    monkeypatch.setattr(fuzz, "__file__", str(worker))
    monkeypatch.setitem(fuzz.PATIENCE, "inputs", 0.1)
    monkeypatch.setattr(fuzz, "COMPILING", 1.0)
    outcomes, faults = fuzz.watch("inputs", 0, 6)
    assert dict(outcomes) == {"read": 3}
    assert faults == [(1, "'no'"), (2, "hang"), (4, "died")]
    assert "inputs seed 2: hang" in capsys.readouterr().out


def test_a_traceback_and_a_leftover_are_faults(fuzz, tmp_path, monkeypatch):
    def breaks(path):
        raise KeyError("name")

    def leaves(path):
        (path.parent / ".x.1.tmp").write_text("half")

    for read, error in ((breaks, KeyError), (leaves, fuzz.Fault)):
        monkeypatch.setattr(fuzz, "READERS", {"trace": fuzz.Reader((), read)})
        with pytest.raises(error):
            fuzz.one_input(1, tmp_path)
        fuzz.clear(tmp_path)


def test_a_law_that_does_not_hold_is_a_fault(fuzz, tmp_path, monkeypatch):
    real = fuzz.simulate

    def early(*arguments, **options):
        run = real(*arguments, **options)
        return run._replace(first_token=run.first_token - 100)

    assert fuzz.one_simulation(5, tmp_path) in ("run", "evicting")
    monkeypatch.setattr(fuzz, "simulate", early)
    with pytest.raises(fuzz.Fault, match="causality"):
        fuzz.one_simulation(5, tmp_path)
