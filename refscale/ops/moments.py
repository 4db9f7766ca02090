"""Mean and mean square of rows, accurate for nearly constant, very large and very small rows.

A plain formula is not: a mean has a rounding error, and a square may overflow. A row of 1000.1 throughout, normalized
with eps = 1e-12, would become the sign of the rounding error, and a row of 1e30 would become 0.
"""

from __future__ import annotations

import math

import numpy as np

from refscale.engine import Array
from refscale.ops.sums import total


def mean(x: Array) -> Array:
    """Compute the mean of each row."""
    return total(x, -1, keepdims=True, over=x.shape[-1])


def centered(x: Array) -> Array:
    """Compute x − mean of each row: exactly 0 if all its elements are equal.

    The mean is computed from the differences from the first element x_0, whose rounding errors are relative to the
    differences. The error of c = x − mean is at most u·(|x_i − x_0| + 2·mean|x − x_0| + |c_i|), to first order, with u
    half an ulp of 1: it depends on the spread of the row, not on its distance from 0.
    """
    x = x - x[..., :1]
    return np.asanyarray(x - mean(x))


def normalized(x: Array, eps: float, with_mean: bool) -> tuple[Array, Array]:
    """Compute (x − mean)/√(var + eps) of each row, or x/√(mean x² + eps); and the inverse of the root, (…, 1).

    Rows are first divided by a power of two, so that squares do not overflow, and underflow only if negligible.
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
