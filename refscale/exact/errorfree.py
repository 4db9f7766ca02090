"""Sums and products without error: real numbers as sums of several float64.

    a + b = s + e,    a · b = p + e,    Σ x_k = t_1 + t_2 + …        with equality, not approximately

A list of arrays represents their elementwise sum, whose elements are real numbers. ``distill`` makes the later arrays
small without changing the sum; ``nearest`` and ``odd`` round it. The only operations are + − × on float64, rounded to
nearest, so that results do not depend on the machine.

Round to odd: if a real number is not a float64, choose the neighbor whose last bit is 1. Rounded again to a format of
at most 51 bits, in any mode, it gives the same as the real number, because it is on the same side of every tie and of
every value of the format, and equals one only if the real number does. Source: Boldo and Melquiond 2008, "Emulation of
FMA and correctly rounded sums: proved algorithms using rounding to odd".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_SPLIT = 2.0**27 + 1
"""Splits 53 bits into 26 and 26, the sign of the second being the 53rd. Source: Veltkamp 1968; Dekker 1971."""


def two_sum(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    """Compute (s, e) with s = fl(a + b) and s + e = a + b. Source: Knuth, TAOCP volume 2, 4.2.2."""
    s = a + b
    t = s - a
    e = s - t
    np.subtract(a, e, out=e)
    np.subtract(b, t, out=t)
    e += t
    return s, e


def two_product(a: Float64, b: Float64 | float) -> tuple[Float64, Float64]:
    """Compute (p, e) with p = fl(a·b) and p + e = a·b, for |a|, |b| < 2^970, |a·b| 0 or > 2^-960.

    Source: Dekker 1971.
    """
    p = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(np.asarray(b, np.float64))
    e = ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low
    return p, e


def _split(a: Float64) -> tuple[Float64, Float64]:
    c = a * _SPLIT
    high = c - (c - a)
    return high, a - high


def sum_rows(terms: Float64) -> list[Float64]:
    """Compute sums along the last axis as a list of arrays; the terms are overwritten.

    Each step splits off the upper part of every term, a multiple of 2^-52·σ with a power of two σ ≥ (K + 2)·max|x|: K
    such multiples add up without rounding, in any order. The steps end when all remainders are 0.

    Args:
        terms: (…, K), finite, of magnitude below 2^960/K.

    Returns:
        Arrays of shape (…), at least one, whose sum is the exact one.

    Source: Rump, Ogita and Oishi 2008, "Accurate floating-point summation, part I", Algorithm 4.1.
    """
    levels: list[Float64] = []
    room = terms.shape[-1] + 2
    while True:
        largest = np.abs(terms).max(-1, keepdims=True, initial=0.0)
        if not largest.any():
            break
        sigma = power_above(largest * room)
        upper = terms + sigma
        upper -= sigma
        levels.append(np.asarray(upper.sum(-1)))
        terms -= upper
    return levels or [np.zeros(terms.shape[:-1])]


def power_above(x: Float64) -> Float64:
    """Return the least power of two ≥ x, for normal x > 0; 2^-1022 for 0."""
    bits = np.maximum(x, 2.0**-1022).view(np.int64)
    return np.asarray(((bits + ((1 << 52) - 1)) & (0x7FF << 52)).view(np.float64))


def distill(parts: list[Float64]) -> list[Float64]:
    """Return parts of the same sum, each at most half an ulp of the previous one, without trailing zeros."""
    parts = list(parts)
    changed = len(parts) > 1
    while changed:
        changed = False
        for i in range(len(parts) - 2, -1, -1):
            s, e = two_sum(parts[i], parts[i + 1])
            changed = changed or bool((s != parts[i]).any())
            parts[i], parts[i + 1] = s, e
    while len(parts) > 1 and not parts[-1].any():
        parts.pop()
    return parts


def nearest(parts: list[Float64]) -> Float64:
    """Round a sum to the nearest float64, ties to even."""
    parts = distill(parts)
    first = parts[0]
    if len(parts) == 1:
        return first
    # At a tie the first part is the even neighbor; what follows decides whether it was one.
    step = 2 * parts[1]
    other = first + step
    rest = parts[2] if len(parts) > 2 else np.zeros_like(first)
    beyond = (other - first == step) & (np.sign(rest) == np.sign(step)) & (rest != 0)
    return np.where(beyond, other, first)


def odd(parts: list[Float64]) -> Float64:
    """Round a sum to odd float64; the module defines this rounding."""
    parts = distill(parts)
    first = parts[0]
    if len(parts) == 1:
        return first
    inexact_and_even = (parts[1] != 0) & (first.view(np.int64) & 1 == 0)
    toward = np.where(parts[1] > 0, np.inf, -np.inf)
    return np.where(inexact_and_even, np.nextafter(first, toward), first)
