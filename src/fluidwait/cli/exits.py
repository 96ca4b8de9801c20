"""How a command ends: its exit codes, and the one line of a mistake."""

from __future__ import annotations

import sys

PROGRAM = "fluidwait"
FAILED, MISUSED, INTERRUPTED = 1, 2, 130
"""Exit codes: checked and found wanting; a mistake of the user; stopped by the user."""


def tell(message: str) -> None:
    """Print a mistake of the user, in one line."""
    print(f"{PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)
