"""Deliberately wrong backends that only some contents or sizes reveal: each passed an earlier set of vectors."""

import numpy as np

from refscale.blocks import encode_blocks
from refscale.formats import Cast, get_format
from refscale.golden.records import cast_of
from tests.golden.wrong import RIGHT, cast_to, wrong
from tests.golden.wrong_blocks import answer, changed, product

BATCHED = ("cast", "matmul", "block_quantize", "block_matmul", "block_dequantize")


def without_strides(x):
    """The elements that are first in memory, for any strides."""
    return x if x.base is None or x.base.size == x.size else x.base.reshape(-1)[: x.size].reshape(x.shape)


def first_of_all(y, matrix=2):
    """The first matrix in the place of every other one."""
    y = np.array(y)
    if y.ndim > matrix:
        y[...] = y[(0,) * (y.ndim - matrix)]
    return y


def short(x):
    return x.dtype.itemsize == 2


# --- casts ------------------------------------------------------------------------------------------------------------


@wrong("cast", "source-16")
def truncates_short_sources(self, x, *, format, rounding, overflow, random_bits=None):
    """BF16 to E4M3 by dropping bits, float32 right."""
    return cast_to(x, format, "toward_zero" if short(x) else rounding, overflow, random_bits)


@wrong("cast", "source-16")
def powers_of_short_sources_round_up(self, x, *, format, rounding, overflow, random_bits=None):
    """Every mantissa bit of a short source carries into the exponent."""
    return cast_to(x, format, "up" if short(x) else rounding, overflow, random_bits)


@wrong("cast", "source-16")
def short_sources_are_infinite_early(self, x, *, format, rounding, overflow, random_bits=None):
    """The top binade of a short source read as infinity."""
    y = cast_to(x, format, rounding, overflow, random_bits)
    return np.where(np.abs(y) >= get_format(format).max / 2, np.float32(0), y) if short(x) else y


@wrong("cast", "tail")
def the_scalar_tail_is_zero(self, x, **v):
    y = np.array(RIGHT.cast(x, **v))
    y.reshape(-1)[x.size // 8 * 8 :] = 0
    return y


@wrong("cast", "batch")
def one_matrix_cast_for_all(self, x, **v):
    return first_of_all(RIGHT.cast(x, **v))


@wrong("cast", "strides")
def casts_what_lies_first(self, x, **v):
    return RIGHT.cast(without_strides(x), **v)


# --- products ---------------------------------------------------------------------------------------------------------


@wrong("matmul", "tile-edge")
def columns_after_the_first_tile_are_zero(self, a, b, **v):
    y = np.array(RIGHT.matmul(a, b, **v))
    y[..., 16:] = 0
    return y


@wrong("matmul", "tile-edge", "k-tail")
def k_tail_dropped_beyond_256(self, a, b, **v):
    k = a.shape[-1] // 256 * 256 if a.shape[-1] > 256 else a.shape[-1]
    return RIGHT.matmul(a[..., :k], b[..., :k, :], **v)


@wrong("matmul", "tile-edge")
def rows_in_whole_warps(self, a, b, **v):
    y = np.array(RIGHT.matmul(a, b, **v))
    y[..., a.shape[-2] // 16 * 16 :, :] = 0
    return y


@wrong("matmul", "batch")
def one_product_for_all(self, a, b, **v):
    return first_of_all(RIGHT.matmul(a, b, **v))


@wrong("matmul", "strides")
def multiplies_what_lies_first(self, a, b, **v):
    return RIGHT.matmul(without_strides(a), without_strides(b), **v)


@wrong("matmul", "output-saturate")
def products_always_saturate(self, a, b, *, overflow, **v):
    return RIGHT.matmul(a, b, overflow="saturate", **v)


@wrong("matmul", "output-saturate")
def products_never_saturate(self, a, b, *, overflow, **v):
    return RIGHT.matmul(a, b, overflow="nonsaturate", **v)


@wrong("matmul", "factor-before-rounding", "factor")
def factor_after_a_half_precision_epilogue(self, a, b, *, factor, format, rounding, overflow, **v):
    y = RIGHT.matmul(a, b, factor=1.0, format="bfloat16", rounding=rounding, overflow="nonsaturate", **v)
    return cast_to(y.astype(np.float64) * factor, format, rounding, overflow)


@wrong("matmul", "element-special")
def subnormal_operands_are_zero(self, a, b, *, a_format, b_format, **v):
    a, b = (
        np.where(np.abs(np.float32(x)) < get_format(f).min_normal, x.dtype.type(0), x)
        for x, f in ((a, a_format), (b, b_format))
    )
    return RIGHT.matmul(a, b, a_format=a_format, b_format=b_format, **v)


@wrong("matmul", "start-value", "cancellation", "inf-nan", "zero-sum")
def sums_start_from_zero(self, a, b, c=None, **v):
    return RIGHT.matmul(a, b, **v)


@wrong("matmul", "start-value", "big-small")
def start_value_after_a_rounding(self, a, b, c=None, *, format, **v):
    """To bfloat16, then c is added: an epilogue in place of a start value."""
    if c is None:
        return RIGHT.matmul(a, b, format=format, **v)
    return np.float32(RIGHT.matmul(a, b, format="bfloat16", **v)) + c


@wrong("matmul", "start-value")
def start_values_of_the_first_row(self, a, b, c=None, **v):
    return RIGHT.matmul(a, b, None if c is None else c[..., :1, :], **v)


@wrong("scaled_matmul", "output-saturate")
def scaled_products_always_saturate(self, a, b, a_scale, b_scale, *, overflow, **v):
    return RIGHT.scaled_matmul(a, b, a_scale, b_scale, overflow="saturate", **v)


@wrong("scaled_matmul", "output-saturate")
def scaled_products_never_saturate(self, a, b, a_scale, b_scale, *, overflow, **v):
    return RIGHT.scaled_matmul(a, b, a_scale, b_scale, overflow="nonsaturate", **v)


@wrong("scaled_matmul", "factor-before-rounding", "scale-row", "scale-column")
def scales_after_a_half_precision_sum(self, a, b, a_scale, b_scale, *, block, format, rounding, overflow, **v):
    if block is not None:
        return RIGHT.scaled_matmul(
            a, b, a_scale, b_scale, block=block, format=format, rounding=rounding, overflow=overflow, **v
        )
    sums = RIGHT.matmul(a, b, format="bfloat16", rounding=rounding, overflow="nonsaturate", factor=1.0)
    return cast_to(sums.astype(np.float64) * a_scale[:, None] * b_scale, format, rounding, overflow)


@wrong("scaled_matmul", "tile-edge")
def scaled_columns_after_the_first_tile_are_zero(self, a, b, a_scale, b_scale, **v):
    y = np.array(RIGHT.scaled_matmul(a, b, a_scale, b_scale, **v))
    y[..., 16:] = 0
    return y


@wrong("scaled_matmul", "k-tail")
def scaled_tail_dropped(self, a, b, a_scale, b_scale, *, block, **v):
    k = a.shape[-1] if block is None else max(1, a.shape[-1] // block) * block
    return RIGHT.scaled_matmul(a[:, :k], b[:k], a_scale, b_scale, block=block, **v)


# --- conversions ------------------------------------------------------------------------------------------------------


@wrong("block_quantize", "source-16")
def blocks_of_short_sources_truncate(self, x, random_bits=None, *, rounding, **v):
    return changed(x, v, random_bits, rounding="toward_zero" if short(x) else rounding)


@wrong("block_quantize", "tail")
def the_tail_of_a_row_is_zero(self, x, random_bits=None, **v):
    x = x.copy()
    if x.shape[-1] % 8 and x.ndim == 2:
        x[..., x.shape[-1] // 8 * 8 :] = 0
    return RIGHT.block_quantize(x, random_bits, **v)


@wrong("block_quantize", "batch")
def the_first_matrix_of_blocks_for_all(self, x, random_bits=None, **v):
    found = RIGHT.block_quantize(x, random_bits, **v)
    return {name: first_of_all(y) if y.ndim else y for name, y in found.items()}


@wrong("block_quantize", "tile-edge")
def rows_after_the_first_tile_are_zero(self, x, random_bits=None, **v):
    x = x.copy()
    x[64:] = 0
    return RIGHT.block_quantize(x, random_bits, **v)


@wrong("block_quantize", "strides")
def converts_what_lies_first(self, x, random_bits=None, **v):
    return RIGHT.block_quantize(without_strides(x), random_bits, **v)


@wrong("block_quantize", "block-nan", "scale-nonfinite")
def maximum_that_ignores_nan(self, x, **v):
    """fmax: a NaN does not affect amax, and its element is the cast of NaN."""
    cast = cast_of(**v)
    if not np.isnan(np.float32(x)).any():
        return answer(encode_blocks(x, cast))
    return answer(encode_blocks(np.nan_to_num(x, nan=0.0, posinf=np.inf, neginf=-np.inf), cast))


@wrong("block_quantize", "block-nan")
def nan_of_the_second_of_a_pair_is_lost(self, x, **v):
    """Two BF16 at a time, and the maximum of the first halves."""
    if short(x):
        x = x.copy()
        pairs = x[..., 1::2]
        pairs[np.isnan(pairs)] = 0
    return answer(encode_blocks(x, cast_of(**v)))


@wrong("block_quantize", "scale-nonfinite")
def infinity_is_skipped(self, x, **v):
    return answer(encode_blocks(np.where(np.isinf(np.float32(x)), x.dtype.type(0), x), cast_of(**v)))


# --- products of blocks -----------------------------------------------------------------------------------------------


@wrong("block_matmul", "scale-ends")
def subnormal_scales_are_zero(self, *, a_scales, b_scales, a_scale_format, b_scale_format, **v):
    def flushed(s, format):
        f = get_format(format)
        return np.where(s < (f.min_normal if f.has_zero else 2 * f.min_normal), np.float32(0), s)

    return product(
        v,
        a_scales=flushed(a_scales, a_scale_format),
        b_scales=flushed(b_scales, b_scale_format),
        a_scale_format=a_scale_format,
        b_scale_format=b_scale_format,
    )


@wrong("block_matmul", "scale-ends")
def the_top_binade_of_scales_is_lost(self, *, a_scales, a_scale_format, **v):
    top = get_format(a_scale_format).max / 2
    return product(v, a_scales=np.where(a_scales >= top, np.float32(1), a_scales), a_scale_format=a_scale_format)


@wrong("block_matmul", "block-nan")
def nan_scales_are_infinite(self, *, a_scales, b_scales, **v):
    """E8M0 code 255 as 2^128."""
    a_scales, b_scales = (np.where(np.isnan(s), np.float32(np.inf), s) for s in (a_scales, b_scales))
    return product(v, a_scales=a_scales, b_scales=b_scales)


@wrong("block_matmul", "element-special")
def block_elements_flush(self, *, a, b, a_format, b_format, **v):
    a, b = (np.where(np.abs(x) < get_format(f).min_normal, np.float32(0), x) for x, f in ((a, a_format), (b, b_format)))
    return product(v, a=a, b=b, a_format=a_format, b_format=b_format)


@wrong("block_matmul", "element-special")
def special_elements_are_large(self, *, a, b, **v):
    return product(v, a=np.nan_to_num(a, nan=480.0), b=np.nan_to_num(b, nan=480.0))


@wrong("block_matmul", "tile-edge")
def one_tile_of_blocks(self, **v):
    y = np.array(RIGHT.block_matmul(**v))
    y[..., 16:, :] = 0
    y[..., 14:] = 0
    return y


@wrong("block_matmul", "batch")
def one_product_of_blocks_for_all(self, **v):
    return first_of_all(RIGHT.block_matmul(**v))


@wrong("block_matmul", "output-saturate")
def products_of_blocks_always_saturate(self, *, overflow, **v):
    return RIGHT.block_matmul(overflow="saturate", **v)


@wrong("block_matmul", "output-saturate")
def products_of_blocks_never_saturate(self, *, overflow, **v):
    return RIGHT.block_matmul(overflow="nonsaturate", **v)


@wrong("block_matmul", "factor-before-rounding")
def tensor_scales_after_rounding(self, *, format, rounding, overflow, a_tensor_scale=1.0, b_tensor_scale=1.0, **v):
    """A half-precision epilogue, then the scales of both tensors."""
    y = RIGHT.block_matmul(format="bfloat16", rounding=rounding, overflow="nonsaturate", **v)
    factor = np.float64(a_tensor_scale) * np.float64(b_tensor_scale)
    return cast_to(y.astype(np.float64) * factor, format, rounding, overflow)


# --- values of blocks -------------------------------------------------------------------------------------------------


def values_of(elements, scales, v, **changes):
    return RIGHT.block_dequantize(elements, scales, **{**v, **changes})


@wrong("block_dequantize", "scale-ends")
def dequantizes_small_scales_as_zero(self, elements, scales, **v):
    f = get_format(v["scale_format"])
    least = f.min_normal if f.has_zero else 2 * f.min_normal
    return values_of(elements, np.where(scales < least, np.float32(0), scales), v)


@wrong("block_dequantize", "block-nan")
def dequantizes_nan_scales_as_infinite(self, elements, scales, **v):
    return values_of(elements, np.where(np.isnan(scales), np.float32(np.inf), scales), v)


@wrong("block_dequantize", "element-special")
def dequantizes_subnormal_elements_as_zero(self, elements, scales, **v):
    least = get_format(v["element_format"]).min_normal
    return values_of(np.where(np.abs(elements) < least, np.float32(0), elements), scales, v)


@wrong("block_dequantize", "block-short", "tail")
def the_last_short_block_has_scale_one(self, elements, scales, **v):
    if elements.shape[-1] % v["block"][-1] and v["axis"] == -1:
        scales = scales.copy()
        scales[..., -1] = 1
    return values_of(elements, scales, v)


@wrong("block_dequantize", "batch")
def scales_of_the_first_matrix(self, elements, scales, **v):
    if elements.ndim == 3:
        elements = elements.copy()
        elements[..., 1:, :] = elements[..., :1, :]
    return values_of(elements, first_of_all(scales), v)


@wrong("block_dequantize", "block-axis")
def scales_along_the_other_axis(self, elements, scales, **v):
    return values_of(elements, scales[..., ::-1] if v["axis"] == 0 else scales, v)


@wrong("block_dequantize", "block-tensor-scale")
def dequantizes_without_the_tensor_scale(self, elements, scales, tensor_scale=1.0, **v):
    return values_of(elements, scales, v)


# --- conventions, claimed and not followed ----------------------------------------------------------------------------


@wrong("cast", "convention")
def casts_follow_another_convention(self, x, *, format, rounding, overflow, random_bits=None):
    """Zero for NaN, and the smallest value for numbers ≤ 0."""
    known = get_format(format)
    y = np.array(Cast(format, rounding, overflow)(np.where(np.isnan(np.float32(x)), x.dtype.type(1), x), random_bits))
    return np.where(np.isnan(y), np.float32(known.min_normal), y)


@wrong("block_quantize", "convention")
def converts_by_another_arithmetic(self, x, random_bits=None, *, arithmetic, nonfinite, **v):
    other = "exact" if arithmetic != "exact" else "reciprocal+steps"
    v = {**v, "arithmetic": other if v["rule"] == "amax" else "exact"}
    x = np.where(np.isnan(np.float32(x)), x.dtype.type(0), x)
    found = changed(x, v, random_bits, nonfinite="largest" if nonfinite == "ignore" else "ignore")
    return {**found, "scales": np.where(found["scales"] == 0, 127, found["scales"]).astype(found["scales"].dtype)}


@wrong("block_matmul", "convention")
def ignores_the_sign_of_scales(self, *, a_scales, **v):
    return product(v, a_scales=np.abs(a_scales))


@wrong("block_dequantize", "convention")
def dequantizes_scale_first(self, elements, scales, tensor_scale=1.0, **v):
    scales = np.abs(scales)
    t = np.float32(tensor_scale)
    cast, each = Cast(v["format"], v["rounding"], v["overflow"]), np.repeat(scales, v["block"][-1], -1)
    with np.errstate(all="ignore"):
        return cast(each[..., : elements.shape[-1]] * t * elements)
