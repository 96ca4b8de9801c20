"""Who must go when memory is short, and what a policy takes a request's output for: pieces that policies share."""

from __future__ import annotations

from fluidwait.policies.contract import growth, jit


@jit
def decodes_fall_short(view, out):
    """True when some planned decode finds no free block, in admission order.

    As in Vidur and vLLM's block manager each decode asks for a spare block even when its last one has room.
    """
    free = view.free
    for k in range(len(view.resident)):
        r = view.resident[k]
        if out.tokens[k] > 0 and view.cached[r] >= view.goal[r]:
            if free < 1:
                return True
            free -= growth(view, r)
    return False


@jit
def is_short(view, out):
    """:func:`decodes_fall_short`, without a look at the plan where memory is ample."""
    return view.free < len(view.resident) and decodes_fall_short(view, out)


@jit
def newest_if_short(view, knobs, out):
    """The ``victim`` of a policy that names none: the resident admitted last, while planned decodes do not fit."""
    return len(view.resident) - 1 if is_short(view, out) else -1


@jit
def assumed_output(view, r):
    """Output tokens of request ``r``: those that are predicted; without a prediction, all that its client allows.

    A request that has outlived its prediction is taken for one token longer.
    """
    tokens = view.predicted[r] if view.predicted[r] > 0 else view.max_output[r]
    return max(tokens, view.generated[r] + 1)
