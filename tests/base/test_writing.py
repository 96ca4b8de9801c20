"""Writing whole or not at all: names that cannot be written, both files or neither, and what killed writers left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import matplotlib.figure
import numpy as np
import polars as pl
import pytest

from fluidwait.artifacts.records import ITERATIONS, RecordWriter
from fluidwait.artifacts.sidecar import write_artifact
from fluidwait.base import files as writing
from fluidwait.base.errors import ConfigError
from fluidwait.drawing.saving import save_figure


def artifact(path, writer=lambda path, key: path.write_text("whole")):
    return write_artifact(path, writer, config={}, rule="test")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "it is a folder"),
        (".", "it is a folder"),
        ("..", "it is a folder"),
        ("folder", "it is a folder"),
        ("pipe", "no ordinary file"),
        ("a" * 240 + ".csv", "a name of 244 bytes; nearest valid value: "),
        ("x" * 5000, "File name too long"),
        ("out\udcff.csv", "the name is not UTF-8 text"),
        ("loop/out.csv", "Too many levels of symbolic links"),
    ],
)
def test_a_name_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch, name, says):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe")
    before = sorted(os.listdir())
    for write in (artifact, lambda path: writing.write_text(path, "whole"), writing.check_output):
        with pytest.raises(ConfigError, match="cannot be written") as error:
            write(name)
        assert says in str(error.value) and "\n" not in str(error.value)
    assert sorted(os.listdir()) == before and os.listdir("folder") == []


def test_the_longest_valid_name_is_valid(tmp_path):
    with pytest.raises(ConfigError) as error:
        artifact(tmp_path / ("a" * 250))
    longest = int(str(error.value).rpartition(" ")[2].rstrip(")"))
    artifact(tmp_path / ("a" * longest))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_device_is_not_replaced(tmp_path):
    with pytest.raises(ConfigError, match="/dev/null: cannot be written"):
        artifact("/dev/null")
    assert Path("/dev/null").is_char_device()


@contextmanager
def a_small_disk(bytes_: int):
    """No file may grow past this; the system refuses more as it does when a disk is full."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, old[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def records(path, key):
    random = np.random.default_rng(0)
    columns = {name: random.random(200_000) for name in ("start", "duration")}
    columns |= {name: random.integers(0, 10**9, 200_000) for name in ("tokens", "batch_size", "kv_tokens")}
    with RecordWriter(path, ITERATIONS, engine="x", policy="y", config_hash=key) as writer:
        writer.append("run", columns)


def figure(path, key):
    drawn = matplotlib.figure.Figure()
    drawn.subplots().plot(np.random.default_rng(0).random(5000))
    save_figure(drawn, path, key)


WRITERS = {
    "x.pdf": figure,
    "x.png": figure,
    "x.svg": figure,
    "x.parquet": records,
    "x.csv": lambda path, _: pl.DataFrame({"a": np.random.default_rng(0).random(100_000)}).write_csv(path),
    "x.txt": lambda path, _: path.write_text("x" * 10**6),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, name):
    with a_small_disk(3000), pytest.raises(ConfigError) as error:
        artifact(tmp_path / name, WRITERS[name])
    assert str(error.value) == f"{tmp_path / name}: cannot be written (File too large)"
    assert list(tmp_path.iterdir()) == []
    artifact(tmp_path / name, WRITERS[name])  # on a larger disk
    assert len(list(tmp_path.iterdir())) == 2


def test_a_sidecar_that_cannot_be_written_leaves_the_old_pair(tmp_path):
    """The disk fills up between the table and its sidecar: neither is replaced."""
    out = tmp_path / "x.csv"
    artifact(out)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with a_small_disk(200), pytest.raises(ConfigError, match="cannot be written"):
        artifact(out, lambda path, _: path.write_text("short"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- what killed writers left ----------------------------------------------------------------------------------------


def test_leftovers_of_any_file_are_removed_by_the_next_writer(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()  # a number that no process has
    for name in (
        f".other.csv.{process.pid}.tmp.csv",
        f".fig.{process.pid}.tmp",
        f".a.b.parquet.{process.pid}.tmp.parquet",
    ):
        (tmp_path / name).write_text("half")
    kept = tmp_path / ".hidden.csv"
    kept.write_text("not ours")
    writing.write_text(tmp_path / "x.csv", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden.csv", "x.csv"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
def test_a_writer_that_was_killed_and_not_yet_waited_for_has_ended(tmp_path):
    """Its number is still taken, which kept the leftovers."""
    with subprocess.Popen(["sleep", "60"]) as writer:
        leftover = tmp_path / f".a.csv.{writer.pid}.tmp.csv"
        leftover.write_text("half")
        writing.write_text(tmp_path / "b.csv", "")
        assert leftover.exists()
        writer.kill()
        os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)
        writing.write_text(tmp_path / "c.csv", "")
        assert not leftover.exists()


def test_a_process_number_used_again_does_not_keep_a_leftover(tmp_path):
    """Killed writers of a container all have the same number; so does the next writer."""
    for pid in (os.getpid(), os.getppid()):
        left = tmp_path / f".x.csv.{pid}.tmp.csv"
        left.write_text("half")
        os.utime(left, (time.time() - 10**7,) * 2)  # before that process started
    writing.write_text(tmp_path / "x.csv", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_a_file_that_is_being_written_is_kept(tmp_path):
    """Also when its writer runs on another machine, where its number says nothing: it holds a lock."""
    with writing.atomic_path(tmp_path / "slow.csv") as part:
        part.write_text("half")
        os.utime(part, (time.time() - 10**7,) * 2)
        writing.write_text(tmp_path / "x.csv", "whole")
        assert part.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slow.csv", "x.csv"]


def test_a_command_that_fails_keeps_no_artifact(tmp_path):
    with pytest.raises(KeyError), writing.all_or_nothing():
        artifact(tmp_path / "first.csv")
        assert len(list(tmp_path.iterdir())) == 2
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with writing.all_or_nothing():
        artifact(tmp_path / "first.csv")
    with pytest.raises(KeyError), writing.all_or_nothing():  # of another command: stays
        raise KeyError
    assert len(list(tmp_path.iterdir())) == 2
