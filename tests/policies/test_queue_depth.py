"""How deep a policy looks into the queue: what lies beyond changes no plan."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from policy_cases import Asked, Request, decoding, law

LAW = law([4, 12, 30], [0.5, 0.3, 0.2])
SPECS = {
    "nested_wait": {"policy": "nested_wait", "boundaries": [4, 30], "thresholds": [3, 2], "max_wait": 5.0},
    "wait_chunked": {"policy": "wait_chunked", "in_service": 12, "boundaries": [4, 30], "max_wait": 5.0},
    "fluid_lookahead": {"policy": "fluid_lookahead", "max_requests": 12},
    "wait_chunked without gate": {"policy": "wait_chunked", "in_service": 40, "boundaries": [30], "gate": False},
}
STEP = st.tuples(st.integers(0, 30), st.lists(st.integers(1, 29), max_size=14), st.integers(0, 40), st.floats(0, 9))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@given(steps=st.lists(STEP, min_size=1, max_size=6))
def test_what_lies_beyond_changes_no_plan(spec, steps):
    whole, cut = Asked(spec, LAW), Asked(spec, LAW)
    depth = whole.policy.queue_depth(whole.knobs)
    for waiting, generated, free, now in steps:
        queue = [Request(arrival=i / 10) for i in range(waiting)]
        resident = [decoding(g, service=now / 2) for g in generated]
        assert cut(queue[:depth], resident, now=now, free=free) == whole(queue, resident, now=now, free=free)


def test_wait_sees_every_type_of_a_mixed_queue_reach_its_threshold():
    """Of two types that come in turn, both become eligible within the requests that are shown."""
    ask = Asked({"policy": "wait", "thresholds": [3, 2, 1]}, LAW)
    depth = ask.policy.queue_depth(ask.knobs)
    queue = [Request(kind=(0, 1, 0, 1, 0, 2)[i % 6]) for i in range(40)]
    assert ask(queue[:depth]) == ask(queue)
