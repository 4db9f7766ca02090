"""Operands of contractions times a constant before the cast, and transformed before it, against casts by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from refscale import ops
from refscale.engine import Tape, apply, backward
from refscale.errors import ArgumentError, GoldenError
from refscale.golden.call_bounds import intervals
from refscale.precision import Precision, get_precision
from refscale.rivals import TensorScaling
from refscale.scales import Scales, regular
from tests.core.one_step import step

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
EVEN = np.array([True, False] * 4)
MIX = "operand=e2m1fn,operand_gradient=e2m1fn"


def to_e2m1(x):
    """The nearest of eight magnitudes, of two equally near the one with the even code."""
    distances = np.abs(np.abs(x)[..., None] - E2M1)
    nearest = distances == distances.min(-1, keepdims=True)
    code = np.where((nearest & EVEN).any(-1), (nearest & EVEN).argmax(-1), nearest.argmax(-1))
    return np.copysign(E2M1[code], x)


def hadamard_matrix(n):
    """H·diag(signs)/√n, entry by entry: (−1)^(number of ones that both indices have)."""
    signs = [1 - 2 * (int(word) >> 63) for word in np.random.PCG64(n).random_raw(n)]
    return np.array([[(-1) ** (i & j).bit_count() * signs[j] for j in range(n)] for i in range(n)]) / math.sqrt(n)


def transformed(x, n):
    """Every n rows, the last ones filled up with zeros."""
    rows = -(-len(x) // n) * n
    filled = np.zeros((rows, x.shape[1]))
    filled[: len(x)] = x
    return np.concatenate([hadamard_matrix(n) @ filled[k : k + n] for k in range(0, rows, n)])


RNG = np.random.default_rng(4)
X, W, G = (RNG.integers(-12, 13, shape) / 8 for shape in ((6, 5), (5, 3), (6, 3)))


def matmul(policy, fast, **options):
    tape = Tape(regular, policy, fast=fast, **options)
    x, w = tape.tensor(X, "x"), tape.tensor(W, "w")
    y = apply(ops.Matmul(), x, w)
    backward(y, G)
    return y.value, x.grad, w.grad, tape


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("factor", [1, 2, 0.5])
def test_a_factor_before_the_cast(factor, fast):
    """cast(c·x)/c of both operands and of the gradient; all sums are exact in float32."""

    def q(x):
        return to_e2m1(factor * x) / factor

    y, dx, dw, tape = matmul(get_precision(f"{MIX},operand_factor={factor}"), fast)
    np.testing.assert_array_equal(y, q(X) @ q(W))
    np.testing.assert_array_equal(dx, q(G) @ q(W).T)
    np.testing.assert_array_equal(dw, q(X).T @ q(G))
    assert [(c.place, c.scale) for c in tape.rounder.casts] == [
        ("operand", factor),
        ("operand", factor),
        ("operand_gradient", factor),
    ]


def test_the_factor_matters():
    """0.2 underflows without it, 4 overflows with it: a cast that ignores it is seen by the test above."""
    tape = Tape(regular, get_precision(f"{MIX},operand_factor=2"), count_casts=True)
    y = apply(ops.Matmul(), tape.tensor([[0.2, 4.0]]), tape.tensor(np.eye(2)))
    np.testing.assert_array_equal(y.value, [[0.25, 3]])
    assert [(c.clipped, c.flushed) for c in tape.rounder.casts] == [(1, 0), (0, 0)]
    assert (to_e2m1(2 * X) / 2 != to_e2m1(X)).any()


def test_stored_tensors_have_no_factor():
    """0.2 is stored in bfloat16 as without a factor, and a product of no contraction is not scaled."""
    tape = Tape(regular, get_precision(f"store=e2m1fn,{MIX},operand_factor=2"))
    x = tape.tensor([0.2, 4.0])
    np.testing.assert_array_equal(x.value, [0, 4])
    np.testing.assert_array_equal(apply(ops.Add(), x, x).value, [0, 6])


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("n", [2, 4, 8])
def test_a_transform_before_the_cast(n, fast):
    """Of both operands of the weight's gradient, along its 6 rows; the other two products as without."""
    plain = matmul(get_precision(f"{MIX},operand_factor=2"), fast)
    y, dx, dw, tape = matmul(get_precision(f"{MIX},operand_factor=2,hadamard={n}"), fast)
    np.testing.assert_array_equal(y, plain[0])
    np.testing.assert_array_equal(dx, plain[1])

    def q(x):
        return to_e2m1(2 * transformed(x, n)) / 2

    np.testing.assert_allclose(dw, q(X).T @ q(G), rtol=1e-6, atol=1e-6)
    assert not np.array_equal(dw, plain[2])
    assert (
        sorted((c.place, c.scale) for c in tape.rounder.casts) == [("operand", 2)] * 4 + [("operand_gradient", 2)] * 2
    )


def test_without_casts_the_transform_changes_nothing():
    """It is orthogonal: (Hx)ᵀ(Hg) = xᵀg."""
    tape = Tape(regular, Precision("mine", hadamard=4), dtype=np.float64)
    x, w = tape.tensor(X), tape.tensor(W)
    backward(apply(ops.Matmul(), x, w), G)
    np.testing.assert_allclose(w.grad, X.T @ G, rtol=1e-14, atol=1e-14)


def test_contractions_without_a_weight_are_not_transformed():
    results = []
    for policy in (MIX, f"{MIX},hadamard=2"):
        tape = Tape(regular, get_precision(policy))
        q, k = tape.tensor(X[None]), tape.tensor(X[None, ::-1] * 0.5)
        scores = apply(ops.AttentionScores(), q, k)
        backward(scores, np.ones(scores.shape))
        results.append([scores.value, q.grad, k.grad])
    for with_transform, without in zip(*results, strict=True):
        np.testing.assert_array_equal(with_transform, without)


def test_gradients_rounded_stochastically():
    """Only the gradient that the contraction receives draws random bits; to nearest otherwise."""
    policy = get_precision("operand=e2m1fn,operand_gradient=e2m1fn/stochastic")
    y, dx, _, tape = matmul(policy, True, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(y, to_e2m1(X) @ to_e2m1(W))
    words = np.random.default_rng(1).integers(0, 2**32, G.shape, np.uint32)
    np.testing.assert_array_equal(dx, policy.operand_gradient(G, words) @ to_e2m1(W).T)
    assert [c.cast.rounding for c in tape.rounder.casts] == ["nearest_even", "nearest_even", "stochastic"]


def test_grammar():
    policy = get_precision(
        "store=bf16, operand=e2m1fn, operand_gradient=e2m1fn/stochastic, operand_factor=2^1, hadamard=16"
    )
    assert (policy.operand_factor, policy.hadamard) == (2.0, 16)
    assert str(policy.operand) == "float4_e2m1fn/nearest_even/saturate"
    assert str(policy.operand_gradient) == "float4_e2m1fn/stochastic/saturate"
    assert str(policy).endswith("operand_gradient=float4_e2m1fn/stochastic/saturate, operand_factor=2, hadamard=16)")
    assert str(get_precision("weights=fp16/nearest_even").weights) == "float16/nearest_even/nonsaturate"
    assert get_precision("fp8").operand_factor == 1
    for text in ("operand_factor=two", "hadamard=2.5", "operand_factor"):
        with pytest.raises(ArgumentError, match=r"expected (a number|one of fp32)"):
            get_precision(text)


@pytest.mark.parametrize("factor", [0, -2, 3, math.inf, math.nan, 2.0**65, 2.0**-65])
def test_factors_that_are_no_power_of_two_or_too_far(factor):
    with pytest.raises(ArgumentError, match=r"operand_factor is .*, expected a power of two from 2\^-64 to 2\^64"):
        Precision("mine", operand_factor=factor)


def test_the_ends_of_the_range():
    assert [Precision("mine", operand_factor=f).operand_factor for f in (2.0**64, 2.0**-64)] == [2.0**64, 2.0**-64]


@pytest.mark.parametrize("n", [-2, 1, 3, 12])
def test_lengths_of_a_transform(n):
    with pytest.raises(ArgumentError, match=rf"Precision\(hadamard={n}\): expected 0 or a power of two"):
        Precision("mine", hadamard=n)


def test_what_does_not_go_together():
    blocks = get_precision("mxfp4").blocks
    for fields in (
        {"blocks": blocks, "hadamard": 2},
        {"accumulate": "exact", "hadamard": 2},
        {"blocks": blocks, "operand_factor": 2},
    ):
        with pytest.raises(
            ArgumentError, match="hadamard together with blocks or accumulate, or operand_factor with blocks"
        ):
            Precision("mine", **fields)
    with pytest.raises(ArgumentError, match="hadamard together with scales of operands"):
        step(TensorScaling("current"), TensorScaling("current").init(), get_precision(f"{MIX},hadamard=2"))


def test_with_scales_of_operands_the_factors_multiply():
    technique = TensorScaling("current")
    scales = [
        [
            c.scale
            for c in step(technique, technique.init(), get_precision(f"{MIX},operand_factor={factor}"))[
                -1
            ].rounder.casts
        ]
        for factor in (1, 0.5)
    ]
    assert len(scales[0]) == 3
    assert scales[1] == [s / 2 for s in scales[0]]


def test_the_bounds_of_a_call_know_no_factor():
    with pytest.raises(GoldenError, match="operand_factor=2 has no bound"):
        intervals(ops.Matmul(), [X, W], None, Scales(1.0, (1.0, 1.0)), get_precision(f"{MIX},operand_factor=2"))
