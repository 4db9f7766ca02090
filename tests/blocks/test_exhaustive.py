"""Every float32 magnitude, under every rule, for every element format: 2^31 each.

    python -m pytest -m slow tests/blocks/test_exhaustive.py

A rule is a staircase. The specification finds each step by bisection; between two steps the fast form must say one
number, for every magnitude there is.
"""

import math
from fractions import Fraction

import numpy as np
import pytest

from refscale.blocks import get_block_cast, scale_exact
from refscale.blocks.cast import _scales
from refscale.blocks.rounding import exponent_exact
from refscale.formats import FORMATS
from tests.blocks.oracles import POWER_RULES

ELEMENTS = ("float8_e4m3fn", "float8_e5m2", "float6_e3m2fn", "float6_e2m3fn", "float4_e2m1fn", "int8_q6")
LAST = 0x7F7FFFFF  # the largest finite float32
CHUNK = 1 << 22


def magnitude(code: int) -> float:
    return float(np.uint32(code).view(np.float32))


def steps(cast) -> list[tuple[int, int, float]]:
    """(first code, last code, scale), by bisection in the specification."""
    found, start = [], 0
    while start <= LAST:
        scale = scale_exact(magnitude(start), cast)
        low, high = start, LAST
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if scale_exact(magnitude(middle), cast) == scale else (low, middle - 1)
        found.append((start, low, scale))
        start = low + 1
    return found


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("rule", POWER_RULES)
def test_the_specification_is_a_staircase(rule, element):
    """What bisection relies on: k never falls, and doubling amax adds one."""
    f = FORMATS[element]
    fractions = np.unique([1.0, 2 - 2.0**-23, f.max / 2**f.emax, *np.linspace(1, 1.999, 40)])
    ks = [exponent_exact(rule, Fraction(float(x)), f) for x in fractions]
    assert ks == sorted(ks)
    assert exponent_exact(rule, Fraction(2), f) == ks[0] + 1


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("rule", POWER_RULES)
def test_around_every_step(rule, element):
    cast = get_block_cast("mxfp8_e4m3", element=element, rule=rule)
    for first, last, scale in steps(cast):
        codes = np.unique(np.clip([first, first + 1, (first + last) // 2, last - 1, last], first, last))
        amax = codes.astype(np.uint32).view(np.float32).astype(np.float64)
        assert (_scales(amax, cast, (1.0, 1.0)) == scale).all(), magnitude(first)


@pytest.mark.slow
@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("rule", POWER_RULES)
def test_every_magnitude(rule, element):
    cast = get_block_cast("mxfp8_e4m3", element=element, rule=rule)
    wrong = 0
    for first, last, scale in steps(cast):
        for start in range(first, last + 1, CHUNK):
            codes = np.arange(start, min(start + CHUNK, last + 1), dtype=np.uint32)
            wrong += np.count_nonzero(_scales(codes.view(np.float32).astype(np.float64), cast, (1.0, 1.0)) != scale)
    assert wrong == 0
    assert math.isnan(_scales(np.array([np.nan]), cast, (1.0, 1.0))[0])
