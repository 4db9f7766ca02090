"""Deliberately wrong backends for the flags that others reject in some formats only."""

import numpy as np

from refscale.formats import decode, encode, get_format
from tests.golden.wrong import RIGHT, cast_to, float16_accumulator, wrong
from tests.golden.wrong_blocks import block_sums_in_half_precision, product

OTHERS = {
    "float8_e4m3fnuz": "float8_e4m3fn",
    "float8_e5m2fnuz": "float8_e5m2",
    "float8_e4m3b11fnuz": "float8_e4m3fnuz",
    "float8_e4m3fn": "float8_e4m3fnuz",
    "float8_e5m2": "float8_e5m2fnuz",
}


# --- casts and codes --------------------------------------------------------------------------------------------------


@wrong("cast", "fn-fnuz")
def fn_for_fnuz(self, x, *, format, **v):
    other = OTHERS.get(format, format) if format.endswith("fnuz") else format
    return encode(RIGHT.cast(x, format=other, **v), other)


@wrong("cast", "ieee-fn")
def maximum_448(self, x, *, format, **v):
    other = "float8_e4m3fn" if format == "float8_e4m3" else format
    return encode(RIGHT.cast(x, format=other, **v), other)


@wrong("cast", "negative-zero")
def the_sign_of_zero_is_a_code(self, x, *, format, **v):
    """0x80, which is NaN in one format and a number in another."""
    codes, f = encode(RIGHT.cast(x, format=format, **v), format), get_format(format)
    return np.where((codes == 0) & np.signbit(x), f.sign_code, codes).astype(f.code_dtype)


@wrong("cast", "top-binade", "overflow", "infinity")
def beyond_the_largest_is_zero(self, x, *, format, **v):
    y = RIGHT.cast(x, format=format, **v)
    return np.where(np.abs(x) > get_format(format).max, np.float32(0), y)


@wrong("decode", "bias", "decode-top")
def decodes_with_another_bias(self, codes, *, format):
    return decode(codes, format) * np.float32(2)


@wrong("decode", "sign")
def decodes_magnitudes(self, codes, *, format):
    return np.abs(decode(codes, format))


@wrong("decode", "negative-zero")
def decodes_zero_with_the_other_sign(self, codes, *, format):
    y = decode(codes, format)
    return np.where(y == 0, -y, y)


@wrong("decode", "nan-code")
def decodes_nan_as_zero(self, codes, *, format):
    y = decode(codes, format)
    return np.where(np.isnan(y), np.float32(0), y)


@wrong("decode", "fn-fnuz")
def decodes_the_other_kind(self, codes, *, format):
    return decode(codes, OTHERS.get(format, format))


@wrong("decode", "ieee-fn")
def decodes_ieee_as_fn(self, codes, *, format):
    return decode(codes, {"float8_e4m3": "float8_e4m3fn", "float8_e4m3fn": "float8_e4m3"}.get(format, format))


@wrong("unary", "function-tail")
def tails_are_zero(self, x, *, format, **v):
    y = RIGHT.unary(x, format=format, **v)
    return np.where(np.abs(y) < 16 * get_format(format).min_normal, np.float32(0), y)


# --- products ---------------------------------------------------------------------------------------------------------


@wrong("matmul", "k-order", "big-small")
def half_precision_in_order(self, a, b, **v):
    return float16_accumulator(self, a, b, **v)


@wrong("matmul", "overflow")
def sums_beyond_the_largest_are_zero(self, a, b, **v):
    y = RIGHT.matmul(a, b, **v)
    return np.where(np.isfinite(y), y, np.float32(0))


@wrong("block_matmul", "non-square")
def reads_blocks_as_if_not_transposed(self, *, b, **v):
    return product(v, b=np.ascontiguousarray(b.T).reshape(b.shape))


@wrong("block_matmul", "cancellation")
def half_precision_sums_of_blocks(self, **v):
    return block_sums_in_half_precision(self, **v)


# --- ops and models ---------------------------------------------------------------------------------------------------


def turned(y):
    """Every element in the place of its neighbor along the last axis."""
    return np.roll(y, 1, -1) if np.ndim(y) else -y


@wrong("op", "non-square", "function-form", "causal", "masked")
def outputs_in_other_places(self, **v):
    return {n: turned(y) if n == "y" else y for n, y in RIGHT.op(**v).items()}


@wrong("op", "gradient-operands", "vjp", "derivative", "broadcast", "duplicates", "variance")
def gradients_in_other_places(self, **v):
    return {n: y if n == "y" else turned(y) for n, y in RIGHT.op(**v).items()}


@wrong("model", "alpha")
def activations_without_alpha(self, **v):
    return {n: y if n.startswith("gradient") else y * 2 for n, y in RIGHT.model(**v).items()}


@wrong("model", "beta", "vjp")
def gradients_without_beta(self, **v):
    return {n: y * 2 if n.startswith("gradient") else y for n, y in RIGHT.model(**v).items()}


@wrong("cast", "double-rounding")
def through_bfloat16(self, x, *, format, rounding, overflow, random_bits=None):
    if rounding != "nearest_even" or get_format(format).mantissa_bits > 7:
        return cast_to(x, format, rounding, overflow, random_bits)
    return cast_to(cast_to(x, "bfloat16", rounding, "saturate"), format, rounding, overflow)
