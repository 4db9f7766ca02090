"""One op, run through the engine under unit scaling on inputs with a known unscaled result."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.claims.claim import Figure, near
from refscale.engine import Array, Op, Tape, apply, backward
from refscale.scales import SCHEMES, Statistic
from refscale.testing import hadamard, quantile_grid, rms

EXACT = 1e-12
"""Relative tolerance for a handful of roundings of 1e-16 each and pairwise sums of at most a few million terms."""
GRID = 1e-4
"""Relative tolerance for sums over the quantile grid of 65 536 points, which lacks the tails beyond 4.3; the error is
2e-5 for bounded derivatives and functions that grow no faster than x."""
WIDE = 1e-2
"""Relative tolerance for e^x in rows of a softmax: 1 % of the weight of its second moment is beyond 4.3."""

Measure = Callable[[Array], float]


def mean(x: Array) -> float:
    """Return the mean of all elements."""
    return float(np.mean(x))


@cache
def grid() -> NDArray[np.float64]:
    """Return the quantiles of N(0, 1) at 65 536 points."""
    return quantile_grid(65_536)


@cache
def lattice() -> NDArray[np.float64]:
    """Return equally spaced points from −12 to 12, for smooth functions whose tails matter.

    A kink at 0 costs seven digits.
    """
    return np.linspace(-12.0, 12.0, 3073)


def by_density(x: Array) -> float:
    """Return √E x² for function values x at the points of ``lattice``, weighted by the density of N(0, 1)."""
    z = lattice()
    weights = np.exp(-0.5 * z * z)
    return math.sqrt(float(np.sum(weights * x * x) / np.sum(weights)))


def std_by_density(x: Array) -> float:
    """Return the standard deviation about the mean, weighted as in ``by_density``."""
    z = lattice()
    weights = np.exp(-0.5 * z * z)
    return by_density(x - float(np.sum(weights * x) / np.sum(weights)))


@cache
def quantiles_of_largest(k: int) -> NDArray[np.float64]:
    """Return 65 536 quantiles of the largest of k independent N(0, 1), whose distribution function is Φ^k."""
    n = 65_536
    return np.array([NormalDist().inv_cdf(((i + 0.5) / n) ** (1 / k)) for i in range(n)])


def power_of_two(k: int) -> int:
    """Return the smallest power of two ≥ k."""
    return 1 << (k - 1).bit_length()


@cache
def _hadamard(n: int) -> NDArray[np.float64]:
    h = hadamard(n)
    h.flags.writeable = False
    return h


def columns(k: int) -> NDArray[np.float64]:
    """Return k columns of a Hadamard matrix, (p, k): times any signs (k, …), the product has an RMS of exactly √k."""
    return _hadamard(power_of_two(k))[:, :k]


def unit(
    what: str,
    op: Op,
    arrays: tuple[Any, ...],
    place: int | None = None,
    gradient: Any = None,
    *,
    measure: Measure = rms,
    expected: float = 1.0,
    relative: float = EXACT,
    statistic: Statistic = "std",
    ways: int = 1,
) -> Figure:
    """Return a figure of one run of an op under unit scaling, in float64.

    Args:
        what: name of the measured quantity.
        op: the op.
        arrays: inputs of the op.
        place: None for the output, or the position of an input for its gradient.
        gradient: gradient of the output.
        measure: function from the array to the measured number.
        expected, relative: expected value and relative tolerance.
        statistic: statistic of the scheme, "std" or "rms", where they differ.
        ways: number of times that the op is applied to the first input; the gradients, one for each, are added.
    """
    tape = Tape(SCHEMES["unit" if statistic == "std" else "unit-rms"], dtype=np.float64)
    leaves = [tape.tensor(x) for x in arrays]
    outputs = [apply(op, *leaves) for _ in range(ways)]
    found: Any = outputs[0].value
    if place is not None:
        for k, y in enumerate(outputs):
            backward(y, gradient if ways == 1 else gradient[k])
        found = leaves[place].grad
    return near(f"{op.name}: {what}", measure(found), expected, relative)
