"""The Vidur engine: the real simulator, version 0.0.26, with our time model and our policies registered in it.

Vidur's own vLLM, Sarathi and Orca schedulers run unmodified (``native=True``); every fluidwait policy runs as a Vidur
replica scheduler that asks :func:`fluidwait.engines.core.decide`. Everything else, events, batches, request
bookkeeping, is Vidur's. Requests are handed over as they are, so no generator of Vidur's takes part.

What is changed in Vidur is listed in :mod:`fluidwait.engines.vidur.patches`. That module and those that need it are
imported with the first run: Vidur takes seconds to import, and it need not be installed.
"""

from __future__ import annotations

from typing import Any

from fluidwait.base.errors import ConfigError
from fluidwait.device.timing import TimeModel
from fluidwait.engines.core import Semantics
from fluidwait.engines.feasibility import check_requests, reservation
from fluidwait.engines.simulator import Run
from fluidwait.engines.v1.rules import Rules

VERSION = "0.0.26"
NATIVE = ("orca", "sarathi", "vllm_v0")
"""Policies of which Vidur has its own implementation: its table, by the names that they have here."""


def simulate_vidur(
    requests,
    policy,
    knobs: Any,
    time_model: TimeModel,
    semantics: Semantics,
    *,
    native: bool = False,
    log: bool = False,
) -> Run:
    """Run ``requests`` through real Vidur; the same arguments and outcome as :func:`simulator.simulate`.

    Args:
        native: use Vidur's own scheduler of that name (``orca``, ``sarathi``, ``vllm_v0``) instead of ours.

    Raises:
        ConfigError: Vidur is not installed, or cannot run these semantics or this policy natively.
        EngineError: requests were left behind.
    """
    try:
        from fluidwait.engines.vidur import run
    except ImportError as error:
        raise ConfigError(
            f"vidur: the engine needs vidur=={VERSION} (pip install 'fluidwait[vidur]'): {error}"
        ) from None
    if isinstance(semantics, Rules):
        raise ConfigError("vidur: semantics: Vidur does not follow vLLM's rules (nearest valid: 'serving')")
    if not semantics.prefill_emits:
        raise ConfigError("vidur: semantics: Vidur yields the first token with the prefill (nearest valid: 'serving')")
    own = native_policies(semantics)
    if native and policy.name not in own:
        raise ConfigError(f"vidur: policy: Vidur has no scheduler '{policy.name}' (valid: {', '.join(own)})")
    semantics = reservation(policy, knobs, semantics)
    check_requests(requests, policy, knobs, semantics)
    return run.run(run.Job(requests, policy, knobs, time_model, semantics), native, log)


def native_policies(semantics: Semantics) -> tuple[str, ...]:
    """Policies for which Vidur has a scheduler of its own; of a prompt that came prefilled only its Sarathi knows."""
    return ("sarathi",) if semantics.remote_prefill else NATIVE
