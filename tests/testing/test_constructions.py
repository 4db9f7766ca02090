"""Constructions have the documented values, to the last bit where stated."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale.errors import ArgumentError, CarrierError
from refscale.testing import assert_exact_rms, correlated_rows, hadamard, quantile_grid, rms, signs, std
from refscale.testing import assert_within_standard_errors as within

SEEDS = st.integers(0, 2**32 - 1)


# hadamard and signs


@pytest.mark.parametrize("n", [1, 2, 4, 64, 256])
def test_hadamard_is_orthogonal(n):
    h = hadamard(n)
    assert np.array_equal(np.abs(h), np.ones((n, n)))
    assert np.array_equal(h @ h.T, n * np.eye(n))
    assert np.array_equal(h, h.T)


@pytest.mark.parametrize("n", [0, -2, 3, 12])
def test_hadamard_needs_a_power_of_two(n):
    with pytest.raises(ArgumentError, match=f"hadamard: n is {n}, expected a power of two"):
        hadamard(n)


def test_signs_are_signs():
    x = signs((300, 200), np.random.default_rng(0))
    assert x.dtype == np.float64
    assert np.array_equal(np.abs(x), np.ones((300, 200)))
    within(x.mean(), 0.0, 60_000**-0.5)
    assert np.array_equal(x, signs((300, 200), np.random.default_rng(0)))


@given(st.integers(0, 6), st.data(), st.integers(1, 40), SEEDS)
def test_hadamard_columns_times_signs_have_rms_sqrt_m(log_b, data, n, seed):
    b = 2**log_b
    columns = data.draw(st.lists(st.integers(0, b - 1), min_size=1, unique=True))
    x, w = hadamard(b)[:, columns], signs((len(columns), n), np.random.default_rng(seed))
    y = x @ w
    assert np.sum(y * y) == len(columns) * y.size  # exactly: integers
    assert rms(y) == math.sqrt(len(columns))
    assert rms(w.T @ x.T) == math.sqrt(len(columns))  # rows of H on the right


def test_rows_of_hadamard_on_the_left_are_not_enough():
    """The converse of the docstring: x^T x must be a multiple of the identity."""
    y = hadamard(64)[:5] @ signs((64, 7), np.random.default_rng(0))
    assert rms(y) != 8.0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("m", [1, 3, 40, 64])
def test_unit_scaled_product_has_rms_one_and_gradients_too(dtype, m):
    rng = np.random.default_rng(m)
    x, w = hadamard(64)[:, :m], signs((m, 24), rng)
    factor = np.array(m**-0.5, dtype)
    y = (x @ w).astype(dtype)
    assert_exact_rms(y * factor)
    with pytest.raises(AssertionError, match="the RMS is"):
        assert_exact_rms(y * np.array(1.03 * m**-0.5, dtype))
    with pytest.raises(AssertionError, match="the RMS is"):
        assert_exact_rms(y, expected=1.03 * math.sqrt(m), roundings=1)


def test_square_hadamard_gives_both_gradients():
    n = 32
    rng = np.random.default_rng(0)
    x, w, g = signs((n, n), rng), hadamard(n), signs((n, n), rng)
    assert rms(x @ w) == rms(g @ w.T) == math.sqrt(n)
    assert rms(hadamard(n).T @ g) == math.sqrt(n)


# assert_exact_rms


def test_exact_rms_bound_is_a_few_roundoffs():
    x = np.ones(4, np.float32)
    one_ulp = np.nextafter(x, np.float32(2))
    assert_exact_rms(one_ulp)  # 2^-23 = two roundings of 2^-24
    with pytest.raises(
        AssertionError, match=r"relative error 1\.19e-07, where 1 roundings to float32 explain 5\.96e-08"
    ):
        assert_exact_rms(one_ulp, roundings=1)
    with pytest.raises(AssertionError, match="explain 3e-15"):
        assert_exact_rms(np.full(4, 1 + 1e-14), roundings=0)
    assert_exact_rms(np.full(4, 3.0), 3.0, roundings=0)


def test_exact_rms_rejects_nan():
    with pytest.raises(AssertionError, match=r"the RMS is nan, expected 1\.0"):
        assert_exact_rms([1.0, np.nan])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: assert_exact_rms([]), ArgumentError, r"rms: x has shape \(0,\), expected at least one element"),
        (lambda: assert_exact_rms([1.0], 0.0), ArgumentError, "expected is 0.0"),
        (lambda: assert_exact_rms([1.0], roundings=-1), ArgumentError, "roundings is -1"),
        (lambda: assert_exact_rms([1]), CarrierError, "x is int64"),
        (lambda: rms([]), ArgumentError, "at least one element"),
        (lambda: std([]), ArgumentError, "std: x has shape"),
        (lambda: rms([1j]), CarrierError, "rms: x is complex128, expected real numbers"),
        (lambda: quantile_grid(0), ArgumentError, "quantile_grid: n is 0"),
        (lambda: correlated_rows(np.random.default_rng(0), 0, 1, 0.1), ArgumentError, "b is 0 and n is 1"),
        (lambda: correlated_rows(np.random.default_rng(0), 1, 1, 1.1), ArgumentError, "share is 1.1"),
    ],
)
def test_arguments_out_of_range(call, error, message):
    with pytest.raises(error, match=message):
        call()


# rms and std


def test_rms_and_std_are_measured_in_float64():
    x = np.full(10_000, 300.0, np.float16)  # the square overflows float16, the sum of squares float32's integers
    assert rms(x) == 300.0
    assert std(x) == 0.0
    assert std([1.0, 2.0, 3.0, 4.0]) == math.sqrt(1.25)
    assert rms([3, 4]) == math.sqrt(12.5)
    assert rms(ml_dtypes.float8_e4m3fn(448)) == 448.0


# quantile_grid

# std f(X), RMS f(X), RMS f'(X) for X ~ N(0, 1), from quadrature with 30 digits
INTEGRALS = {
    "relu": (0.5838193701035489, 0.7071067811865476, 0.7071067811865476),
    "tanh": (0.6279287303491067, 0.6279287303491067, 0.681471131045379),
    "silu": (0.5595384678415067, 0.5964692111227134, 0.6160213889410248),
    "sigmoid": (0.20827634493166275, 0.5416447506051295, 0.21174569972066581),
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


FUNCTIONS = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "tanh": (np.tanh, lambda x: np.cosh(x) ** -2.0),
    "silu": (lambda x: x * sigmoid(x), lambda x: sigmoid(x) * (1 + x * sigmoid(-x))),
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * sigmoid(-x)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_quantile_grid_integrates_activations(name):
    """With the accuracy that the docstring claims."""
    f, derivative = FUNCTIONS[name]
    x = quantile_grid(65_536)
    assert std(f(x)) == pytest.approx(INTEGRALS[name][0], rel=2e-5)
    assert rms(f(x)) == pytest.approx(INTEGRALS[name][1], rel=2e-5)
    assert rms(derivative(x)) == pytest.approx(INTEGRALS[name][2], rel=2e-7)


@given(st.integers(1, 300))
def test_quantile_grid_is_odd_and_ascending(n):
    x = quantile_grid(n)
    assert x.shape == (n,)
    assert np.array_equal(x, -x[::-1])
    assert (np.diff(x) > 0).all()


def test_quantile_grid_values():
    assert quantile_grid(1).tolist() == [0.0]
    assert quantile_grid(3)[2] == pytest.approx(0.967421566101701, rel=1e-15)  # Phi^-1(5/6)
    assert quantile_grid(10**5)[-1] == pytest.approx(4.417173413469022, rel=1e-14)  # Phi^-1(1 - 5e-6)


# correlated_rows


def test_correlated_rows_have_unit_variance_and_break_the_batch_rule():
    """RMS of sums over the batch, by formula; a sum's square has kurtosis 3 over 4096 columns, and 9 over a product."""
    rng = np.random.default_rng(7)
    b, n, share = 1024, 4096, 0.1
    x = correlated_rows(rng, b, n, share)
    # mean x^2 over columns: variance 2 (share^2 + ...) / n at most 2 / n for any correlation
    within(np.mean(x**2), 1.0, math.sqrt(2 / n))
    bias = x.sum(axis=0) * b**-0.5
    square = 1 + (b - 1) * share
    within(np.mean(bias**2), square, square * math.sqrt(2 / n))
    assert math.sqrt(square) == pytest.approx(10.2, abs=0.05)

    g = correlated_rows(rng, b, n, share)
    weight = np.sum(x * g, axis=0) * b**-0.5  # n independent elements of x^T g
    square = 1 + (b - 1) * share**2
    within(np.mean(weight**2), square, square * math.sqrt(8 / n))
    assert math.sqrt(square) == pytest.approx(3.35, abs=0.01)


def test_correlated_rows_at_the_ends():
    rng = np.random.default_rng(0)
    assert np.ptp(correlated_rows(rng, 8, 3, 1.0), axis=0).tolist() == [0, 0, 0]
    bias = correlated_rows(rng, 64, 4096, 0.0).sum(axis=0) / 8
    within(np.mean(bias**2), 1.0, math.sqrt(2 / 4096))
