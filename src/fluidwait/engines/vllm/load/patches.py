"""Everything that is added to vLLM for recordings, when the recorder is imported in the engine's process.

vLLM's engine core gets the methods ``fluidwait_exchange``, ``fluidwait_take_log``, ``fluidwait_hold``,
``fluidwait_limit``, ``fluidwait_waiting`` and ``fluidwait_describe``: the functions of these names in
:mod:`fluidwait.engines.vllm.load.recorder`. The front end calls them by name, as vLLM's own utilities.
"""

from __future__ import annotations

from collections.abc import Callable

from vllm.v1.engine.core import EngineCore


def add_calls(**calls: Callable) -> None:
    """Make functions of an engine core callable from the front end, with ``fluidwait_`` before their names."""
    for name, function in calls.items():
        setattr(EngineCore, f"fluidwait_{name}", function)
