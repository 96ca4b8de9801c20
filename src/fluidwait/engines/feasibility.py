"""Whether requests fit a policy and a memory at all, before anything runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from fluidwait.base.errors import ConfigError
from fluidwait.engines.core import Semantics
from fluidwait.engines.v1.limits import limited
from fluidwait.engines.v1.rules import Rules


def reservation(policy, knobs, semantics: Any) -> Any:
    """``semantics`` with what is the policy's own: blocks reserved at admission, and where evicted requests rejoin.

    Raises:
        ConfigError: it reserves less than a block; under vLLM's rules, it has either of its own.
    """
    tokens = policy.reserved_tokens(knobs)
    if isinstance(semantics, Rules):
        if tokens is not None:
            raise ConfigError(
                f"semantics: '{policy.name}' reserves memory for whole sequences, which vLLM does not "
                "(nearest valid value: 'serving')"
            )
        check_evictions(policy)
        limited(policy, knobs, semantics)
        return semantics
    semantics = semantics._replace(rejoins_last=policy.rejoins_last(knobs))
    if tokens is None:
        return semantics
    if tokens < semantics.block_size:
        raise ConfigError(
            f"{policy.name}: reserves {tokens} tokens for a request, less than one block of memory "
            f"(nearest valid value: {semantics.block_size})"
        )
    return semantics._replace(reserved_blocks=tokens // semantics.block_size)


def check_evictions(policy) -> None:
    """Refuse, under vLLM's rules, a policy that says who is evicted: vLLM does so itself.

    Raises:
        ConfigError: it does.
    """
    if policy.has_own_evictions:
        raise ConfigError(
            f"semantics: '{policy.name}' says itself who is evicted and where such requests rejoin the queue, which "
            "under vLLM's rules is vLLM's to say (nearest valid value: 'serving')"
        )


def check_requests(requests, policy, knobs, semantics: Semantics | Rules) -> None:
    """Refuse requests that could never be admitted, never finish, or that the policy was not made for.

    Raises:
        ConfigError: names the first such request and the longest that fits.
    """
    length = requests.prompt + requests.output
    limits = _limits(requests, policy, knobs, semantics)
    most = np.min([np.broadcast_to(limit, length.shape) for limit, _ in limits], axis=0)
    if np.any(length > most):
        r = int(np.argmax(length > most))
        reason = next(reason for limit, reason in limits if np.broadcast_to(limit, length.shape)[r] == most[r])
        raise ConfigError(
            f"request {r}: prompt {requests.prompt[r]} + output {requests.output[r]} = {length[r]} tokens, "
            f"but {reason} (nearest valid value: {most[r]})"
        )
    longest = policy.longest_output(knobs, requests.kind)
    if np.any(requests.output > longest):
        r = int(np.argmax(requests.output > longest))
        raise ConfigError(
            f"request {r}: output {requests.output[r]} tokens, but '{policy.name}' is set up for outputs of at "
            f"most {longest[r]} tokens of its type (nearest valid value: {longest[r]})"
        )


def _limits(requests, policy, knobs, semantics: Semantics | Rules) -> list[tuple[Any, str]]:
    """What bounds prompt + output, each as (tokens or int64[N] of them by request, the reason in words).

    Raises:
        ConfigError: the policy reserves more for a request than the memory holds.
    """
    blocks, size, longest = semantics.blocks, semantics.block_size, policy.longest_prompt(knobs)
    limits: list[tuple[Any, str]] = [(longest, f"'{policy.name}' prefills at most {longest} tokens at once")]
    if isinstance(semantics, Rules):
        usable = blocks * size + 1
        return [*limits, (usable, f"the KV memory holds {usable - 1} tokens, and the last one needs no place")]
    if semantics.reserved_blocks > 0:
        reserved = semantics.reserved_blocks * size
        reason = f"'{policy.name}' reserves {reserved} tokens for a request"
        if semantics.reserved_blocks > blocks:
            raise ConfigError(f"{policy.name}: {reason}, the KV memory has {blocks * size}")
        return [*limits, (reserved, reason)]
    usable = (blocks - semantics.watermark) * size
    limits.append((usable, f"the KV memory holds {usable} tokens of one request"))
    # The last decode starts with the KV of all tokens but those that it and the prefill yield, and a spare block.
    decoding = (blocks - 1) * size + (2 if semantics.prefill_emits else 1)
    decodes = requests.output > (1 if semantics.prefill_emits else 0)
    reason = f"the KV memory holds {decoding} tokens of one request and the spare block that every decode asks for"
    return [*limits, (np.where(decodes, decoding, usable), reason)]
