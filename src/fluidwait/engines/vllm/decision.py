"""One decision of a policy, compiled once per policy and version of the code, and kept on disk."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
from llvmlite.binding import ffi

from fluidwait.engines.core import bind
from fluidwait.policies import contract, nested_wait
from fluidwait.policies.contract import jit_cached


def _no_dunder_functions() -> None:
    """Let vLLM look at Numba's LLVM library without harm.

    vLLM's CPU worker asks every object of every loaded module for its ``__dict__``. The library object of llvmlite
    takes any name for a function of the library, so that scan ends in an error when Numba was imported first, as it is
    here when the engine runs in this process.
    """
    of_library = ffi._lib_wrapper.__getattr__

    def guarded(library, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return of_library(library, name)

    ffi._lib_wrapper.__getattr__ = guarded


_no_dunder_functions()


def ask(view, knobs, memory, out):
    """(admitted, wake) of the policy whose ``plan`` this global name is bound to; see the policy contract."""
    return plan(view, knobs, memory, out)  # noqa: F821


@cache
def compiled(policy: ModuleType):
    """:func:`ask` for a policy, as machine code."""
    digest = hashlib.sha256()
    for source in (contract.__file__, nested_wait.__file__, policy.__file__, __file__):
        digest.update(Path(source).read_bytes())
    tag = f"{policy.__name__.rpartition('.')[2]}_{digest.hexdigest()[:16]}"
    return jit_cached(bind(ask, f"ask_{tag}", plan=policy.plan))


def queue_depth(knobs) -> int:
    """Waiting requests, from the head of the queue, that can change a decision: no policy looks deeper."""
    if hasattr(knobs, "quota"):
        return int(np.ceil(knobs.quota[0])) + 1
    return 2 * int(np.sum(knobs.thresholds)) + 1
