"""Why jobs of the workflow failed, in their own words: the last thing that Snakemake's user sees."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

TOLD = "fluidwait: error: "
LINES = 15
"""Of a log that ends in no message of ours."""


def reasons(logs: Iterable[tuple[str, Path]], since: float) -> str:
    """A paragraph for each failed job, its reason last.

    Args:
        logs: rule and log file of every job that has not succeeded; those that never started are left out.
        since: s since the epoch, when the workflow started.
    """
    found = {log: rule for rule, log in logs if log.is_file() and log.stat().st_mtime >= since}
    parts = [f"rule {rule} failed (log: {log})\n{reason(log)}" for log, rule in sorted(found.items())]
    return "\n\n".join(parts)


def reason(log: Path) -> str:
    """The message that a log ends with, or its last lines."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if not lines:
        why = "for want of memory, by hand, or because a policy of yours reads or writes beyond an array"
        return f"{TOLD}the job wrote nothing: it was probably killed, {why}"
    return lines[-1] if lines[-1].startswith(TOLD) else "\n".join(lines[-LINES:])
