"""Residual branches: their values under every rule, and the gradient inside them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import Tape, apply, backward
from refscale.errors import ArgumentError, FactorError
from refscale.graph import gradient_factors
from refscale.scales import (
    PlainAdd,
    default,
    fixed,
    geometric,
    ratio,
    regular,
    running_mean,
    to_output_scale,
    unit,
)
from refscale.testing import assert_exact_rms, assert_same_bits, hadamard, rms, signs
from tests.functional.near import assert_near


def weights(rule, layer, scaled):
    """(skip, branch) as the paper writes them; default under unit scaling: its stand-in."""
    root = math.sqrt(layer + 1)
    return {
        "default": (math.sqrt(layer) / root, 1 / root) if scaled else (1.0, 1.0),
        "default, fixed": (math.sqrt(0.9), math.sqrt(0.1)) if scaled else (1.0, 1.0),
        "fixed": (math.sqrt(0.6), math.sqrt(0.4)),
        "running_mean": (math.sqrt(layer) / root, 1 / root),
        "ratio": (1 / math.sqrt(1 + 0.3**2), 0.3 / math.sqrt(1 + 0.3**2)),
    }[rule]


RULES = {
    "default": default,
    "default, fixed": PlainAdd(fixed(0.1)),
    "fixed": fixed(0.4),
    "running_mean": running_mean,
    "ratio": ratio(0.3),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", [1, 2, 7])
@pytest.mark.parametrize("scheme", [regular, unit], ids=lambda s: s.name)
def test_forward(rule, layer, scheme):
    """a·x + b·f(x); here f(x) = α·tanh(x)."""
    x = np.random.default_rng(0).standard_normal((4, 5))
    tape = Tape(scheme, dtype=np.float64)
    y = F.residual(
        lambda h: apply(ops.Tanh(), h, constraint=geometric, constrained=(0,)), tape.tensor(x), RULES[rule], layer
    )
    a, b = weights(rule, layer, scheme is unit)
    alpha = tape.nodes[1].scales.alpha
    # Up to a dozen roundings, none of a number beyond twice the result's scale.
    assert_near(y.value, a * x + b * alpha * np.tanh(x), 24)


def test_regular_is_plain_addition():
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    y = F.residual(lambda h: apply(ops.Tanh(), h), Tape().tensor(x))
    assert_same_bits(y.value, x + np.tanh(x))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", [1, 3])
def test_inside_the_branch_the_gradient_keeps_its_scale(rule, layer):
    """A gradient of RMS 1 enters the branch whole, and pays the branch's weight where it leaves."""
    gradients, start = {}, []

    def probe(way, variable, value):
        if way == "backward":
            gradients[variable] = value.copy()

    rng = np.random.default_rng(0)
    tape = Tape(unit, dtype=np.float64, probe=probe)
    x = tape.tensor(rng.standard_normal((4, 5)), "x")

    def branch(h):
        start.append(h.variable)
        end = apply(ops.Scaled(), h)  # an identity, so that the whole branch is known
        start.append(end.variable)
        return end

    y = F.residual(branch, x, RULES[rule], layer)
    c = gradient_factors(y)
    assert c[x.variable] == pytest.approx(1, rel=1e-14)
    b = weights(rule, layer, scaled=True)[1]
    assert [c[v] for v in start] == pytest.approx([1 / b, 1 / b], rel=1e-14)  # whole inside: the weight is yet to pay
    backward(y, seed := signs((4, 5), rng))
    a, b = weights(rule, layer, scaled=True)
    for variable in start:
        assert_exact_rms(gradients[variable], roundings=4)  # b, 1/b and two products
    assert_near(gradients[start[0]], seed, 4)
    # d(a·x + b·x)/dx: the gradient is right, though factors differed on the way.
    assert_near(x.grad, (a + b) * seed, 12)


@pytest.mark.parametrize("scheme", [regular, unit], ids=lambda s: s.name)
def test_the_gradient_of_the_stream_is_the_true_one(scheme):
    """Against the derivative of a·x + b·α·tanh(x) by hand."""
    x = np.random.default_rng(0).standard_normal((4, 5))
    tape = Tape(scheme, dtype=np.float64)
    leaf = tape.tensor(x)
    y = F.residual(lambda h: apply(ops.Tanh(), h, constraint=geometric, constrained=(0,)), leaf, fixed(0.4))
    backward(y, np.ones(x.shape))
    a, b = weights("fixed", 1, scheme is unit)
    assert_near(leaf.grad, a + b * tape.nodes[1].scales.alpha / np.cosh(x) ** 2, 40)


@given(st.floats(0.05, 20), st.floats(0.05, 20))
def test_any_two_weights_give_a_right_gradient(skip, branch):
    """Also a² + b² ≠ 1: the weighted add divides by √(a² + b²), and the branch's start knows."""
    x = np.array([0.5, -1.0])
    leaf = Tape(unit, dtype=np.float64).tensor(x, "x")
    y = F.residual(lambda h: apply(ops.Scaled(), h), leaf, lambda layer: (skip, branch))
    assert math.isclose(gradient_factors(y)[leaf.variable], 1, rel_tol=1e-13)
    total = (skip + branch) / math.hypot(skip, branch)
    assert_near(y.value, total * x, 12)
    backward(y, np.ones(2))
    assert_near(leaf.grad, total * np.ones(2), 16)


@pytest.mark.parametrize("rule", ["default", "running_mean", "fixed", "ratio", "default, fixed"])
def test_depth_keeps_the_variance(rule):
    """Stream and branches are orthogonal rows of ±1, so RMS² adds up exactly: a² + b² = 1 at every depth."""
    rows = hadamard(64)
    tape = Tape(unit, dtype=np.float64)
    x = tape.tensor(rows[0])
    for layer in range(1, 33):
        x = F.residual(lambda h, row=rows[layer]: tape.tensor(row), x, RULES[rule], layer)
        # The roundings of earlier layers are scaled down with the stream: no more than six per layer count.
        assert_exact_rms(x.value, roundings=6 * layer)
    if rule in ("default", "running_mean"):
        # Every branch in equal parts.
        assert_near(rows @ x.value / 64, np.where(np.arange(64) < 33, 33**-0.5, 0), 500)


def test_a_plain_stream_grows():
    """The problem that the rules solve: without weights, variance grows with depth."""
    rows = hadamard(64)
    tape = Tape(regular, dtype=np.float64)
    x = tape.tensor(rows[0])
    for layer in range(1, 16):
        x = F.residual(lambda h, row=rows[layer]: tape.tensor(row), x, default, layer)
    assert rms(x.value) == 4


def test_a_branch_that_is_not_tied_is_caught(monkeypatch):
    """α ≠ β inside a branch: its fork makes that good, and nothing else does."""
    x = Tape(unit, dtype=np.float64).tensor(np.ones((2, 3)), "x")
    y = F.residual(lambda h: apply(ops.Tanh(), h), x, fixed(0.4))
    assert gradient_factors(y)[x.variable] == pytest.approx(1, rel=1e-15)
    monkeypatch.setattr(ops.Fork, "settles", False)
    y = F.residual(lambda h: apply(ops.Tanh(), h), x, fixed(0.4))
    wrong = r"^consumers of x\[2, 3\] disagree: weighted_add #5 .*, α ≠ β at tanh #4: constrain it"
    with pytest.raises(FactorError, match=wrong):
        gradient_factors(y)


def test_a_start_that_does_not_pay_is_caught():
    """What residual would be without its Scaled, or with the weight's square root forgotten."""
    for beta in (1.0, 0.4):
        x = Tape(unit, dtype=np.float64).tensor(np.ones((2, 3)), "x")
        branch = apply(ops.Scaled(1.0, beta), x)
        y = apply(ops.WeightedAdd((0.6**0.5, 0.4**0.5)), x, branch, constraint=to_output_scale, constrained=(0,))
        with pytest.raises(FactorError, match="consumers of x"):
            gradient_factors(y)


def test_factors():
    tape = Tape(unit, dtype=np.float64)
    F.residual(lambda h: apply(ops.Scaled(), h), tape.tensor([1.0]), fixed(0.36))
    start, _, join = (node.scales for node in tape.nodes)
    assert (start.alpha, *start.beta) == pytest.approx((1, 0.6), rel=1e-15)
    assert (join.alpha, *join.beta) == pytest.approx((1, 1, 1 / 0.6), rel=1e-15)


def test_errors():
    x = Tape().tensor([1.0])
    with pytest.raises(ArgumentError) as error:
        F.residual(lambda h: h, x, running_mean, 0)
    assert str(error.value) == "running_mean(layer=0): expected layer ≥ 1"
    with pytest.raises(ArgumentError) as error:
        F.residual(lambda h: h, x, fixed(1.0))
    assert str(error.value) == "fixed(tau=1.0): expected 0 < tau < 1"
