"""Plans in which outputs that are only multiplied have RMS 1: these outputs, and the effect on a stack."""

import math

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import Tape, apply, backward
from refscale.errors import ArgumentError
from refscale.graph import plan
from refscale.scales import Unit, regular

WIDTH, DEPTH = 128, 12
RELU, SIGMOID = ops.Relu().moments(), ops.Sigmoid().moments()


def stack(x, p):
    """relu and matmul, without norms."""
    for i in range(DEPTH):
        x = apply(ops.Matmul(), apply(ops.Relu(), x), p[f"w{i}"])
    return x


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return rng.standard_normal((64, WIDTH)), {f"w{i}": rng.standard_normal((WIDTH, WIDTH)) for i in range(DEPTH)}


def rms(x):
    return math.sqrt(np.mean(np.square(x)))


def run(scheme, x, p, fn=stack):
    tape = Tape(scheme, dtype=np.float64)
    leaves = {name: tape.tensor(value, name) for name, value in p.items()}
    return fn(tape.tensor(x, "x"), leaves), leaves


def test_a_stack_without_norms(arrays):
    """By standard deviation it grows by (1 − 1/π)^-½ at every layer, tenfold in all."""
    found = {
        products: rms(run(plan(stack, *arrays, products=products), *arrays)[0].value) for products in ("std", "rms")
    }
    assert found["rms"] == pytest.approx(1, rel=0.25)  # twelve relative errors of 2·128^-1 in the mean square
    assert found["std"] / found["rms"] == pytest.approx((1 - 1 / math.pi) ** (-DEPTH / 2), rel=1e-12)


def test_it_is_a_multiple_of_the_same_function_and_gradient(arrays):
    scheme = plan(stack, *arrays, products="rms")
    for x in (arrays[0], arrays[0][:5]):  # of any batch
        y, leaves = run(scheme, x, arrays[1])
        true, true_leaves = run(regular, x, arrays[1])
        g = np.random.default_rng(1).standard_normal(y.shape)
        backward(y, g)
        backward(true, g)
        ratios = y.value / true.value
        assert np.ptp(ratios) <= 1e-9 * np.mean(ratios)
        for name, leaf in leaves.items():
            gradient = true_leaves[name].grad
            factor = np.vdot(leaf.grad, gradient) / np.vdot(gradient, gradient)
            assert np.max(np.abs(leaf.grad - factor * gradient)) <= 1e-12 * np.max(np.abs(leaf.grad))


def gated(x, p):
    return apply(ops.Multiply(), apply(ops.Sigmoid(), apply(ops.Matmul(), x, p["w"])), x)


def shaped(x, p):
    h = apply(ops.Reshape((-1, 4)), apply(ops.Relu(), x))
    return apply(ops.Matmul(), apply(ops.Reshape((-1, 8)), h), p["w"])


def gate(x, p):
    """The gate of a gated unit is not a factor of the product: its function is."""
    return F.glu(apply(ops.Relu(), apply(ops.Matmul(), x, p["w"])), x, constraint="none")


def gated_by(x, p):
    return F.glu(x, apply(ops.Relu(), apply(ops.Matmul(), x, p["w"])), constraint="none")


def averaged(x, p):
    return apply(ops.Mean((1,)), apply(ops.Relu(), apply(ops.Matmul(), x, p["w"])))


def both(x, p):
    """Multiplied, and added."""
    h = apply(ops.Relu(), x)
    return apply(ops.Add(), apply(ops.Matmul(), h, p["w"]), h)


def last(x, p):
    """Used by nothing."""
    return apply(ops.Relu(), apply(ops.Matmul(), x, p["w"]))


USES = {gated: SIGMOID.rms, shaped: RELU.rms, gate: RELU.rms}
NO_PRODUCT = {gated_by: RELU.std, averaged: RELU.std, both: RELU.std, last: RELU.std}


@pytest.mark.parametrize("fn", [*USES, *NO_PRODUCT], ids=lambda fn: fn.__name__)
def test_which_outputs_are_only_multiplied(fn):
    scheme = plan(fn, np.ones((2, 8)), {"w": np.ones((8, 8))}, products="rms", mean="none", add="none")
    (step,) = (s for s in scheme.steps if s.op.has_mean)
    assert 1 / step.unconstrained.alpha == pytest.approx((USES | NO_PRODUCT)[fn], rel=1e-12)
    assert scheme.name == "plan(none,products=rms)"


def test_ops_that_multiply():
    """Attention mixes by weights whose rule makes their mean 1, and damps scores of inputs without a mean."""
    found = {name: kind.multiplies for name, kind in ops.OPS.items() if kind.multiplies}
    products = ("multiply", "matmul", "readout", "conv1d", "conv2d", "conv3d", "conv_transpose")
    assert found == {**dict.fromkeys(products, (0, 1)), "silu_glu": (0,), "glu": (0,)}


def test_the_other_way_round():
    """A base by RMS, its products by standard deviation."""
    arrays = np.ones((2, 8)), {"w": np.ones((8, 8))}
    base = Unit("unit-rms", "rms")
    scheme = plan(shaped, *arrays, base=base, products="std", mean="none")
    assert 1 / scheme.steps[0].unconstrained.alpha == pytest.approx(RELU.std)
    scheme = plan(averaged, *arrays, base=base, products="std", mean="none")
    assert 1 / scheme.steps[1].unconstrained.alpha == pytest.approx(RELU.rms)


def test_another_statistic_is_refused():
    with pytest.raises(ArgumentError, match=r"plan\(products='mean'\): expected 'std' or 'rms'"):
        plan(last, np.ones((2, 8)), {"w": np.ones((8, 8))}, products="mean")
