"""Bounds through conversions to blocks: by hand at every kind of boundary, and no conversion outside of them."""

from dataclasses import replace

import numpy as np
import pytest

from refscale import ops
from refscale.blocks import BLOCK_FORMATS, RECIPES, get_block_cast, quantize_blocks
from refscale.blocks.operand import convert
from refscale.errors import ArgumentError
from refscale.exact import bounded
from refscale.formats import quantize
from refscale.golden.block_bounds import BlockOperand, converted
from refscale.golden.trace import Recorder, in_words, judge, load_trace

PAIRS = get_block_cast("mxfp4", block=2)
"""E2M1 (0, ½, 1, 1½, 2, 3, 4, 6), two to a block, s = 2^(⌊log2 amax⌋ − 2)."""


def parts(x, e, cast=PAIRS):
    """(values, bounds) after the conversion, as lists."""
    y = converted(bounded(np.array(x), np.array(e)), cast)
    return y.view(np.ndarray).tolist(), y.error.tolist()


@pytest.mark.parametrize(
    ("x", "e", "value", "error"),
    [
        ([4.0, 1.2], [0.0, 0.0], [4.0, 1.0], [0.0, 0.0]),  # known: one conversion
        ([4.0, 1.2], [0.0, 0.04], [4.0, 1.0], [0.0, 0.0]),  # below the tie 1.25
        ([4.0, 1.2], [0.0, 0.06], [4.0, 1.0], [0.0, 0.5]),  # about it: 1 or 1½
        ([4.0, 0.1], [0.0, 0.3], [4.0, 0.0], [0.0, 0.5]),  # of either sign
        ([8.1, 1.5], [0.05, 0.0], [8.0, 2.0], [0.0, 0.0]),  # s = 2, of 8.05 too
        ([8.1, 1.5], [0.2, 0.0], [8.0, 2.0], [2.0, 0.5]),  # 7.9 has s = 1: 6 and 1½
        ([-8.1, -1.5], [0.2, 0.0], [-8.0, -2.0], [2.0, 0.5]),
        ([8.1, 1.5, 8.1, 1.5], [0.2, 0.0, 0.0, 0.0], [8.0, 2.0, 8.0, 2.0], [2.0, 0.5, 0.0, 0.0]),  # in that block
        ([np.nan, 1.5], [0.0, 0.1], [np.nan, np.nan], [0.0, 0.0]),
    ],
)
def test_a_conversion_by_hand(x, e, value, error):
    found, bound = parts(x, e)
    assert str(found) == str(value)
    assert bound == error


def test_stochastic_elements_have_both_neighbors():
    """1.2 is 1 or 1½, 4 is unambiguous; the value is the nearest."""
    assert parts([4.0, 1.2], [0.0, 0.0], replace(PAIRS, rounding="stochastic")) == ([4.0, 1.0], [0.0, 0.5])


def test_scales_that_are_no_powers_of_two():
    """E4M3 scales: 6·s about the tie of 1 and 1⅛; the product has an ulp of float32, and the element 6 stays."""
    cast = get_block_cast("nvfp4", block=1, tensor_scale=False, arithmetic="divide")
    value, error = parts([6.3], [0.0], cast)
    assert value == [6.0]
    assert error == [6 * 2.0**-23]
    value, error = parts([6.3], [0.2], cast)  # 6.1 has s = 1; 6.5 s = 1⅛: 6 or 6.75
    assert value == [6.0]
    assert error[0] == pytest.approx(0.75 + 6 * 2.0**-23, rel=1e-12)
    value, error = parts([6.3], [0.05], cast)  # 6.35 / 6 < 1.0625, the tie
    assert error == [6 * 2.0**-23]
    value, error = parts([6.0], [3.0], cast)  # from 3 to 9, s from ½ to 1½, more than two scales: ½·e(2) to 1½·e(18)
    assert error[0] == pytest.approx(5.0, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "amax", "x", "other"),
    [
        ("nvfp4", "0x1.598b42p+0", "0x1.87fffcp-2", "0x1.87fffep-2"),  # E2M1: the tie of 1½ and 2
        ("fp8_1x128", "0x1.354e9ap+0", "0x1.a3c616p-9", "0x1.a3c618p-9"),  # E4M3: that of 1⅛ and 1¼
    ],
)
def test_a_quotient_that_float32_rounds_to_a_tie(name, amax, x, other):
    """``other``/s is below the tie, and the tie in float32: the element after that of x is possible."""
    cast = get_block_cast(name, tensor_scale=False) if name == "nvfp4" else get_block_cast(name)
    top, low, high = map(float.fromhex, (amax, x, other))
    (_, value), (_, error) = parts([top, low], [0.0, high - low], cast)
    largest = convert(np.array([top, high], np.float32), cast)[1]
    assert value < largest <= value + error


@pytest.mark.parametrize("name", [*BLOCK_FORMATS, "nearest", "even", "stochastic"])
def test_no_conversion_is_outside(name):
    """Arrays within the bound of one array, converted: each element is within the bound of its conversion."""
    rules = {"nearest": {"rule": "nearest"}, "even": {"rule": "even"}, "stochastic": {"rounding": "stochastic"}}
    cast = get_block_cast("mxfp8_e4m3" if name in rules else name, **rules.get(name, {}))
    rng = np.random.default_rng(5)
    shape = (20, 48)
    x = (rng.standard_normal(shape) * np.exp2(rng.integers(-6, 6, shape))).astype(np.float32).astype(np.float64)
    for relative in (2.0**-20, 2.0**-6, 0.3):
        e = np.abs(x) * relative * rng.integers(0, 2, shape)
        y = converted(bounded(x, e), cast)
        for _ in range(40):
            other = (x + e * rng.choice([-1, 0, 1], shape)).astype(np.float32)
            other = np.clip(other, x - e, x + e).astype(np.float32)
            inside = (other >= x - e) & (other <= x + e)
            other = np.where(inside, other, x).astype(np.float32)
            words = rng.integers(0, 2**32, shape, np.uint32) if cast.rounding == "stochastic" else None
            assert (np.abs(convert(other, cast, words=words) - y.view(np.ndarray)) <= y.error).all()


def test_an_operand_stays_one_until_it_is_multiplied():
    x = BlockOperand.of(bounded(np.ones((2, 4)), np.zeros((2, 4))), RECIPES["mxfp8"], "activation")
    for y in (x.T, x.reshape(4, 2), x[0], x * 2.0, -x, np.swapaxes(x, 0, 1), x.copy(), np.split(x, 2)[0]):
        assert isinstance(y, BlockOperand), y
        assert y.role == "activation"
    assert not isinstance(x @ x.T, BlockOperand)
    with pytest.raises(ArgumentError, match="an operand on both sides"):
        x @ np.ones((4, 1))
    with pytest.raises(ArgumentError, match=r"no rule for numpy\.einsum"):
        np.einsum("ij,jk", x, x.T)


# --- traces -----------------------------------------------------------------------------------------------------------


def bf16(x):
    return quantize(np.float32(x), "bfloat16", rounding="nearest_even", overflow="nonsaturate")


def product(directory, policy, to_blocks):
    """A recorded product of a program whose operands are converted by ``to_blocks(x, role, axis)``."""
    rng = np.random.default_rng(3)
    shapes = (64, 96), (96, 32), (64, 32)  # of numbers so far apart that some are subnormal in their block
    x, w, g = (bf16(rng.standard_normal(s) * np.exp2(rng.integers(-12, 4, s))) for s in shapes)
    with Recorder(directory, policy) as recorder, recorder.call("p", ops.Matmul(), alpha=0.5, beta=(0.25, 2.0)) as call:
        call.inputs(x, w)
        call.output(bf16(0.5 * (to_blocks(x, "activation", -1) @ to_blocks(w, "weight", -2))))
        gx = to_blocks(g, "gradient", -1) @ to_blocks(w.T, "weight", -2)
        gw = to_blocks(x.T, "activation", -1) @ to_blocks(g, "gradient", -2)
        call.gradient(g, [bf16(0.25 * gx), bf16(2 * gw)])
    return judge(load_trace(directory))


@pytest.mark.parametrize("policy", ["mxfp8", "mxfp6", "mxfp4", "fp8-tiles"])
def test_a_program_with_blocks_is_judged(tmp_path, policy):
    recipe = RECIPES[policy]

    def right(x, role, axis):
        return quantize_blocks(x, recipe.cast(role, axis))

    def other_axis(x, role, axis):
        cast = recipe.cast(role, axis)
        return quantize_blocks(x, cast if len(cast.block) == 2 else replace(cast, axis=-3 - axis))

    def larger_scales(x, role, axis):
        return quantize_blocks(x * np.float32(1.4), recipe.cast(role, axis)) / np.float32(1.4)

    def wide_gradients(x, role, axis):
        return x if role == "gradient" else right(x, role, axis)

    result = product(tmp_path / "right", policy, right)
    assert result.passed, in_words(result)
    for wrong in (other_axis, larger_scales, wide_gradients):
        assert not product(tmp_path / wrong.__name__, policy, wrong).passed, wrong


def test_a_scale_of_another_rule_is_seen(tmp_path):
    """MXFP8 by rceil; a program that rounds the exponent down saturates the largest elements."""

    def floor(x, role, axis):
        return quantize_blocks(x, replace(RECIPES["mxfp8"].cast(role, axis), rule="floor"))

    assert "FAIL  p (matmul): output out" in in_words(product(tmp_path, "mxfp8", floor))
