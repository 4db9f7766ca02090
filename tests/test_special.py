"""Bounds in ulp of ``refscale.special``: quick on a grid, and over all float32 that matter (slow).

Where the bounds come from. A fit P(z)/Q(z) of degrees (n, m) with positive coefficients takes 2n + 2m + 1 roundings,
each worth at most an ulp: 19 to 49 at worst. Rounding errors do not conspire; the bounds below are the largest errors
met over every float32, rounded up, and for float64 over 25 000 points against mpmath, with an ulp or two to spare.
"""

import dataclasses
import math

import numpy as np
import pytest

from refscale import special
from refscale.errors import CarrierError
from refscale.special import gaussian
from refscale.special.blocks import BLOCK, CARRIERS
from refscale.special.logistic import sigmoid_pair, tanh_pair
from refscale.testing.equality import assert_same_bits, assert_within_ulp

DTYPES = [np.float32, np.float64]

# --- The functions, one result each, and the same from the math module in float64 -------------------------------------

FUNCTIONS = {
    "erf": special.erf,
    "gaussian_tail": special.gaussian_tail,
    "sigmoid": special.sigmoid,
    "softplus": special.softplus,
    "gelu_erf": lambda x: special.gelu_erf(x)[0],
    "gelu_erf'": lambda x: special.gelu_erf(x)[1],
    "gelu_tanh": lambda x: special.gelu_tanh(x)[0],
    "gelu_tanh'": lambda x: special.gelu_tanh(x)[1],
    "silu": lambda x: special.silu(x)[0],
    "silu'": lambda x: special.silu(x)[1],
}


def reference(name, m, x):
    """The exact function, in the arithmetic of module ``m``: math (x a float) or mpmath (x an mpf)."""
    pi = m.acos(-1)

    def tail(a):
        return m.erfc(a / m.sqrt(2)) / 2

    def sigma(v):
        return 1 / (1 + m.exp(-v)) if v >= 0 else m.exp(v) / (1 + m.exp(v))

    if name == "erf":
        return m.erf(x)
    if name == "gaussian_tail":
        return tail(x)
    if name == "sigmoid":
        return sigma(x)
    if name == "softplus":
        return max(x, 0) + m.log1p(m.exp(-abs(x)))
    if name == "gelu_erf":
        return x * tail(-x)
    if name == "gelu_erf'":
        return tail(-x) + x * m.exp(-x * x / 2) / m.sqrt(2 * pi)
    if name == "silu":
        return x * sigma(x)
    if name == "silu'":
        return sigma(x) + x * sigma(x) * sigma(-x)
    c = (x * 0 + 44715) / 1000000  # 0.044715, in the arithmetic of x
    u2 = 2 * m.sqrt(2 / pi) * (x + c * x**3)
    if name == "gelu_tanh":
        return x * sigma(u2)
    return sigma(u2) + x * sigma(u2) * sigma(-u2) * 2 * m.sqrt(2 / pi) * (1 + 3 * c * x**2)


@dataclasses.dataclass(frozen=True)
class Bound:
    """Largest distance in ulp, per dtype, on [low, high] except the open interval ``hole``."""

    float32: int
    float64: int
    low: float = -math.inf
    high: float = math.inf
    hole: tuple[float, float] = (0.0, 0.0)

    def ulps(self, dtype):
        return getattr(self, np.dtype(dtype).name)

    def points(self, x):
        inside = (x >= self.low) & (x <= self.high)
        return x[inside & ~((x > self.hole[0]) & (x < self.hole[1]))]


# The derivatives pass through 0 in their holes, where ulp are not informative; another test checks these.
# Below -87.3, exp(x) is subnormal in float32 and silu magnifies its spacing by |x|.
BOUNDS = {
    "erf": Bound(7, 10),
    "gaussian_tail": Bound(8, 8),
    "sigmoid": Bound(4, 3),
    "softplus": Bound(4, 3),
    "gelu_erf": Bound(9, 9),
    "gelu_erf'": Bound(8, 9, hole=(-1.5, -0.4)),
    "gelu_tanh": Bound(4, 4, low=-1),
    "gelu_tanh'": Bound(6, 6, low=-0.4, high=8),
    "silu": Bound(5, 4, low=-87),
    "silu'": Bound(8, 6, low=-87, hole=(-3.0, -0.4)),
}


def grid(dtype, count):
    """Values of every magnitude up to 110, of both signs, dense where the functions bend."""
    rng = np.random.default_rng(0)
    spread = rng.standard_normal(count) * 2.0 ** rng.integers(-20, 4, count)
    return np.concatenate([spread, rng.uniform(-14, 14, count), rng.uniform(-110, 110, count // 4)]).astype(dtype)


def check_against_math(name, function):
    """float32 against math in float64, whose own errors (a² ulp of float64 in the tail) are far below an ulp."""
    x = BOUNDS[name].points(grid(np.float32, 4000))
    expected = np.array([reference(name, math, float(v)) for v in x], np.float32)
    assert_within_ulp(function(x), expected, BOUNDS[name].ulps(np.float32))


def check_against_mpmath(name, function):
    """float64 against 40 digits."""
    mp = pytest.importorskip("mpmath")
    x = BOUNDS[name].points(grid(np.float64, 600))
    with mp.workdps(60):
        expected = np.array([float(reference(name, mp, mp.mpf(float(v)))) for v in x])
    assert_within_ulp(function(x), expected, BOUNDS[name].ulps(np.float64))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_against_math(name):
    check_against_math(name, FUNCTIONS[name])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_against_mpmath(name):
    check_against_mpmath(name, FUNCTIONS[name])


def test_erf_float64_against_math():
    x = grid(np.float64, 20000)
    expected = np.array([math.erf(v) for v in x])
    assert_within_ulp(special.erf(x), expected, BOUNDS["erf"].float64 + 1)  # the C library's own error: below 1 ulp


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gelu_erf'", "gelu_tanh'", "silu'"])
def test_derivatives_where_they_vanish(name, dtype):
    # Within [-3, -0.4] both terms of each sum are below 1/2, and the bound is in spacings of numbers in [1/8, 1/4).
    x = np.linspace(-3, -0.4, 5000).astype(dtype)
    expected = [reference(name, math, float(v)) for v in x]
    spacing = float(np.spacing(dtype(0.125)))
    slack = 2**-50 if dtype is np.float32 else 4 * spacing  # of math, four roundings
    assert np.max(np.abs(FUNCTIONS[name](x).astype(np.float64) - expected)) <= 7 * spacing + slack


@pytest.mark.parametrize("name", ["gelu_erf", "gelu_tanh", "silu"])
def test_derivative_is_that_of_the_value(name):
    # Central differences with h = 2^-17: h²/6·|f'''| < 2^-34 with |f'''| < 4, and twice 9 ulp of values
    # up to 8, over 2h: 18·2^-50/2^-16 < 2^-29.
    x, h = np.linspace(-8, 8, 4001), 2.0**-17
    difference = (FUNCTIONS[name](x + h) - FUNCTIONS[name](x - h)) / (2 * h)
    assert np.max(np.abs(FUNCTIONS[f"{name}'"](x) - difference)) < 2**-29


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_float32(name):
    """Of magnitude 2^-6 to 150, and every 61st below, against the float64 form, itself within 10 ulp of float64."""
    low, high = (int(np.float32(v).view(np.uint32)) for v in (2**-6, 150))
    for step, begin, end in ((61, 0, low), (1, low, high)):
        for start in range(begin, end, step << 20):
            codes = np.arange(start, min(start + (step << 20), end), step, dtype=np.uint32)
            magnitude = codes.view(np.float32)
            x = BOUNDS[name].points(np.concatenate([magnitude, -magnitude]))
            expected = FUNCTIONS[name](x.astype(np.float64)).astype(np.float32)
            assert_within_ulp(FUNCTIONS[name](x), expected, BOUNDS[name].float32)


# --- The checks can fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", range(6))
def test_a_wrong_coefficient_is_rejected(monkeypatch, k):
    # One coefficient of erf in float32, off by 2^-14 of itself.
    carrier = CARRIERS[np.dtype(np.float32)]
    wrong = list(carrier.erf.numerator)
    wrong[k] *= 1 + 2**-14
    changed = dataclasses.replace(carrier, erf=carrier.erf._replace(numerator=tuple(wrong)))
    monkeypatch.setitem(CARRIERS, np.dtype(np.float32), changed)
    with pytest.raises(AssertionError, match="not within 7 ulp"):
        check_against_math("erf", special.erf)


@pytest.mark.parametrize("carry", ["float32", "float64"])
def test_the_fit_of_the_wrong_dtype_is_rejected(monkeypatch, carry):
    f32, f64 = (CARRIERS[np.dtype(d)] for d in DTYPES)
    if carry == "float64":
        monkeypatch.setitem(CARRIERS, np.dtype(np.float64), dataclasses.replace(f64, tail=f32.tail))
        with pytest.raises(AssertionError, match="ulp"):
            check_against_mpmath("gaussian_tail", special.gaussian_tail)
    else:  # a better fit changes nothing that can be told
        monkeypatch.setitem(CARRIERS, np.dtype(np.float32), dataclasses.replace(f32, tail=f64.tail))
        check_against_math("gaussian_tail", special.gaussian_tail)


WRONG = {
    "gaussian_tail": lambda a: (1 - special.erf(a / np.float32(math.sqrt(2)))) / 2,  # cancels
    "gelu_erf": lambda x: x * (1 + special.erf(x * np.float32(math.sqrt(0.5)))) / 2,  # cancels
    "gelu_erf'": lambda x: special.gelu_tanh(x)[1],  # the approximation
    "sigmoid": lambda x: np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * x),  # cancels
    "softplus": lambda x: np.log(1 + np.exp(np.minimum(x, 80))),  # loses exp(x) beside 1
    "silu'": lambda x: special.sigmoid(x),  # a term missing
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_forms_are_rejected(name):
    with pytest.raises(AssertionError, match="ulp"):
        check_against_math(name, WRONG[name])


def test_an_exponent_rounded_once_is_rejected(monkeypatch):
    def naive(carrier, a, out, head, rest):
        np.exp(np.float32(-0.5) * a * a, out=out)

    monkeypatch.setattr(gaussian, "_bell", naive)
    with pytest.raises(AssertionError, match="not within 8 ulp"):
        check_against_math("gaussian_tail", special.gaussian_tail)


# --- Special values, shapes, errors -----------------------------------------------------------------------------------

INF = math.inf
SPECIALS = {  # at -inf, -0, +0, +inf
    "erf": (-1, -0.0, 0.0, 1),
    "gaussian_tail": (1, 0.5, 0.5, 0),
    "sigmoid": (0, 0.5, 0.5, 1),
    "softplus": (0, math.log(2), math.log(2), INF),
    "gelu_erf": (-0.0, -0.0, 0.0, INF),
    "gelu_erf'": (0, 0.5, 0.5, 1),
    "gelu_tanh": (-0.0, -0.0, 0.0, INF),
    "gelu_tanh'": (0, 0.5, 0.5, 1),
    "silu": (-0.0, -0.0, 0.0, INF),
    "silu'": (0, 0.5, 0.5, 1),
}


def zeros_positive(x):
    """−0 as +0, for results whose sign of zero means nothing."""
    return x + np.zeros_like(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name, dtype):
    f, expected = FUNCTIONS[name], np.array(SPECIALS[name], dtype)
    at, huge = np.array([-INF, -0.0, 0.0, INF], dtype), np.finfo(dtype).max
    with np.errstate(all="raise"):
        got = f(at)
        beyond = f(np.array([-huge, huge], dtype))
        tiny = f(np.array([-np.finfo(dtype).smallest_subnormal, np.finfo(dtype).smallest_subnormal], dtype))
        assert np.isnan(f(np.array([np.nan], dtype))).all()
    if name == "softplus":
        assert_within_ulp(got, expected, 1)
    elif name.endswith("'"):
        assert_same_bits(zeros_positive(got), expected)
    else:
        assert_same_bits(got, expected)
    # Far out the limits are reached, except where the function grows.
    limits = expected[[0, 3]]
    assert_same_bits(zeros_positive(beyond), np.where(np.isinf(limits), huge, zeros_positive(limits)))
    assert np.all(np.abs(tiny - got[1:3]) <= 2 * np.finfo(dtype).smallest_subnormal)


@pytest.mark.parametrize("dtype", DTYPES)
def test_erf_reaches_one_and_never_exceeds_it(dtype):
    x = np.linspace(3, 8, 100_001).astype(dtype)
    y = special.erf(x)
    assert y.max() == 1
    assert np.all(y[x >= (4 if dtype is np.float32 else 6)] == 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_shapes_and_blocks(name, dtype):
    f = FUNCTIONS[name]
    for shape in [(), (0,), (3, 0), (2, 3, 4)]:
        y = f(np.ones(shape, dtype))
        assert (type(y), y.shape, y.dtype) == (np.ndarray, shape, dtype)
    block = BLOCK
    x = np.random.default_rng(1).standard_normal((2 * block + 5, 2)).astype(dtype)
    column, before = x[:, 1], x.copy()  # not contiguous, and three blocks long
    y = f(column)
    for start in (0, block, 2 * block):
        assert_same_bits(y[start : start + block], f(np.ascontiguousarray(column[start : start + block])))
    assert_same_bits(x, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [special.gelu_erf, special.gelu_tanh, special.silu, sigmoid_pair, tanh_pair])
def test_a_factor_multiplies_the_value_and_not_the_derivative(function, dtype):
    """In every block: ¾ of the value, rounded once more, and the derivative as it is."""
    x = np.linspace(-6, 6, BLOCK + 3).astype(dtype)
    value, derivative = function(x)
    scaled, same = function(x, 0.75)
    assert_same_bits(scaled, value * dtype(0.75))
    assert_same_bits(same, derivative)


def test_both_results_of_a_pass_are_arrays_of_their_own():
    value, derivative = special.gelu_erf(np.linspace(-1, 1, 7, dtype=np.float32))
    assert not np.shares_memory(value, derivative)


@pytest.mark.parametrize("name", ["erf", "gaussian_tail", "gelu_erf", "gelu_tanh", "sigmoid", "softplus", "silu"])
@pytest.mark.parametrize("dtype", ["int64", "float16", "complex128", np.dtype("f4").newbyteorder().str])
def test_other_dtypes_are_refused(name, dtype):
    x = np.ones(3, dtype)
    with pytest.raises(CarrierError) as caught:
        getattr(special, name)(x)
    assert str(caught.value) == f"{name}: argument is {x.dtype}, expected float32 or float64"


# --- The coefficients -------------------------------------------------------------------------------------------------

CARRIED = {
    "erf, float32": 1.94e-8,
    "erf, float64": 8.7e-17,
    "tail, float32": 5.93e-9,
    "tail, float64": 1.21e-16,
    "near tail, float32": 3.71e-9,
}
STATED = {
    "erf, float32": 1.83e-8,
    "erf, float64": 3.06e-17,
    "tail, float32": 5.9e-9,
    "tail, float64": 5.1e-17,
    "near tail, float32": 3.7e-9,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CARRIED)
def test_the_fits_can_be_reproduced(name):
    """A new fit comes within 11 % of the carried one's stated error, and no fit could be much better than it."""
    pytest.importorskip("mpmath")
    from tests import fit_special

    stated = STATED[name]
    new, least, carried, _, _ = fit_special.errors(fit_special.TARGETS[name])
    assert least < stated < 1.01 * new < 1.12 * stated
    assert carried < CARRIED[name]
