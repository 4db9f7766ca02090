"""Sums rounded once: the real sum of float64 terms, for any order and any cancellation."""

from __future__ import annotations

import builtins
import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from refscale.arrays import plain
from refscale.errors import CarrierError, ShapeError
from refscale.exact import errorfree
from refscale.exact.errorfree import Float64


@np.errstate(all="ignore")  # infinities and NaN, signaling ones too, have their rules
def sum(x: ArrayLike, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Float64:
    """Compute the sum along axes, rounded once.

        y = round(Σ x_k), to float64, to nearest

    Args:
        x: float16, bfloat16, float32 or float64, any shape, any value.
        axis: an axis, several axes, or None for all.
        keepdims: keep the summed axes, with length 1.

    Returns:
        float64. A sum that is exactly zero, or has no terms, is +0; inf − inf is NaN; overflow gives ±inf.

    Raises:
        CarrierError: x is not an array of such floats.
        ShapeError: x lacks an axis.

    Source: ``errorfree.sum_rows``. The result is that of ``math.fsum``, which is the oracle of the tests.
    """
    array = plain("exact.sum", "x", x)
    if array.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise CarrierError(f"exact.sum: x is {array.dtype}, expected float16, bfloat16, float32 or float64")
    try:
        axes = np.lib.array_utils.normalize_axis_tuple(range(array.ndim) if axis is None else axis, array.ndim)
    except (TypeError, ValueError):
        raise ShapeError(f"exact.sum: axis {axis!r} of x {array.shape}") from None
    kept = tuple(i for i in range(array.ndim) if i not in axes)
    shape = tuple(array.shape[i] for i in kept)
    terms = np.asarray(array, np.float64).transpose(*kept, *axes)
    terms = terms.reshape(math.prod(shape), math.prod(array.shape[i] for i in axes))
    y = _sum_rows(terms).reshape(shape)
    return np.expand_dims(y, axes) if keepdims else y


def _sum_rows(terms: Float64) -> Float64:
    largest = np.abs(terms).max(-1, initial=0.0)
    # NaN fails the comparison, too. Below, neither a sum of K terms nor σ leaves float64's range.
    usual = largest < 2.0**960 / (terms.shape[1] + 2)
    y = np.empty(len(terms))
    y[usual] = errorfree.nearest(errorfree.sum_rows(terms[usual]))
    for i in np.flatnonzero(~usual):
        y[i] = _sum_any(terms[i])
    y += 0.0  # −0 + 0 = +0
    return y


def _sum_any(terms: Float64) -> float:
    """One row that may hold infinities, NaN, or numbers near the largest."""
    special = terms[~np.isfinite(terms)]
    if special.size:
        one = special[0]
        return float(one) if (special == one).all() else math.nan
    total = builtins.sum(map(Fraction, terms.tolist()), Fraction(0))
    try:
        return float(total)
    except OverflowError:
        return math.inf if total > 0 else -math.inf
