"""Gaussian moments: where the factors of activations come from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refscale.scales.factors import Scales, Statistic

_NODES = np.linspace(-20.0, 20.0, 40 * 64 + 1)
_WEIGHTS = np.exp(-0.5 * _NODES**2) / math.sqrt(2 * math.pi) / 64


def gaussian_mean(f: Callable[[np.ndarray[Any, np.dtype[np.float64]]], np.ndarray[Any, Any]]) -> float:
    """E f(X) for X ~ N(0, 1), by the trapezoidal rule with spacing 1/64 on [−20, 20].

    For functions analytic in a strip |Im x| < a the error is about exp(−2π·64·a): none is left in float64 for the
    smooth activations.  Kinks (relu) need their closed form.
    """
    return float(np.sum(_WEIGHTS * f(_NODES)))


class Moments(NamedTuple):
    """What N(0, 1) inputs and gradients look like after an activation f.

    ``std`` and ``rms`` of f(X), and ``gradient_rms`` of G·f'(X), with X, G ~ N(0, 1) independent.
    """

    std: float
    rms: float
    gradient_rms: float

    def scales(self, statistic: Statistic) -> Scales:
        """α = 1/σ(f(X)), or 1/RMS(f(X)) by name; β = 1/RMS(G·f'(X)), whose mean is zero."""
        return Scales(1 / (self.std if statistic == "std" else self.rms), (1 / self.gradient_rms,))


def gaussian_moments(f: Callable[[Any], Any], derivative: Callable[[Any], Any]) -> Moments:
    """Moments of a smooth activation, by quadrature.  Source: paper, Table A.2."""
    mean = gaussian_mean(f)
    return Moments(
        std=math.sqrt(gaussian_mean(lambda x: (f(x) - mean) ** 2)),
        rms=math.sqrt(gaussian_mean(lambda x: f(x) ** 2)),
        gradient_rms=math.sqrt(gaussian_mean(lambda x: derivative(x) ** 2)),
    )
