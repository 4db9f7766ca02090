"""Careless callers and hard inputs: rounding at the boundaries, non-finite values, saturation, empty arrays."""

from __future__ import annotations

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import Tape, apply, backward
from refscale.errors import ArgumentError, CarrierError, ShapeError
from refscale.precision import fp16
from refscale.scales import Scales, constrain, geometric, regular
from refscale.testing import assert_within_ulp


class TestRoundingAtTheSeams:
    def test_the_seed_is_rounded_once(self):
        tape = Tape(regular, fp16)
        x = tape.tensor(np.ones(1))
        backward(apply(ops.Scaled(), x), np.array([1 + 2**-11 + 2**-40]))  # through float32 it would be a tie
        assert x.grad == 1 + 2**-10

    def test_gradients_of_two_outputs_are_rounded_where_they_meet(self):
        tape = Tape(regular, fp16)
        x = tape.tensor(np.ones(1))
        one, two = apply(ops.Scaled(), x), apply(ops.Scaled(), x)
        backward(one, np.array([1.0]))
        backward(two, np.array([2.0**-12]))
        assert x.grad == 1

    def test_a_loss_is_rounded_when_an_op_computes_with_it(self):
        tape = Tape(regular, fp16)
        loss = F.cross_entropy(tape.tensor(np.array([[0.1, 0.7, -0.3]])), np.array([1]))
        again = apply(ops.Reshape((1,)), loss)
        assert again.value == np.float16(loss.value) != loss.value
        assert F.total_loss(loss).value == loss.value  # a sum of losses is a report, too


class TestRefusals:
    @pytest.mark.parametrize("inputs", [(-1,), (2,), (0, 0)])
    def test_positions_that_constrain(self, inputs):
        with pytest.raises(ArgumentError, match="expected different positions of 2 inputs"):
            constrain(Scales(1.0, (2.0, 3.0)), inputs, geometric)

    def test_integers_are_no_numbers_to_compute_with(self):
        tape = Tape()
        with pytest.raises(CarrierError, match=r"apply\(relu\): input 0 is int64, expected numbers of float32"):
            apply(ops.Relu(), tape.tensor([1, 2]))
        with pytest.raises(CarrierError, match=r"apply\(add\): input 1 is int64"):
            apply(ops.Add(), tape.tensor([1.0]), np.array([1]))

    def test_the_wrong_number_of_inputs(self):
        x = Tape().tensor([1.0])
        with pytest.raises(ShapeError, match=r"apply\(relu\): 2 inputs given, expected x"):
            apply(ops.Relu(), x, x)

    def test_a_seed_that_is_no_number(self):
        y = apply(ops.Scaled(), Tape().tensor([1.0]))
        with pytest.raises(CarrierError, match="got complex128"):
            backward(y, np.array([1j]))

    def test_a_mask_of_another_batch(self):
        x = Tape().tensor(np.ones((2, 3, 4)))
        with pytest.raises(ShapeError, match=r"mask has shape \(1, 3\), expected \(2, 3\)"):
            F.attention(x, x, x, heads=2, mask=np.ones((1, 3), np.bool_))


class TestNotFinite:
    def test_an_ignored_row_may_be_nan(self):
        tape = Tape(dtype=np.float64)
        x = tape.tensor(np.array([[np.nan, 0, 0], [0, 0, 0]]))
        loss = F.cross_entropy(x, [-1, 1], -1)
        backward(loss)
        assert loss.value == pytest.approx(np.log(3))
        assert not x.grad[0].any()
        assert np.isfinite(x.grad).all()

    def test_a_dropped_element_may_be_infinite(self):
        x = Tape().tensor(np.array([np.inf, 1.0]))
        y = apply(ops.Dropout(0.5), x, np.array([False, True]))
        backward(y, np.array([np.inf, 1.0]))
        np.testing.assert_array_equal(y.value, [0, 2])
        np.testing.assert_array_equal(x.grad, [0, 2])

    def test_relu_stops_an_infinite_gradient(self):
        x = Tape().tensor(np.array([-1.0, 1.0]))
        backward(apply(ops.Relu(), x), np.array([np.inf, np.inf]))
        np.testing.assert_array_equal(x.grad, [0, np.inf])


@pytest.mark.parametrize(
    ("op", "derivative"),
    [
        (ops.Sigmoid(), lambda x: np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))) ** 2),
        (ops.Tanh(), lambda x: np.cosh(x) ** -2.0),
    ],
    ids=["sigmoid", "tanh"],
)
def test_gradients_keep_their_digits_where_the_function_saturates(op, derivative):
    """float32 against float64; exp errs by at most 2.5 ulp (NumPy), each of about eight roundings by ½."""
    x = np.linspace(-40, 40, 4001, dtype=np.float32)
    leaf = Tape(regular).tensor(x)
    backward(apply(op, leaf), np.ones_like(x))
    assert_within_ulp(leaf.grad, derivative(x.astype(np.float64)).astype(np.float32), 16)


class TestEmpty:
    @pytest.mark.parametrize(("x", "w"), [((2, 0), (0, 3)), ((2, 3), (3, 0)), ((0, 3), (3, 2))])
    def test_products(self, x, w):
        tape = Tape()
        a, b = tape.tensor(np.ones(x)), tape.tensor(np.ones(w))
        y = apply(ops.Matmul(), a, b)
        backward(y, np.ones(y.shape))
        assert (y.shape, a.grad.shape, b.grad.shape) == ((x[0], w[1]), x, w)

    def test_rows(self):
        tape = Tape()
        table = tape.tensor(np.ones((4, 0)))
        backward(y := apply(ops.Embedding(), table, np.array([1, 2])), np.ones((2, 0)))
        assert y.shape == (2, 0)
        for shape, positions in (((0, 5, 3), (0, 2)), ((2, 5, 0), (2, 2)), ((2, 0, 3), (2, 0))):
            x = tape.tensor(np.ones(shape))
            y = apply(ops.Gather(), x, np.zeros(positions, np.int64))
            backward(y, np.ones(y.shape))
            assert x.grad.shape == shape


def test_unsigned_positions():
    x = Tape().tensor(np.arange(6.0).reshape(1, 3, 2))
    y = apply(ops.Gather(), x, np.array([[2, 0]], np.uint64))
    backward(y, np.ones(y.shape))
    np.testing.assert_array_equal(x.grad[0, :, 0], [1, 0, 1])


def test_targets_as_list_or_tensor_and_any_index_to_ignore():
    tape = Tape(dtype=np.float64)
    x = tape.tensor(np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 5.0], [2.0, 0.0, 0.0]]))
    expected = float(np.log(np.exp(x.value).sum(1))[1:] @ [1, 1] - 5 - 2) / 2
    for targets in ([1, 2, 0], np.array([1, 2, 0]), tape.tensor(np.array([1, 2, 0]))):
        assert F.cross_entropy(x, targets, 1).value == pytest.approx(expected, rel=1e-14)
