"""A policy in a file of the user's: imported, and every mistake in it told in one line, with the file and the line.

What can be seen without running the policy is checked here, when the file is read; what takes a run is checked by
:mod:`fluidwait.engines.rehearsal`.
"""

from __future__ import annotations

import ast
import builtins
import dis
import functools
import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np
from numba.core.registry import CPUDispatcher

from fluidwait.base.errors import ConfigError, FluidwaitError
from fluidwait.base.paths import project_root
from fluidwait.device.timing import in_python
from fluidwait.policies.contract import Defaults, Limits, Needs, PolicySettings

_ASKED = {name: function for name, function in vars(Defaults).items() if isinstance(function, staticmethod)}

FUNCTIONS = {
    "plan": ("view", "knobs", "memory", "out"),
    "victim": ("view", "knobs", "out"),
    "prepare": ("settings", "context"),
    **{name: tuple(inspect.signature(function).parameters) for name, function in _ASKED.items()},
}
"""What a policy file may define, with the arguments: the contract's."""

COMPILED = ("plan", "victim")
"""Those of the functions that engines call while they run."""

WHOLE_NUMBERS = ("memory_size", "reserved_tokens", "longest_prompt", "queue_depth")
"""Those of the functions that return one."""

RECORDS = {"limits": Limits, "needs": Needs, "within": PolicySettings, "at_most": PolicySettings}
"""Those that return one of these."""

MOST_MEMORY = 100_000_000
"""Numbers that a policy may keep between calls: 0.8 GB."""


def load_module(path: Path) -> ModuleType:
    """The module of a policy file; the same one as before when the file has not changed.

    Raises:
        ConfigError: ``file:line: what is wrong``.
    """
    source = _read(path)
    name, digest = _module_name(path), hashlib.sha256(source).hexdigest()
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__source_sha256__ == digest:
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # as of every file with this suffix
    module: Any = importlib.util.module_from_spec(spec)
    module.__source_sha256__ = digest
    code = _compile(source, path)
    sys.modules[name] = module
    try:
        _execute(code, module, path)
        _check(module, code, path)
    except BaseException:
        del sys.modules[name]
        raise
    for function in FUNCTIONS:
        found = getattr(module, function, None)
        if found is not None and not isinstance(found, CPUDispatcher):
            setattr(module, function, _guarded(function, found, path))
    return module


def shown(path: Path) -> str:
    """The path as the user knows it: from the project's root when it is in there."""
    root = project_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def mistake(path: Path, what: str, line: int | None = None) -> ConfigError:
    """``file:line: what``, with ``what`` in one line."""
    where = shown(path) if line is None else f"{shown(path)}:{line}"
    return ConfigError(f"{where}: {' '.join(what.split())}")


def raised(path: Path, error: BaseException) -> ConfigError:
    """An exception out of the file's own code, at the last of its lines that took part."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    text = str(error).strip().partition("\n")[0]
    return mistake(path, f"{type(error).__name__}: {text}".removesuffix(": "), lines[-1] if lines else None)


def line_of(path: Path, name: str) -> int | None:
    """The line at which the file defines ``name`` at its top level."""
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node.lineno
    return None


def check_knobs(knobs: Any, path: Path) -> None:
    """Refuse knobs that compiled code cannot take.

    Raises:
        ConfigError: they are not a named tuple of numbers and arrays.
    """
    by = "prepare" if line_of(path, "prepare") else "Settings"
    if not isinstance(knobs, tuple) or not hasattr(knobs, "_fields"):
        kind = type(knobs).__name__
        raise mistake(path, f"prepare must return a NamedTuple of numbers and arrays, found {kind}", line_of(path, by))
    for name, value in zip(knobs._fields, knobs, strict=True):
        if not isinstance(value, bool | int | float | np.generic | np.ndarray):
            kind = type(value).__name__
            hint = "" if by == "prepare" else "; let prepare(settings, context) make one of it"
            raise mistake(path, f"knob '{name}' must be a number or an array, found {kind}{hint}", line_of(path, by))


# --- reading -------------------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise mistake(path, f"cannot be read ({error.strerror})") from None


def _module_name(path: Path) -> str:
    """By the file's name, so that compiled code kept on disk serves the same file in another folder too."""
    name = f"fluidwait_policy_{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}"
    other = sys.modules.get(name)
    if other is not None and other.__file__ != str(path):
        name += "_" + hashlib.sha256(str(path).encode()).hexdigest()[:8]
    return name


def _compile(source: bytes, path: Path) -> CodeType:
    try:
        return compile(source, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise mistake(path, f"{type(error).__name__}: {error.msg}", error.lineno) from None
    except ValueError as error:
        raise mistake(path, f"not Python: {error}") from None


def _execute(code: CodeType, module: ModuleType, path: Path) -> None:
    """Run the file. Its folder and the project are no place to import from: no fingerprint would see a second file."""
    searched, sys.path[:] = sys.path[:], [p for p in sys.path if not _is_local(p, path)]
    try:
        exec(code, vars(module))
    except ModuleNotFoundError as error:
        hint = "a policy is one file, which may import fluidwait and installed packages"
        raise ConfigError(f"{raised(path, error)} ({hint})") from None
    except (Exception, SystemExit) as error:
        raise raised(path, error) from error
    finally:
        sys.path[:] = searched


def _is_local(entry: str, path: Path) -> bool:
    return Path(entry or ".").resolve() in (project_root(), path.parent)


# --- checking ------------------------------------------------------------------------------------------------------


def _check(module: ModuleType, code: CodeType, path: Path) -> None:
    for part in ("Settings", "plan"):
        if not hasattr(module, part):
            raise mistake(path, f"defines no '{part}'")
    settings, plan = module.Settings, module.plan
    if not (isinstance(settings, type) and issubclass(settings, PolicySettings)):
        raise mistake(path, "Settings must be a class of PolicySettings", line_of(path, "Settings"))
    try:
        settings.model_rebuild()
    except Exception as error:  # a type that is nowhere defined, or that is none
        raise mistake(path, f"Settings: {str(error).partition(chr(10))[0]}", line_of(path, "Settings")) from None
    for name in COMPILED:
        if not isinstance(getattr(module, name, plan), CPUDispatcher):
            raise mistake(path, f"{name} must be compiled: write @jit above it", line_of(path, name))
    for name, arguments in FUNCTIONS.items():
        function = getattr(module, name, None)
        if function is not None:
            _check_arguments(name, function, arguments, path)
    for name, line in _undefined(code, module):
        raise mistake(path, f"NameError: name '{name}' is not defined", line)


def _check_arguments(name: str, function: Any, wanted: tuple[str, ...], path: Path) -> None:
    function = in_python(function)
    call = f"{name}({', '.join(wanted)})"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise mistake(path, f"{name} must be a function, {call}", line_of(path, name)) from None
    try:
        signature.bind(*wanted)
    except TypeError:
        raise mistake(path, f"{name} must take {call}, found {name}{signature}", line_of(path, name)) from None


def _undefined(code: CodeType, module: ModuleType) -> Iterator[tuple[str, int | None]]:
    """Names (with lines) that a function of the file reads and that neither the file nor Python defines."""
    for function in code.co_consts:
        if isinstance(function, CodeType):
            for step in dis.get_instructions(function):
                known = hasattr(module, str(step.argval)) or hasattr(builtins, str(step.argval))
                if step.opname == "LOAD_GLOBAL" and not known:
                    yield step.argval, getattr(step.positions, "lineno", None)
            yield from _undefined(function, module)


def _guarded(name: str, function: Callable, path: Path) -> Callable:
    """The function, with what goes wrong in it told as a mistake in the file."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            result = function(*arguments)
        except FluidwaitError:
            raise
        except Exception as error:
            raise raised(path, error) from error
        check_result(name, result, path)
        return result

    return call


def check_result(name: str, result: Any, path: Path) -> None:
    """Refuse what the function of this name may not return, as far as the contract says one type.

    Raises:
        ConfigError: not one of the contract's records, or no whole number, negative, or more memory than there can be.
    """
    if name in RECORDS and not isinstance(result, RECORDS[name]):
        wanted = "Settings" if RECORDS[name] is PolicySettings else RECORDS[name].__name__
        raise mistake(path, f"{name} must return {wanted}, found {type(result).__name__}", line_of(path, name))
    if name not in WHOLE_NUMBERS:
        return
    line = line_of(path, name)
    if not (isinstance(result, int | np.integer) and result >= 0):
        raise mistake(path, f"{name} must return a whole number from 0 on, found {result!r}", line)
    if name == "memory_size" and result > MOST_MEMORY:
        raise mistake(path, f"{name} returns {result} numbers to keep (nearest valid value: {MOST_MEMORY})", line)
