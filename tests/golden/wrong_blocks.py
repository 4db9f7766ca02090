"""Deliberately wrong backends for block-scaled formats: bugs that libraries have had, one each."""

import numpy as np

from refscale.blocks import encode_blocks, split_blocks
from refscale.formats import decode, encode, get_format, quantize
from refscale.golden.blocks import cast_of
from tests.golden.wrong import RIGHT, wrong

POWERS = ("floor", "ceil", "rceil", "even", "nearest")


def is_power(v):
    return v["rule"] in POWERS


def answer(blocks):
    return {"elements": blocks.codes, "scales": blocks.scales, "tensor_scale": np.float32(blocks.tensor_scale)}


def changed(x, v, random_bits=None, **changes):
    """The right answer to another question."""
    return answer(encode_blocks(x, cast_of(**{**v, **changes}), random_bits))


def with_scales(x, v, change):
    """Powers of two, changed by a function of (scale, amax), and the elements that go with them."""
    cast = cast_of(**v)
    parts = split_blocks(x, cast)
    if len(cast.block) == 2 or cast.axis != -1 or not is_power(v) or not np.isfinite(x).all():
        return answer(encode_blocks(x, cast))
    n = cast.block[0]
    filled = np.zeros((*x.shape[:-1], parts.scales.shape[-1] * n), np.float32)
    filled[..., : x.shape[-1]] = x
    amax = np.abs(filled).reshape(*parts.scales.shape, n).max(-1)
    scales = np.clip(change(parts.scales, amax), 2.0**-127, 2.0**127).astype(np.float32)
    each = np.repeat(scales, n, -1)[..., : x.shape[-1]]
    elements = quantize(x.astype(np.float64) / each, cast.element, rounding="nearest_even", overflow="saturate")
    return {"elements": encode(elements, cast.element), "scales": encode(scales, cast.scale)}


# --- scales -----------------------------------------------------------------------------------------------------------


@wrong("block_quantize", "scale-low")
def one_step_low(self, x, **v):
    """FlyDSL: the exponent of max counted once too often."""
    return with_scales(x, v, lambda s, amax: s / 2)


@wrong("block_quantize", "scale-power")
def frexp_is_not_log2(self, x, **v):
    """onnxruntime: frexp gives 1/2 ≤ m < 1, so powers of two come out doubled."""
    return with_scales(x, v, lambda s, amax: np.where((np.frexp(amax)[0] == 0.5) & (amax > 0), 2 * s, s))


@wrong("block_quantize", "scale-threshold")
def log2_in_float32(self, x, **v):
    """Rounded up to the next integer just below a power of two, and down just above it."""

    def change(s, amax):
        near = np.float32(2.0) ** np.rint(np.log2(np.maximum(amax, np.float32(1e-30))).astype(np.float32))
        return np.where((amax > 1e-30) & (amax < near) & (amax > near * 0.9999999), 2 * s, s)

    return with_scales(x, v, change)


@wrong("block_quantize", "scale-rule", "scale-threshold")
def floor_for_all(self, x, *, rule, **v):
    return changed(x, v, rule="floor" if rule in POWERS else rule)


@wrong("block_quantize", "scale-rule")
def ceil_for_rceil(self, x, *, rule, **v):
    """torchao before RCEIL: the next power of two above amax, for any largest value."""
    return changed(x, v, rule="ceil" if rule == "rceil" else rule)


@wrong("block_quantize", "scale-rule")
def nearest_for_rceil(self, x, *, rule, **v):
    """MLX: log2 rounded to nearest, where it was to be rounded up."""
    return changed(x, v, rule="nearest" if rule == "rceil" else rule)


@wrong("block_quantize", "scale-threshold")
def threshold_of_another_format(self, x, *, rule, format, **v):
    """vLLM: the rounding of amax at the wrong mantissa bit."""
    if rule != "even":
        return changed(x, {**v, "format": format}, rule=rule)
    m = get_format(format).mantissa_bits
    return with_scales(
        x,
        {**v, "format": format, "rule": "floor"},
        lambda s, amax: np.where(np.frexp(amax)[0] * 2 >= 2 - 2.0 ** -(m + 2), 2 * s, s),
    )


@wrong("block_quantize", "scale-zero")
def a_block_of_zeros_has_scale_one(self, x, **v):
    return with_scales(x, v, lambda s, amax: np.where(amax == 0, 1, s))


@wrong("block_quantize", "scale-range")
def scales_stop_at_the_normal_numbers(self, x, **v):
    return with_scales(x, v, lambda s, amax: np.maximum(s, 2.0**-126))


@wrong("block_quantize", "scale-nonfinite")
def an_infinity_saturates_always(self, x, *, nonfinite, **v):
    return changed(x, v, nonfinite="saturate")


@wrong("block_quantize", "block-nan")
def nan_is_skipped(self, x, **v):
    return changed(np.nan_to_num(x, nan=0.0), v)


# --- elements ---------------------------------------------------------------------------------------------------------


@wrong("block_quantize", "block-elements")
def elements_truncate(self, x, random_bits=None, *, rounding, **v):
    rounding = "toward_zero" if rounding == "nearest_even" else rounding
    return changed(x, v, random_bits, rounding=rounding)


@wrong("block_quantize", "block-saturate")
def elements_wrap(self, x, *, random_bits=None, **v):
    """Codes cut to their width where they should saturate."""
    if not is_power(v) or random_bits is not None or not np.isfinite(x).all():
        return changed(x, v, random_bits)
    cast = cast_of(**v)
    y, parts = encode_blocks(x, cast), split_blocks(x, cast)
    beyond = np.abs(x.astype(np.float64)) > parts.scale_of_each(np.float64) * cast.element.max
    return {**answer(y), "elements": np.where(beyond, 0, y.codes).astype(y.codes.dtype)}


@wrong("block_quantize", "block-low-end")
def subnormal_elements_are_zero(self, x, random_bits=None, **v):
    found = changed(x, v, random_bits)
    format = get_format(v["format"])
    values = decode(found["elements"], format)
    found["elements"] = np.where(np.abs(values) < format.min_normal, 0, found["elements"]).astype(format.code_dtype)
    return found


@wrong("block_quantize", "block-axis")
def always_along_the_last_axis(self, x, random_bits=None, *, axis, **v):
    found = changed(x, v, random_bits, axis=-1)
    shape = RIGHT.block_quantize(x, random_bits, axis=axis, **v)["scales"].shape
    return {**found, "scales": np.resize(found["scales"], shape)}


@wrong("block_quantize", "block-short")
def the_last_block_has_the_scale_before_it(self, x, random_bits=None, **v):
    found = changed(x, v, random_bits)
    if x.shape[-1] % v["block"][-1] and found["scales"].shape[-1] > 1 and v["axis"] == -1:
        scales = found["scales"].copy()
        scales[..., -1] = scales[..., -2]
        found["scales"] = scales
    return found


@wrong("block_quantize", "block-square")
def rows_for_squares(self, x, random_bits=None, *, block, **v):
    if len(block) == 1:
        return changed(x, {**v, "block": block}, random_bits)
    rows = encode_blocks(x, cast_of(**{**v, "block": block[1:]}), random_bits)
    return {**answer(rows), "scales": rows.scales[:: block[0]]}


@wrong("block_quantize", "block-stochastic")
def random_bits_turned_round(self, x, random_bits=None, **v):
    return changed(x, v, None if random_bits is None else ~random_bits)


# --- scales other than powers of two ----------------------------------------------------------------------------------


@wrong("block_quantize", "block-tensor-scale")
def the_tensor_has_no_scale(self, x, random_bits=None, *, tensor_scale, **v):
    return changed(x, v, random_bits, tensor_scale=False)


@wrong("block_quantize", "block-tensor-scale")
def tensor_scale_of_the_first_row(self, x, random_bits=None, **v):
    if not v["tensor_scale"]:
        return changed(x, v, random_bits)
    return changed(np.concatenate([x[:1], np.clip(x[1:], -np.abs(x[:1]).max(), np.abs(x[:1]).max())]), v, random_bits)


@wrong("block_quantize", "block-arithmetic")
def multiplies_with_the_reciprocal(self, x, random_bits=None, *, arithmetic, **v):
    return changed(x, v, random_bits, arithmetic="reciprocal" if v["rule"] == "amax" else arithmetic)


@wrong("block_quantize", "block-arithmetic")
def divides_exactly(self, x, random_bits=None, *, arithmetic, **v):
    return changed(x, v, random_bits, arithmetic="exact")


# --- products ---------------------------------------------------------------------------------------------------------


def product(v, **arrays):
    return RIGHT.block_matmul(**arrays, **v)


@wrong("block_matmul", "block-scale-once")
def scale_of_a_twice(self, *, a_scales, **v):
    return product(v, a_scales=(a_scales * a_scales).astype(np.float32))


@wrong("block_matmul", "block-scale-index")
def scales_of_b_from_the_other_end(self, *, b_scales, **v):
    return product(v, b_scales=b_scales[::-1])


@wrong("block_matmul", "block-scale-index")
def the_first_scale_of_a_row_for_all(self, *, a_scales, **v):
    return product(v, a_scales=np.repeat(a_scales[:, :1], a_scales.shape[1], 1))


@wrong("block_matmul", "block-short")
def short_blocks_are_dropped(self, *, a, a_block, **v):
    whole = a.shape[1] // a_block[-1] * a_block[-1]
    return product(v, a=np.where(np.arange(a.shape[1]) < whole, a, 0).astype(np.float32), a_block=a_block)


@wrong("block_matmul", "block-nan")
def nan_scales_are_one(self, *, a_scales, **v):
    return product(v, a_scales=np.nan_to_num(a_scales, nan=1.0))


@wrong("block_matmul", "block-tensor-scale")
def no_tensor_scale(self, **v):
    return product({name: x for name, x in v.items() if not name.endswith("tensor_scale")})


@wrong("block_matmul", "accumulator")
def block_sums_in_half_precision(self, *, a, b, a_block, **v):
    """Each block's sum rounded to float16, on elements."""
    n = a_block[-1]
    total = 0.0
    for start in range(0, a.shape[1], n):
        keep = (np.arange(a.shape[1]) // n == start // n).astype(np.float32)
        part = RIGHT.block_matmul(a=a * keep, b=b, a_block=a_block, **{**v, "format": "float32"}).astype(np.float64)
        total = total + quantize(part, "float16", rounding="nearest_even", overflow="nonsaturate")
    return quantize(total, v["format"], rounding="nearest_even", overflow="nonsaturate")


# --- layouts ----------------------------------------------------------------------------------------------------------


@wrong("block_layout", "nibble-order")
def the_first_code_in_the_high_half(self, codes, *, layout):
    y = RIGHT.block_layout(codes, layout=layout)
    return (y >> 4) | (y << 4) if layout == "nibbles" else y


@wrong("block_layout", "scale-tiles")
def tiles_in_row_order(self, codes, *, layout):
    y = RIGHT.block_layout(codes, layout=layout)
    if layout == "nibbles":
        return y
    filled = np.zeros((-(-codes.shape[0] // 128) * 128, -(-codes.shape[1] // 4) * 4), np.uint8)
    filled[: codes.shape[0], : codes.shape[1]] = codes
    return filled.reshape(-1)


@wrong("block_layout", "scale-tiles")
def four_by_thirty_two(self, codes, *, layout):
    """The 32 and the 4 of a tile exchanged."""
    y = RIGHT.block_layout(codes, layout=layout)
    return y if layout == "nibbles" else y.reshape(-1, 32, 4, 4).transpose(0, 2, 1, 3).reshape(-1)
