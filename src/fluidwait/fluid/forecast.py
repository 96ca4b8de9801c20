"""What is known beforehand of the memory that requests will hold: when they end, and what comes in meanwhile.

Time counts in iterations, in each of which a request in service gets a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

if TYPE_CHECKING:
    from fluidwait.workload import LengthLaw

CLASSES = 16
"""Classes of predicted outputs, of equal ratios of their ends."""


def flow_tokens(law: LengthLaw, capacity: float, block_size: int, at: np.ndarray) -> np.ndarray:
    """KV tokens of the requests that come in from now on, float64 of the shape of ``at``.

    The fluid model: at the rate at which memory is full, so many requests come in per iteration that those in service
    hold all of it. Of a request of age a the memory holds prompt and a tokens, if its output is longer, and half a
    block that its last tokens do not fill. After a life of the longest output all of the memory is theirs.

    Args:
        capacity: KV tokens. at: iterations from now on.
    """
    output = law.output.astype(np.int64)
    longest = int(output.max())
    ending = np.bincount(output, law.share, longest + 1)
    prompts = np.bincount(output, law.share * law.prompt, longest + 1)
    alive, held = (np.cumsum(part[::-1])[::-1] for part in (ending, prompts))
    held = held + (np.arange(longest + 1) + block_size / 2.0) * alive
    filled = np.concatenate([[0.0], np.cumsum(held[1:])])
    return capacity * filled[np.minimum(at, longest)] / filled[-1]


def output_ends(output: np.ndarray, share: np.ndarray, ages: np.ndarray, parts: int) -> np.ndarray:
    """Ends of the outputs longer than each age in equally likely ``parts``: their means, tokens, int64[ages, parts].

    Past the longest output it is that one.

    Args:
        output: tokens, f8[m]. share: their probabilities, up to a factor. ages: tokens generated so far, increasing.
    """
    order = np.argsort(output, kind="stable")
    output, share = output[order], share[order]
    ends = np.full((len(ages), parts), output[-1], dtype=np.float64)
    for row, age in enumerate(ages):
        beyond = (output > age) & (share > 0)
        if not beyond.any():
            break
        mass = np.concatenate([[0.0], np.cumsum(share[beyond])])
        total = np.concatenate([[0.0], np.cumsum(share[beyond] * output[beyond])])
        cuts = np.interp(np.linspace(0.0, mass[-1], parts + 1), mass, total)
        ends[row] = np.diff(cuts) * parts / mass[-1]
    return np.rint(ends).astype(np.int64)


def predicted_classes(law: LengthLaw, error: float) -> tuple[np.ndarray, np.ndarray]:
    """Classes of predictions, by their least tokens f8[CLASSES], and the law of the outputs in each.

    A prediction is the output times exp(``error`` Z), Z normal. By Bayes the outputs of a class have probabilities
    proportional to share x P(the prediction falls into the class), f8[CLASSES, m] for the m pairs of the law. A class
    into which nothing falls has the law itself.
    """
    longest = float(law.output.max())
    edges = longest ** (np.arange(CLASSES) / CLASSES)
    upper = np.append(edges[1:], np.inf)
    lower = np.append(0.0, edges[1:])
    with np.errstate(divide="ignore"):
        above, below = (
            ndtr((np.log(edge)[:, None] - np.log(law.output)[None, :]) / max(error, 1e-6)) for edge in (upper, lower)
        )
    weight = (above - below) * law.share
    empty = weight.sum(axis=1) <= 1e-12
    weight[empty] = law.share
    return edges, weight
