"""Run one command: its exit code, and every mistake of the user in one line, without a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from fluidwait.base.errors import FluidwaitError
from fluidwait.base.files import all_or_nothing
from fluidwait.cli.app import app
from fluidwait.cli.exits import FAILED, INTERRUPTED, MISUSED, PROGRAM, tell

UsageError: Any = typer.BadParameter.__base__  # Typer's own copy of Click, or Click itself in older versions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (checked and found wanting), 2 (a mistake of the user) or 130."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # neither closed nor replaced by a test
            stream.reconfigure(errors="backslashreplace")  # for screens that have ASCII only
    try:
        code = _run_command(list(arguments) or ["--help"])
    except FluidwaitError as error:
        return _told(str(error))
    except UsageError as error:
        if error.format_message().startswith("Usage:"):  # a group without its command: the text is its whole help
            print(error.format_message(), file=sys.stderr)
            return MISUSED
        return _told(f"{error.format_message().replace('Value error, ', '')} (see {_command(error)} --help)")
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads has enough, as `| head` has
        _drop_output()
        return FAILED
    except MemoryError as error:
        return _told(f"not enough memory{f' ({error})' if str(error) else ''}; ask for less at once")
    except OSError as error:
        return _told_by_the_system(error)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("polars", "pyarrow"):
            raise
        return _told(f"a table that was given is not the one that this command reads: {str(error).splitlines()[0]}")
    return code if isinstance(code, int) else 0


def _run_command(arguments: list[str]) -> Any:
    with all_or_nothing():
        code = app(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk is an error of this command, not of Python's end
    return code


def _told_by_the_system(error: OSError) -> int:
    """What the operating system refused, of a file or of the screen."""
    where = "standard output" if error.filename is None else error.filename
    if error.filename is None:
        _drop_output()
    return _told(f"{where}: {error.strerror or error}")


def _drop_output() -> None:
    """What could not be printed is not tried again when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(message: str) -> int:
    tell(message)
    return MISUSED


def _command(error: Any) -> str:
    return error.ctx.command_path if error.ctx else PROGRAM
