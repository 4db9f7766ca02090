"""Why tensors leave unit scale: one graph for each cause, with contributions computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from refscale import ops
from refscale.engine import Tape, apply
from refscale.prediction import predict_graph
from refscale.scales import geometric
from refscale.stats.causes import CAUSES, causes


def tape_of(scheme="unit"):
    return Tape(scheme, dtype=np.float64)


def leaf(tape, *shape, name="x"):
    return tape.tensor(np.ones(shape), name)


def cause(output, tensor, kind="activation", std=1.0):
    """The cause of the scale of one tensor."""
    prediction = predict_graph(output, std)
    (found,) = causes(output, prediction, [("t", kind, tensor.variable)])
    assert (found.tensor, found.kind) == ("t", kind)
    assert found.remedy == CAUSES.get(found.cause, "")
    return found


def test_a_constraint():
    """4 → 4096, tied: (4·4096)^-¼·√4 = 2^-2.5."""
    tape = tape_of()
    x, w = leaf(tape, 8, 4), leaf(tape, 4, 4096, name="w")
    y = apply(ops.Matmul(), x, w, constraint=geometric, constrained=(0,))
    found = cause(y, y)
    assert (found.cause, found.calls, found.at) == ("constraint", 1, "matmul #0")
    assert found.log2 == pytest.approx(-2.5, abs=1e-12)


def test_constraints_of_several_calls():
    """Two of 2^-1.5 each, with the larger named; the scope is, too."""
    tape = tape_of()
    h = leaf(tape, 8, 4)
    with tape.scope("block"):
        for m, n in ((4, 64), (64, 2048)):
            h = apply(ops.Matmul(), h, leaf(tape, m, n, name="w"), constraint=geometric, constrained=(0,))
    found = cause(h, h)
    assert (found.cause, found.calls, found.at) == ("constraint", 2, "block: matmul #1")
    assert found.log2 == pytest.approx(-1 - 1.25, abs=1e-12)


def test_no_factor():
    """Weights of σ 1 without factors: √256 = 2^4."""
    tape = tape_of("regular")
    y = apply(ops.Matmul(), leaf(tape, 8, 256), leaf(tape, 256, 3, name="w"))
    found = cause(y, y)
    assert (found.cause, found.calls) == ("no factor", 1)
    assert found.log2 == pytest.approx(4, abs=1e-12)


def test_the_gradient_of_a_weight_has_the_cause_of_its_input():
    """The input has √256 = 2^4, and the gradient sums 8 rows of it: √8 = 2^1.5."""
    tape = tape_of("regular")
    h = apply(ops.Matmul(), leaf(tape, 8, 256), leaf(tape, 256, 3, name="w"))
    v = leaf(tape, 3, 3, name="v")
    found = cause(apply(ops.Matmul(), h, v), v, "weight gradient")
    assert (found.cause, found.calls, found.at) == ("no factor", 2, "matmul #0")
    assert found.log2 == pytest.approx(4 + 1.5, abs=1e-12)


def test_a_bias_of_zeros_is_not_followed():
    tape = tape_of("regular")
    product = apply(ops.Matmul(), leaf(tape, 8, 256), leaf(tape, 256, 3, name="w"))
    y = apply(ops.Bias(), product, leaf(tape, 3, name="bias"))
    assert (found := cause(y, y)).cause == "no factor"
    assert found.at == "matmul #0"


def test_an_initial_scale():
    tape = tape_of("regular")
    w = leaf(tape, 256, 3, name="w")
    y = apply(ops.Matmul(), leaf(tape, 8, 256), w)
    assert cause(y, w, "weight", std=0.02).cause == "initial scale"


def test_alike_values():
    """64 outputs of relu, of which 1/π of the mean square is common: the mean grows by √(1 + 63/π), not 1."""
    tape = tape_of()
    y = apply(ops.Mean((1,)), apply(ops.Relu(), leaf(tape, 3, 64, 5)))
    found = cause(y, y)
    assert (found.cause, found.calls, found.at) == ("alike values", 1, "mean #1")
    assert found.log2 == pytest.approx(math.log2(math.sqrt(1 + 63 / math.pi)), abs=1e-2)


def test_a_mean_that_products_see():
    """relu by its σ has the RMS √(½/(½ − 1/2π)) = 1.211 = 2^0.276; a product of eight, 2^2.2."""
    tape = tape_of()
    factors = [apply(ops.Relu(), leaf(tape, 5, 7)) for _ in range(8)]
    y = factors[0]
    for h in factors[1:]:
        y = apply(ops.Multiply(), y, h)
    found = cause(y, y)
    assert (found.cause, found.calls) == ("mean", 1)
    assert found.log2 == pytest.approx(0.276, abs=2e-3)


def test_alike_rows():
    """A mean over 64 places sends the same gradient to each: of b·64 terms of a bias, 64 are equal: √64 = 2^3."""
    tape = tape_of()
    bias = leaf(tape, 5, name="bias")
    y = apply(ops.Mean((1,)), apply(ops.Bias(), leaf(tape, 3, 64, 5), bias))
    found = cause(y, bias, "weight gradient")
    assert (found.cause, found.calls, found.at) == ("alike rows", 1, "bias #0")
    assert found.log2 == pytest.approx(3, abs=1e-9)
    assert "rows=alike" in found.remedy


def test_several_uses():
    """25 products of one tensor: the sum of as many gradients, √25 = 2^2.32; additions pass theirs on."""
    tape = tape_of()
    x = leaf(tape, 8, 16)
    products = [apply(ops.Matmul(), x, leaf(tape, 16, 16, name=f"w{i}")) for i in range(25)]
    total = products[0]
    for y in products[1:]:
        total = apply(ops.WeightedAdd((1.0, 1.0)), total, y)
    found = cause(total, x, "activation gradient")
    assert found.cause == "several uses"
    assert found.log2 == pytest.approx(math.log2(5), abs=1e-9)


def test_terms_that_cancel():
    """Keys and values that are equal for all queries: the softmax removes what its gradients share."""
    tape = tape_of()
    scores = apply(ops.ScalarMultiply(1.0), leaf(tape, 4, 6, 32))
    values = apply(ops.Expand((4, 32, 16)), leaf(tape, 4, 1, 16, name="v"))
    y = apply(ops.AttentionMix(), apply(ops.Softmax(), scores), values)
    found = cause(y, scores, "activation gradient")
    assert found.cause == "cancellation"
    assert found.log2 < -2


def test_what_is_not_predicted():
    tape = tape_of()
    y = apply(ops.Log(), leaf(tape, 4))
    found = cause(y, y)
    assert (found.cause, found.log2, found.calls, found.at, found.remedy) == ("not predicted", 0.0, 0, "", "")


@pytest.mark.parametrize(("n", "expected"), [(256, "data"), (257, "no factor"), (16, "data"), (15, "data")])
def test_what_is_within_the_range_by_prediction(n, expected):
    """Of n equal terms without a factor, σ·√n = 4 and just above, ¼ and just below."""
    tape = tape_of("regular")
    y = apply(ops.Matmul(), leaf(tape, 8, n), leaf(tape, n, 3, name="w"))
    assert cause(y, y, std={"w": 0.25}).cause == expected
    below = predict_graph(y, {"w": 0.0625}).values[y.variable].rms < 0.25
    assert (cause(y, y, std={"w": 0.0625}).cause == "data") is not below


def test_every_cause_has_a_remedy():
    assert all(CAUSES.values())


def test_a_rule_that_does_not_fit():
    """The correlated rule, α = 1/t, of 256 independent values: √256/256 = 2^-4; of equal values it fits."""
    tape = tape_of()
    weights = apply(ops.ScalarMultiply(1.0), leaf(tape, 4, 6, 256))
    y = apply(ops.AttentionMix(), weights, apply(ops.ScalarMultiply(1.0), leaf(tape, 4, 256, 16, name="v")))
    found = cause(y, y)
    assert found.cause == "another rule"
    assert found.log2 == pytest.approx(-4, abs=1e-9)
