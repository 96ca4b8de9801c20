"""Views made by hand, for asking a policy's compiled function directly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fluidwait.device.timing import linear
from fluidwait.policies import load_policy
from fluidwait.policies.contract import Context, Plan, View
from fluidwait.workload import LengthLaw

INF = float("inf")


class Request(NamedTuple):
    """A request in a view; ``goal`` is the prompt unless it was recomputed, ``held`` what its tokens need."""

    prompt: int = 16
    cached: int = 0
    generated: int = 0
    arrival: float = 0.0
    service: float = 0.0
    kind: int = 0
    goal: int | None = None
    held: int | None = None
    max_output: int = 1000
    predicted: int = 0


def decoding(generated: int, prompt: int = 16, **more) -> Request:
    """A resident that has its prompt and has generated so many tokens, the last of which is not cached yet."""
    return Request(prompt, prompt + max(generated - 1, 0), generated, **more)


class Decision(NamedTuple):
    """A plan in plain lists."""

    tokens: list[int]  # per resident
    admitted: list[tuple[int, int]]  # (position in the queue, first chunk)
    wake: float


def law(output, share=(1.0,), prompt=16) -> LengthLaw:
    output = np.array(output, dtype=float)
    return LengthLaw(np.full(len(output), float(prompt)), output, np.array(share, dtype=float))


class Asked:
    """A policy with its memory, to be asked repeatedly."""

    def __init__(self, spec: dict, lengths: LengthLaw | None = None, rate: float = 1.0, emits: bool = True):
        self.policy = load_policy(spec)
        context = Context(lengths or law([20]), rate, linear(0.01, 0.0), (0.01, 1e-7), 16_000, emits)
        self.knobs = self.policy.prepare(context)
        self.memory = np.zeros(self.policy.memory_size(self.knobs), dtype=np.int64)
        self.plan = self.policy.module.plan

    def __call__(
        self,
        waiting=(),
        resident=(),
        *,
        now=0.0,
        draining=False,
        evicted=0,
        free=1000,
        watermark=0,
        block_size=16,
    ) -> Decision:
        everybody = [*waiting, *resident]

        def column(of, dtype=np.int64):
            return np.array([of(r) for r in everybody], dtype=dtype)

        view = View(
            float(now),
            draining,
            evicted,
            np.arange(len(waiting), dtype=np.uint64),
            len(waiting) + np.arange(len(resident), dtype=np.uint64),
            column(lambda r: r.arrival, float),
            column(lambda r: r.service, float),
            column(lambda r: r.kind),
            column(lambda r: r.goal or r.prompt),
            column(lambda r: r.cached),
            column(lambda r: r.generated),
            column(lambda r: -(-r.cached // block_size) if r.held is None else r.held),
            column(lambda r: r.max_output),
            column(lambda r: r.predicted),
            free,
            watermark,
            block_size,
        )
        room = len(everybody) + 1
        out = Plan(*(np.zeros(room, dtype=np.int64) for _ in range(3)))
        admitted, wake = self.plan(view, self.knobs, self.memory, out)
        return Decision(
            out.tokens[: len(resident)].tolist(),
            [(int(i), int(q)) for i, q in zip(out.admit[:admitted], out.chunk[:admitted], strict=True)],
            wake,
        )
