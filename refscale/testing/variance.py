"""The third kind of equality: a distance of at most a number of standard errors, with a stated false-alarm rate.

A statistical check has two error rates, and both are arguments here. The *false-alarm rate* is the probability that
correct code fails; at 1e-9 a suite of a thousand such checks, run every hour, fails by chance once in a century. The
*power* is the probability that wrong code is found. Both, with the size of the relevant error, determine the number of
samples; with fewer samples the check could miss that error, so `assert_unit_variance` refuses them.

If a construction gives the result without sampling (`refscale.testing.constructions`), prefer it.
"""

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from refscale.arrays import plain
from refscale.errors import ArgumentError
from refscale.testing.constructions import std

Z_DEFAULT = 6.11
"""Two-sided false-alarm rate erfc(6.11 / √2) = 9.96e-10."""


def false_alarm_of(z: float) -> float:
    """Return the probability that a standard normal variable is farther than z from its mean, on either side.

        P(|Z| > z) = erfc(z / √2)

    Args:
        z: number of standard errors, >= 0.

    Returns:
        The probability, in (0, 1], relatively accurate far into the tail, where `1 - NormalDist().cdf(z)` is noise.

    Raises:
        ArgumentError: z is negative or NaN.

    Source:
        Abramowitz and Stegun, 26.2.29.
    """
    if not z >= 0:
        raise ArgumentError(f"z is {z!r}, expected a number of standard errors >= 0")
    return math.erfc(z / math.sqrt(2))


def z_of(false_alarm: float) -> float:
    """Return the number of standard errors that a normal variable exceeds, on either side, with a given probability.

        z with P(|Z| > z) = false_alarm:    z = -quantile(false_alarm / 2)

    Args:
        false_alarm: two-sided probability, in (0, 1).

    Returns:
        z > 0; from the lower tail, where the quantile keeps its precision (`inv_cdf(1 - p)` loses it with 1 - p).

    Raises:
        ArgumentError: the probability is outside (0, 1).

    Source:
        Wichura, algorithm AS 241 (1988), as in `statistics.NormalDist.inv_cdf`: relative error about 1e-16.
    """
    return -NormalDist().inv_cdf(_probability("false_alarm", false_alarm) / 2)


def standard_error_of_std(n_eff: float, kurtosis: float = 3.0) -> float:
    """Return the relative standard error of a sample standard deviation.

        sd(s) / σ = √((kurtosis - 1) / (4 n_eff))

    Args:
        n_eff: number of independent samples, or the equivalent number of dependent ones, > 0.
        kurtosis: fourth central moment over squared variance, >= 1; normal 3, uniform 1.8, ±1 exactly 1.

    Returns:
        The standard deviation of s / σ, to first order in 1 / n_eff.

    Raises:
        ArgumentError: an argument is outside its range.

    Derivation:
        s^2 is the mean of n squares, whose variance is (kurtosis - 1) σ^4, so var(s^2) is that
        over n; and ds / σ = d(s^2) / (2 σ^2). Removing the sample mean changes this by O(1 / n).
    """
    if not (0 < n_eff < math.inf):
        raise ArgumentError(f"n_eff is {n_eff!r}, expected a finite number of samples > 0")
    return math.sqrt((_kurtosis(kurtosis) - 1) / (4 * n_eff))


def required_samples(tolerance: float, kurtosis: float = 3.0, false_alarm: float = 1e-9, power: float = 0.9999) -> int:
    """Return the number of samples that a check of unit variance needs to find a given error.

        n = (kurtosis - 1) / 4 * ((z_alarm + z_power (1 + tolerance)) / tolerance)^2

    Args:
        tolerance: relative error of the standard deviation to be found, in (0, 1).
        kurtosis: kurtosis of the samples, >= 1.
        false_alarm: probability that correct samples fail, both sides together, in (0, 1).
        power: probability that an error of `tolerance` or more is found, in [0.5, 1).

    Returns:
        The smallest sufficient integer: 54 891 for 3 %, kurtosis 3 and the default rates.

    Raises:
        ArgumentError: an argument is outside its range.

    Derivation:
        Correct samples give s = 1 ± se and are accepted while |s - 1| <= z_alarm se. Samples that are off by
        `tolerance` give s = 1 + tolerance with standard error (1 + tolerance) se; they fail with the probability
        `power` when tolerance = z_alarm se + z_power (1 + tolerance) se. Solve for n in `standard_error_of_std`.
    """
    if not 0 < tolerance < 1:
        raise ArgumentError(f"tolerance is {tolerance!r}, expected a relative error in (0, 1)")
    if not 0.5 <= power < 1:
        raise ArgumentError(f"power is {power!r}, expected a probability in [0.5, 1)")
    z_power = -NormalDist().inv_cdf(1 - power)  # the lower tail again; 1 - power is exact for power in [0.5, 1]
    z = (z_of(false_alarm) + z_power * (1 + tolerance)) / tolerance
    return max(1, math.ceil((_kurtosis(kurtosis) - 1) / 4 * z**2))


def effective_samples_matmul(b: int, m: int, n: int, *, x_kurtosis: float = 3.0, w_kurtosis: float = 3.0) -> float:
    """Return the number of independent normal samples equivalent to the elements of a random matrix product.

        y = x w m^-½,  x (b, m),  w (m, n):    var(mean y^2) = 2 / N_eff

        2 b n / N_eff = 2 + (kx kw - 3) / m + (n - 1) (kx - 1) / m + (b - 1) (kw - 1) / m

    Elements of one row share a row of x and elements of one column a column of w, so bn elements determine the variance
    less precisely than bn samples. Normal entries: 1/N_eff = 1/mn + 1/bm + 1/bn + 1/bmn, where a 16-cube has 84
    effective samples, not 256. Entries ±1 in both: every row of x has the same length, sharing does not matter, and
    N_eff = bn m / (m - 1).

    Args:
        b: rows of x, >= 1.
        m: inner dimension, >= 1.
        n: columns of w, >= 1.
        x_kurtosis: fourth moment of the entries of x, which have mean 0 and variance 1: normal 3, `signs` 1.
        w_kurtosis: likewise for w.

    Returns:
        N_eff, to be used with kurtosis 3 (it is counted in normal samples); inf if |y| is constant (±1, m = 1).

    Raises:
        ArgumentError: a length is not positive or a kurtosis below 1.

    Derivation:
        mean y^2 has expectation 1 and variance sum of cov(y_ij^2, y_kl^2) / (bn)^2. The same element contributes
        E y^4 - 1 = 2 + (kx kw - 3) / m; another element of its row, where given x_i both are m^-½ |x_i| times
        independent variables, E |x_i|^4 / m^2 - 1 = (kx - 1) / m; of its column (kw - 1) / m; all others 0.
    """
    for name, side in (("b", b), ("m", m), ("n", n)):
        if not side >= 1:
            raise ArgumentError(f"{name} is {side!r}, expected a length >= 1")
    kx, kw = _kurtosis(x_kurtosis), _kurtosis(w_kurtosis)
    per_element = 2 + (kx * kw - 3) / m + (n - 1) * (kx - 1) / m + (b - 1) * (kw - 1) / m
    return 2 * b * n / per_element if per_element > 0 else math.inf


def assert_within_standard_errors(
    statistic: npt.ArrayLike, expected: npt.ArrayLike, standard_error: npt.ArrayLike, z: float = Z_DEFAULT
) -> None:
    """Assert that a statistic is within z standard errors of its expectation.

        |statistic - expected| <= z * standard_error

    Args:
        statistic: measured value, any shape; approximately normal (a mean over many samples).
        expected: its expectation, broadcast against it.
        standard_error: its standard deviation, > 0, broadcast against it; derived, not estimated from one run.
        z: allowed number of standard errors, such as `z_of(false_alarm)`; default: 6.11, for a rate of 1e-9.

    Raises:
        AssertionError: an element is too far; the message has the first one (index, values, distance), the count and
            the false-alarm rate: erfc(z / √2) per element, times the number of elements.
        ArgumentError: z or a standard error is not positive and finite. For a statistic without variation use
            `assert_same_bits` or `assert_within_ulp`.

    Example:
        >>> heads = np.random.default_rng(0).integers(0, 2, 10_000).mean()
        >>> assert_within_standard_errors(heads, 0.5, 0.5 / 100)
    """
    if not 0 < z < math.inf:
        raise ArgumentError(f"z is {z!r}, expected a finite number of standard errors > 0")
    given = {"statistic": statistic, "expected": expected, "standard_error": standard_error}
    wide = (plain("assert_within_standard_errors", name, a).astype(np.float64) for name, a in given.items())
    s, e, se = np.broadcast_arrays(*wide)
    if not s.size:
        raise ArgumentError("assert_within_standard_errors: no statistic given, so there is nothing to check")
    bad = ~((se > 0) & np.isfinite(se))
    if bad.any():
        raise ArgumentError(f"standard_error is {se[bad][0]}, expected a finite number > 0")
    distance = np.abs(s - e) / se
    wrong = np.flatnonzero(~(distance.reshape(-1) <= z))  # also true for NaN
    if not wrong.size:
        return
    i = int(wrong[0])
    where = tuple(int(k) for k in np.unravel_index(i, s.shape))
    raise AssertionError(
        f"{wrong.size} of {s.size} statistics {'is' if wrong.size == 1 else 'are'} not within {z:g} standard errors, "
        f"first at index {where}:\n"
        f"  actual    {s.reshape(-1)[i]}\n"
        f"  expected  {e.reshape(-1)[i]} +- {se.reshape(-1)[i]:.6g}\n"
        f"  {distance.reshape(-1)[i]:.4g} standard errors apart; false-alarm rate {_rate(z, s.size)}"
    )


def assert_unit_variance(
    samples: npt.ArrayLike,
    *,
    n_eff: float | None = None,
    kurtosis: float = 3.0,
    tolerance: float = 0.03,
    false_alarm: float = 1e-9,
    power: float = 0.9999,
) -> None:
    """Assert that samples have standard deviation 1, by a check with the power to find an error of `tolerance`.

        |s - 1| <= z se,    se = √((kurtosis - 1) / (4 n_eff)),    P(|Z| > z) = false_alarm

    s is the standard deviation about the mean. The limit is z se and shrinks as samples grow; `tolerance` does not
    widen it. `tolerance` is the smallest error that the check finds reliably, and decides the number of samples.

    Args:
        samples: any shape, any float dtype; measured in float64.
        n_eff: equivalent number of independent samples; default: the number of elements, which is right for independent
            elements only. For a matrix product: `effective_samples_matmul`, with kurtosis 3.
        kurtosis: kurtosis of one sample, > 1; normal 3. Too small a value raises the false-alarm rate, too large a
            value lowers the power.
        tolerance: relative error of the standard deviation to be found, in (0, 1).
        false_alarm: probability that samples of variance 1 fail, in (0, 1).
        power: probability that an error of `tolerance` or more is found, in [0.5, 1).

    Raises:
        AssertionError: s deviates; the message has s, its distance from 1 in standard errors, and the false-alarm rate.
        ArgumentError: n_eff is less than `required_samples(tolerance, kurtosis, false_alarm, power)`.

    Derivation:
        `standard_error_of_std` and `required_samples`. The rates are those of the normal limit; s is nearly normal even
        in the tail (Fisher: the skewness of chi is (2 n)^-½). For normal samples at n = 54 891, the exact
        probability, from the chi-square distribution, is 1.002e-9 where 1e-9 is stated; at n = 1000, 1.13e-9.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> assert_unit_variance(rng.standard_normal(60_000))
        >>> assert_unit_variance(rng.standard_normal(60_000) * 1.03)
        Traceback (most recent call last):
        ...
        AssertionError: the standard deviation is 1.031985, expected 1 +- 0.002887
          +3.2 %, 11.08 standard errors (limit 6.109); n_eff = 60000, kurtosis 3; false-alarm rate 1e-09
    """
    x = plain("assert_unit_variance", "samples", samples)
    if x.dtype.kind == "c" or x.size == 0:
        raise ArgumentError(f"samples are {x.dtype} of shape {x.shape}, expected at least one real number")
    n = float(x.size if n_eff is None else n_eff)
    if math.isfinite(n) and n > 2 * x.size:  # a matrix product of signs counts as slightly more than its elements
        raise ArgumentError(f"n_eff is {n:g} for {x.size} samples, expected at most about as many")
    if _kurtosis(kurtosis) == 1:
        raise ArgumentError("kurtosis is 1: such samples are +-1 and have no sampling error; use assert_exact_rms")
    se = standard_error_of_std(n, kurtosis)
    needed = required_samples(tolerance, kurtosis, false_alarm, power)
    if n < needed:
        raise ArgumentError(
            f"n_eff is {n:g}, too few to see an error of {tolerance:.3g} in the standard deviation: expected at least "
            f"{needed} at kurtosis {kurtosis:g}, false alarm {false_alarm:g}, power {power:g}"
        )
    z = z_of(false_alarm)
    s = std(x)
    if not abs(s - 1) <= z * se:  # also true for NaN
        raise AssertionError(
            f"the standard deviation is {s:.7g}, expected 1 +- {se:.4g}\n"
            f"  {100 * (s - 1):+.3g} %, {abs(s - 1) / se:.4g} standard errors (limit {z:.4g}); "
            f"n_eff = {n:g}, kurtosis {kurtosis:g}; false-alarm rate {false_alarm:g}"
        )


def _rate(z: float, count: int) -> str:
    """Return the false-alarm rate of `count` statistics, by the union bound: they need not be independent."""
    one = false_alarm_of(z)
    return f"{one:.2g}" if count == 1 else f"{one:.2g} each, at most {min(1.0, one * count):.2g} together"


def _probability(name: str, p: float) -> float:
    if not 0 < p < 1:
        raise ArgumentError(f"{name} is {p!r}, expected a probability in (0, 1)")
    return p


def _kurtosis(kurtosis: float) -> float:
    if not 1 <= kurtosis < math.inf:
        raise ArgumentError(f"kurtosis is {kurtosis!r}, expected a finite number >= 1 (normal 3)")
    return kurtosis
