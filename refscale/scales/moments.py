"""Gaussian moments by quadrature, from which the factors of activations are computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from refscale.scales.factors import Scales, Statistic

_NODES = np.linspace(-20.0, 20.0, 40 * 64 + 1)
_WEIGHTS = np.exp(-0.5 * _NODES**2) / math.sqrt(2 * math.pi) / 64


def gaussian_mean(f: Callable[[np.ndarray[Any, np.dtype[np.float64]]], np.ndarray[Any, Any]]) -> float:
    """Compute E f(X) for X ~ N(0, 1), by the trapezoidal rule with spacing 1/64 on [−20, 20].

    For functions analytic in a strip |Im x| < a the error is about exp(−2π·64·a), for the smooth activations less than
    float64 resolves. Functions with kinks (relu) need a closed form.
    """
    return float(np.sum(_WEIGHTS * f(_NODES)))


@cache
def _gauss_legendre() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.polynomial.legendre.leggauss(32)


def piecewise_gaussian_mean(
    f: Callable[[np.ndarray[Any, np.dtype[np.float64]]], np.ndarray[Any, Any]],
    kinks: Sequence[float] = (),
    per_unit: int = 1,
    reach: int = 20,
) -> float:
    """Compute E f(X) for X ~ N(0, 1) and a function that is smooth between its kinks.

    Gauss-Legendre quadrature with 32 nodes on each piece of [−reach, reach], which is divided at the kinks and at
    multiples of 1/per_unit. For polynomial pieces of low degree the error is a few roundings.

    Args:
        f: function of an array of numbers.
        kinks: points where f or its derivative is discontinuous.
        per_unit: number of pieces per unit.
        reach: half the length of the interval; the density beyond 20 is less than e^-200.
    """
    cuts = np.unique([*(np.arange(-reach * per_unit, reach * per_unit + 1) / per_unit), *kinks])
    cuts = cuts[np.abs(cuts) <= reach]
    nodes, weights = _gauss_legendre()
    half, middle = np.diff(cuts)[:, None] / 2, (cuts[1:, None] + cuts[:-1, None]) / 2
    x = (middle + half * nodes).ravel()
    density = np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    return float(np.sum((half * weights).ravel() * density * f(x)))


class Moments(NamedTuple):
    """Moments of an activation f for N(0, 1) inputs and gradients.

    ``std`` and ``rms`` of f(X), and ``gradient_rms``, the RMS of G·f′(X), with X, G ~ N(0, 1) independent.
    """

    std: float
    rms: float
    gradient_rms: float

    def scales(self, statistic: Statistic) -> Scales:
        """Return α = 1/σ(f(X)), or 1/RMS(f(X)) for the statistic "rms", and β = 1/RMS(G·f′(X))."""
        return Scales(1 / (self.std if statistic == "std" else self.rms), (1 / self.gradient_rms,))


def gaussian_moments(f: Callable[[Any], Any], derivative: Callable[[Any], Any], kinks: Sequence[float] = ()) -> Moments:
    """Compute the moments of an activation that is smooth, or smooth between its kinks, by quadrature.

    Source: paper, Table A.2.
    """
    expected = partial(piecewise_gaussian_mean, kinks=kinks) if kinks else gaussian_mean
    mean = expected(f)
    return Moments(
        std=math.sqrt(expected(lambda x: (f(x) - mean) ** 2)),
        rms=math.sqrt(expected(lambda x: f(x) ** 2)),
        gradient_rms=math.sqrt(expected(lambda x: derivative(x) ** 2)),
    )
