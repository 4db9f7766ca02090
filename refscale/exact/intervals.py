"""Error bounds of accumulators, and the intervals of results that they allow.

A bound is derived, not measured, and is valid for every element: |s − Σ a_k b_k| ≤ bound. With u = 2^-24,
γ_n = n·u/(1 − n·u) and T = Σ |a_k·b_k|:

* If a term has at most n roundings, of relative error u each, the error of the sum is at most γ_n·T. In the order of
  the index a term has K additions and the rounding of its product, n = K + 1; in blocks at most B + ⌈K/B⌉ + 1; in any
  order K + 1; with blocks that are added exactly ⌈K/B⌉. The error of a product below float32's normal range is up to
  2^-150 larger; a sum there is exact.
* Truncation toward zero does not increase a magnitude, so every partial sum, and 2^e_max, is at most T. A block
  truncates at most B + 1 terms by less than 2^-N·T each, and its sum of S significant bits by less than 2^(1 − S)·T:
  c = ⌈K/B⌉·((B + 1)·2^-N + 2^(1 − S)), or, below the normal range, 2^-149 each in place of the last. With promotion c
  is that of P products; the errors of the n = ⌈K/P⌉ sums are c times their own T, and they are added with n roundings:
  c + γ_n·(1 + c). With ``floor`` 2^floor is added to T once per promoted part; with ``emin`` T is made of
  max(|a_k|, 2^emin)·max(|b_k|, 2^emin) where a product is not 0, and 2^-126 is added likewise.
* A start value c is one more term: K + 1 in place of K, and |c| in T.

Source: Higham, *Accuracy and Stability of Numerical Algorithms*, section 4.2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.exact.accumulators import Accumulator, Truncated, get_accumulator
from refscale.exact.errorfree import Float64
from refscale.exact.product import as_operands, check_deterministic, check_factor, matmul, start_values
from refscale.formats import Cast

Float32 = NDArray[np.float32]


@np.errstate(all="ignore")
def bound(a: ArrayLike, b: ArrayLike, accumulator: str | Accumulator, c: ArrayLike | None = None) -> Float64:
    """Compute error bounds of an accumulator's sums: float64 (…, M, N), inf or NaN where operands are.

    bound = relative(K)·T + K·2^-149,    T = Σ_k |a_ik·b_kj|

    ``relative`` is the method of the accumulator; if it returns 0, the bound is 0.
    """
    x, y = as_operands("intervals.bound", a, b)
    return sum_errors(x, y, get_accumulator(accumulator), c)


def sum_errors(x: Float64, y: Float64, model: Accumulator, c: ArrayLike | None = None) -> Float64:
    """Compute ``bound`` for float64 arrays (…, M, K) and (…, K, N) of any number of significant bits."""
    inner = x.shape[-1]
    total = _largest(x, y, model)
    if c is not None:
        inner += 1
        total = total + np.abs(start_values("intervals.bound", c, total.shape).astype(np.float64))
    relative = model.relative(inner)
    total = total * (1 + (inner + 4) * 2.0**-52)  # and what float64 may have lost of it
    return np.asarray(total * relative + (inner * 2.0**-149 if relative else 0.0))


def _largest(x: Float64, y: Float64, model: Accumulator) -> Float64:
    """T, or, where a model's exponents have least values, a sum that bounds the powers of two that it aligns to."""
    total = np.abs(x) @ np.abs(y)
    if not isinstance(model, Truncated) or (model.floor is None and model.emin is None):
        return np.asarray(total)
    least = 0.0 if model.floor is None else 2.0**model.floor
    if isinstance(model.emin, tuple):
        left, right = (
            np.where(o == 0, 0.0, np.maximum(np.abs(o), 2.0**e)) for o, e in zip((x, y), model.emin, strict=True)
        )
        total = left @ right
        least = max(least, 2.0**-126)
    return np.asarray(total + least * math.ceil(x.shape[-1] / (model.promoted or max(1, x.shape[-1]))))


@np.errstate(all="ignore")
def interval(
    a: ArrayLike,
    b: ArrayLike,
    accumulator: str | Accumulator,
    cast: Cast,
    factor: float = 1.0,
    c: ArrayLike | None = None,
) -> tuple[Float32, Float32]:
    """Compute the smallest and the largest correct result of an implementation with a given accumulator.

        low = cast(factor·(s − bound)),    high = cast(factor·(s + bound)),    s the exact sum

    Rounding is monotonic, so a sum within the bounds gives a result in the interval. An implementation may round its
    float32 sum times the factor once more to float32; the bound includes this.

    Args:
        a, b: operands, (…, M, K) and (…, K, N).
        accumulator: the model, or its name.
        cast: cast to the format of the output, to nearest.
        factor: factor of the sum, 2^-300 ≤ |factor| ≤ 2^300.
        c: start values of the sums, float16, bfloat16 or float32 (…, M, N); None: 0.

    Returns:
        (low, high), float32 (…, M, N), equal for "exact". An end that overflowed to NaN means that the interval is
        unlimited on this side; (inf, −inf) means NaN only: see ``inside``.

    Raises:
        ArgumentError: the accumulator is unknown, the cast is stochastic, or the factor is out of range.
    """
    accumulator = get_accumulator(accumulator)
    check_deterministic("intervals.interval", cast)
    factor = check_factor("intervals.interval", factor)
    if accumulator.relative(1) == 0:
        y = matmul(a, b, cast, factor, c)
        return y, y
    x, w = as_operands("intervals.interval", a, b)
    total, size = np.asarray(x @ w), np.asarray(np.abs(x) @ np.abs(w))
    if c is not None:
        start = start_values("intervals.interval", c, total.shape).astype(np.float64)
        total, size = total + start, size + np.abs(start)
    inexact = size * ((x.shape[-1] + 9) * 2.0**-52)
    error = (bound(a, b, accumulator, c) + inexact) * abs(factor)
    middle = total * factor
    error += (np.abs(middle) + error) * 2.0**-22 + 2.0**-148
    return ends(middle, error, cast)


@np.errstate(all="ignore")
def ends(y: NDArray[Any], error: NDArray[Any], cast: Cast) -> tuple[Float32, Float32]:
    """Compute (low, high): y − error and y + error after a cast, which is monotonic.

    The error of an infinite y is 0. For a NaN the result is (∞, −∞): only NaN is ``inside``.
    """
    error = np.where(np.isinf(y), 0.0, error)
    none = np.isnan(y)
    return np.where(none, np.float32(np.inf), cast(y - error)), np.where(none, np.float32(-np.inf), cast(y + error))


def inside(y: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether low ≤ y ≤ high, elementwise.

    If an end is NaN, its cast overflowed to NaN: the interval is then unlimited on this side, and contains NaN. If
    low > high, it contains NaN only.
    """
    above = (y >= low) | np.isnan(low)
    below = (y <= high) | np.isnan(high)
    some = np.isnan(low) | np.isnan(high) | (low > high)
    return np.asarray(np.where(np.isnan(y), some, above & below))
