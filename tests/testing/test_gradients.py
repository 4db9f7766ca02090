"""assert_gradient_factor: accepted gradients, and gradients that are wrong in each way that it rejects."""

from __future__ import annotations

import math

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import Op, Tape, apply
from refscale.errors import ArgumentError, FactorError
from refscale.scales import fixed, geometric, regular, unit
from refscale.testing import assert_gradient_factor
from refscale.testing.gradients import TrueGradients, assert_multiples, computed_and_true

RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((8, 4)), RNG.standard_normal((4, 4))


def block(x, w):
    return F.residual(lambda h: F.linear(h, w), x, fixed(0.4))


def test_constants():
    """1 for the stream; for the weight β_w over the branch's factor and α: 8^-½ / (√0.4 · 4^-½)."""
    c = assert_gradient_factor(block, X, W, rng=np.random.default_rng(1))
    assert c == pytest.approx({"0": 1.0, "1": 8**-0.5 / (0.4**0.5 * 0.5)}, rel=1e-12)
    assert_gradient_factor(block, X, W, rng=np.random.default_rng(1), expected=c)


def test_names_of_a_mapping():
    c = assert_gradient_factor(lambda x, p: block(x, p["w"]), X, {"w": W}, rng=np.random.default_rng(1))
    assert list(c) == ["0", "w"]


def test_a_regular_program_has_true_gradients():
    assert assert_gradient_factor(block, X, W, rng=np.random.default_rng(1), scheme=regular) == {"0": 1.0, "1": 1.0}


def test_a_scalar_needs_no_rng():
    targets = np.arange(8) % 4
    c = assert_gradient_factor(lambda x, w: F.cross_entropy(F.readout(x, w), targets), X, W)
    assert c["0"] == pytest.approx(8 * 4 / math.sqrt(3) * 4**-0.5 / 4**-0.5)


def test_inputs_without_a_gradient_have_no_constant():
    c = assert_gradient_factor(lambda t, ids: apply(ops.Embedding(), t, ids), W, np.array([0, 3, 1]), rng=RNG)
    assert list(c) == ["0"]


class Crooked(ops.Tanh):
    """A backward pass that is right in size and wrong in direction."""

    def backward(self, g, *kept):
        (right,) = super().backward(g, *kept)
        return (right + 1e-8 * np.roll(right, 1),)


class ByData(Op):
    """A gradient whose constant depends on the values that it meets."""

    inputs = ("x",)
    source = "none"

    def forward(self, x):
        return x * 1.0, (x,)

    def backward(self, g, x):
        return (g * np.abs(x).mean(),)

    def scale(self, x):
        return ops.Tanh().scale(x)


class TestRejects:
    def test_consumers_that_disagree(self):
        with pytest.raises(FactorError, match=r"^consumers of input0\[8, 4\] disagree"):
            assert_gradient_factor(lambda x: apply(ops.Add(), apply(ops.Tanh(), x), x), X, rng=RNG)

    def test_an_expected_constant_that_is_another(self):
        with pytest.raises(AssertionError, match=r"^the gradient of 0 is 1 times the true one, expected 1\.01 times$"):
            assert_gradient_factor(block, X, W, rng=RNG, expected={"0": 1.01})

    def test_a_constant_of_another_size(self):
        found = computed_and_true(block, X, W, rng=np.random.default_rng(1))
        computed, c, true = found["1"]
        with pytest.raises(AssertionError, match=r"^the gradient of 1 is not 1\.11803\d* times the true one: off by"):
            assert_multiples(found | {"1": (computed, c * (1 + 1e-8), true)})

    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_gradient_just_over_the_bound(self, sign):
        """1e-10 of c times the true one, or the caller's value: 1e-9 where c is 2 and the norm of the true one 5."""
        true = np.array([3.0, 4.0])

        def found(error):
            return {"w": (2 * true + sign * 10 * error * np.array([0.6, 0.8]), 2.0, true)}

        assert_multiples(found(0.99e-10))
        with pytest.raises(AssertionError, match=r"times the true one: off by 1\.01e-09, allowed 1e-09$"):
            assert_multiples(found(1.01e-10))
        assert_multiples(found(0.99e-3), relative=1e-3)
        with pytest.raises(AssertionError, match=r"off by 0\.0101, allowed 0\.01$"):
            assert_multiples(found(1.01e-3), relative=1e-3)

    def test_what_rounding_leaves_of_a_gradient_that_is_zero(self):
        """1e-13 of the largest, and nothing where there is no other."""
        largest = {"w": (np.array([6.0, 8.0]), 2.0, np.array([3.0, 4.0]))}
        assert_multiples(largest | {"bias": (np.array([0.99e-12]), 2.0, np.zeros(1))})
        with pytest.raises(AssertionError, match=r"^the gradient of bias is not 2 times .* allowed 1e-12$"):
            assert_multiples(largest | {"bias": (np.array([1.01e-12]), 2.0, np.zeros(1))})
        with pytest.raises(AssertionError, match=r"^the gradient of bias is not 2 times .* allowed 0$"):
            assert_multiples({"bias": (np.array([1e-100]), 2.0, np.zeros(1))})

    def test_an_expected_constant_just_over_its_bound(self):
        """1e-9 of it: the stream's constant is 1."""
        for error, right in ((0.99e-9, True), (-0.99e-9, True), (1.01e-9, False), (-1.01e-9, False)):
            expected = {"0": 1 / (1 + error)}
            if right:
                assert_gradient_factor(block, X, W, rng=np.random.default_rng(1), expected=expected)
            else:
                with pytest.raises(AssertionError, match=r"^the gradient of 0 is 1 times the true one, expected"):
                    assert_gradient_factor(block, X, W, rng=np.random.default_rng(1), expected=expected)

    def test_another_sign(self):
        found = computed_and_true(block, X, W, rng=np.random.default_rng(1))
        computed, c, true = found["0"]
        with pytest.raises(AssertionError, match=r"^the gradient of 0 is not"):
            assert_multiples(found | {"0": (-computed, c, true)})
        with pytest.raises(AssertionError, match=r"^the gradient of 0 is not -1 times"):
            assert_multiples(found | {"0": (-computed, -c, true)})

    def test_nan(self):
        found = computed_and_true(block, X, W, rng=np.random.default_rng(1))
        computed, c, true = found["0"]
        with pytest.raises(AssertionError):
            assert_multiples(found | {"0": (computed * np.nan, c, true)})

    def test_a_program_that_computes_something_else_the_second_time(self):
        """A backward pass that reads the scheme's factors off the tape would do so, too."""
        calls = []

        def program(x, w):
            calls.append(x)
            return F.linear(x, w) if len(calls) == 1 else F.linear(apply(ops.Scaled(), x), w)

        with pytest.raises((AssertionError, IndexError)):
            assert_gradient_factor(program, X, W, rng=RNG)

    def test_no_rng_for_what_is_no_scalar(self):
        with pytest.raises(ArgumentError, match=r"^computed_and_true: the output has shape \(8, 4\): rng is needed$"):
            assert_gradient_factor(block, X, W)

    def test_a_name_that_is_no_input(self):
        with pytest.raises(
            ArgumentError, match=r"^assert_gradient_factor: expected names w, no input with a gradient$"
        ):
            assert_gradient_factor(block, X, W, rng=RNG, expected={"w": 1.0})


def test_a_wrong_backward_is_the_business_of_assert_vjp():
    """Both runs use the same backward passes: the test is about the factors."""
    c = assert_gradient_factor(
        lambda x: apply(Crooked(), x, constraint=geometric, constrained=(0,)), X, rng=np.random.default_rng(2)
    )
    assert c == {"0": 1.0}
    assert_gradient_factor(lambda x: apply(ByData(), x), X, rng=np.random.default_rng(2))


def test_true_gradients_replay_every_forward_factor():
    tape = Tape(unit, dtype=np.float64)
    y = block(tape.tensor(X), tape.tensor(W))
    again = Tape(TrueGradients(unit, tape), dtype=np.float64)
    z = block(again.tensor(X), again.tensor(W))
    assert np.array_equal(y.value, z.value)
    for node in again.nodes:
        assert set(node.scales.beta) == {node.scales.alpha}
