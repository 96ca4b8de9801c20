"""What a workload draws: requests, and the joint law of their lengths."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

UNKNOWN = np.zeros(0, dtype=object)
"""Stands for what is known of no request, and is a slice of itself."""


class Requests(NamedTuple):
    """Requests in arrival order, arrays of shape (N,)."""

    arrival: np.ndarray  # float64, s, nondecreasing
    prompt: np.ndarray  # int64, tokens, >= 1
    output: np.ndarray  # int64, tokens, >= 1
    kind: np.ndarray  # int64, index of the request's type; 0 unless the lengths are a mixture
    blocks: np.ndarray = UNKNOWN  # tuples of numbers of the prompt's full blocks, equal where prompts are; (0,) unknown


class LengthLaw(NamedTuple):
    """Joint law of the lengths: pair (prompt[i], output[i]) has probability share[i]; float64 of shape (m,)."""

    prompt: np.ndarray  # tokens
    output: np.ndarray  # tokens
    share: np.ndarray  # > 0, sums to 1


class Support(NamedTuple):
    """Pairs of lengths in tokens and how often each comes, arrays of shape (m,)."""

    prompt: np.ndarray  # int64
    output: np.ndarray  # int64
    weight: np.ndarray  # float64, any positive scale
