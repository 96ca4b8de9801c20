"""``python -m fluidwait``: the same as the command ``fluidwait``."""

from __future__ import annotations

import sys

from fluidwait.cli import main

if __name__ == "__main__":
    sys.exit(main())
