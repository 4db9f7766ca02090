"""Inputs with a known result, for exact tests of scale, and one input that violates the assumption of independence.

A unit-variance rule states: if the inputs have unit scale, so has the output. Random inputs test it to a few percent
with a false-alarm rate. The inputs here test it to the last bits (`hadamard`, `signs`) or to 1e-5 (`quantile_grid`),
without false alarms; `correlated_rows` shows the result without the independence that the rule assumes.
"""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from refscale.arrays import plain
from refscale.blocks.operand import sylvester
from refscale.errors import ArgumentError, CarrierError

Float64Array = npt.NDArray[np.float64]


def hadamard(n: int) -> Float64Array:
    """Return Sylvester's Hadamard matrix: entries ±1, orthogonal rows, orthogonal columns.

        H_1 = [1],    H_2k = [[H_k, H_k], [H_k, -H_k]],    H H^T = H^T H = n I

    **A matrix product of known scale.** Let x (b, m) and w (m, n) have entries ±1. If x is m columns of `hadamard(b)`
    (m <= b), or w is m rows of `hadamard(n)` (m <= n), then y = x w has an RMS of exactly √m for any other matrix.
    *Proof.* In the first case x^T x = b I, so the sum of squares of y is tr(w^T x^T x w) = b tr(w^T w) =
    b m n, over b n elements. The second case is the transpose of the first. Every partial sum is an integer of at most
    m, so no float format with integers up to m rounds anything, in any order of summation. Hence the factor m^-½ must
    make the RMS exactly 1, up to the rounding of that factor and product (`assert_exact_rms`). The
    gradients g w^T and x^T g are such products, too: a square Hadamard w makes the first exact, x the second, g both.
    *Not* so for rows of H in x, as then x^T x is not a multiple of I.

    Args:
        n: side length, a power of two.

    Returns:
        float64 array of shape (n, n), ±1.

    Raises:
        ArgumentError: n is not a power of two.

    Source:
        Sylvester (1867), Philosophical Magazine 34, 461-475.

    Example:
        >>> y = hadamard(64)[:, :40] @ signs((40, 24), np.random.default_rng(0))
        >>> rms(y) == math.sqrt(40)
        True
    """
    if n < 1 or n & (n - 1):
        raise ArgumentError(f"hadamard: n is {n!r}, expected a power of two")
    return sylvester(n)


def signs(shape: int | tuple[int, ...], rng: np.random.Generator) -> Float64Array:
    """Return independent entries +1 and -1, each with probability 1/2.

        mean 0,  variance 1,  kurtosis 1

    Every sample has exactly unit variance, not only in expectation, and in a matrix product the lengths of the rows are
    equal: see `effective_samples_matmul`.

    Args:
        shape: shape of the result.
        rng: source of the signs.

    Returns:
        float64 array of the shape, ±1.
    """
    return np.where(rng.integers(0, 2, shape) == 1, 1.0, -1.0)


def quantile_grid(n: int) -> Float64Array:
    """Return n points at evenly spaced quantiles of the normal distribution.

        x_i = Φ^-1((i + 1/2) / n),    i = 0 ... n - 1

    The mean of f over the grid is the midpoint rule for E f(X), X ~ N(0, 1), over equal probabilities. With n = 65 536
    the standard deviations of the usual activations are within 2e-5 of their integrals, and the RMS of their bounded
    derivatives within 2e-7. The error is the tail beyond the last point, |x| > 4.3.

    Args:
        n: number of points, >= 1.

    Returns:
        float64 array of shape (n,), ascending, odd-symmetric to the last bit: x_i = -x_(n-1-i).

    Raises:
        ArgumentError: n is not positive.

    Source:
        Wichura's algorithm AS 241 in `statistics.NormalDist`, for the lower half, where it is precise; the upper half
        is mirrored.

    Example:
        >>> relu = np.maximum(quantile_grid(65_536), 0)
        >>> f"{rms(relu):.6f} {std(relu):.4f}"    # sqrt(1/2), sqrt(1/2 - 1/(2 pi))
        '0.707100 0.5838'
    """
    if n < 1:
        raise ArgumentError(f"quantile_grid: n is {n!r}, expected at least one point")
    quantile = NormalDist().inv_cdf
    lower = [quantile((i + 0.5) / n) for i in range(n // 2)]
    middle = [0.0] * (n % 2)
    return np.array([*lower, *middle, *(-x for x in reversed(lower))])


def correlated_rows(rng: np.random.Generator, b: int, n: int, share: float) -> Float64Array:
    """Return rows of unit variance with a common component, for which the factor b^-½ is wrong.

        x_i = √(share) c + √(1 - share) e_i,    c, e_i ~ N(0, I_n),    i = 1 ... b

    Every element is N(0, 1). But a sum over the rows times b^-½, as in the gradient of a bias, has RMS
    √(1 + (b - 1) share) instead of 1. If x and g each have such a component, x^T g b^-½, the gradient of a weight,
    has RMS √(1 + (b - 1) share^2). At share = 0.1 and b = 1024 these are 10.2 and 3.4.

    Args:
        rng: source of the components.
        b: number of rows, >= 1.
        n: length of a row, >= 1.
        share: common part of the variance, in [0, 1]; also the correlation of two rows.

    Returns:
        float64 array of shape (b, n).

    Raises:
        ArgumentError: an argument is outside its range.

    Derivation:
        sum_i x_i = b √(share) c + √(1 - share) sum_i e_i has variance b^2 share + b (1 - share). For the product,
        E (x_ik g_ij x_lk g_lj) is 1 if i = l and share^2 otherwise, so the variance is (b + b (b - 1) share^2) / b.
    """
    if b < 1 or n < 1:
        raise ArgumentError(f"correlated_rows: b is {b!r} and n is {n!r}, expected lengths >= 1")
    if not 0 <= share <= 1:
        raise ArgumentError(f"correlated_rows: share is {share!r}, expected a part of the variance in [0, 1]")
    common = rng.standard_normal((1, n))
    return math.sqrt(share) * common + math.sqrt(1 - share) * rng.standard_normal((b, n))


def rms(x: npt.ArrayLike) -> float:
    """Return the root of the mean square, in float64.

        rms(x) = √(mean x^2)

    Args:
        x: any shape with at least one element, any real dtype; |x| below 1e154, so that no square overflows.

    Returns:
        The RMS over all elements. For integers with sum x^2 <= 2^53 it is correctly rounded if the mean is an
        integer; otherwise the relative error is at most that of a pairwise sum, (24 + log2 size) 2^-53.

    Raises:
        ArgumentError: x is empty.
        CarrierError: x is complex.
    """
    wide = _wide("rms", x)
    return math.sqrt(float(np.mean(wide * wide)))


def std(x: npt.ArrayLike) -> float:
    """Return the standard deviation about the mean, in float64.

        std(x) = √(mean (x - mean x)^2)

    Args:
        x: any shape with at least one element, any real dtype; |x| below 1e154.

    Returns:
        The population standard deviation over all elements (divided by the count; no correction).

    Raises:
        ArgumentError: x is empty.
        CarrierError: x is complex.
    """
    wide = _wide("std", x)
    return rms(wide - np.mean(wide))


def assert_exact_rms(x: npt.ArrayLike, expected: float = 1.0, *, roundings: int = 2) -> None:
    """Assert that the RMS of x is a known number, up to the rounding of its elements.

        |rms(x) / expected - 1| <= (1 + u)^roundings - 1 + (25 + log2 size) 2^-53,    u = the unit roundoff of x's dtype

    For products whose unrounded RMS is known exactly, such as those of `hadamard`.

    Args:
        x: any shape, float16, bfloat16, float32 or float64; its nonzero elements are normal numbers.
        expected: known RMS, finite, > 0.
        roundings: number of roundings of each element after it was last exact, >= 0. The default counts a rounded
            factor and the product with it.

    Raises:
        AssertionError: the RMS is outside the bound; the message has the RMS, its relative error and the bound.
        ArgumentError: x is empty, `expected` is not positive or `roundings` is negative.
        CarrierError: x has another dtype.

    Derivation:
        If each element is exact times (1 + d) with |d| <= (1 + u)^k - 1, then so is the RMS, a norm. Measuring it in
        float64 adds a pairwise sum (`rms`), and stating `expected` one rounding.

    Example:
        >>> x, w = hadamard(64)[:, :40], signs((40, 24), np.random.default_rng(0))
        >>> assert_exact_rms((x @ w).astype(np.float32) * np.float32(40**-0.5))
    """
    array = plain("assert_exact_rms", "x", x)
    if array.dtype.name not in _PRECISION:
        raise CarrierError(f"assert_exact_rms: x is {array.dtype}, expected one of {', '.join(_PRECISION)}")
    if not 0 < expected < math.inf:
        raise ArgumentError(f"assert_exact_rms: expected is {expected!r}, expected a finite number > 0")
    if roundings < 0:
        raise ArgumentError(f"assert_exact_rms: roundings is {roundings!r}, expected a number >= 0")
    measured = rms(array)
    error = measured / expected - 1
    u = 2.0 ** -_PRECISION[array.dtype.name]
    bound = math.expm1(roundings * math.log1p(u)) + (25 + math.log2(array.size)) * 2.0**-53
    if bound > 0.01:
        raise ArgumentError(
            f"assert_exact_rms: {roundings} roundings to {array.dtype} allow {bound:.3g}: nothing exact"
        )
    if not abs(error) <= bound:  # also true for NaN
        raise AssertionError(
            f"the RMS is {measured!r}, expected {expected!r}: relative error {error:.3g}, where {roundings} roundings "
            f"to {array.dtype} explain {bound:.3g}"
        )


_PRECISION = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
"""Significand bits p; the unit roundoff of round to nearest is 2^-p."""


def _wide(name: str, x: npt.ArrayLike) -> Float64Array:
    array = plain(name, "x", x)
    if array.size == 0:
        raise ArgumentError(f"{name}: x has shape {array.shape}, expected at least one element")
    if array.dtype.kind == "c":
        raise CarrierError(f"{name}: x is {array.dtype}, expected real numbers")
    return array.astype(np.float64)
