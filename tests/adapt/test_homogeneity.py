"""Every op declares what becomes of its result when an input is multiplied by a number."""

from __future__ import annotations

import numpy as np
import pytest

from refscale import ops
from refscale.engine import Sizes

SIZES = Sizes(b=4, m=6, n=4, s=5)
EXAMPLES = [e for kind in ops.OPS.values() for e in kind.examples(SIZES)]
named = pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: repr(e.op))


def outcome(op, arrays):
    return op.forward(*arrays)[0]


def scaled(op, arrays, rng):
    """Arrays times numbers that the declaration allows, and these."""
    together = 2.0 ** rng.uniform(-3, 3)
    factors = []
    for degree in op.degrees(len(arrays)):
        free = isinstance(degree, int | float) or degree in ("weighted", "any")
        factors.append(2.0 ** rng.uniform(-3, 3) if free else together if degree == "together" else 1.0)
    return [x if s == 1 else s * x for s, x in zip(factors, arrays, strict=True)], factors


@named
def test_it_is_declared_for_every_input(example):
    op = example.op
    degrees = op.degrees(len(example.inputs))
    assert len(degrees) == len(example.inputs), f"{op.name} declares no homogeneity"
    assert [i for i, d in enumerate(degrees) if d is None] == list(op.constants)


@named
def test_the_declaration_holds(example):
    rng = np.random.default_rng(0)
    for _ in range(3):
        arrays = example.arrays(rng)
        larger, factors = scaled(example.op, arrays, rng)
        op, factor = example.op.at_scales(*factors)
        expected, found = outcome(example.op, larger), factor * outcome(op, arrays)
        assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max(), factors


def degree_of(op, arrays, i):
    """log2 f(2·x_i)/f(x), if it is one number for all elements and for 16·x_i, too; else None."""
    y = outcome(op, arrays)
    found = []
    for s in (2.0, 16.0):
        other = outcome(op, [s * x if k == i else x for k, x in enumerate(arrays)])
        live = np.abs(y) > 1e-9
        with np.errstate(all="ignore"):
            found += list((np.log2(other[live] / y[live]) / np.log2(s)).ravel())
    return found[0] if np.allclose(found, found[0], atol=1e-9) and np.isfinite(found[0]) else None


@named
def test_an_input_with_a_degree_is_not_declared_as_one_without(example):
    """Found by trying: "own" and "together" have no degree of their own, and all other inputs have the declared one."""
    arrays = example.arrays(np.random.default_rng(1))
    for i, degree in enumerate(example.op.degrees(len(arrays))):
        if degree in ("own", "together"):
            assert degree_of(example.op, arrays, i) is None, i
        elif isinstance(degree, int | float):
            assert degree_of(example.op, arrays, i) == pytest.approx(degree, abs=1e-9), i


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(ops.Square, (1,)), (ops.Gelu, (1,)), (ops.Multiply, ("together", "together")), (ops.Softmax, ("any",))],
)
def test_a_wrong_declaration_is_seen(kind, wrong, monkeypatch):
    monkeypatch.setattr(kind, "homogeneity", wrong)
    with pytest.raises(AssertionError):
        test_the_declaration_holds(kind.examples(SIZES)[0])


@pytest.mark.parametrize("kind", [ops.Relu, ops.Matmul])
def test_a_degree_that_is_not_declared_is_seen(kind, monkeypatch):
    monkeypatch.setattr(kind, "homogeneity", ("own",) * len(kind.inputs))
    with pytest.raises(AssertionError):
        test_an_input_with_a_degree_is_not_declared_as_one_without(kind.examples(SIZES)[0])


def test_weights_and_eps_by_hand():
    """2·x and 3·(0.5·y) have weights 2 and 1.5 over h = 2.5; eps of a norm of x over 2 is a quarter."""
    op, factor = ops.WeightedAdd((1.0, 0.5)).at_scales(2.0, 3.0)
    assert (op.weights, factor) == ((0.8, 0.6), 2.5)
    op, factor = ops.Add().at_scales(3.0, 4.0)
    assert (op.weights, factor) == ((0.6, 0.8), 5.0)
    assert ops.LayerNorm(0.5).at_scales(2.0, 1.0, 1.0) == (ops.LayerNorm(0.125), 1.0)
    assert ops.RmsNorm(0.5).at_scales(2.0, 3.0) == (ops.RmsNorm(0.125), 3.0)
    assert ops.Square().at_scales(3.0) == (ops.Square(), 9.0)
    assert ops.Highway(0.0).at_scales(2.0, 2.0, 1.0) == (ops.Highway(0.0), 2.0)
