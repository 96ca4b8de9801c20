"""A user's own policy in a file that defines nothing but what every policy must: tests run it in every engine."""

from __future__ import annotations

from pathlib import Path

FEW = '''"""At most so many requests in service, first come, first served, prompts whole."""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import NO_LIMIT, PolicySettings, admit_in_order, growth, jit, room_under


class Settings(PolicySettings):
    most: int = Field(4, gt=0, description="requests in service")


@jit
def plan(view, knobs, memory, out):
    free = view.free
    for k in range(len(view.resident)):
        out.tokens[k] = 1
        free -= growth(view, view.resident[k])
    return admit_in_order(view, out, room_under(view, knobs.most), NO_LIMIT, NO_LIMIT, free), float("inf")
'''


def write_policy(folder: Path, source: str = FEW, name: str = "few") -> str:
    """Write the file; returns what stands after ``policy:``."""
    path = folder / f"{name}.py"
    path.write_text(source)
    return str(path)


EVICTING = '''"""FEW with an order of its own: who has generated most goes, or least, and with him some more."""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import NO_LIMIT, PolicySettings, admit_in_order, growth, jit, room_under
from fluidwait.policies.tools import is_short


class Settings(PolicySettings):
    most: int = Field(4, gt=0, description="requests in service")
    order: int = Field(1, description="1: least generated first, -1: most; 0: somebody who is not there")
    spare: int = Field(0, ge=0, description="KV blocks that are free after an eviction, unless one request is left")
    last: bool = Field(False, description="evicted requests go to the end of the queue")


def rejoins_last(knobs) -> bool:
    return knobs.last


@jit
def victim(view, knobs, out):
    residents = len(view.resident)
    more = view.evicted > 0 and view.free < knobs.spare and residents > 1
    if not (is_short(view, out) or more):
        return -1
    if knobs.order == 0:
        return residents
    chosen = 0
    for k in range(1, residents):
        ahead = view.generated[view.resident[chosen]] - view.generated[view.resident[k]]
        if knobs.order * ahead >= 0:
            chosen = k
    return chosen


@jit
def plan(view, knobs, memory, out):
    free = view.free
    for k in range(len(view.resident)):
        out.tokens[k] = 1
        if view.cached[view.resident[k]] < view.goal[view.resident[k]]:
            out.tokens[k] = view.goal[view.resident[k]] - view.cached[view.resident[k]]
        free -= growth(view, view.resident[k])
    return admit_in_order(view, out, room_under(view, knobs.most), NO_LIMIT, NO_LIMIT, free), float("inf")
'''

SHORTEST = '''"""At most so many in service; the next one has least output, predicted or at least allowed."""

from __future__ import annotations

from pydantic import Field

from fluidwait.policies.contract import PolicySettings, blocks_for, fits, growth, jit, room_under, to_prefill


class Settings(PolicySettings):
    most: int = Field(4, gt=0, description="requests in service")


@jit
def plan(view, knobs, memory, out):
    free, least = view.free, -1
    for k in range(len(view.resident)):
        r = view.resident[k]
        out.tokens[k] = max(view.goal[r] - view.cached[r], 1)
        free -= growth(view, r)
    for i in range(len(view.waiting)):
        if least < 0 or _tokens(view, view.waiting[i]) < _tokens(view, view.waiting[least]):
            least = i
    if least < 0 or room_under(view, knobs.most) < 1 or not fits(view, view.waiting[least], free):
        return 0, float("inf")
    out.admit[0], out.chunk[0] = least, to_prefill(view, view.waiting[least])
    return 1, float("inf")


@jit
def _tokens(view, r):
    return view.predicted[r] if view.predicted[r] > 0 else view.max_output[r]
'''
