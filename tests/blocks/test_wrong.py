"""Bugs that block-scaled kernels have had, each on purpose: the comparison with the specification rejects every one."""

import numpy as np
import pytest

from refscale.blocks import get_block_cast, quantize_blocks, split_blocks
from refscale.formats import quantize
from tests.blocks.oracles import by_block, same

RNG = np.random.default_rng(5)
USUAL = RNG.standard_normal((64, 96)).astype(np.float32)
POWERS = np.ldexp(np.float32(1), RNG.integers(-20, 20, (16, 64))).astype(np.float32)
SHORT = RNG.standard_normal((3, 37)).astype(np.float32)
INPUTS = (USUAL, POWERS, SHORT)
WRONG = []


def wrong(name, **changes):
    """Register a function of x and a cast."""

    def register(f):
        WRONG.append((get_block_cast(name, **changes), f))
        return f

    return register


def by_exponent(x, cast, exponent):
    """A conversion along the last axis whose scales are 2^exponent(amax)."""
    n = cast.block[0]
    filled = np.zeros((len(x), -(-x.shape[1] // n) * n), np.float32)
    filled[:, : x.shape[1]] = x
    tiles = filled.reshape(len(x), -1, n)
    amax = np.abs(tiles).max(-1, keepdims=True)
    s = np.exp2(np.clip(exponent(amax), -127, 127)).astype(np.float32)
    q = quantize(tiles / s, cast.element, rounding="nearest_even", overflow="saturate") * s
    return q.reshape(filled.shape)[:, : x.shape[1]]


def log2(x):
    with np.errstate(divide="ignore"):
        return np.log2(x)


@wrong("mxfp6_e2m3")
def one_step_low(x, cast):
    return by_exponent(x, cast, lambda a: np.floor(log2(a)) - cast.element.emax - 1)


@wrong("mxfp8_e4m3", rule="ceil")
def frexp_doubles_powers_of_two(x, cast):
    return by_exponent(x, cast, lambda a: np.frexp(a)[1] - cast.element.emax)


@wrong("mxfp4", rule="even")
def even_at_the_wrong_bit(x, cast):
    """As if e2m1 had the mantissa of e4m3."""
    return by_exponent(x, cast, lambda a: np.floor(log2(a * np.float32(1 + 2.0**-5))) - cast.element.emax)


@wrong("mxfp8_e4m3", rule="rceil")
def ceil_for_rceil(x, cast):
    return quantize_blocks(x, get_block_cast(cast, rule="ceil"))


@wrong("mxfp8_e4m3")
def nearest_for_floor(x, cast):
    return quantize_blocks(x, get_block_cast(cast, rule="nearest"))


@wrong("mxfp8_e4m3")
def amax_over_the_wrong_axis(x, cast):
    return quantize_blocks(x, get_block_cast(cast, axis=0))


@wrong("mxfp8_e4m3")
def last_block_dropped(x, cast):
    y = quantize_blocks(x, cast)
    y[:, x.shape[1] // 32 * 32 :] = x[:, x.shape[1] // 32 * 32 :]
    return y


@wrong("mxfp8_e4m3")
def blocks_run_over_the_end_of_a_row(x, cast):
    return quantize_blocks(x.reshape(1, -1), cast).reshape(x.shape)


@wrong("mxfp8_e4m3")
def scale_applied_twice(x, cast):
    b = split_blocks(x, cast)
    return b.wide() * b.scale_of_each()


@wrong("nvfp4")
def tensor_scale_of_each_block(x, cast):
    rows = [quantize_blocks(row[None], cast) for row in x]
    return np.concatenate(rows)


@wrong("nvfp4")
def no_scale_of_the_tensor(x, cast):
    return quantize_blocks(x, get_block_cast(cast, tensor_scale=False))


@wrong("nvfp4")
def the_elements_see_the_scale_before_it_is_rounded(x, cast):
    b = split_blocks(x, cast)
    wide = split_blocks(x, get_block_cast(cast, scale="float16"))
    return wide.elements * b.scale_of_each() * np.float32(b.tensor_scale)


@wrong("nvfp4")
def squares_for_rows(x, cast):
    return quantize_blocks(x, "nvfp4_16x16")


@wrong("fp8_1x128")
def a_scale_to_each_tensor(x, cast):
    return quantize_blocks(x, get_block_cast(cast, block=x.shape))


def rejected(f, cast):
    for x in INPUTS:
        elements, scales, t = by_block(x, cast)
        right = split_blocks(x, cast)
        assert same(right.elements, elements)
        assert same(right.scales, scales)
        assert t == right.tensor_scale
        if not same(f(x, cast), right.wide()):
            return True
    return False


@pytest.mark.parametrize(("cast", "f"), WRONG, ids=[f.__name__ for _, f in WRONG])
def test_a_wrong_conversion_is_rejected(cast, f):
    assert rejected(f, cast)


def test_the_right_one_is_not():
    for cast, _ in WRONG:
        assert not rejected(quantize_blocks, cast)
