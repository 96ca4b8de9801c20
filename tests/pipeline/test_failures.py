"""What is said of failed jobs: their own message, or what is left of it."""

from __future__ import annotations

import os

from fluidwait.pipeline.failures import reason, reasons

MESSAGE = "fluidwait: error: the message"


def test_the_message_is_all_that_is_said(tmp_path):
    log = tmp_path / "a.log"
    log.write_text(f"compiling\n{MESSAGE}\n\n")
    assert reason(log) == MESSAGE


def test_of_a_traceback_the_last_lines_are_kept(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("".join(f"line {i}\n" for i in range(100)) + "KeyError: 'x'\n")
    said = reason(log).splitlines()
    assert (said[0], said[-1], len(said)) == ("line 86", "KeyError: 'x'", 15)


def test_a_job_without_a_word_was_killed(tmp_path):
    log = tmp_path / "a.log"
    log.write_bytes(b"")
    assert "it was probably killed, for want of memory, by hand, or because a policy" in reason(log)


def test_jobs_of_this_run_only(tmp_path):
    """A log from before is of a job that did not start again."""
    logs = [tmp_path / name for name in ("new.log", "old.log", "none.log")]
    for log in logs[:2]:
        log.write_text(MESSAGE)
    os.utime(logs[1], (0, 50))
    os.utime(logs[0], (0, 200))
    said = reasons([("sweep", log) for log in logs], since=100)
    assert said == f"rule sweep failed (log: {logs[0]})\n{MESSAGE}"
    assert reasons([], since=0) == ""
