"""Sums over leading axes and by index: at most one ulp of Σ|x| off, in every op, in kernel and readable form."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale import ops
from refscale.engine import Rows
from refscale.ops.kernels import blocks
from refscale.ops.sums import total, total_by_index
from refscale.testing import assert_same_bits
from refscale.testing.strategies import seeds
from tests.ops.cases import PROPERTY

ROWS = 1 << 16
GRADIENT = np.random.default_rng(0).uniform(250, 320, (ROWS, 2)).astype(np.float32)
"""Row by row in float32, the sums of these columns are 30 to 70 ulp off; the bound of ``total`` here is 0.5 ulp."""


def exact_sum(x, axis=0):
    """Σ x of float32 below 2^9 that are multiples of 2^-16, in integers."""
    return (x.astype(np.float64) * 2**16).astype(np.int64).sum(axis) / 2**16


def ulps(actual, expected, magnitude):
    return np.max(np.abs(actual.astype(np.float64) - expected) / np.spacing(np.float32(magnitude)))


ROW, ONES = np.ones(2, np.float32), np.ones_like(GRADIENT)
SIGNS = ONES * np.float32([-1, 1])
PARAMETERS = {  # op, arrays, position of a parameter, and the terms of its gradient
    "bias": (ops.Bias(), (ONES, ROW), 1, GRADIENT),
    "add": (ops.Add(), (ROW, ONES), 0, GRADIENT),
    "subtract": (ops.Subtract(), (ONES, ROW), 1, -GRADIENT),
    "weighted_add": (ops.WeightedAdd((1.0, 2.0)), (ONES, ROW), 1, 2 * GRADIENT),
    "multiply": (ops.Multiply(), (ONES, ROW), 1, GRADIENT),
    "layer_norm gain": (ops.LayerNorm(0.0), (SIGNS, ROW, ROW), 1, SIGNS * GRADIENT),
    "layer_norm bias": (ops.LayerNorm(0.0), (SIGNS, ROW, ROW), 2, GRADIENT),
    "rms_norm gain": (ops.RmsNorm(0.0), (SIGNS, ROW), 1, SIGNS * GRADIENT),
    "gather": (ops.Gather(), (ROW[None], np.zeros(ROWS, int)), 0, GRADIENT),
    "embedding, one row": (ops.Embedding(), (ROW[None], np.zeros(ROWS, int)), 0, GRADIENT),
    "embedding, many rows": (
        ops.Embedding(),
        (np.ones((512, 2), np.float32), np.arange(ROWS) % 512),
        0,
        GRADIENT.reshape(-1, 512, 2),
    ),
}
FORMS = [(name, form) for name in PARAMETERS for form in ("readable", "kernel")]


HAVE = [(name, form) for name, form in FORMS if form == "readable" or PARAMETERS[name][0].fast_forward]


@pytest.mark.parametrize(("name", "form"), HAVE)
def test_gradients_of_parameters(monkeypatch, name, form):
    monkeypatch.setattr(blocks, "BLOCK", 256)  # the kernels of norms add up 512 blocks
    op, arrays, position, terms = PARAMETERS[name]
    if form == "readable":
        gradient = op.backward(GRADIENT, *op.forward(*arrays)[1])[position]
    else:
        betas = [1.0 if i == position else None for i in range(len(arrays))]
        gradient = op.fast_backward(betas, GRADIENT, *op.fast_forward(1.0, *arrays)[1])[position]
    actual = gradient.dense() if isinstance(gradient, Rows) else gradient
    assert actual.dtype == np.float32
    assert actual.shape == arrays[position].shape
    assert ulps(actual, exact_sum(terms), exact_sum(np.abs(terms))) <= 0.51


@pytest.mark.parametrize("axes", [(0,), None, (-1,), (0, 1)])
def test_sums_and_means(axes):
    n = math.prod(GRADIENT.shape[a] for a in (axes or (0, 1)))
    expected = exact_sum(GRADIENT, axes)
    (y, _), (mean, _) = ops.Sum(axes).forward(GRADIENT), ops.Mean(axes).forward(GRADIENT)
    assert ulps(y, expected, expected) <= 0.51
    assert ulps(mean, expected / n, expected / n) <= 0.51


def test_losses():
    x = np.round(GRADIENT)
    expected = exact_sum((x / 256) ** 2, None) / x.size  # of integers over 2^8: exact squares
    assert ulps(ops.MseLoss().forward(x / 256, 0 * x)[0], expected, expected) <= 0.51
    large, one = np.float32(2**24), np.float32(1)
    assert ops.LossSum().forward(large, one, one)[0] == 2**24 + 2


def test_a_small_number_beside_a_large_one_counts():
    """2^24 + 1 + 1: in float32, either addition is a tie and leaves 2^24."""
    column = np.float32([[2**24], [1], [1]])
    assert_same_bits(total(column, 0), np.float32([2**24 + 2]))
    assert_same_bits(total(column), np.asarray(np.float32(2**24 + 2)))
    assert_same_bits(total(column, 0, keepdims=True, over=2), np.float32([[2**23 + 1]]))
    for indices in ([5, 5, 5], [5, 5, 5, 0, 1, 2, 3]):
        rows = np.concatenate([column, np.ones((len(indices) - 3, 1), np.float32)])
        found, sums = total_by_index(rows, np.array(indices))
        assert_same_bits(sums[-1], np.float32([2**24 + 2]))
        assert found.tolist() == sorted(set(indices))


def test_a_mean_does_not_overflow():
    assert_same_bits(ops.Mean((0,)).forward(np.full((4, 1), 3e38, np.float32))[0], np.float32([3e38]))


def test_rows_by_index():
    rows = np.arange(10, dtype=np.float64).reshape(5, 2)
    found, sums = total_by_index(rows, np.array([7, 2, 7, 0, 2]))
    assert found.tolist() == [0, 2, 7]
    assert_same_bits(sums, np.array([[6.0, 7.0], [2 + 8.0, 3 + 9.0], [0 + 4.0, 1 + 5.0]]))
    found, sums = total_by_index(rows[:0], np.array([], int))
    assert found.shape == (0,)
    assert sums.shape == (0, 2)


@PROPERTY
@given(seeds(), st.integers(1, 12), st.integers(1, 4))
def test_sums_by_index_are_those_of_each_index(seed, count, n):
    rng = np.random.default_rng(seed)
    rows, indices = rng.standard_normal((count, 3)).astype(np.float32), rng.integers(0, n, count)
    found, sums = total_by_index(rows, indices)
    assert_same_bits(sums, np.stack([total(rows[indices == i], 0) for i in found]))
    assert found.tolist() == sorted(set(indices.tolist()))


def test_nothing_adds_up_to_zero():
    assert_same_bits(ops.Sum((0,)).forward(np.ones((0, 2), np.float32))[0], np.zeros(2, np.float32))
