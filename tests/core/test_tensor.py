"""A tensor in the hands of a NumPy user: its value, expressions, NumPy's functions, retained gradients."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import Tape, apply, backward, operators
from refscale.errors import ArgumentError, CarrierError, ShapeError, TapeError
from refscale.formats import quantize
from refscale.scales import unit
from refscale.testing import assert_same_bits

executors = pytest.mark.parametrize("fast", [True, False], ids=["fast", "page"])
TWO = np.array([[1, 2], [3, 4]], np.float32)


def leaf(value=TWO, scheme="regular", precision="fp32", dtype=np.float32, **options):
    return Tape(scheme, precision, dtype, **options).tensor(value, "x")


class TestValue:
    def test_asarray_is_the_value_itself_read_only(self):
        x = leaf()
        y = apply(ops.Scaled(2.0), x)
        for t in (x, y):
            assert np.asarray(t) is t.value
            with pytest.raises(ValueError, match="read-only"):
                np.asarray(t)[0, 0] = 5

    def test_another_dtype_or_a_copy(self):
        x = leaf()
        wide = np.asarray(x, np.float64)
        assert (wide.dtype, wide.tolist()) == (np.float64, [[1, 2], [3, 4]])
        copy = np.array(x)
        copy[0, 0] = 9
        assert x.value[0, 0] == 1
        assert x.__array__(copy=True) is not x.value
        assert x.__array__(copy=False) is x.value

    @pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="copy=False copies where it must")
    def test_no_copy_where_one_is_needed(self):
        with pytest.raises(ValueError, match="copy"):
            np.asarray(leaf(), np.float64, copy=False)

    def test_shape_and_dtype(self):
        x = leaf(np.zeros((2, 3)), dtype=np.float64)
        assert (x.shape, x.ndim, x.size, x.dtype) == ((2, 3), 2, 6, np.float64)
        assert x.tape.tensor([True, False]).dtype == np.bool_

    def test_float_of_one_element(self):
        x = leaf()
        assert float(apply(ops.Sum(), x)) == 10.0
        assert float(leaf([2.5])) == 2.5
        with pytest.raises(
            ShapeError, match=r"float\(Tensor\(x, shape=\(2, 2\), float32\)\): expected a tensor of one"
        ):
            float(x)

    @pytest.mark.parametrize("value", [0.0, [1.0, 2.0]])
    def test_its_truth_value_tells_it_from_none_only(self, value):
        """``if bias:`` asks whether there is one, as for any Python object."""
        assert bool(leaf(value))

    def test_neither_a_sequence_nor_a_container(self):
        x = leaf()
        for call in (iter, len, lambda t: t[0]):
            with pytest.raises(TypeError):
                call(x)

    def test_it_hashes_by_identity(self):
        x, y = leaf(), leaf()
        assert len({x, y}) == 2
        assert x == x
        assert x != y


CASES = {
    "x + y": (lambda x, y: x + y, "add", [[6, 8], [10, 12]]),
    "x - y": (lambda x, y: x - y, "subtract", [[-4, -4], [-4, -4]]),
    "x * y": (lambda x, y: x * y, "multiply", [[5, 12], [21, 32]]),
    "x @ y": (lambda x, y: x @ y, "matmul", [[19, 22], [43, 50]]),
}
"""An expression, the op that it records, and its value for factors of 1."""


class TestOperators:
    """With factors 1 the values are NumPy's; the recorded ops are the named ones."""

    OTHER = np.array([[5, 6], [7, 8]], np.float32)

    @pytest.mark.parametrize("case", CASES)
    def test_of_two_tensors(self, case):
        run, name, expected = CASES[case]
        x = leaf()
        y = run(x, x.tape.tensor(self.OTHER))
        assert (y.value.tolist(), y.variable.node.op.name) == (expected, name)

    @pytest.mark.parametrize("case", CASES)
    def test_of_a_tensor_and_an_array(self, case):
        run, name, expected = CASES[case]
        y = run(leaf(), self.OTHER)
        assert (y.value.tolist(), y.variable.node.op.name) == (expected, name)

    @pytest.mark.parametrize("case", CASES)
    def test_of_an_array_and_a_tensor(self, case):
        run, name, expected = CASES[case]
        y = run(TWO, leaf(self.OTHER))
        assert (y.value.tolist(), y.variable.node.op.name) == (expected, name)
        backward(y, np.ones((2, 2)))

    def test_gradients(self):
        """y = 3·(x@w) − x, so that dy/dx = 3·1wᵀ − 1 and dy/dw = 3·xᵀ1."""
        x = leaf()
        w = x.tape.tensor(self.OTHER)
        backward(3 * (x @ w) - x, np.ones((2, 2)))
        assert x.grad.tolist() == [[32, 44], [32, 44]]
        assert w.grad.tolist() == [[12, 12], [18, 18]]

    @pytest.mark.parametrize("number", [2, 2.0, np.float32(2), np.float64(2), np.array(2.0)])
    def test_with_a_number(self, number):
        x = leaf()
        for y in (x * number, number * x):
            assert y.value.tolist() == [[2, 4], [6, 8]]
        assert (number - x).value.tolist() == [[1, 0], [-1, -2]]
        assert (x - number).value.tolist() == [[-1, 0], [1, 2]]
        assert (number + x).value.tolist() == [[3, 4], [5, 6]]

    def test_negation_and_division_by_a_number(self):
        for run, name, expected, slope in (
            (lambda x: -x, "scalar_multiply", [[-1, -2], [-3, -4]], -1),
            (lambda x: x / 4, "scalar_divide", [[0.25, 0.5], [0.75, 1]], 0.25),
            (lambda x: x / np.float32(-2), "scalar_divide", [[-0.5, -1], [-1.5, -2]], -0.5),
        ):
            x = leaf()
            y = run(x)
            backward(y, np.ones((2, 2)))
            assert (y.value.tolist(), y.variable.node.op.name) == (expected, name)
            assert x.grad.tolist() == [[slope] * 2] * 2
            assert run(leaf(scheme=unit)).value.tolist() == (np.sign(slope) * TWO).tolist()

    @pytest.mark.parametrize("divisor", [0, "2", True, TWO, None])
    def test_division_by_something_else(self, divisor):
        with pytest.raises(ArgumentError, match=r"(?s)ScalarDivide\(divisor=.*expected a number"):
            leaf() / divisor

    def test_factors_are_those_of_the_op(self):
        x = leaf(scheme=unit)
        assert (x + x).value[0, 0] == np.float32(2 * 0.5**0.5)

    def test_a_sum_in_place_is_a_new_tensor(self):
        x = y = leaf()
        y += x
        assert (x.value.tolist(), y.value.tolist()) == ([[1, 2], [3, 4]], [[2, 4], [6, 8]])

    @pytest.mark.parametrize("run", [lambda x: 2 / x, lambda x: x**2, lambda x: x < 1, lambda x: x % 2])
    def test_others_are_not_defined(self, run):
        with pytest.raises(TypeError, match=r"Tensor|operand"):
            run(leaf())

    def test_of_two_tapes(self):
        with pytest.raises(TapeError, match=r"apply\(add\): expected tensors of one tape"):
            leaf() + leaf()

    def test_of_what_is_no_array(self):
        with pytest.raises(CarrierError, match="value is of type NoneType"):
            leaf() + None

    def test_the_engine_alone_names_the_missing_import(self):
        code = (
            "from refscale.engine import Tape\n"
            "from refscale.errors import TapeError\n"
            "x = Tape().tensor([1.0])\n"
            "try:\n    x @ x\n"
            "except TapeError as error:\n    assert 'import refscale.ops' in str(error), error\n"
            "else:\n    raise AssertionError\n"
            "import refscale.ops\n"
            "assert (x + x).value == 2"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


DISPATCHED = {
    "concatenate": lambda x: np.concatenate([x, x]),
    "stack": lambda x: np.stack([x, x]),
    "where": lambda x: np.where(TWO > 2, x, 0),
    "mean": np.mean,
    "sum": np.sum,
    "max": np.max,
    "std": np.std,
    "reshape": lambda x: np.reshape(x, (4,)),
    "transpose": np.transpose,
    "clip": lambda x: np.clip(x, 0, 1),
    "dot": lambda x: np.dot(TWO, x),
    "einsum": lambda x: np.einsum("ij,jk->ik", TWO, x),
    "tensordot": lambda x: np.tensordot(x, TWO),
    "linalg.norm": np.linalg.norm,
    "allclose": lambda x: np.allclose(x, TWO),
}


class TestNumPy:
    """Functions that return an array without a gradient are refused."""

    @pytest.mark.parametrize("name", DISPATCHED)
    def test_functions_name_themselves_and_the_remedy(self, name):
        with pytest.raises(TapeError, match=rf"numpy\.{name} of a Tensor has no gradient: use .*np\.asarray\(tensor\)"):
            DISPATCHED[name](leaf())

    @pytest.mark.parametrize("function", [np.sqrt, np.exp, lambda x: np.add(TWO, x), np.add.reduce])
    def test_ufuncs(self, function):
        with pytest.raises(TypeError, match="does not support ufuncs"):
            function(leaf())

    def test_what_it_names_in_place_of_a_function_exists(self):
        for name in operators.INSTEAD.values():
            module, attribute = name.split(".")
            assert hasattr({"ops": ops, "functional": F}[module], attribute), name

    def test_a_leaf_of_a_tensor(self):
        x = leaf()
        with pytest.raises(TapeError, match=r"Tape.tensor\('w'\): value is Tensor\(x, .* would cut its gradient"):
            x.tape.tensor(x, "w")
        assert_same_bits(x.tape.tensor(np.asarray(x)).value, TWO)

    @pytest.mark.parametrize(
        "call",
        [
            lambda x: x.tape.tensor([x, x]),
            lambda x: quantize(x, "e5m2", rounding="nearest_even", overflow="saturate"),
            lambda x: backward(apply(ops.Scaled(), x), x),
        ],
    )
    def test_where_an_array_is_expected(self, call):
        with pytest.raises(CarrierError, match=r"is a Tensor, whose value np.asarray returns, expected a plain array"):
            call(leaf())

    def test_assertions_of_numpy_take_its_value(self):
        np.testing.assert_array_equal(leaf(), TWO)


class TestRetainedGradients:
    @executors
    def test_by_hand(self, fast):
        """y = (2x)², so that dy/d(2x) = 2·2x and dy/dx = 4·2x."""
        x = leaf(fast=fast)
        h = (x * 2.0).retain_grad()
        assert h.grad is None
        y = h * h
        backward(y, np.ones((2, 2)))
        assert h.grad.tolist() == [[4, 8], [12, 16]]
        assert x.grad.tolist() == [[8, 16], [24, 32]]
        with pytest.raises(ValueError, match="read-only"):
            h.grad[0, 0] = 1

    @executors
    def test_of_the_output(self, fast):
        x = leaf(fast=fast)
        y = (x + x).retain_grad()
        g = np.array([[1, 2], [3, 4]], np.float32)
        backward(y, g)
        g[:] = 9
        assert y.grad.tolist() == [[1, 2], [3, 4]]

    @executors
    def test_without_it_the_error_says_how(self, fast):
        x = leaf(fast=fast)
        y = x + x
        backward(y, TWO)
        with pytest.raises(TapeError, match=r"Tensor\(add, .*\.grad: only leaves keep .* call retain_grad\(\)"):
            _ = y.grad
        assert x.grad.tolist() == [[2, 4], [6, 8]]

    def test_of_a_leaf_it_changes_nothing(self):
        x = leaf().retain_grad()
        backward(x + x, TWO)
        assert x.grad.tolist() == [[2, 4], [6, 8]]

    def test_of_what_has_no_gradient(self):
        tape = Tape()
        y = apply(ops.Scaled(), tape.tensor(TWO, requires_grad=False))
        with pytest.raises(TapeError, match=r"retain_grad\(\): it does not depend on a leaf"):
            y.retain_grad()
        with pytest.raises(TapeError, match="retain_grad"):
            tape.tensor([1, 2]).retain_grad()

    def test_a_factor_paid_ahead_is_not_in_it(self):
        """Scaled(β = 8) before a product: the fast executor multiplies by 8 in the product."""
        grads = []
        for fast in (True, False):
            x = leaf(scheme="unit", fast=fast)
            before = apply(ops.Scaled(), x).retain_grad()
            h = apply(ops.Scaled(1.0, 8.0), before).retain_grad()
            backward(apply(ops.Matmul(), h, np.eye(2)), TWO, check=False)
            grads.append((h.grad, before.grad, x.grad))
        for actual, expected in zip(*grads, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=4 * 2**-24)
        root = np.float32(0.5**0.5)  # β of the product: n^-½
        np.testing.assert_allclose(grads[0][0], TWO * root, rtol=4 * 2**-24)
        np.testing.assert_allclose(grads[0][1], 8 * TWO * root, rtol=4 * 2**-24)

    @executors
    def test_a_factor_does_not_overwrite_it(self, fast):
        """β = 8 of an identity: the fast executor would multiply a gradient of its own in place."""
        x = leaf([0.0, 0.0], scheme="unit", fast=fast)
        h = apply(ops.Scaled(1.0, 8.0), x).retain_grad()
        y = apply(ops.Gelu(), h)
        backward(y, [1.0, 2.0])
        slope = np.float32(y.variable.node.scales.beta[0] / 2)  # gelu'(0) = ½
        np.testing.assert_allclose(h.grad, [slope, 2 * slope], rtol=4 * 2**-24)
        np.testing.assert_allclose(x.grad, [8 * slope, 16 * slope], rtol=4 * 2**-24)

    @executors
    def test_of_sparse_rows_the_whole(self, fast):
        """An embedding sends rows to a Scaled, which retains the table's whole gradient."""
        table = leaf(np.ones((3, 1)), fast=fast)
        h = apply(ops.Scaled(), table).retain_grad()
        backward(apply(ops.Embedding(), h, np.array([2, 0, 2])), np.ones((3, 1)))
        assert h.grad.tolist() == table.grad.tolist() == [[1], [0], [2]]

    @pytest.mark.parametrize("precision", ["fp16", "fp8", "fp8,accumulate=exact"])
    @executors
    def test_it_is_what_a_probe_sees_and_changes_no_cast(self, precision, fast):
        runs = []
        for retain in (True, False):
            seen = {}
            tape = Tape("unit", precision, probe=lambda way, v, a, seen=seen: seen.update({(way, v): a}), fast=fast)
            x, w = tape.tensor(TWO, "x"), tape.tensor(np.eye(2), "w")
            h = apply(ops.Gelu(), apply(ops.Matmul(), x, w))
            y = h + h
            if retain:
                h.retain_grad()
            backward(y, TWO)
            runs.append([(c.variable.name, c.place, c.cast) for c in tape.casts])
            if retain:
                assert_same_bits(h.grad, seen["backward", h.variable])
        assert runs[0] == runs[1]

    def test_it_goes_with_the_tape(self):
        x = leaf()
        y = (x + x).retain_grad()
        backward(y, TWO)
        gone = weakref.ref(y.grad)
        gc.disable()
        try:
            del x, y
            assert gone() is None
        finally:
            gc.enable()
