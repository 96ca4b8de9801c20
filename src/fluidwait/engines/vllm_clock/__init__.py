"""vLLM's real scheduler on a virtual clock: a batch takes what it takes on the calibrated device, and no model runs.

Between ``schedule()`` and ``update_from_output()`` with made-up tokens the clock moves on by the iteration time of
exactly that batch, as in vLLM's engine core. Everything else, queues, blocks, preemption, is vLLM's own code. A run
is the same every time, with the plug-in too, which reads the same clock.

Modules that need vLLM are imported with the first run: it takes seconds to import, and need not be installed.
"""

from __future__ import annotations

import os
from typing import Any

from fluidwait.base.errors import ConfigError
from fluidwait.device.timing import TimeModel
from fluidwait.engines.feasibility import check_requests, reservation
from fluidwait.engines.learning import Learned
from fluidwait.engines.simulator import Run
from fluidwait.engines.v1.rules import Rules, known_blocks


def simulate_vllm_clock(
    requests,
    policy,
    knobs: Any,
    time_model: TimeModel,
    rules: Rules,
    *,
    log: bool = False,
    priority=None,
    hashes: list[list[int]] | None = None,
) -> Run:
    """Run ``requests`` through vLLM's real scheduler; the same arguments and outcome as :func:`simulator.simulate`.

    vLLM's own scheduler runs for the policy that is that scheduler, the plug-in with these knobs for the others.

    Args:
        priority, hashes: as of :func:`fluidwait.engines.v1.run.serve`; without hashes, those that the requests know.

    Raises:
        ConfigError: vLLM is not installed, or the rules or the policy are not for it.
        EngineError: requests were left behind.
    """
    if not isinstance(rules, Rules):
        raise ConfigError("engine 'vllm': semantics must be 'vllm' or 'vllm_sync': its scheduler follows its own rules")
    for name, value in {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}.items():
        os.environ.setdefault(name, value)  # vLLM reads them when it is imported
    try:
        from fluidwait.engines.vllm_clock import run
    except ImportError as error:
        raise ConfigError(f"vllm: the engine needs vLLM (./run.sh setup-vllm, or pip install vllm): {error}") from None
    if not isinstance(knobs, Learned):
        check_requests(requests, policy, knobs, reservation(policy, knobs, rules))
    blocks = known_blocks(requests, rules) if hashes is None else hashes
    return run.run(run.Job(requests, policy, knobs, time_model, rules, priority, blocks), log)
