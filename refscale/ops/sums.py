"""Sums with an error of less than an ulp, along any axes and by index; for readable forms and kernels.

NumPy adds float32 pairwise along the last axis only; over a leading axis it adds row to row, so that the mean of 2^25
ones is ½. Here float32 is accumulated in float64 and rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.engine import Array
from refscale.scales import Shape


def total(x: Array, axes: int | tuple[int, ...] | None = None, keepdims: bool = False, over: int = 1) -> Array:
    """Sum along axes, divided by an integer.

        y = round(Σ x_k / over)

    For n ≤ 2^27 float32 numbers the error is less than one ulp of Σ|x_k| / over, in any order of summation: that of
    n − 1 additions in float64 is at most n·2^-53·Σ|x_k| (Higham 2002, section 4.2), a quarter of an ulp, because an ulp
    of a float32 S is more than 2^-24·S; that of rounding the quotient to float32 is half an ulp. No partial sum
    overflows. float64 numbers are added in float64, as by NumPy.

    Args:
        x: float32 or float64, any shape; or an array of ``exact``, whose sums are rounded once.
        axes: an axis, several axes, or None for all.
        keepdims: keep the summed axes, with length 1.
        over: the divisor, ≥ 1; the number of terms gives their mean.

    Returns:
        An array of the dtype of x.
    """
    y = np.asanyarray(np.sum(x, axis=axes, dtype=np.float64, keepdims=keepdims) / over)
    return np.asanyarray(y.astype(x.dtype, copy=False))


def total_by_index(rows: Array, indices: NDArray[Any]) -> tuple[NDArray[np.intp], Array]:
    """Sum the rows of equal index, in order of j, with the error bound of ``total``.

        y_i = Σ rows[j] over all j with indices[j] = i

    Args:
        rows: array of shape (k, d).
        indices: k integers ≥ 0.

    Returns:
        The indices i that occur, ascending, and their sums y (len(i), d).
    """
    order = np.argsort(indices, kind="stable")
    ranked = indices[order].astype(np.intp, copy=False)
    starts = np.flatnonzero(np.diff(ranked, prepend=-1))
    lengths = np.diff(starts, append=len(ranked))
    sums = rows[order[starts]]
    several = np.flatnonzero(lengths > 1)
    longest = int(lengths.max(initial=0))
    if longest <= len(starts):  # all seconds, all thirds, …
        first, count, wide = starts[several], lengths[several], sums[several].astype(np.float64)
        for rank in range(1, longest):
            some = np.flatnonzero(count > rank)
            wide[some] += rows[order[first[some] + rank]]
        sums[several] = wide
    else:  # few indices, used often
        for i in several:
            sums[i] = total(rows[order[starts[i] : starts[i] + lengths[i]]], 0)
    return ranked[starts], sums


def unbroadcast(g: Array, shape: Shape) -> Array:
    """Sum a gradient over the axes along which an input of ``shape`` was repeated."""
    if g.shape == shape:
        return g
    lead = g.ndim - len(shape)
    repeated = tuple(lead + i for i, n in enumerate(shape) if n != g.shape[lead + i])
    return total(g, (*range(lead), *repeated)).reshape(shape)
