"""vLLM's rules within the limits of a policy that leaves the scheduling to vLLM."""

from __future__ import annotations

from typing import Any

from fluidwait.base.errors import ConfigError
from fluidwait.engines.v1.rules import Rules
from fluidwait.policies.contract import NO_LIMIT


def limited(policy, knobs: Any, rules: Rules) -> Rules:
    """The rules with the limits of this policy.

    Raises:
        ConfigError: the policy wants to be asked for plans.
    """
    stock = policy.stock_limits(knobs)
    if stock is not None:
        requests, tokens = min(rules.requests, stock.requests), min(rules.tokens, stock.tokens)
        chunk = stock.chunk if stock.chunk < NO_LIMIT else rules.chunk
        return rules._replace(requests=requests, tokens=tokens, chunk=chunk)
    if policy.within_engine_limits:
        batch, spare = policy.engine_limits(knobs, rules.block_size)
        requests = min(rules.requests, policy.limits(knobs).requests)
        return rules._replace(requests=requests, batch=batch, watermark=max(rules.watermark, spare))
    raise ConfigError(
        f"semantics: '{policy.name}' decides who is served; under vLLM's rules the simulator runs policies that leave "
        "that to vLLM, within limits: vllm_v1 and fluid_budget (nearest valid value: 'serving')"
    )
