"""An elementwise function defined by the caller, with factors by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from refscale.engine import Array
from refscale.errors import ArgumentError
from refscale.ops.activations import Elementwise
from refscale.scales import Moments, piecewise_gaussian_mean


@dataclass(frozen=True)
class CustomElementwise(Elementwise):
    """y_i = f(x_i) for a function that is given with its derivative.

    α = 1/σ(f(X)), β = 1/RMS(f′(X)) for X ~ N(0, 1), by quadrature with breakpoints at the kinks. Each moment is
    computed by two quadratures with different subintervals and limits. If they differ by more than 1e-8, the moment
    diverges (1/x, e^(x²)), or a kink of f is missing in ``places``; ``scale`` then raises an ArgumentError. Schemes
    without factors accept the op.

    The op is not in ``OPS``: it has no row in the table and no golden vectors, because its bits depend on f.

    Attributes:
        f: the function of an array, elementwise, in NumPy functions.
        slope: its derivative f′, likewise.
        places: the kinks of f.
    """

    f: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    places: tuple[float, ...] = ()
    source = "quadrature with breakpoints"

    def forward(self, x: Array) -> tuple[Array, tuple[Any, ...]]:
        return np.asanyarray(self.f(x)), (np.asanyarray(self.slope(x)),)

    def kinks(self) -> tuple[float, ...]:
        return self.places

    def moments(self) -> Moments:
        return _moments(self)


@cache
def _moments(op: CustomElementwise) -> Moments:
    mean = _mean(op, "f(X)", op.function, 0.0)
    variance = _mean(op, "(f(X) − E f(X))²", lambda x: (op.function(x) - mean) ** 2)
    square = _mean(op, "f(X)²", lambda x: op.function(x) ** 2)
    slope = _mean(op, "f′(X)²", lambda x: op.derivative(x) ** 2)
    return Moments(math.sqrt(variance), math.sqrt(square), math.sqrt(slope))


def _mean(op: CustomElementwise, what: str, f: Callable[[Array], Array], least: float = 2.0**-60) -> float:
    with np.errstate(all="ignore"):
        coarse, fine = (
            piecewise_gaussian_mean(f, op.kinks(), per_unit, reach) for per_unit, reach in ((1, 16), (2, 20))
        )
        size = piecewise_gaussian_mean(lambda x: np.abs(f(x)), op.kinks(), 2)
    if not abs(coarse - fine) <= 1e-8 * size < math.inf:
        raise ArgumentError(
            f"elementwise: E {what} is {coarse:.9g} or {fine:.9g} by two quadratures for X ~ N(0, 1): "
            f"it diverges, or kinks={op.places} lacks a kink"
        )
    if least and not fine >= least:
        raise ArgumentError(f"elementwise: E {what} is {fine:.9g} for X ~ N(0, 1), expected more than 0")
    return fine
