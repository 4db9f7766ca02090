"""The references of the tests of ``blocks``: definitions as searches, and loops over blocks."""

from fractions import Fraction
from itertools import product

import numpy as np

from refscale.blocks import BlockCast, round_block_exact
from refscale.blocks.parts import block_axes
from refscale.blocks.rounding import amax_exact
from refscale.formats import Format

POWER_RULES = ("floor", "ceil", "rceil", "even", "nearest")


def exponent_by_search(rule: str, amax: float, element: Format) -> int:
    """k by its definition: the largest or smallest power of two with a property, found by trying them."""
    a, top, m = Fraction(amax), Fraction(element.max), element.mantissa_bits
    ks = range(-160, 160)

    def power(k: int) -> Fraction:
        return Fraction(2) ** k

    match rule:
        case "floor":  # amax/s in the element's top binade
            return next(k for k in ks if power(k + element.emax) <= a < power(k + element.emax + 1))
        case "ceil":  # the smallest s for which amax/s is at most the last power of two of the format
            return next(k for k in ks if a <= power(k + element.emax))
        case "rceil":  # the smallest s that does not saturate
            return next(k for k in ks if a <= power(k) * top)
        case (
            "even"
        ):  # as floor, once what rounds up to a power of two counts as that; the last point is half a step down
            reach = power(element.emax + 1) * (1 - power(-(m + 2)))
            return next(k for k in ks if a < power(k) * reach)
        case "nearest":  # between the two geometric means
            return next(k for k in ks if power(2 * k - 1) < (a / top) ** 2 <= power(2 * k + 1))
    raise ValueError(rule)


def by_block(x: np.ndarray, cast: BlockCast, words: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, float]:
    """(elements, scales, T), block by block through the specification."""
    with np.errstate(invalid="ignore"):  # signaling NaN
        x = np.asarray(x, np.float64)
    length = dict(zip(block_axes(cast, x.shape), cast.block, strict=True))
    count = [-(-n // length.get(axis, 1)) for axis, n in enumerate(x.shape)]
    elements, scales, t = np.zeros(x.shape), np.zeros(count), 1.0
    index = list(product(*map(range, count)))
    parts = [
        tuple(slice(i * length.get(axis, 1), (i + 1) * length.get(axis, 1)) for axis, i in enumerate(where))
        for where in index
    ]
    sizes = [amax_exact(x[part].ravel().tolist(), cast) for part in parts]
    tensor = max((a for a in sizes if np.isfinite(a)), default=0.0)
    for where, part in zip(index, parts, strict=True):
        values = x[part]
        bits = None if words is None else words[part].ravel().tolist()
        s, e, t = round_block_exact(values.ravel().tolist(), cast, tensor, bits)
        elements[part], scales[where] = np.reshape(e, values.shape), s
    return elements, scales, t


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """The same values, signs of zeros included; any NaN matches any."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    equal = (a == b) & (np.signbit(a) == np.signbit(b))
    return a.shape == b.shape and bool((equal | (np.isnan(a) & np.isnan(b))).all())
