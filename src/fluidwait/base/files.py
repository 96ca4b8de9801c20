"""Writing files whole or not at all, and clearing away what killed writers left."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fluidwait.base.errors import ConfigError
from fluidwait.base.paths import is_folder

made: list[Path] = []
"""Artifacts and other outputs that this process wrote, see :func:`all_or_nothing`."""

WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_LONGEST_NAME = 255  # bytes of a file's name, on all common file systems
_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp(\.[^.]*)?", re.DOTALL)


def sidecar_path(artifact: str | Path) -> Path:
    """``<artifact>.json``."""
    artifact = Path(artifact)
    return artifact.with_name(artifact.name + ".json")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is flushed to disk and renamed to ``path`` in one step.

    On any failure the temporary file is removed and ``path`` is left as it was, so a half-written file is never seen
    under its final name. The temporary name is hidden and keeps the suffix. Those of killed writers are removed.

    Raises:
        ConfigError: no such file can be written there, or the disk is full.
    """
    check_output(path)
    with temporary(Path(path)) as part:
        yield part
        move(part, Path(path))


def check_output(path: str | Path) -> None:
    """Refuse a path at which no artifact and no sidecar can be written, before anything is computed for it.

    Raises:
        ConfigError: it is a folder or a device, or its name is empty, too long, or no text.
    """
    path = Path(path)
    if path.name in ("", "..") or is_folder(path):
        raise ConfigError(f"{path}: cannot be written (it is a folder; give the name of a file)")
    try:
        length = len(path.name.encode())
        if path.parent.is_symlink():
            path.parent.stat()  # a circle, which looks like a file when folders are made
        special = path.exists() and not path.is_file()
    except UnicodeEncodeError:
        raise ConfigError(f"{ascii(str(path))}: cannot be written (the name is not UTF-8 text)") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None
    longest = _LONGEST_NAME - len(_temporary_path(sidecar_path(path)).name.encode()) + length
    if length > longest:
        raise ConfigError(f"{path}: cannot be written (a name of {length} bytes; nearest valid value: {longest})")
    if special:
        raise ConfigError(f"{path}: cannot be written (it is there and no ordinary file)")


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, gone in the end; errors of the disk are told as those of ``path``."""
    part = _temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent)
        lock = part.open("xb")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            _locked(lock)
        yield part
    except ConfigError:
        raise  # told already, of this file or of one that is written with it
    except Exception as error:
        reason = _disk_error(error, part)
        if reason is None:
            raise
        raise ConfigError(f"{path}: cannot be written ({reason})") from None
    finally:
        lock.close()
        part.unlink(missing_ok=True)


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")


def move(part: Path, path: Path) -> None:
    """Give a temporary file its name, once it is on disk."""
    sync(part)
    os.replace(part, path)
    sync(path.parent)


def _disk_error(error: BaseException | None, part: Path) -> str | None:
    """What the operating system refused, when that is behind an error; Polars and Arrow tell it in words only."""
    while error is not None:
        told = re.search(r"(?:os error|Errno) (\d+)", str(error))
        number = error.errno if isinstance(error, OSError) and error.errno else int(told[1]) if told else None
        own = isinstance(error, OSError) and str(error.filename or "") == str(part)
        if number in WRITE_ERRORS or own:
            return os.strerror(number or errno.EIO)
        error = error.__cause__ or error.__context__
    return None


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically; see :func:`atomic_path` for the errors."""
    with atomic_path(path) as part:
        part.write_bytes(text.encode())


def write_output(path: str | Path, text: str) -> None:
    """As :func:`write_text`, for what a command was asked to write: gone again if the command then fails."""
    write_text(path, text)
    made.append(Path(path))


def sync(path: Path) -> None:
    """Have the system write a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed writers from a folder."""
    for other in folder.iterdir():
        match = _TEMPORARY.fullmatch(other.name)
        if match and _is_abandoned(other, int(match[1])):
            with contextlib.suppress(OSError):
                other.unlink()


def _is_abandoned(part: Path, pid: int) -> bool:
    """Whether nobody writes a temporary file: its lock is free, and its writer is gone, or its number reused."""
    try:
        with part.open("rb") as file:
            _locked(file)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return not _is_running(pid) or _started(pid) > part.stat().st_mtime + 1


def _locked(file: IO[bytes]) -> None:
    """Lock a file until it is closed; raises BlockingIOError when another one has it locked."""
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # runs, under another user
    return _status(pid)[:1] != ["Z"]  # a zombie has ended, though nobody has asked how


def _started(pid: int) -> float:
    """When a process started, s since the epoch; 0 where the system does not tell."""
    try:
        ticks = int(_status(pid)[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")


def _status(pid: int) -> list[str]:
    """What Linux tells of a process, from its state on; nothing where there is no such file."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


@contextlib.contextmanager
def all_or_nothing() -> Iterator[None]:
    """Remove the outputs written inside, with their sidecars, when it ends in an error.

    A command that fails half-way leaves no table that looks like the outcome of one that did not.
    """
    before = len(made)
    try:
        yield
    except BaseException:
        for path in made[before:]:
            for file in (path, sidecar_path(path)):
                file.unlink(missing_ok=True)
        raise
    finally:
        del made[before:]
