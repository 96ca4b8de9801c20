"""The semantics by name: how memory is counted and a batch is filled, for a piece of hardware."""

from __future__ import annotations

from fluidwait.base.errors import ConfigError
from fluidwait.device.hardware import Hardware
from fluidwait.engines import core
from fluidwait.engines.core import Semantics
from fluidwait.engines.v1 import rules as v1
from fluidwait.engines.v1.rules import Rules
from fluidwait.workload.prefixes import BLOCK

NAMES = ("serving", "paper", "decode", "vllm", "vllm_sync")
"""See docs/engines.md."""


def most_tokens(semantics: Semantics | Rules) -> int:
    """Prompt and output of the longest request that an empty server could hold; vLLM needs no place for the last."""
    if isinstance(semantics, Rules):
        return semantics.blocks * semantics.block_size + 1
    return (semantics.blocks - semantics.watermark) * semantics.block_size


def semantics_of(
    name: str, hardware: Hardware, eviction: str | None = None, *, caching: bool = False
) -> Semantics | Rules:
    """The semantics of this name on this hardware.

    Args:
        eviction: ``recompute`` or ``restart``; None for what is usual.
        caching: of prefixes, under vLLM's rules; the others have none.

    Raises:
        ConfigError: vLLM does not restart requests; prefixes are known by blocks of another size than the hardware's.
    """
    if name in ("vllm", "vllm_sync"):
        if eviction == "restart":
            raise ConfigError("eviction: 'restart': vLLM keeps the generated tokens (nearest valid: 'recompute')")
        blocks, size = hardware.kv_blocks, hardware.block_size
        if caching and size != BLOCK:
            raise ConfigError(
                f"hardware {hardware.name}: block_size: {size}, but the workload's hash_ids are read as blocks of "
                f"{BLOCK} tokens (nearest valid value: {BLOCK})"
            )
        return v1.vllm(blocks, block_size=size, asynchronous=name == "vllm", caching=caching)
    if name == "paper":
        semantics = core.paper(hardware.kv_capacity_tokens, hardware.watermark)
    else:
        preset = core.decode if name == "decode" else core.serving
        semantics = preset(hardware.kv_blocks, hardware.block_size, hardware.watermark)
    return semantics if eviction is None else semantics._replace(recompute=eviction == "recompute")
