"""The command line, ``fluidwait``: one module for each group of commands, put together in :mod:`fluidwait.cli.app`.

Heavy modules are imported inside the commands, so that ``fluidwait --help`` answers at once.
"""

from fluidwait.cli.entry import main

__all__ = ["main"]
