"""Linear layers and readout: exact on integers, and at exactly unit scale on Hadamard inputs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale import functional as F  # noqa: N812
from refscale.engine import Tape, backward
from refscale.errors import ShapeError
from refscale.graph import gradient_factors
from refscale.scales import CONSTRAINTS, regular, u_mup, unit
from refscale.testing import assert_exact_rms, assert_same_bits, hadamard, signs
from refscale.testing.strategies import generators

SCHEMES = pytest.mark.parametrize("scheme", [regular, unit], ids=lambda s: s.name)


def integers(rng, *shape):
    """Small enough that products and their sums are exact in float64."""
    return rng.integers(-8, 9, shape).astype(np.float64)


def assert_product(actual, factor, a, b, bias=0.0):
    """factor · a @ b + bias: rounding of each of K terms, their sum and the bias, relative to their magnitudes."""
    assert actual.dtype == np.float64
    magnitude = factor * (np.abs(a) @ np.abs(b)) + np.abs(bias)
    assert np.all(np.abs(actual - (factor * (a @ b) + bias)) <= (a.shape[-1] + 2) * 2.0**-53 * magnitude)


def factors(m, n):
    """(α, β_x) of Table A.2 under each constraint, α and β_x tied."""
    a, b = m**-0.5, n**-0.5
    return {
        "geometric": [(a * b) ** 0.5] * 2,
        "arithmetic": [(a + b) / 2] * 2,
        "harmonic": [2 / (1 / a + 1 / b)] * 2,
        "to_output_scale": [a] * 2,
        "to_grad_input_scale": [b] * 2,
        "none": [a, b],
    }


@given(generators(), st.tuples(*[st.integers(1, 6)] * 4), st.sampled_from(sorted(factors(1, 1))))
def test_the_forward_factor_leaves_the_bias_alone(rng, sizes, constraint):
    """α·(x @ w) + bias: the bias is added last, and its gradient has a factor of its own."""
    batch, seq, m, n = sizes
    x, w, bias = integers(rng, batch, seq, m), integers(rng, m, n), integers(rng, n)
    tape = Tape(unit, dtype=np.float64)
    leaves = [tape.tensor(a, name) for a, name in ((x, "x"), (w, "weight"), (bias, "bias"))]
    y = F.linear(*leaves, constraint=CONSTRAINTS[constraint])
    scales = tape.nodes[0].scales
    alpha, beta = factors(m, n)[constraint]
    assert scales.alpha == pytest.approx(alpha, rel=1e-14)
    assert scales.beta == pytest.approx((beta, (batch * seq) ** -0.5), rel=1e-14)
    assert tape.nodes[1].scales.alpha == 1
    assert_product(y.value, scales.alpha, x, w, bias)
    g = integers(rng, batch, seq, n)
    backward(y, g)
    assert_product(leaves[0].grad, scales.beta[0], g, w.T)
    assert_product(leaves[1].grad, scales.beta[1], x.reshape(-1, m).T, g.reshape(-1, n))
    assert_same_bits(leaves[2].grad, (1 / (batch * seq)) ** 0.5 * g.sum((0, 1)))


@SCHEMES
def test_without_bias(scheme):
    rng = np.random.default_rng(0)
    x, w = integers(rng, 4, 3), integers(rng, 3, 5)
    tape = Tape(scheme, dtype=np.float64)
    y = F.linear(tape.tensor(x), tape.tensor(w))
    assert [node.op.name for node in tape.nodes] == ["matmul"]
    assert_product(y.value, tape.nodes[0].scales.alpha, x, w)


def test_regular_is_the_plain_layer():
    rng = np.random.default_rng(0)
    x, w, bias = integers(rng, 4, 3), integers(rng, 3, 5), integers(rng, 5)
    for fn in (F.linear, F.readout):
        tape = Tape(regular, dtype=np.float64)
        leaves = [tape.tensor(a) for a in (x, w, bias)]
        y = fn(*leaves)
        assert_same_bits(y.value, x @ w + bias)
        backward(y, g := integers(rng, 4, 5))
        for leaf, expected in zip(leaves, (g @ w.T, x.T @ g, g.sum(0)), strict=True):
            assert_same_bits(leaf.grad, expected)


def test_readout():
    """α = m^-1/2, or 1/m under the schemes that damp; β as for a product, not tied to α."""
    rng = np.random.default_rng(0)
    x, w, bias = integers(rng, 2, 4, 3), integers(rng, 3, 5), integers(rng, 5)
    for scheme, alpha in ((unit, 3**-0.5), (u_mup, 1 / 3)):
        tape = Tape(scheme, dtype=np.float64)
        leaf = tape.tensor(x)
        y = F.readout(leaf, tape.tensor(w), tape.tensor(bias))
        assert tape.nodes[0].scales.alpha == alpha
        assert tape.nodes[0].scales.beta == pytest.approx((5**-0.5, 8**-0.5), rel=1e-15)
        assert_product(y.value, alpha, x, w, bias)
        assert gradient_factors(y)[leaf.variable] == pytest.approx(5**-0.5 / alpha, rel=1e-15)


def test_unit_scale_exactly():
    """RMS 1 forward and for both gradients, by construction: all sides equal, x and g Hadamard, w any signs."""
    n = 64
    tape = Tape(unit, dtype=np.float64)
    x, w = tape.tensor(hadamard(n)), tape.tensor(signs((n, n), np.random.default_rng(0)))
    y = F.linear(x, w)
    assert_exact_rms(y.value, roundings=4)
    backward(y, hadamard(n))
    assert_exact_rms(x.grad, roundings=4)
    assert_exact_rms(w.grad, roundings=4)


def test_unit_scale_of_a_rectangular_layer_without_constraint():
    rng = np.random.default_rng(0)
    b, m, n = 64, 24, 40
    tape = Tape(unit, dtype=np.float64)
    x, w = tape.tensor(hadamard(b)[:, :m]), tape.tensor(signs((m, n), rng))
    y = F.linear(x, w, constraint=CONSTRAINTS["none"])
    assert_exact_rms(y.value)
    backward(y, hadamard(b)[:, :n])
    assert_exact_rms(x.grad)


def test_errors():
    tape = Tape()
    x, w, bias = (tape.tensor(np.ones(s)) for s in ((4, 3), (2, 5), (4,)))
    with pytest.raises(ShapeError) as error:
        F.linear(x, w)
    assert str(error.value) == "matmul: x (4, 3) and w (2, 5), expected (…, b, m) and (…, m, n)"
    with pytest.raises(ShapeError) as error:
        F.linear(x, tape.tensor(np.ones((3, 5))), bias)
    assert str(error.value) == "bias: shapes (4, 5), (4,) do not broadcast together"
    with pytest.raises(ShapeError) as error:
        F.readout(x, bias)
    assert str(error.value) == "readout: w (4,), expected (m, n)"
