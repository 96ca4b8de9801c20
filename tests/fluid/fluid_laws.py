"""Length laws for the tests of the fluid model."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from fluidwait.workload import LengthLaw


def law(prompt, output, share=(1.0,)) -> LengthLaw:
    share = np.array(share, dtype=float)
    return LengthLaw(np.array(prompt, dtype=float), np.array(output, dtype=float), share / share.sum())


TOY = law([1], [1])  # w = 2 * 1.5 = 3
SINGLE = law([512], [20])
TWO = law([512, 512], [20, 50], [0.7, 0.3])

# One request of 28,172 KV-token-iterations, the mean work of the lmsys-chat-1m lengths: (3 + 1)(7041.5 + 3 / 2)
LMSYS_WORK = law([7041.5], [3])
D0, D1 = 10.6076e-3, 0.40136e-6
CAPACITY = (80 * 2**30 * 0.99 - 2 * 6476005376) / 524288


@st.composite
def laws(draw, most_types: int = 3, longest: int = 8) -> LengthLaw:
    """Small laws with distinct (prompt, output) pairs."""
    length = st.integers(1, longest)
    pairs = draw(st.lists(st.tuples(length, length), min_size=1, max_size=most_types, unique=True))
    weights = draw(st.lists(st.integers(1, 9), min_size=len(pairs), max_size=len(pairs)))
    return law([p for p, _ in pairs], [o for _, o in pairs], weights)
