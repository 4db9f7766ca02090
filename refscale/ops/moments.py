"""Mean and mean square of rows, right for rows that are nearly constant, huge or tiny.

A mean is off by its rounding, and a square may leave the carrier's range: an x of 1000.1 throughout, normalized with
eps = 1e-12, would become the sign of the rounding error, and one of 1e30 would become 0.
"""

from __future__ import annotations

import math

import numpy as np

from refscale.engine import Array
from refscale.ops.sums import total


def mean(x: Array) -> Array:
    """Of each row."""
    return total(x, -1, keepdims=True, over=x.shape[-1])


def centered(x: Array) -> Array:
    """x − mean of each row: exactly 0 if all its elements are equal.

    The mean is that of the distances from the first element x_0, and the rounding of a distance is relative to it. So
    c = x − mean errs by at most u·(|x_i − x_0| + 2·mean|x − x_0| + |c_i|), to first order and with u half an ulp of 1:
    in terms of the spread of the row, however far from 0 it is.
    """
    x = x - x[..., :1]
    return np.asanyarray(x - mean(x))


def normalized(x: Array, eps: float, with_mean: bool) -> tuple[Array, Array]:
    """(x − mean)/√(var + eps) of each row, or x/√(mean x² + eps); and the inverse of the root, (…, 1).

    Rows are divided by a power of two in which nothing overflows, and nothing that counts underflows.
    """
    if with_mean:
        x = x - x[..., :1]
    unit = _units(x, eps)
    x = centered(x / unit) if with_mean else x / unit
    inverse = 1 / np.sqrt(mean(x * x) + eps / unit / unit)
    return x * inverse, inverse / unit


def _units(x: Array, eps: float) -> Array:
    """The ulp of the largest of |x| and √eps in each row, (…, 1): both are then less than 2^24, or 2^53 in float64."""
    largest = np.abs(x).max(-1, keepdims=True)
    return np.asanyarray(np.spacing(np.maximum(largest, math.sqrt(eps))))
