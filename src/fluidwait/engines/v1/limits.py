"""vLLM's rules within the limits of a policy."""

from __future__ import annotations

import operator
from typing import Any

from fluidwait.base.errors import ConfigError
from fluidwait.engines.v1.rules import Rules
from fluidwait.policies.contract import NO_LIMIT, Limits


def plans(policy, knobs: Any) -> bool:
    """Whether the policy itself says who is served, and does not leave that to vLLM."""
    return policy.stock_limits(knobs) is None and not policy.within_engine_limits


def limited(policy, knobs: Any, rules: Rules) -> Rules:
    """The rules with the limits of this policy; as they are for one that plans, which keeps to its own.

    Raises:
        ConfigError: its limits are none, or vLLM would not start with them.
    """
    stock = policy.stock_limits(knobs)
    if stock is not None:
        return _startable(policy, _with_settings(policy, stock, rules))
    if policy.within_engine_limits:
        batch, spare = _engine_limits(policy, knobs, rules)
        requests = min(rules.requests, policy.limits(knobs).requests)
        return _startable(policy, rules._replace(requests=requests, batch=batch, watermark=max(rules.watermark, spare)))
    return _startable(policy, rules)


def _with_settings(policy, stock: Any, rules: Rules) -> Rules:
    if not isinstance(stock, Limits) or min(stock) < 1:
        raise ConfigError(f"{policy.use}: stock_limits must return Limits of at least 1 each, found {stock!r}")
    requests, tokens = min(rules.requests, stock.requests), min(rules.tokens, stock.tokens)
    chunk = stock.chunk if stock.chunk < NO_LIMIT else rules.chunk
    return rules._replace(requests=requests, tokens=tokens, chunk=chunk)


def _engine_limits(policy, knobs: Any, rules: Rules) -> tuple[int, int]:
    answer = policy.engine_limits(knobs, rules.block_size)
    try:
        batch, spare = (operator.index(number) for number in answer)
    except (TypeError, ValueError):
        batch, spare = 0, 0
    if batch < 1 or not 0 <= spare < rules.blocks:
        raise ConfigError(
            f"{policy.use}: engine_limits must return the tokens of a batch (at least 1) and the KV blocks to leave "
            f"free (less than {rules.blocks}), found {answer!r}"
        )
    return batch, spare


def _startable(policy, rules: Rules) -> Rules:
    if rules.requests > rules.tokens:
        raise ConfigError(
            f"'{policy.name}': {rules.requests} requests in service, but batches of {rules.tokens} tokens: vLLM does "
            f"not start with fewer tokens than requests (nearest valid number of requests: {rules.tokens})"
        )
    return rules
