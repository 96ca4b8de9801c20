"""One decision of a policy, compiled once per policy and version of the code, and kept on disk."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from fluidwait.engines.core import bind
from fluidwait.policies import contract, nested_wait
from fluidwait.policies.contract import jit_cached


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
