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
