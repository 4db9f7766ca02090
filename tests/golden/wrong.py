"""Deliberately wrong backends: each has one bug, and the flag by which the kit must catch it."""

import numpy as np

from refscale import exact
from refscale.exact import FUNCTIONS, evaluate
from refscale.formats import Cast, decode, encode, get_format
from refscale.golden.backends.reference import Reference

RIGHT = Reference()
CONTROLS = []
"""(flag, class) of every wrong backend."""


def wrong(method, *flags):
    """Register a backend that is right but for one method, which gets the right one's result or arguments."""

    def register(function):
        kind = type(function.__name__, (Reference,), {method: function, "name": function.__name__})
        CONTROLS.extend((flag, kind) for flag in flags)
        return function

    return register


def cast_to(x, format, rounding, overflow, words=None):
    return Cast(format, rounding, overflow)(x, words)


def is_stochastic(rounding):
    return rounding == "stochastic"


# --- three that know nothing -----------------------------------------------------------------------------------------


@wrong("cast", "bias", "sign")
def all_zeros(self, x, *, format, **_):
    return np.zeros(x.shape, get_format(format).code_dtype)


@wrong("cast", "sign")
def sign_flipped(self, x, *, format, **v):
    y = RIGHT.cast(x, format=format, **v)
    return np.where(y == 0, y, -y) if get_format(format).signed else y * 2


@wrong("cast", "truncation")
def identity(self, x, **_):
    return x


# --- casts -----------------------------------------------------------------------------------------------------------


@wrong("cast", "truncation")
def truncates(self, x, *, format, rounding, overflow, random_bits=None):
    rounding = "toward_zero" if rounding == "nearest_even" else rounding
    return cast_to(x, format, rounding, overflow, random_bits)


@wrong("cast", "tie-zero")
def ties_to_zero(self, x, *, format, rounding, overflow, random_bits=None):
    y = cast_to(x, format, rounding, overflow, random_bits)
    if rounding != "nearest_even":
        return y
    wide = np.asarray(x, np.float64)
    up, down = (cast_to(x, format, r, overflow).astype(np.float64) for r in ("up", "down"))
    tie = (up - wide == wide - down) & (up != down)
    return np.where(tie, cast_to(x, format, "toward_zero", overflow), y)


@wrong("cast", "tie-even")
def ties_away(self, x, *, format, rounding, overflow, random_bits=None):
    rounding = "nearest_away" if rounding == "nearest_even" else rounding
    return cast_to(x, format, rounding, overflow, random_bits)


@wrong("cast", "double-rounding")
def float64_through_float32(self, x, *, format, rounding, overflow, random_bits=None):
    return cast_to(x.astype(np.float32), format, rounding, overflow, random_bits)


@wrong("cast", "double-rounding")
def through_float16(self, x, *, format, rounding, overflow, random_bits=None):
    narrow = get_format(format).bits <= 8 and rounding == "nearest_even"
    middle = np.clip(x, -60000, 60000).astype(np.float16) if narrow else x
    return cast_to(np.where(np.isfinite(x), middle, x) if narrow else x, format, rounding, overflow, random_bits)


@wrong("cast", "carry")
def loses_the_carry(self, x, *, format, **v):
    y = RIGHT.cast(x, format=format, **v)
    carried = (np.frexp(y)[0] == 0.5) | (np.frexp(y)[0] == -0.5)
    carried &= (np.abs(y) > np.abs(x)) & (np.abs(y) > get_format(format).min_normal)
    return np.where(carried, y / 2, y).astype(np.float32)


@wrong("cast", "top-binade")
def overflows_early(self, x, *, format, rounding, overflow, random_bits=None):
    kind = get_format(format)
    beyond = (np.abs(x) > kind.max) & np.isfinite(x)
    with np.errstate(over="ignore"):
        far = np.where(beyond, np.asarray(x, np.float64) * 4, x)
    return cast_to(far, format, rounding, overflow, random_bits)


@wrong("cast", "overflow")
def always_saturates(self, x, *, format, rounding, overflow, random_bits=None):
    return cast_to(x, format, rounding, "saturate", random_bits)


@wrong("cast", "infinity")
def keeps_infinity_large(self, x, *, format, rounding, overflow, random_bits=None):
    y = cast_to(x, format, rounding, overflow, random_bits)
    return np.where(np.isinf(x), np.copysign(np.float32(get_format(format).max), x), y).astype(np.float32)


@wrong("cast", "nan-code")
def one_nan_for_all(self, x, *, format, **v):
    """0x7f…, as IEEE formats have it."""
    codes = encode(RIGHT.cast(x, format=format, **v), format)
    kind = get_format(format)
    return np.where(np.isnan(x), kind.code_count // 2 - 1, codes).astype(kind.code_dtype)


@wrong("cast", "nan-sign")
def positive_nan(self, x, *, format, **v):
    y = RIGHT.cast(x, format=format, **v)
    return np.where(np.isnan(y), np.float32(np.nan), y)


@wrong("cast", "negative-zero")
def positive_zero(self, x, **v):
    return RIGHT.cast(x, **v) + np.float32(0)


@wrong("cast", "fn-fnuz")
def fnuz_for_fn(self, x, *, format, **v):
    other = {"float8_e4m3fn": "float8_e4m3fnuz", "float8_e5m2": "float8_e5m2fnuz"}.get(format, format)
    return encode(RIGHT.cast(x, format=other, **v), other)


@wrong("cast", "ieee-fn")
def maximum_240(self, x, *, format, **v):
    other = "float8_e4m3" if format == "float8_e4m3fn" else format
    return encode(RIGHT.cast(x, format=other, **v), other)


@wrong("cast", "bias")
def bias_off_by_one(self, x, **v):
    with np.errstate(over="ignore"):
        return RIGHT.cast(x * x.dtype.type(2), **v)


@wrong("cast", "subnormal-flush")
def flushes_subnormals(self, x, *, format, **v):
    y = RIGHT.cast(x, format=format, **v)
    return np.where(np.abs(y) < get_format(format).min_normal, y * np.float32(0), y)


@wrong("cast", "subnormal-rounding")
def truncates_subnormals(self, x, *, format, rounding, overflow, random_bits=None):
    y = cast_to(x, format, rounding, overflow, random_bits)
    small = np.abs(x) < get_format(format).min_normal
    return np.where(small, cast_to(x, format, "toward_zero", overflow), y)


@wrong("cast", "underflow")
def rounds_half_the_smallest_up(self, x, *, format, rounding, overflow, random_bits=None):
    y = cast_to(x, format, rounding, overflow, random_bits)
    tiny = np.float32(get_format(format).min_subnormal)
    half = (np.abs(x) == tiny / 2) & (rounding == "nearest_even")
    return np.where(half, np.copysign(tiny, x).astype(np.float32), y)


@wrong("cast", "rounding-mode")
def ignores_the_mode(self, x, *, format, rounding, overflow, random_bits=None):
    return cast_to(x, format, rounding if is_stochastic(rounding) else "nearest_even", overflow, random_bits)


@wrong("cast", "rounding-mode")
def up_is_away_from_zero(self, x, *, format, rounding, overflow, random_bits=None):
    y = cast_to(x, format, rounding, overflow, random_bits)
    return np.where(x < 0, cast_to(x, format, "down", overflow), y) if rounding == "up" else y


@wrong("cast", "stochastic-words")
def eight_random_bits(self, x, *, random_bits=None, **v):
    return RIGHT.cast(x, random_bits=None if random_bits is None else random_bits & np.uint32(0xFF000000), **v)


@wrong("cast", "stochastic-words")
def rounds_the_other_way(self, x, *, random_bits=None, **v):
    return RIGHT.cast(x, random_bits=None if random_bits is None else ~random_bits, **v)


# --- codes -----------------------------------------------------------------------------------------------------------


@wrong("decode", "decode-subnormal")
def reads_subnormals_as_zero(self, codes, *, format):
    y = decode(codes, format)
    return np.where(np.abs(y) < get_format(format).min_normal, np.float32(0), y)


@wrong("decode", "decode-special")
def reads_nan_as_a_number(self, codes, *, format):
    y = decode(codes, format)
    return np.where(np.isnan(y), np.float32(get_format(format).max), y)


@wrong("decode", "decode-top")
def reads_the_top_exponent_as_nan(self, codes, *, format):
    kind = get_format(format)
    top = (codes >> kind.mantissa_bits) & ((1 << kind.exponent_bits) - 1) == (1 << kind.exponent_bits) - 1
    return np.where(top, np.float32(np.nan), decode(codes, format))


# --- functions -------------------------------------------------------------------------------------------------------


@wrong("unary", "function-form")
def tanh_form_of_gelu(self, x, *, function, **v):
    return RIGHT.unary(x, function="gelu_tanh" if function == "gelu" else function, **v)


@wrong("unary", "function-tail")
def gelu_that_cancels(self, x, *, function, derivative, **v):
    if function != "gelu" or derivative:
        return RIGHT.unary(x, function=function, derivative=derivative, **v)
    wide = x.astype(np.float32)
    erf = evaluate("erf", wide * np.float32(0.70710678), Cast("float32", "nearest_even", "nonsaturate"))
    return cast_to(np.float32(0.5) * wide * (1 + erf), v["format"], v["rounding"], v["overflow"])


@wrong("unary", "function-tie")
def float64_rounded(self, x, *, function, derivative, format, rounding, overflow):
    curve = FUNCTIONS[function].derivative if derivative else FUNCTIONS[function].value
    return cast_to(curve.near(x.astype(np.float64)), format, rounding, overflow)


@wrong("unary", "derivative")
def difference_quotient(self, x, *, function, derivative, format, rounding, overflow):
    if not derivative:
        return RIGHT.unary(x, function=function, derivative=False, format=format, rounding=rounding, overflow=overflow)
    f, wide = FUNCTIONS[function].value, x.astype(np.float64)
    return cast_to((f(wide + 1e-3) - f(wide - 1e-3)) / 2e-3, format, rounding, overflow)


@wrong("unary", "function-overflow")
def clips_its_argument(self, x, **v):
    return RIGHT.unary(np.clip(x, np.float16(-10), np.float16(10)), **v)


# --- products --------------------------------------------------------------------------------------------------------


def plain(a, b, v):
    return cast_to(a @ b * np.float64(v.get("factor", 1)), v["format"], v["rounding"], v["overflow"])


@wrong("matmul", "accumulator", "inner-overflow")
def float16_accumulator(self, a, b, **v):
    total = np.zeros((a.shape[0], b.shape[1]), np.float16)
    for k in range(a.shape[1]):
        total = (total + np.float32(a[:, k, None]) * np.float32(b[k])).astype(np.float16)
    return cast_to(total.astype(np.float32) * np.float32(v["factor"]), v["format"], v["rounding"], v["overflow"])


@wrong("matmul", "cancellation", "big-small", "k-order")
def float32_accumulator(self, a, b, **v):
    return plain(exact.get_accumulator("float32").matmul(a, b), np.eye(b.shape[1]), v)


@wrong("matmul", "big-small", "cancellation")
def twelve_bits_aligned(self, a, b, **v):
    return plain(exact.get_accumulator("truncated:12:16").matmul(a, b), np.eye(b.shape[1]), v)


@wrong("matmul", "k-tail")
def drops_the_last_block(self, a, b, **v):
    k = max(1, a.shape[1] // 16 * 16) if a.shape[1] > 16 else a.shape[1]
    return RIGHT.matmul(a[:, :k], b[:k], **v)


@wrong("matmul", "non-square", "gradient-operands")
def reads_b_as_if_not_transposed(self, a, b, **v):
    return RIGHT.matmul(a, np.ascontiguousarray(b.T).reshape(b.shape), **v)


@wrong("matmul", "factor")
def forgets_the_factor(self, a, b, *, factor, **v):
    return RIGHT.matmul(a, b, factor=1.0, **v)


@wrong("matmul", "factor-before-rounding")
def factor_after_rounding(self, a, b, *, factor, **v):
    return plain(RIGHT.matmul(a, b, factor=1.0, **v).astype(np.float64), np.eye(b.shape[1]), {**v, "factor": factor})


@wrong("matmul", "inf-nan")
def infinity_times_zero_is_zero(self, a, b, **v):
    y = RIGHT.matmul(a, b, **v)
    return np.where(np.isnan(y), np.float32(0), y)


@wrong("matmul", "zero-sum")
def negative_zero_sums(self, a, b, **v):
    y = RIGHT.matmul(a, b, **v)
    return np.where(y == 0, np.float32(-0.0), y)


@wrong("scaled_matmul", "scale-row")
def first_row_scale(self, a, b, a_scale, b_scale, *, block, **v):
    a_scale = np.full_like(a_scale, a_scale[0]) if block is None else a_scale
    return RIGHT.scaled_matmul(a, b, a_scale, b_scale, block=block, **v)


@wrong("scaled_matmul", "scale-column")
def reversed_column_scales(self, a, b, a_scale, b_scale, *, block, **v):
    return RIGHT.scaled_matmul(a, b, a_scale, b_scale[::-1] if block is None else b_scale, block=block, **v)


@wrong("scaled_matmul", "scale-block")
def next_block_scale(self, a, b, a_scale, b_scale, *, block, **v):
    left = a_scale if block is None else np.roll(a_scale, 1, 1)
    return RIGHT.scaled_matmul(a, b, left, b_scale, block=block, **v)


# --- ops -------------------------------------------------------------------------------------------------------------


@wrong("op", "alpha")
def forgets_alpha(self, *, alpha, **v):
    return RIGHT.op(alpha=1.0, **v)


@wrong("op", "beta")
def alpha_for_beta(self, *, alpha, beta, **v):
    return RIGHT.op(alpha=alpha, beta=[None if b is None else alpha for b in beta], **v)


@wrong("op", "vjp-sign")
def negative_gradients(self, **v):
    return {n: y if n == "y" else -y for n, y in RIGHT.op(**v).items()}


@wrong("op", "vjp")
def derivative_of_gelu_alone(self, *, name, attributes, **v):
    """The tanh form's gradient for the erf form, and the other way round."""
    right = RIGHT.op(name=name, attributes=attributes, **v)
    if name != "gelu":
        return right
    other = {"form": "tanh" if attributes["form"] == "erf" else "erf"}
    return {**RIGHT.op(name=name, attributes=other, **v), "y": right["y"]}


@wrong("op", "broadcast")
def gradient_of_the_first_row(self, *, name, gradient=None, **v):
    if name == "bias":
        gradient = gradient.copy()
        gradient[1:] = 0
    return RIGHT.op(name=name, gradient=gradient, **v)


@wrong("op", "duplicates")
def last_duplicate_wins(self, *, name, gradient=None, **v):
    right = RIGHT.op(name=name, gradient=gradient, **v)
    if name != "embedding":
        return right
    (ids,) = (x for x in v.values() if isinstance(x, np.ndarray) and x.dtype == np.int64)
    (table,) = (n for n in right if n.startswith("grad_"))
    rows = np.zeros_like(right[table])
    rows[ids.reshape(-1)] = gradient.reshape(-1, gradient.shape[-1]) * np.float32(v["beta"][0] or 1)
    return {**right, table: Cast(v["store"], "nearest_even", "nonsaturate")(rows)}


@wrong("op", "counted-rows")
def mean_over_all_rows(self, *, name, attributes, alpha, beta, **v):
    right = RIGHT.op(name=name, attributes=attributes, alpha=alpha, beta=beta, **v)
    if name == "softmax_cross_entropy" and attributes["reduction"] == "mean":
        (targets,) = (x for x in v.values() if isinstance(x, np.ndarray) and x.dtype == np.int64)
        share = np.float32((targets != -100).mean())
        return {n: y * share for n, y in right.items()}
    return right


@wrong("op", "masked")
def ignores_the_mask(self, *, name, **v):
    if name == "masked_softmax":
        v["mask"] = np.ones_like(v["mask"])
    return RIGHT.op(name=name, **v)


@wrong("op", "causal")
def sees_the_future(self, *, name, attributes, **v):
    return RIGHT.op(
        name=name, attributes={**attributes, "causal": False} if "causal" in attributes else attributes, **v
    )


@wrong("op", "variance")
def eps_outside_the_root(self, *, name, attributes, **v):
    if "eps" in attributes:
        attributes = {**attributes, "eps": attributes["eps"] ** 2 / 4}
    return RIGHT.op(name=name, attributes=attributes, **v)


@wrong("op", "loss-unrounded")
def rounds_the_loss(self, *, name, store, **v):
    right = RIGHT.op(name=name, store=store, **v)
    if name.endswith(("loss", "entropy")):
        right["y"] = Cast("bfloat16", "nearest_even", "nonsaturate")(right["y"])
    return right


@wrong("op", "operand-cast")
def casts_no_operand(self, *, operand, **v):
    return RIGHT.op(operand=None, **v)


@wrong("op", "gradient-cast")
def casts_the_gradient_as_an_operand(self, *, operand, operand_gradient, **v):
    return RIGHT.op(operand=operand, operand_gradient=operand, **v)


# --- training steps --------------------------------------------------------------------------------------------------


@wrong("model", "gradient-sum")
def last_consumer_only(self, **v):
    """The gradient of a parameter used twice, as if used once."""
    right = RIGHT.model(**v)
    return {n: y / 2 if n.startswith("gradient") and "embedding" in n else y for n, y in right.items()}


@wrong("adamw", "optimizer")
def no_bias_correction(self, *, t, **v):
    return RIGHT.adamw(t=1000, **v)


@wrong("adamw", "optimizer")
def coupled_weight_decay(self, parameter, gradient, *, weight_decay, **v):
    decayed = gradient + np.float32(weight_decay) * parameter
    return RIGHT.adamw(parameter=parameter, gradient=decayed, weight_decay=0.0, **v)
