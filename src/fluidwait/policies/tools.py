"""Pieces that policies share: who must go, which outputs are assumed, batches of one phase, memory ahead."""

from __future__ import annotations

from fluidwait.policies.contract import blocks_for, fits, growth, is_decoding, jit, to_prefill


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


# --- memory that is counted without spare blocks ----------------------------------------------------------------------


@jit
def is_overdrawn(view, out):
    """True when the planned decodes need more new blocks than there are free ones."""
    needed = 0
    for k in range(len(view.resident)):
        if out.tokens[k] > 0 and is_decoding(view, view.resident[k]):
            needed += growth(view, view.resident[k])
    return needed > view.free


@jit
def newest_if_overdrawn(view, knobs, out):
    """A ``victim``: the resident admitted last, while planned decodes need more blocks than there are.

    For engines that ask for no spare block, and for reservations, which a request fills to its last block.
    """
    return len(view.resident) - 1 if is_overdrawn(view, out) else -1


@jit
def blocks_at_end(view, r, output):
    """KV blocks that request ``r`` holds in the end, if it generates ``output`` tokens in all."""
    return blocks_for(max(view.goal[r], view.cached[r]) + max(output - view.generated[r], 0), view.block_size)


@jit
def unreserved(view):
    """KV blocks that are left when every resident has grown to its assumed end; below 0 when they are too many."""
    free = view.free
    for k in range(len(view.resident)):
        r = view.resident[k]
        free -= max(blocks_at_end(view, r, assumed_output(view, r)) - view.held[r], 0)
    return free


# --- batches of one phase ---------------------------------------------------------------------------------------------


@jit
def decode_all(view, out):
    """One token for every resident that has its prompt; returns (how many, free blocks that remain)."""
    decodes, free = 0, view.free
    for k in range(len(view.resident)):
        r = view.resident[k]
        if is_decoding(view, r):
            out.tokens[k] = 1
            free -= growth(view, r)
            decodes += 1
    return decodes, free


@jit
def go_on_with_prefills(view, out, budget):
    """Tokens for residents whose prompt is not yet prefilled, in admission order; returns the budget that is left."""
    for k in range(len(view.resident)):
        r = view.resident[k]
        if budget > 0 and not is_decoding(view, r):
            out.tokens[k] = min(view.goal[r] - view.cached[r], budget)
            budget -= out.tokens[k]
    return budget


@jit
def half_prefilled(view):
    """Residents whose prompt is not yet prefilled."""
    count = 0
    for k in range(len(view.resident)):
        count += not is_decoding(view, view.resident[k])
    return count


@jit
def admit_whole(view, out, most, tokens, reserves):
    """Admit whole prompts from the head of the queue, ``most`` requests and ``tokens`` tokens; returns how many.

    A prompt longer than that goes alone. With ``reserves`` only requests that fit to their assumed ends are admitted,
    or the first one when nobody is in service.
    """
    admitted, free, reservable = 0, view.free, 0
    if reserves:
        reservable = unreserved(view)
    while admitted < min(most, len(view.waiting)):
        r = view.waiting[admitted]
        chunk = to_prefill(view, r)
        if (admitted > 0 and chunk > tokens) or not fits(view, r, free):
            break
        if reserves:
            in_all = blocks_at_end(view, r, assumed_output(view, r))
            if in_all > reservable and admitted + len(view.resident) > 0:
                break
            reservable -= in_all
        out.admit[admitted], out.chunk[admitted] = admitted, chunk
        tokens -= chunk
        free -= blocks_for(view.goal[r], view.block_size)
        admitted += 1
    return admitted


# --- the queue in another order ---------------------------------------------------------------------------------------


@jit
def next_in_order(out, waiting, key, position):
    """The position of the waiting request that follows (``key``, ``position``) by (key, position); -1 after the last.

    ``out.admit`` holds the keys of the first ``waiting`` ones.
    """
    following = -1
    for i in range(waiting):
        later = out.admit[i] > key or (out.admit[i] == key and i > position)
        if later and (following < 0 or out.admit[i] < out.admit[following]):
            following = i
    return following


@jit
def enter(view, out, position, budget, free):
    """Note the first chunk of a waiting request that enters; returns (budget, free blocks) that remain."""
    r = view.waiting[position]
    out.chunk[position] = min(to_prefill(view, r), budget)
    return budget - out.chunk[position], free - blocks_for(view.goal[r], view.block_size)


@jit
def in_queue_order(out, waiting):
    """Turn first chunks by position (0: not admitted) into admissions; returns how many."""
    admitted = 0
    for i in range(waiting):
        if out.chunk[i] > 0:
            out.admit[admitted], out.chunk[admitted] = i, out.chunk[i]
            admitted += 1
    return admitted


# --- memory ahead -----------------------------------------------------------------------------------------------------


@jit
def blocks_in_all(view):
    """KV blocks that are free or held by residents."""
    blocks = view.free
    for k in range(len(view.resident)):
        blocks += view.held[view.resident[k]]
    return blocks


@jit
def put(have, left, n, tokens, steps):
    """Add a request that has ``tokens`` in the cache and ``steps`` to go to the ``n`` in the list; most steps first."""
    k = n
    while k > 0 and left[k - 1] < steps:
        have[k], left[k] = have[k - 1], left[k - 1]
        k -= 1
    have[k], left[k] = tokens, steps
    return n + 1


@jit
def take_out(have, left, n, tokens, steps):
    """Undo :func:`put`."""
    k = 0
    while have[k] != tokens or left[k] != steps:
        k += 1
    for j in range(k, n - 1):
        have[j], left[j] = have[j + 1], left[j + 1]
    return n - 1


@jit
def fits_ahead(have, left, n, block_size, blocks):
    """True when the ``n`` requests of the list fit so many blocks to their ends: memory peaks where a request ends.

    Every request takes a token a step. When the i-th ends, those before it in the list are still there, so that
    memory holds sum_{j <= i} have_j + i left_i tokens, and each request's last block may be half empty.
    """
    tokens = 0
    for i in range(n):
        tokens += have[i]
        peak = tokens + (i + 1) * left[i]
        if peak > blocks * block_size:
            return False
        if peak + (i + 1) * (block_size - 1) > blocks * block_size:  # then count block by block
            held = 0
            for j in range(i + 1):
                held += blocks_for(have[j] + left[i], block_size)
            if held > blocks:
                return False
    return True


@jit
def steps_to_go(view, r, output, chunk):
    """Steps that request ``r`` needs to its end: chunks of its prompt, and a token of ``output`` in all each."""
    missing = max(view.goal[r] - view.cached[r], 0)
    return (missing + chunk - 1) // chunk + max(output - view.generated[r], 1)


@jit
def list_residents(view, have, left, chunk):
    """Write the residents into a list as of :func:`put`, with their assumed outputs; returns how many."""
    n = 0
    for k in range(len(view.resident)):
        r = view.resident[k]
        steps = steps_to_go(view, r, assumed_output(view, r), chunk)
        n = put(have, left, n, max(view.goal[r], view.cached[r]), steps)
    return n


@jit
def put_if_it_fits(view, r, output, have, left, n, chunk):
    """Add the waiting request ``r`` to the list if all of it then fits ahead, or nobody is in it; returns how many.

    One block stays free: the engine asks for it.
    """
    steps = steps_to_go(view, r, output, chunk)
    n = put(have, left, n, view.goal[r], steps)
    if n > 1 and not fits_ahead(have, left, n, view.block_size, blocks_in_all(view) - 1):
        n = take_out(have, left, n, view.goal[r], steps)
    return n
