"""Non-negative least squares: beyond the measurements a batch never takes less time than a part of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy  # its parts are loaded when first used

LEAST_TIME = 1e-12
"""Of a measurement, in its unit: less is a mistake in the unit, and its weight in a fit has no end."""

REWEIGHTED = 4  # rounds of weights


def relative_fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Non-negative coefficients with the least relative errors.

    Relative to what is predicted, not to what was measured: rows that happened to be measured short would count most,
    and with measurements that scatter by s the fit would be low by 2 s^2 (2 % for s = 0.1). Weights that come from the
    fit before settle in a few rounds.
    """
    coefficients = nonnegative_fit(x, y, 1 / y)
    for _ in range(REWEIGHTED):
        coefficients = nonnegative_fit(x, y, 1 / np.maximum(x @ coefficients, 1e-3 * y))
    return coefficients


def nonnegative_fit(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Non-negative coefficients c minimising sum (weight (x c - y))^2, to six digits so that they print the same."""
    design = x * weight[:, None]
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1.0  # a term that never occurs gets coefficient 0
    coefficients, _ = scipy.optimize.nnls(design / scale, y * weight)
    return six_digits(coefficients / scale)


def six_digits(values: Any) -> np.ndarray:
    """To six significant digits: beyond what is measured, and the same on every machine."""
    return np.vectorize(lambda v: float(f"{v:.6g}"), otypes=[float])(values)


def four_digits(value: float) -> float:
    """Of an error: what is reported of it."""
    return float(f"{value:.4g}")
