"""Functions of ``functional`` that run one op: its value, and the factors that the constraint ties."""

from __future__ import annotations

import math

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import Tape, backward
from refscale.errors import CarrierError
from refscale.ops import ACTIVATIONS
from refscale.scales import geometric

E, PHI = math.e, 0.5 * math.erfc(-1 / math.sqrt(2))
SIGMOID = E / (1 + E)
FUNCTIONS = {
    "relu": (F.relu, ops.Relu(), [0, 1]),
    "leaky_relu": (F.leaky_relu, ops.LeakyRelu(), [-0.01, 1]),
    "leaky_relu, 1/2": (lambda x, **how: F.leaky_relu(x, 0.5, **how), ops.LeakyRelu(0.5), [-0.5, 1]),
    "gelu": (F.gelu, ops.Gelu(), [PHI - 1, PHI]),
    "gelu, tanh": (
        lambda x, **how: F.gelu(x, "tanh", **how),
        ops.Gelu("tanh"),
        [sign * 0.5 * (1 + math.tanh(sign * math.sqrt(2 / math.pi) * 1.044715)) for sign in (-1, 1)],
    ),
    "silu": (F.silu, ops.Silu(), [SIGMOID - 1, SIGMOID]),
    "tanh": (F.tanh, ops.Tanh(), [-math.tanh(1), math.tanh(1)]),
    "sigmoid": (F.sigmoid, ops.Sigmoid(), [1 - SIGMOID, SIGMOID]),
    "softplus": (F.softplus, ops.Softplus(), [math.log(1 + 1 / E), math.log(1 + E)]),
    "softmax": (F.softmax, ops.Softmax(), [1 / (1 + E**2), E**2 / (1 + E**2)]),
    "log_softmax": (F.log_softmax, ops.LogSoftmax(), [-math.log(1 + E**2), 2 - math.log(1 + E**2)]),
}
"""The function, its op, and its value at (−1, 1)."""

named = pytest.mark.parametrize("name", FUNCTIONS)


def x_on(scheme, *values):
    return Tape(scheme, dtype=np.float64).tensor(values or (-1.0, 1.0), "x")


@named
def test_value(name):
    run, op, expected = FUNCTIONS[name]
    y = run(x_on("regular"))
    np.testing.assert_allclose(y.value, expected, rtol=1e-13)
    assert y.variable.node.op == op


@named
def test_factors_are_tied_by_the_geometric_mean_unless_the_caller_names_another(name):
    run, op, _ = FUNCTIONS[name]
    own = op.scale((2,))
    alpha, beta = own.alpha, own.beta[0]
    tied = math.sqrt(alpha * beta)
    for how, expected in (
        ({}, (tied, tied)),
        ({"constraint": geometric}, (tied, tied)),
        ({"constraint": "to_output_scale"}, (alpha, alpha)),
        ({"constraint": "none"}, (alpha, beta)),
    ):
        scales = run(x_on("unit"), **how).variable.node.scales
        np.testing.assert_allclose((scales.alpha, scales.beta[0]), expected, rtol=1e-12)


def test_every_activation_of_a_configuration_has_a_function():
    assert {op.name for op in ACTIVATIONS.values()} <= set(F.__all__)


class TestMaskedSoftmax:
    ROWS = np.log([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])

    def softmax(self, *args, **how):
        return F.softmax(Tape(dtype=np.float64).tensor(self.ROWS), *args, **how).value

    def test_of_elements_that_count(self):
        y = self.softmax(np.array([True, False, True]))
        np.testing.assert_allclose(y, [[0.25, 0, 0.75]] * 2, rtol=1e-15)

    def test_causal(self):
        """Two rows of three elements: the first row counts two of them."""
        np.testing.assert_allclose(self.softmax(causal=True), [[1 / 3, 2 / 3, 0], [1 / 6, 1 / 3, 1 / 2]], rtol=1e-15)

    def test_both(self):
        y = self.softmax(np.array([[True, True, False]]), causal=True)
        np.testing.assert_allclose(y, [[1 / 3, 2 / 3, 0]] * 2, rtol=1e-15)

    def test_its_factors_are_tied(self):
        x = Tape("unit").tensor(self.ROWS)
        scales = F.softmax(x, causal=True).variable.node.scales
        np.testing.assert_allclose((scales.alpha, scales.beta[0]), (3, 3), rtol=1e-12)


class TestProducts:
    def test_matmul(self):
        tape = Tape()
        y = F.matmul(tape.tensor([[1.0, 2.0]]), tape.tensor([[3.0], [4.0]]))
        assert y.value.tolist() == [[11]]

    def test_matmul_ties_alpha_and_the_gradient_of_x(self):
        """x (2, 16) and w (16, 4): α = 1/4, β_x = 1/2, β_w = 2^-½."""
        tape = Tape("unit")
        x, w = tape.tensor(np.ones((2, 16))), tape.tensor(np.ones((16, 4)))
        for how, expected in (
            ({}, (8**-0.5, 8**-0.5, 2**-0.5)),
            ({"constraint": "none"}, (0.25, 0.5, 2**-0.5)),
            ({"constraint": "to_grad_input_scale"}, (0.5, 0.5, 2**-0.5)),
        ):
            scales = F.matmul(x, w, **how).variable.node.scales
            np.testing.assert_allclose((scales.alpha, *scales.beta), expected, rtol=1e-12)

    def test_matmul_of_a_plain_array(self):
        w = Tape().tensor([[3.0], [4.0]])
        y = F.matmul(np.array([[1.0, 2.0]]), w)
        backward(y)
        assert (y.value.tolist(), w.grad.tolist()) == ([[11]], [[1], [2]])

    def test_glu(self):
        tape = Tape("unit")
        for activation, op in (
            ("silu", ops.SiluGlu()),
            ("gelu", ops.Glu("gelu")),
            (ops.Swish(2.0), ops.Glu(ops.Swish(2.0))),
        ):
            y = F.glu(tape.tensor([2.0]), tape.tensor([0.5]), activation)
            assert y.variable.node.op == op
            assert y.variable.node.scales.beta == (y.variable.node.scales.alpha,) * 2

    def test_silu_glu(self):
        tape = Tape("unit")
        y = F.silu_glu(tape.tensor([2.0]), tape.tensor([0.0]))
        scales, own = y.variable.node.scales, ops.SiluGlu().scale((1,), (1,))
        tied = (own.alpha * own.beta[0] * own.beta[1]) ** (1 / 3)
        np.testing.assert_allclose((scales.alpha, *scales.beta), [tied] * 3, rtol=1e-12)
        np.testing.assert_allclose(F.silu_glu(x_on("regular", 2.0), np.ones(1)).value, 2 * SIGMOID, rtol=1e-14)

    def test_conv1d(self):
        """y_o = Σ_k x_{o+k−1}·w_k with a zero before: (0, 1)·(1, 10), (1, 2)·(1, 10), …, plus the bias 0.5."""
        tape = Tape()
        x, w = tape.tensor([[[1.0], [2.0], [3.0]]]), tape.tensor([[[1.0]], [[10.0]]])
        y = F.conv1d(x, w, tape.tensor([0.5]), padding=(1, 0))
        assert y.value.ravel().tolist() == [10.5, 21.5, 32.5]
        assert F.conv1d(x, w, stride=2, padding=(1, 0)).value.ravel().tolist() == [10, 32]
        assert F.conv1d(x, w, dilation=2).value.ravel().tolist() == [31]

    def test_conv1d_in_groups(self):
        tape = Tape()
        x, w = tape.tensor([[[1.0, 2.0]]]), tape.tensor([[[3.0, 5.0]]])
        assert F.conv1d(x, w, groups=2).value.tolist() == [[[3, 10]]]

    def test_conv1d_ties_alpha_and_the_gradient_of_x(self):
        """Kernel 2, 2 channels in, 8 out: α = 4^-½, β_x = 16^-½."""
        tape = Tape("unit")
        x, w = tape.tensor(np.ones((1, 5, 2))), tape.tensor(np.ones((2, 2, 8)))
        scales = F.conv1d(x, w).variable.node.scales
        np.testing.assert_allclose((scales.alpha, scales.beta[0]), [8**-0.5] * 2, rtol=1e-12)
        scales = F.conv1d(x, w, constraint="none").variable.node.scales
        np.testing.assert_allclose((scales.alpha, scales.beta[0]), (1 / 2, 1 / 4), rtol=1e-12)


class TestOthers:
    def test_embedding(self):
        table = Tape().tensor([[1.0], [2.0], [3.0]])
        y = F.embedding(table, np.array([2, 0]))
        assert y.value.tolist() == [[3], [1]]
        with pytest.raises(CarrierError):
            F.embedding(table.tape.tensor([2, 0]), table)

    def test_mse_loss(self):
        x = Tape().tensor([1.0, 4.0])
        loss = F.mse_loss(x, [0.0, 2.0])
        backward(loss)
        assert (float(loss), x.grad.tolist()) == (2.5, [1, 2])
