"""Rounding to an integer in every mode, and two roundings to a format by integer arithmetic on float32's bits.

These are the inner loops of ``cast``: each reads a block one or more times, and writes into given arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.formats.rounding import Rounding

Array = NDArray[Any]
Random = NDArray[np.uint32]


def _nearest_away(t: Array, out: Array, random: Random | None) -> None:
    """Truncate to half-integers, step half outward, truncate. t + 1/2 itself would not be exact."""
    np.multiply(t, 2, out=out)
    np.trunc(out, out=out)
    np.add(out, np.copysign(out.dtype.type(1), out), out=out)
    np.multiply(out, 0.5, out=out)
    np.trunc(out, out=out)


def _stochastic(t: Array, out: Array, random: Random | None) -> None:
    """Add random bits below the last place, and truncate: a carry out of the 32 bits steps outward."""
    assert random is not None
    whole = np.trunc(t)
    rest = np.abs(t - whole)
    np.multiply(rest, 2.0**32, out=rest)  # exact, below 2^32
    fraction = rest.astype(np.uint32)
    np.add(fraction, random, out=fraction)
    carry = np.less(fraction, random).astype(t.dtype)
    np.add(whole, np.copysign(carry, whole), out=out)  # copysign: -0 stays -0


TO_INTEGER: dict[Rounding, Callable[[Array, Array, Random | None], Any]] = {
    "nearest_even": lambda t, out, random: np.rint(t, out=out),
    "toward_zero": lambda t, out, random: np.trunc(t, out=out),
    "up": lambda t, out, random: np.ceil(t, out=out),
    "down": lambda t, out, random: np.floor(t, out=out),
    "nearest_away": _nearest_away,
    "stochastic": _stochastic,
}
"""Functions ``(t, out, random)`` by rounding mode, which write t rounded to integers into ``out``; it may be t."""


def nearest_even_bits(x: Array, out: Array, scratch: Array, drop: int) -> None:
    """Drop the low bits of float32, to nearest even: add just under half, or half if the last kept bit is odd.

    Codes of one sign are in the order of their values. A carry out of the mantissa thus correctly gives the next
    binade, out of the subnormals the smallest normal, and out of the largest value infinity.
    """
    if drop == 0:
        np.copyto(out, x)
        return
    bits, result, odd = x.view(np.uint32), out.view(np.uint32), scratch.view(np.uint32)
    np.right_shift(bits, drop, out=odd)
    np.bitwise_and(odd, 1, out=odd)
    np.add(odd, (1 << (drop - 1)) - 1, out=odd)
    np.add(odd, bits, out=odd)
    np.bitwise_and(odd, 0xFFFFFFFF ^ ((1 << drop) - 1), out=result)


def nearest_power(x: Array, out: Array, scratch: Array, beyond: float | None) -> bool:
    """Round float32 to the nearest power of two from 2^-127 to 2^127, ties outward.

    Adds half a binade and drops the mantissa. Negative numbers, zero and NaN become NaN; numbers that round beyond
    2^127 become 2^127, or ``beyond``. Subnormals need another computation: the function then returns False, and leaves
    ``out`` unchanged.
    """
    if x.dtype != np.float32:
        return False
    bits, result, t = x.view(np.uint32), out.view(np.uint32), scratch.view(np.uint32)[: x.size]
    np.subtract(bits, 1, out=t)  # positive numbers and inf: 0 … 0x7F7FFFFF; +0 wraps round
    if np.minimum.reduce(t) < 0x7FFFFF:
        return False
    invalid = t > 0x7F7FFFFF if np.maximum.reduce(t) > 0x7F7FFFFF else None
    np.add(bits, 0x400000, out=t)
    np.bitwise_and(t, 0x7F800000, out=t)
    np.minimum(t, 0x7F000000 if beyond is None else 0x7F800000, out=result)
    if beyond is not None:
        result[result == 0x7F800000] = 0x7FC00000
    if invalid is not None:  # a power of two has exponent bits only, and NaN has them all
        np.multiply(invalid, np.uint32(0x7FC00000), out=t)
        np.bitwise_or(result, t, out=result)
    return True
