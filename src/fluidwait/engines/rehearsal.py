"""A rehearsal of a policy that a user wrote: compiled, and run on a few requests, before it is used in earnest.

The run is the simulator's own, in plain Python: where compiled code reads or writes beyond an array without a word,
Python names the line. Every plan is held against the contract.
"""

from __future__ import annotations

import linecache
import re
import sys
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

import numpy as np
from numba import typeof
from numba.core import types
from numba.core.registry import CPUDispatcher

from fluidwait.base.errors import ConfigError, nearest
from fluidwait.device.timing import TimeModel, in_python
from fluidwait.engines import core, simulator
from fluidwait.engines.core import Semantics, serving
from fluidwait.engines.feasibility import check_requests, reservation
from fluidwait.engines.v1.rules import Rules
from fluidwait.policies.contract import Plan, View
from fluidwait.policies.file import check_result, line_of, mistake, raised

REQUESTS = 40
"""Of a rehearsal at most."""

OUTPUT = 20
"""Tokens that a request of a rehearsal generates at most: every stage of a request, in less than a second."""

ALLOWED = "numbers, slices of arrays and loops are fine; new arrays, lists, strings and exceptions are not"


MOST_STEPS = 5_000_000
"""Lines of the file that one call of ``plan`` may take with so few requests: a second or two."""


class _Broken(Exception):
    """A plan against the contract."""


class _BadVictim(_Broken):
    """Of ``victim``."""


class _Endless(Exception):
    """A call of ``plan`` that does not come back."""


def rehearse(requests, policy, knobs: Any, time_model: TimeModel, semantics: Semantics | Rules) -> None:
    """Find mistakes in a policy of the user's; nothing for a policy that ships.

    Args:
        requests, knobs, time_model, semantics: as in :func:`simulator.simulate`; the first few requests are used.

    Raises:
        ConfigError: ``file:line: what is wrong``.
        EngineError: requests would wait for ever.
    """
    if policy.file is None:
        return
    few = requests._replace(**{name: getattr(requests, name)[:REQUESTS] for name in requests._fields})
    few = few._replace(output=np.minimum(few.output, OUTPUT))
    vllm = isinstance(semantics, Rules)  # a plan that is right under the one rules is right under the others
    rules: Semantics = reservation(
        policy, knobs, serving(semantics.blocks, semantics.block_size) if vllm else semantics
    )
    check_requests(few, policy, knobs, rules)
    _check_answers(policy, knobs)
    state = core.new_state(few, rules)
    memory = np.zeros(policy.memory_size(knobs), dtype=np.int64)
    view, out = _view(state, rules), _plan(state)
    _compile(policy, "plan", (view, knobs, memory, out))
    if hasattr(policy.module, "victim"):
        _compile(policy, "victim", (view, knobs, out))
    rows = np.empty((0, len(simulator.LOG_COLUMNS)))
    _run_in_python(policy, (knobs, memory, state, time_model, rules, rows, True))


def _check_answers(policy, knobs: Any) -> None:
    """Ask for what the contract gives one type; what is not compiled was checked when it was asked before."""
    for ask in (policy.memory_size, policy.longest_prompt, policy.queue_depth, policy.limits):
        check_result(ask.__name__, ask(knobs), policy.file)
    if policy.reserves:
        check_result("reserved_tokens", policy.reserved_tokens(knobs), policy.file)


def _plan(state) -> Plan:
    return Plan(state.tokens, state.admit, state.chunk)


def _view(state, semantics: Semantics) -> View:
    """A view of the right types; its numbers do not matter."""
    known = {name: getattr(state, name) for name in View._fields if hasattr(state, name)}
    free, watermark, size = semantics.blocks, semantics.watermark, semantics.block_size
    return View(now=0.0, draining=False, evicted=0, free=free, watermark=watermark, block_size=size, **known)


# --- what Numba says -----------------------------------------------------------------------------------------------


ANSWERS = {
    "plan": "(requests admitted, time to be asked again)",
    "victim": "the position of a resident, or -1",
}
"""What the compiled functions of a policy return."""


def _compile(policy, name: str, arguments: tuple) -> None:
    """Compile ``plan`` or ``victim`` for such arguments and look at what it returns.

    Alone, it takes a fraction of the time of the simulator around it, and Numba says more of what is wrong.
    """
    function, path = getattr(policy.module, name), policy.file
    signature = tuple(map(typeof, arguments))
    try:
        function.compile(signature)
    except Exception as error:
        raise _compile_error(path, error, name, arguments[1]) from error
    returned = function.overloads[signature].signature.return_type
    parts = list(returned) if isinstance(returned, types.BaseTuple) else [returned]
    wanted = (types.Integer, types.Number)[: 2 if name == "plan" else 1]
    if len(parts) != len(wanted) or not all(map(isinstance, parts, wanted)):
        raise mistake(path, f"{name} must return {ANSWERS[name]}, found {returned}", line_of(path, name))


def _compile_error(path: Path, error: Exception, name: str, knobs) -> ConfigError:
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    line = _line_in(path, error, text)
    if match := re.search(r"Unknown attribute '(\w+)' of type (\w+)\(", text):
        unknown, owner = match.groups()
        fields = {"View": View._fields, "Plan": Plan._fields}.get(owner, getattr(knobs, "_fields", ()))
        owner = {"View": "view", "Plan": "out"}.get(owner, "knobs")
        return mistake(path, f"{owner} has no '{unknown}'{nearest(unknown, list(fields))}", line)
    if "Can't unify return type" in text:
        lines = sorted({int(n) for n in re.findall(rf'{re.escape(path.name)}", line (\d+)', text)})
        what = f"{name} must return {ANSWERS[name]} everywhere; its returns differ, in lines "
        return mistake(path, what + ", ".join(map(str, lines)), line_of(path, name))
    linecache.checkcache(str(path))
    code = linecache.getline(str(path), line).strip() if line else name
    line = line or line_of(path, name)
    return mistake(path, f"Numba cannot compile '{code}': {_reason(text)} ({ALLOWED})", line)


def _line_in(path: Path, error: Exception, text: str) -> int | None:
    """The line of the file that an error of Numba's is about: the innermost, which comes first."""
    where = getattr(error, "loc", None)
    if where is not None and where.filename == str(path):
        return where.line
    patterns = (rf"{re.escape(str(path))} \((\d+)\)", rf'{re.escape(path.name)}", line (\d+)')
    found = [match for pattern in patterns for match in re.finditer(pattern, text)]
    return int(min(found, key=lambda match: match.start())[1]) if found else None


def _reason(text: str) -> str:
    """The line of an error of Numba's that says most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Failed in nopython")] or ["it gives no reason"]
    if "NRT required" in lines[0]:
        return "it needs new memory"
    return re.sub(r"\b(View|Plan|\w*Knobs)\((?:[^()]|\([^()]*\))*\)", r"\1", lines[0]).strip(" -:.")


# --- the run in Python ---------------------------------------------------------------------------------------------


def _run_in_python(policy, arguments: tuple) -> None:
    path, plan, victim = policy.file, interpreted(policy.module.plan), interpreted(core.victim_of(policy.module))

    def checked(view, knobs, memory, out):
        answer = _ending(path, plan, _locked(view), knobs, memory, out)
        _check_answer(answer, view, out)
        return int(answer[0]), answer[1]  # NumPy makes a float of uint64 + int64, compiled code does not

    def checked_victim(view, knobs, out):
        k, residents = victim(_locked(view), knobs, out), len(view.resident)
        if not -1 <= k < residents:
            raise _BadVictim(f"names resident {k} at t = {view.now:.6g} s (nearest valid: -1 to {residents - 1})")
        return int(k)

    decide = interpreted(core.decide, plan=checked, victim=checked_victim)
    run = interpreted(simulator._run, decide=decide)
    try:
        with np.errstate(all="ignore"):  # as compiled code has it
            status, where, at, *_ = run(_numbers(arguments[0]), *arguments[1:])
    except _Broken as error:
        name = "victim" if isinstance(error, _BadVictim) else "plan"
        raise mistake(path, f"{name} {error}", line_of(path, name)) from None
    except _Endless as error:
        what = f"plan goes through more than {MOST_STEPS} lines without coming back; here is a loop that does not end"
        raise mistake(path, what, error.args[0]) from None
    except Exception as error:
        raise raised(path, error) from error
    if status != simulator.DONE:
        raise core.EngineError(simulator.explain(status, where, at, policy.use, arguments[2]))


def _ending(path: Path, function: FunctionType, *arguments: Any) -> Any:
    """What the function returns, if it does within :data:`MOST_STEPS` lines of the file.

    Raises:
        _Endless: it does not; with the line that it has got to.
    """
    steps, before = 0, sys.gettrace()

    def each_line(frame: FrameType, event: str, _: Any):
        nonlocal steps
        steps += event == "line"
        if steps > MOST_STEPS:
            raise _Endless(frame.f_lineno)
        return each_line

    sys.settrace(lambda frame, *_: each_line if frame.f_code.co_filename == str(path) else None)
    try:
        return function(*arguments)
    finally:
        sys.settrace(before)


def _locked(view: View) -> View:
    """The view with arrays that cannot be written: they are the engine's."""
    arrays: dict[str, Any] = {
        name: value.view() for name, value in view._asdict().items() if isinstance(value, np.ndarray)
    }
    for array in arrays.values():
        array.flags.writeable = False
    return view._replace(**arrays)


def interpreted(function, **names) -> FunctionType:
    """A compiled function, and all compiled ones that it calls, as plain Python; ``names`` are bound anew."""
    function = in_python(function)
    called = {name: function.__globals__.get(name) for name in _names_in(function.__code__)}
    replaced = {name: interpreted(f) for name, f in called.items() if isinstance(f, CPUDispatcher)}
    copy = core.bind(function, function.__name__, **(replaced | names))
    copy.__defaults__ = function.__defaults__
    return copy


def _names_in(code) -> set[str]:
    inner = [part for part in code.co_consts if isinstance(part, type(code))]
    return set(code.co_names).union(*map(_names_in, inner))


def _numbers(knobs):
    """The knobs with NumPy's numbers, which divide by zero as compiled code does."""
    return knobs._replace(
        **{
            name: np.asarray(value)[()]
            for name, value in knobs._asdict().items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
    )


def _check_answer(answer: Any, view: View, out: Plan) -> None:
    """Hold a plan against the contract of :mod:`fluidwait.policies.contract`."""
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise _Broken(f"returns {answer!r}, but must return (requests admitted, time to be asked again)")
    admitted, wake = answer
    waiting, at = len(view.waiting), f"at t = {view.now:.6g} s"
    if not 0 <= admitted <= waiting:
        raise _Broken(f"admits {admitted} requests {at}, but {waiting} wait")
    if np.isnan(wake):
        raise _Broken(f"asks {at} to be asked again at a time that is not a number")
    for k, r in enumerate(view.resident):
        most = max(view.goal[r] - view.cached[r], 1)
        if not 0 <= out.tokens[k] <= most:
            raise _Broken(f"gives resident {k} {out.tokens[k]} tokens {at} (nearest valid: 0 to {most})")
    last = -1
    for i in range(admitted):
        position = out.admit[i]
        if not last < position < waiting:
            raise _Broken(
                f"admits position {position} {at} (out.admit[{i}]); positions ascend and lie below {waiting}, the "
                "number of waiting requests"
            )
        r, last = view.waiting[position], position
        most = view.goal[r] - view.cached[r]
        if not 1 <= out.chunk[i] <= most:
            raise _Broken(f"admits with a first chunk of {out.chunk[i]} tokens {at} (nearest valid: 1 to {most})")
