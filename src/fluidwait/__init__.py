"""fluidwait: fluid-guided online scheduling of LLM inference under a KV-memory constraint.

For notebooks: ``import fluidwait as fw``; :mod:`fluidwait.api` says what there is.
"""

import importlib

__version__ = "0.1.0"

__all__ = [
    "FluidwaitError",
    "Simulation",
    "Traffic",
    "generate",
    "load_experiment",
    "load_hardware",
    "load_policy",
    "load_workload",
    "plot",
    "simulate",
    "sweep",
    "sweep_experiment",
]


def __getattr__(name):
    # Nothing is imported before it is used, and not by a statement: every result's code has this file in it, and must
    # not have the notebook's.
    if name in __all__:
        return getattr(importlib.import_module("fluidwait.api"), name)
    raise AttributeError(f"module 'fluidwait' has no attribute '{name}'")


def __dir__():
    return sorted({*globals(), *__all__})
