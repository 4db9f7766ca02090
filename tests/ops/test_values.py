"""The regular scheme is plain NumPy, the unit scheme is the regular one times its factors, and carriers stay."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from refscale import ops
from refscale.scales import SCHEMES, Call, Scales, Unit
from refscale.testing import assert_same_bits
from tests.ops.cases import ALL_OPS, CASES, drawn, run
from tests.ops.references import assert_close_to_reference

by_name = {"ids": lambda op: op.__name__}


@pytest.mark.parametrize("op", ALL_OPS, **by_name)
def test_regular_is_the_plain_expression(op):
    for case, seed in drawn(op):
        arrays = case.arrays(np.random.default_rng(seed))
        assert_close_to_reference(case.op, arrays, run(case.op, arrays)[0])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_wrong_value_is_rejected(case):
    arrays = case.arrays(np.random.default_rng(0))
    y = run(case.op, arrays)[0].copy()
    assert_close_to_reference(case.op, arrays, y)
    y[np.unravel_index(np.argmax(np.abs(y)), y.shape)] *= 1 + 1e-10
    with pytest.raises(AssertionError, match="off by"):
        assert_close_to_reference(case.op, arrays, y)


@dataclass(frozen=True)
class PowersOfTwo(Unit):
    """Unit scaling with every factor at the next power of two."""

    def scales(self, call):
        scales = super().scales(call)
        round_up = lambda f: None if f is None else 2.0 ** math.ceil(math.log2(f))  # noqa: E731
        return Scales(round_up(scales.alpha), tuple(map(round_up, scales.beta)))


def assert_scaled(op, arrays, scheme, check):
    """``check(what, under the scheme, factor, without)`` of the output and of every gradient."""
    before = [a.copy() for a in arrays]
    y, gradients = run(op, arrays)
    scaled_y, scaled_gradients = run(op, arrays, scheme=scheme)
    scales = scheme.scales(Call(op, tuple(a.shape for a in arrays)))
    check(None, scaled_y, scales.alpha, y)
    for i, (scaled, gradient, beta) in enumerate(zip(scaled_gradients, gradients, scales.beta, strict=True)):
        if i in op.constants:
            assert scaled is gradient is beta is None
        else:
            check(i, scaled, beta, gradient)
    for array, copy in zip(arrays, before, strict=True):
        assert_same_bits(array, copy)


@pytest.mark.parametrize("op", ALL_OPS, **by_name)
def test_powers_of_two_change_no_other_bit(op):
    """Wherever a kernel applies its factor: the same bits as multiplying in the end."""

    def same(what, scaled, factor, plain):
        assert_same_bits(scaled, np.asarray(factor * plain))

    for case, seed in drawn(op):
        assert_scaled(case.op, case.arrays(np.random.default_rng(seed)), PowersOfTwo(), same)


def magnitudes(op, arrays):
    """Output and gradients of the same op on absolute values: of sums of products, the sums of their magnitudes."""
    absolute = [np.abs(a) if a.dtype == np.float64 else a for a in arrays]
    op = ops.Add() if isinstance(op, ops.Subtract) else op
    y = op.forward(*absolute)[0]
    return run(op, absolute, np.abs(np.random.default_rng(9).standard_normal(y.shape)))


SUMS = (ops.Matmul, ops.Readout, ops.AttentionScores, ops.AttentionMix)
SUMS += (ops.Add, ops.Subtract, ops.WeightedAdd, ops.Bias, ops.Embedding)


@pytest.mark.parametrize("scheme", ["unit", "unit-rms"])
@pytest.mark.parametrize("op", ALL_OPS, **by_name)
def test_unit_is_regular_times_the_factors(op, scheme):
    """To the bit, where the engine multiplies; to a few roundings of every term, where a kernel does."""
    for case, seed in drawn(op)[::2]:
        arrays = case.arrays(np.random.default_rng(seed))
        assert_scaled(case.op, arrays, SCHEMES[scheme], near_the_product(case.op, arrays))


def near_the_product(op, arrays):
    """A check of ``assert_scaled`` for factors other than powers of two.

    A factor rounded into each of K terms, K roundings of their sum in another order, one of the result: K + 2 halves of
    2^-52, of the sum of magnitudes. Of element-wise functions, one rounding in place of another.
    """
    terms = max((a.size for a in arrays), default=0) + 2
    of_sums = magnitudes(op, arrays) if isinstance(op, SUMS) else None

    def near(what, scaled, factor, plain):
        expected = np.asarray(factor * plain)
        if op.fast_forward is None:
            assert_same_bits(scaled, expected)
        elif of_sums is None:
            scale = np.max(np.abs(expected), initial=0) or factor
            assert np.max(np.abs(scaled - expected), initial=0) <= 16 * 2.0**-52 * scale
        else:
            magnitude = of_sums[0] if what is None else of_sums[1][what]
            assert np.all(np.abs(scaled - expected) <= terms * 2.0**-52 * factor * magnitude)

    return near


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_stays_float32_and_is_near_float64(case, scheme):
    arrays = case.arrays(np.random.default_rng(3))
    narrow = [a.astype(np.float32) if a.dtype == np.float64 else a for a in arrays]
    wide = [a.astype(np.float64) if a.dtype == np.float32 else a for a in narrow]
    g = np.random.default_rng(4).standard_normal(run(case.op, arrays)[0].shape).astype(np.float32)
    y, gradients = run(case.op, narrow, g, scheme=SCHEMES[scheme], dtype=np.float32)
    expected_y, expected_gradients = run(case.op, wide, g, scheme=SCHEMES[scheme])
    pairs = [(y, expected_y), *zip(gradients, expected_gradients, strict=True)]
    for actual, expected in pairs:
        if expected is None:
            assert actual is None
            continue
        assert actual.dtype == np.float32
        # A few hundred roundings at most, and no cancellation to speak of: far from losing half the digits.
        assert np.linalg.norm(actual - expected) <= 2.0**-16 * np.linalg.norm(expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ops_alone_keep_the_dtype_and_write_to_no_input(case):
    arrays = case.arrays(np.random.default_rng(3))
    narrow = [a.astype(np.float32) if a.dtype == np.float64 else a for a in arrays]
    for a in narrow:
        a.flags.writeable = False
    y, kept = case.op.forward(*narrow)
    assert y.dtype == np.float32
    g = np.ones_like(y)
    g.flags.writeable = False
    for i, gradient in enumerate(case.op.backward(g, *kept)):
        if i in case.op.constants:
            assert gradient is None
        else:
            assert gradient.dtype == np.float32
            assert gradient.shape == narrow[i].shape
