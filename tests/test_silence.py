"""No input warns: a NaN that signals, infinities and the largest numbers pass every function of arithmetic in silence,
also for a caller who has asked NumPy to raise."""

import warnings

import ml_dtypes
import numpy as np
import pytest

from refscale import exact, special
from refscale.blocks import BLOCK_FORMATS, NONFINITES, Recipe, get_block_cast, quantize_blocks, split_blocks
from refscale.blocks.operand import Operand, lost
from refscale.formats import FORMATS, ROUNDINGS, Cast, encode, quantize
from refscale.special import elementary
from refscale.special.logistic import sigmoid_pair, tanh_pair

FLOAT16 = Cast("float16", "nearest_even", "nonsaturate")
DTYPES = [np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)]


def awkward(dtype, largest=None):
    """[1, a signaling NaN, inf, −inf, the largest number, the smallest, a negative signaling NaN, 0]."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    info = ml_dtypes.finfo(dtype)
    x = np.array([1, 0, np.inf, -np.inf, info.max if largest is None else largest, info.smallest_normal, 0, 0], dtype)
    if largest is not None:
        x[5] = 1 / largest
    bits = x.view(unsigned)
    bits[1] = bits[2] + 1  # the quiet bit is not set
    bits[6] = bits[3] + 1
    return x


CALLS = {
    "matmul": lambda x, m, w: exact.matmul(m, w, FLOAT16, 0.3),
    "matmul_float64": lambda x, m, w: exact.matmul_float64(m, w),
    "sum": lambda x, m, w: exact.sum(x),
    "sum of rows": lambda x, m, w: exact.sum(m, -1),
    "as_exact": lambda x, m, w: exact.as_exact(x),
    "product": lambda x, m, w: (exact.as_exact(m) @ exact.as_exact(w)).array(),
    "spacing": lambda x, m, w: FORMATS["float16"].spacing(x),
    "encode": lambda x, m, w: encode(x[:4], "float32") if x.dtype == np.float32 else encode(x[:4], "bfloat16"),
}
for cast in (Cast(f, r, "nonsaturate") for f in ("float32", "bfloat16", "e8m0") for r in ROUNDINGS[:-1]):
    CALLS[str(cast)] = lambda x, m, w, cast=cast: cast(x)
for name in exact.FUNCTIONS:
    CALLS[name] = lambda x, m, w, name=name: exact.evaluate(name, x, FLOAT16)
    CALLS[f"{name}′"] = lambda x, m, w, name=name: exact.evaluate(name, x, FLOAT16, True)
for model in ("float32", "float32:2", "rounded:2", "truncated:13:2", "truncated:13:2:4", "h100:bf16"):
    CALLS[model] = lambda x, m, w, model=model: exact.get_accumulator(model).matmul(m, w)
for model in ("exact", "any-order", "truncated:13:2"):
    CALLS[f"bound of {model}"] = lambda x, m, w, model=model: exact.bound(m, w, model)
    CALLS[f"interval of {model}"] = lambda x, m, w, model=model: exact.interval(m, w, model, FLOAT16, 0.3)


def quietly(call, *args):
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        return call(*args)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_exact_arithmetic_is_silent(name, dtype):
    m = awkward(dtype, 2.0**190 if dtype == np.float64 else None).reshape(2, 4)
    quietly(CALLS[name], awkward(dtype), m, np.ascontiguousarray(m.T))


SPECIAL = {name: getattr(special, name) for name in special.__all__}
SPECIAL |= {f.__name__: f for f in (sigmoid_pair, tanh_pair)}
SPECIAL |= {f"elementary {name}": getattr(elementary, name) for name in ("exp", "expm1", "log", "log1p", "tanh")}


@pytest.mark.parametrize("dtype", DTYPES[2:], ids=str)
@pytest.mark.parametrize("name", SPECIAL)
def test_special_functions_are_silent(name, dtype):
    y = quietly(SPECIAL[name], awkward(dtype))
    first = y[0] if isinstance(y, tuple) else y
    assert np.isnan(first[[1, 6]]).all()


@pytest.mark.parametrize("nonfinite", NONFINITES)
@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_blocks_are_silent(name, nonfinite):
    cast = get_block_cast(name, nonfinite=nonfinite, **({"block": 4} if len(BLOCK_FORMATS[name].block) == 1 else {}))
    for dtype in DTYPES if cast.rule != "amax" else DTYPES[:3]:
        x = awkward(dtype).reshape(2, 4)
        if nonfinite == "ignore" and not cast.element.has_nan:
            x = x[:1, 2:].copy()  # infinities
        parts = quietly(split_blocks, x, cast)
        quietly(quantize_blocks, x, cast)
        quietly(parts.wide)


def test_operands_in_float64_are_silent():
    """Scales by amax are those of float32, to which the largest float64 is infinite."""
    x = awkward(np.dtype(np.float64)).reshape(2, 4)
    for cast in (BLOCK_FORMATS["mxfp8_e4m3"], BLOCK_FORMATS["fp8_1x128"]):
        recipe = Recipe(cast, cast, cast)
        a, w = Operand.of(x, recipe, "activation"), Operand.of(np.eye(4), recipe, "weight")
        with np.errstate(invalid="ignore"):  # NumPy's product of the converted operands, NaN and all
            a @ w
        quietly(a.convert, x, cast)
        quietly(lost, x, x, cast)


def test_a_quiet_result_of_a_signaling_nan():
    """The value is NaN, and quiet: another look at it signals nothing."""
    x = awkward(np.dtype(np.float32))
    y = exact.matmul(x[None, :2], np.float32([[1], [1]]), Cast("float32", "nearest_even", "nonsaturate"))
    assert np.isnan(y).all()
    quietly(lambda: y * np.float32(2))
    assert quantize(x[1], "float32", rounding="up", overflow="saturate").view(np.uint32) == 0x7FC00000
