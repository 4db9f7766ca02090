"""Element-wise functions of the caller's: factors by quadrature with breakpoints, divergent moments refused."""

import math

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import Tape, backward
from refscale.errors import ArgumentError
from refscale.scales import piecewise_gaussian_mean, regular, unit
from refscale.testing import assert_vjp


def ramp(x):
    return np.maximum(x - 0.3, 0)


def step(x):
    return np.where(x > 0.3, 1.0, 0.0)


def density(z):
    return math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def test_quadrature_between_breakpoints():
    """E X^4 = 3; P(X > 0.3); E max(X − c, 0) = φ(c) − c·P(X > c)."""
    above = 0.5 * math.erfc(0.3 / math.sqrt(2))
    assert piecewise_gaussian_mean(lambda x: x**4) == pytest.approx(3, rel=1e-14)
    assert piecewise_gaussian_mean(step, (0.3,)) == pytest.approx(above, rel=1e-14)
    assert piecewise_gaussian_mean(ramp, (0.3,)) == pytest.approx(density(0.3) - 0.3 * above, rel=1e-13)
    assert piecewise_gaussian_mean(ramp) != pytest.approx(density(0.3) - 0.3 * above, rel=1e-8)


def test_factors_of_a_shifted_ramp():
    """E max(X − c, 0)² = (1 + c²)·P(X > c) − c·φ(c); E f′² = P(X > c)."""
    c, above = 0.3, 0.5 * math.erfc(0.3 / math.sqrt(2))
    square, mean = (1 + c * c) * above - c * density(c), density(c) - c * above
    op = ops.CustomElementwise(ramp, step, (c,))
    assert op.scale((2,)).alpha == pytest.approx((square - mean**2) ** -0.5, rel=1e-13)
    assert op.scale((2,), statistic="rms").alpha == pytest.approx(square**-0.5, rel=1e-13)
    assert op.scale((2,)).beta == (pytest.approx(above**-0.5, rel=1e-13),)


def test_a_function_of_the_table_has_the_factors_of_its_op():
    op = ops.CustomElementwise(np.tanh, lambda x: 1 - np.tanh(x) ** 2)
    assert op.scale(()).alpha == pytest.approx(ops.Tanh().scale(()).alpha, rel=1e-12)
    assert op.scale(()).beta[0] == pytest.approx(ops.Tanh().scale(()).beta[0], rel=1e-12)


DIVERGENT = {
    "1/x": (lambda x: 1 / x, lambda x: -1 / x**2, ()),
    "1/x, kink named": (lambda x: 1 / x, lambda x: -1 / x**2, (0.0,)),
    "1/(x − 0.3)": (lambda x: 1 / (x - 0.3), lambda x: -1 / (x - 0.3) ** 2, (0.3,)),
    "√x": (np.sqrt, lambda x: 0.5 / np.sqrt(x), ()),
    "√|x|: its slope": (lambda x: np.sqrt(abs(x)), lambda x: 0.5 * np.sign(x) / np.sqrt(abs(x)), (0.0,)),
    "e^(x²/4)": (lambda x: np.exp(x * x / 4), lambda x: x / 2 * np.exp(x * x / 4), ()),
    "a kink that is not named": (ramp, step, ()),
}


@pytest.mark.parametrize("name", DIVERGENT)
def test_refused(name):
    f, slope, kinks = DIVERGENT[name]
    with pytest.raises(ArgumentError, match=r"elementwise: E .* by two quadratures .*diverges, or kinks="):
        ops.CustomElementwise(f, slope, kinks).scale((2,))
    x = Tape(regular).tensor(np.array([0.5, 2.0]))
    assert F.elementwise(x, f, slope, kinks).value.shape == (2,)  # without factors, any function


@pytest.mark.parametrize("slope", [0.125, 0.2])
def test_growth_that_converges_is_accepted(slope):
    """E e^(2sx²) = (1 − 4s)^-½ is finite below ¼."""
    op = ops.CustomElementwise(lambda x: np.exp(slope * x * x), lambda x: 2 * slope * x * np.exp(slope * x * x))
    assert op.scale((), statistic="rms").alpha == pytest.approx((1 - 4 * slope) ** 0.25, rel=1e-8)


def test_a_constant_is_refused():
    with pytest.raises(ArgumentError, match=r"E \(f\(X\) − E f\(X\)\)² is .* expected more than 0"):
        ops.CustomElementwise(np.ones_like, np.zeros_like).scale(())


def test_values_gradients_and_bounds():
    """y = α·f(x), dx = β·f′(x)·g; geometric constraint by default."""
    tape = Tape(unit, dtype=np.float64)
    x = tape.tensor([-1.0, 0.3, 2.3])
    y = F.elementwise(x, ramp, step, (0.3,), constraint="none")
    scales = ops.CustomElementwise(ramp, step, (0.3,)).scale((3,))
    backward(y, np.array([1.0, 2.0, 4.0]), check=False)
    assert y.value.tolist() == pytest.approx([0, 0, 2.0 * scales.alpha])
    assert x.grad.tolist() == pytest.approx([0, 0, 4.0 * scales.beta[0]])
    bound, (slope,) = ops.CustomElementwise(ramp, step).bound(scales, np.ones(3), np.array([-1.0, 0.5, 2.0]))
    assert np.all(bound.error <= 2.0**-20)
    assert np.all(slope.error <= 2.0**-20)


def test_gradient():
    x = np.random.default_rng(0).standard_normal(40)
    op = ops.CustomElementwise(np.tanh, lambda x: 1 - np.tanh(x) ** 2)

    def check(slope):
        kept = op.forward(x)[1]
        assert_vjp(
            lambda z: op.forward(z)[0], lambda g: op.backward(slope * g, *kept), [x], rng=np.random.default_rng(1)
        )

    check(1.0)
    with pytest.raises(AssertionError):
        check(1.001)
