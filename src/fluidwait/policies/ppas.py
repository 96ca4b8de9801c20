"""P-PAS: few prefill tokens in a step while several prompts and some decodes share it, many otherwise.

Every decode advances. Prefills share ``shared_tokens`` when two or more prompts are to be prefilled, running or
waiting, and some request decodes; else ``token_budget``. Running prefills go before new ones, first come, first served.

The rule is known at second hand from arXiv:2608.15171; neither paper nor code were at hand to check it. Whether it
counts waiting prompts, or only those of the step, is a guess.
"""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import NO_LIMIT, Limits, PolicySettings, admit_in_order, jit, lowered, room_under
from fluidwait.policies.tools import decode_all, go_on_with_prefills, half_prefilled


class Settings(PolicySettings):
    shared_tokens: int = Field(2048, gt=0, description="prefill tokens of a step that prompts and decodes share")
    token_budget: int = Field(16384, gt=0, description="prefill tokens of any other step")
    max_requests: int = Field(256, gt=0, description="requests in service at most")


def limits(knobs) -> Limits:
    """Requests in service, and prefill tokens of a step."""
    return Limits(knobs.max_requests, knobs.token_budget)


def at_most(settings: Settings, most: Limits) -> Settings:
    """The settings lowered to these limits."""
    return lowered(settings, max_requests=most.requests, token_budget=most.tokens)


@jit
def plan(view, knobs, memory, out):
    decodes, free = decode_all(view, out)
    room = room_under(view, knobs.max_requests)
    prompts = half_prefilled(view) + max(min(len(view.waiting), room), 0)
    budget = knobs.token_budget
    if decodes > 0 and prompts >= 2:
        budget = min(budget, knobs.shared_tokens)
    budget = go_on_with_prefills(view, out, budget)
    return admit_in_order(view, out, room, NO_LIMIT, budget, free), float("inf")
