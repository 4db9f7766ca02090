"""Norms of rows that are constant, nearly constant, huge or tiny, against rational arithmetic, in both forms."""

import math
from fractions import Fraction

import numpy as np
import pytest

from refscale import ops
from refscale.testing import assert_same_bits

FORMS = ("readable", "kernel")
forms = pytest.mark.parametrize("form", FORMS)
RNG = np.random.default_rng(0)


def normalized(op, form, x, g=None):
    """The result with gain 1 and bias 0, and the gradient of x for the gradient g."""
    n = x.shape[-1]
    arrays = [x, np.ones(n, x.dtype), np.zeros(n, x.dtype)][: len(op.inputs)]
    g = np.ones_like(x) if g is None else g
    if form == "readable":
        y, kept = op.forward(*arrays)
        return y, op.backward(g, *kept)[0]
    y, kept = op.fast_forward(1.0, *arrays)
    return y, op.fast_backward([1.0] * len(arrays), g, *kept)[0]


# --- Constant rows ----------------------------------------------------------------------------------------------------


@forms
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("eps", [1e-12, 1e-5])
@pytest.mark.parametrize("n", [1, 7, 768])
def test_a_constant_row_is_exactly_zero(form, dtype, eps, n):
    """A mean that is off by an ulp, over √(its square + eps), is anything up to ±1."""
    x = np.repeat(np.array([[1000.1], [3.3], [-0.1], [1e30], [-1e-40], [0.0]], dtype), n, 1)
    y, _ = normalized(ops.LayerNorm(eps), form, x)
    assert_same_bits(y + 0, np.zeros_like(x))


@forms
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_gradient_leaves_no_gradient_of_a_constant_row(form, dtype):
    """1/σ is 10^6: half an ulp of the mean gradient would become 0.004 in float32."""
    x, g = np.full((1, 768), 3.3, dtype), np.full((1, 768), 0.1, dtype)
    assert_same_bits(normalized(ops.LayerNorm(1e-12), form, x, g)[1] + 0, np.zeros_like(x))


@forms
@pytest.mark.parametrize("power", [-110, -100, -40, 0, 100])
def test_the_gradient_of_a_constant_row(form, power):
    """(g − mean g)/√eps, with eps a power of two: all exact."""
    x, g = np.full((1, 4), 1000.1, np.float32), np.float32([[1, 2, 3, 6]])
    _, gradient = normalized(ops.LayerNorm(2.0**power), form, x, g)
    assert_same_bits(gradient, np.float32([[-2, -1, 0, 3]]) * np.float32(2.0 ** (-power / 2)))


# --- Any rows ---------------------------------------------------------------------------------------------------------


def exact(x, eps, centered):
    """z = (x − mean)/√(var + eps) of a row, rational but for the root, which is float64's."""
    terms = [Fraction(float(v)) for v in x]
    if centered:
        mean = sum(terms) / len(terms)
        terms = [t - mean for t in terms]
    square = sum(t * t for t in terms) / len(terms) + Fraction(eps)
    half = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    root = Fraction(math.sqrt(square / Fraction(4) ** half)) * Fraction(2) ** half
    return np.array([float(t / root) for t in terms])


def spaced(value, steps):
    """float32 numbers so many ulp from a value."""
    return np.float32(value) + np.array(steps) * np.spacing(np.float32(value))


ROWS = {
    "one ulp": spaced(1000.1, [0] * 767 + [1]),
    "the first, one ulp": spaced(1000.1, [1] + [0] * 767),
    "some ulp": spaced(1000.1, RNG.integers(-3, 4, 768)),
    "normal about 1000": 1000 + 1e-2 * RNG.standard_normal(256),
    "normal about −1e30": -1e30 + 1e27 * RNG.standard_normal(256),
    "normal of 1e30": 1e30 * RNG.standard_normal(64),
    "of the largest": 1.7e38 * RNG.uniform(-1, 1, 64),
    "normal of 1e-30": 1e-30 * RNG.standard_normal(64),
    "subnormal": 1e-40 * RNG.standard_normal(64),
    "one large": np.append(RNG.standard_normal(255), 1e6),
    "the first large": np.append(1e6, RNG.standard_normal(255)),
    "two": np.array([1.0, 1 + 2.0**-23]),
    "normal": RNG.standard_normal(768),
}
U = 2.0**-24
LEAST = 2.0**-149


@forms
@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-5])
@pytest.mark.parametrize("name", ROWS)
def test_layer_norm_is_within_its_bound(form, eps, name):
    """The bound of ``LayerNorm``; the kernel adds both sums up in float32, n·u each, of |x − x_0| and of squares."""
    x = np.asarray(ROWS[name], np.float32)
    n, z = len(x), exact(x, eps, centered=True)
    with np.errstate(over="ignore", invalid="ignore"):  # 1/σ of subnormal rows
        y, _ = normalized(ops.LayerNorm(eps), form, x[None])
    first, size = abs(z[0]), np.abs(z)
    bound = 3 * first + 2 + size * (3 * first + 11)
    if form == "kernel":
        bound += n * (1 + first) * (1 + size) + n / 2 * size
    assert np.all(np.abs(y[0] - z) <= U * bound + LEAST)


@forms
@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-6])
@pytest.mark.parametrize("name", ROWS)
def test_rms_norm_is_within_its_bound(form, eps, name):
    """Half of a rounding each of squares, mean and sum; one each of root, quotient and product."""
    x = np.asarray(ROWS[name], np.float32)
    z = exact(x, eps, centered=False)
    with np.errstate(over="ignore", invalid="ignore"):  # 1/RMS of subnormal rows
        y, _ = normalized(ops.RmsNorm(eps), form, x[None])
    assert np.all(np.abs(y[0] - z) <= U * (5 + (len(x) / 2 if form == "kernel" else 0)) * np.abs(z) + LEAST)


@pytest.mark.parametrize("op", [ops.LayerNorm(0.0), ops.RmsNorm(0.0)], ids=str)
@pytest.mark.parametrize("power", [-100, -64, 64, 100])
@forms
def test_a_power_of_two_changes_no_bit(op, power, form):
    """Squares of these rows are beyond float32, or below it: the kernel has the readable form compute them."""
    x, g = RNG.standard_normal((2, 3, 24)).astype(np.float32)
    y, gradient = normalized(op, "readable", x, g)
    scaled_y, scaled_gradient = normalized(op, form, np.ldexp(x, power), g)
    assert_same_bits(scaled_y, y)
    if form == "readable":
        assert_same_bits(np.ldexp(scaled_gradient, power), gradient)
    else:  # three sums of 24 terms in another order
        assert np.max(np.abs(np.ldexp(scaled_gradient, power) - gradient)) <= 2.0**-18 * np.max(np.abs(gradient))


@forms
def test_one_huge_row_changes_no_other(form):
    """Rows of one block, of which the readable form computes one."""
    x = RNG.standard_normal((5, 24)).astype(np.float32)
    expected, _ = normalized(ops.LayerNorm(), form, x)
    x[2] *= np.float32(2.0**100)
    actual, _ = normalized(ops.LayerNorm(), form, x)
    assert_same_bits(np.delete(actual, 2, 0), np.delete(expected, 2, 0))


@forms
def test_rows_that_are_not_finite_stay_alone(form):
    x = RNG.standard_normal((4, 8)).astype(np.float32)
    expected, _ = normalized(ops.LayerNorm(), form, x)
    x[1, 3] = np.nan
    actual, _ = normalized(ops.LayerNorm(), form, x)
    assert np.isnan(actual[1]).all()
    assert_same_bits(np.delete(actual, 1, 0), np.delete(expected, 1, 0))
