"""The vLLM engine: fluidwait's policies inside the real thing.

``--scheduler-cls fluidwait.engines.vllm.WaitScheduler`` switches them on. The class is imported when it is asked for:
this package can be imported where vLLM is not installed.
"""

from __future__ import annotations

VERSIONS = ("0.20.2", "0.32.0")
"""Oldest and newest release of vLLM that the scheduler was checked against."""


def __getattr__(name: str):
    if name == "WaitScheduler":
        from fluidwait.engines.vllm.scheduler import WaitScheduler

        return WaitScheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
