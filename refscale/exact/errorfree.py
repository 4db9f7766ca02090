"""Sums and products without error: a real number as several float64, until it is rounded.

    a + b = s + e,    a · b = p + e,    Σ x_k = t_1 + t_2 + …        with equality, not approximately

A list of arrays stands for their elementwise sum, a real number each. ``distill`` makes its members smaller and
smaller without changing that sum, ``nearest`` and ``odd`` round it. Everything is made of + − × on float64, rounded to
nearest, so that no result depends on the machine.

Round to odd: of the two float64 around a real number take the one whose last bit is 1, unless it is a float64 itself.
Rounded once more, to any format of at most 51 bits and in any mode, that gives what the real number gives: it lies on
the same side of every tie and of every value of the format, and is one only if the number is. Source: Boldo and
Melquiond 2008, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_SPLIT = 2.0**27 + 1
"""Splits 53 bits into 26 and 26, the sign of the second being the 53rd. Source: Veltkamp 1968; Dekker 1971."""


def two_sum(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    """(s, e) with s = fl(a + b) and s + e = a + b. Source: Knuth, TAOCP volume 2, 4.2.2."""
    s = a + b
    t = s - a
    e = s - t
    np.subtract(a, e, out=e)
    np.subtract(b, t, out=t)
    e += t
    return s, e


def two_product(a: Float64, b: Float64 | float) -> tuple[Float64, Float64]:
    """(p, e) with p = fl(a·b) and p + e = a·b, |a|, |b| < 2^970, |a·b| 0 or > 2^-960. Source: Dekker 1971."""
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
    """Sums along the last axis as a list of arrays; the terms are overwritten.

    Each level takes from every term its upper part, a multiple of 2^-52·σ where σ ≥ (K + 2)·max|x| is a power of two:
    K such multiples add up without rounding, in whatever order. It ends when nothing remains.

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
    """The least power of two ≥ x, for normal x > 0; 2^-1022 for 0."""
    bits = np.maximum(x, 2.0**-1022).view(np.int64)
    return np.asarray(((bits + ((1 << 52) - 1)) & (0x7FF << 52)).view(np.float64))


def distill(parts: list[Float64]) -> list[Float64]:
    """The same sum in parts of which each is at most half an ulp of the one before; trailing zeros are dropped."""
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
    """The float64 nearest to a sum, ties to even."""
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
    """A sum rounded to odd, see above."""
    parts = distill(parts)
    first = parts[0]
    if len(parts) == 1:
        return first
    inexact_and_even = (parts[1] != 0) & (first.view(np.int64) & 1 == 0)
    toward = np.where(parts[1] > 0, np.inf, -np.inf)
    return np.where(inexact_and_even, np.nextafter(first, toward), first)
