"""What a workload draws: requests, and the joint law of their lengths."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fluidwait.base.errors import ConfigError

UNKNOWN = np.zeros(0, dtype=object)
"""Stands for what is known of no request, and is a slice of itself."""

NOT_SAID = np.zeros(0, dtype=np.int64)
"""The same of tokens."""


class Requests(NamedTuple):
    """Requests in arrival order, arrays of shape (N,)."""

    arrival: np.ndarray  # float64, s, nondecreasing
    prompt: np.ndarray  # int64, tokens, >= 1
    output: np.ndarray  # int64, tokens, >= 1
    kind: np.ndarray  # int64, index of the request's type; 0 unless the lengths are a mixture
    blocks: np.ndarray = UNKNOWN  # tuples of numbers of the prompt's full blocks, equal where prompts are; (0,) unknown
    max_output: np.ndarray = NOT_SAID  # int64, tokens, >= output: what the client allows; (0,): see most_output
    predicted: np.ndarray = NOT_SAID  # int64, tokens of output that are predicted, 0 without a prediction; (0,): none


def most_output(requests: Requests) -> np.ndarray:
    """Output tokens that the clients allow, int64[N]; where nothing is said, the longest output of all requests.

    Raises:
        ConfigError: a request is longer than its client allows.
    """
    output = np.asarray(requests.output, dtype=np.int64)
    if len(requests.max_output) != len(output):
        return np.full(len(output), output.max(initial=0))
    if np.any(output > requests.max_output):
        r = int(np.argmax(output > requests.max_output))
        raise ConfigError(
            f"request {r}: max_output: {requests.max_output[r]} tokens, but its output has {output[r]} "
            f"(nearest valid value: {output[r]})"
        )
    return np.array(requests.max_output, dtype=np.int64)


def predicted_output(requests: Requests) -> np.ndarray:
    """Output tokens that are predicted, int64[N], 0 without a prediction."""
    if len(requests.predicted) != len(requests.output):
        return np.zeros(len(requests.output), dtype=np.int64)
    return np.array(requests.predicted, dtype=np.int64)


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
