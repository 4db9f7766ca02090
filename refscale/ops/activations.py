"""Activations and elementary functions of one tensor, with factors by quadrature or closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from refscale import special
from refscale.engine import Array, Op
from refscale.errors import ArgumentError
from refscale.ops.kernels import elements
from refscale.scales import Moments, Scales, Shape, Statistic, gaussian_moments

if TYPE_CHECKING:
    from refscale.exact import Bounded, ErrorModel

Kept = tuple[Any, ...]


@cache
def leaky_relu_moments(slope: float) -> Moments:
    """Closed form: E f = (1−a)/√(2π), E f² = (1+a²)/2 = E f'²."""
    mean, square = (1 - slope) / math.sqrt(2 * math.pi), (1 + slope**2) / 2
    return Moments(math.sqrt(square - mean**2), math.sqrt(square), math.sqrt(square))


@cache
def gelu_moments(form: str) -> Moments:
    """Of gelu in its "erf" or "tanh" form."""
    f = special.gelu_erf if form == "erf" else special.gelu_tanh
    return gaussian_moments(lambda x: f(x)[0], lambda x: f(x)[1])


@cache
def silu_moments() -> Moments:
    """Of x·sigmoid(x)."""
    return gaussian_moments(lambda x: special.silu(x)[0], lambda x: special.silu(x)[1])


def tanh_derivative(x: Array) -> Array:
    """1 − tanh² as 4e/(1+e)² with e = exp(−2|x|), which neither cancels nor overflows."""
    e = np.exp(-2 * np.abs(x))
    return np.asanyarray(4 * e / (1 + e) ** 2)


def sigmoid_derivative(x: Array) -> Array:
    """σ(x)·σ(−x)."""
    return special.sigmoid(x) * special.sigmoid(-x)


@cache
def tanh_moments() -> Moments:
    """Of tanh."""
    return gaussian_moments(np.tanh, tanh_derivative)


@cache
def sigmoid_moments() -> Moments:
    """Of 1/(1+e^-x)."""
    return gaussian_moments(special.sigmoid, sigmoid_derivative)


@cache
def gate_moments(bias: float) -> Moments:
    """Of 1/(1+e^-(x+bias)) = 1 − 1/(1+e^(x+bias))."""
    return gaussian_moments(lambda x: special.sigmoid(x + bias), lambda x: sigmoid_derivative(x + bias))


@cache
def softplus_moments() -> Moments:
    """Of log(1+e^x)."""
    return gaussian_moments(special.softplus, special.sigmoid)


@dataclass(frozen=True)
class LeakyRelu(Op):
    """x where x > 0, else slope·x; derivative ``slope`` at 0.

    Attributes:
        slope: 0 < slope < 1; ``Relu`` is slope 0.
    """

    slope: float = 0.01
    inputs = ("x",)
    source = "closed form"
    has_mean = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.slope < 1:
            raise ArgumentError(f"LeakyRelu(slope={self.slope}): expected 0 < slope < 1")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        positive = x > 0
        return np.where(positive, x, self.slope * x), (positive,)

    def backward(self, g: Array, positive: Array) -> tuple[Array]:
        return (np.where(positive, g, self.slope * g),)

    def scale(self, x: Shape, statistic: Statistic = "std") -> Scales:
        return leaky_relu_moments(self.slope).scales(statistic)


class Relu(Op):
    """max(x, 0); derivative 0 at 0.  α = √(2/(1−1/π)), β = √2."""

    inputs = ("x",)
    source = "Table A.2; closed form"
    has_mean = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        positive = x > 0
        # maximum, not a product with the mask, so that NaN stays NaN and −inf gives 0.
        return np.maximum(x, 0), (positive,)

    def backward(self, g: Array, positive: Array) -> tuple[Array]:
        return (np.where(positive, g, np.zeros((), g.dtype)),)

    def scale(self, x: Shape, statistic: Statistic = "std") -> Scales:
        return leaky_relu_moments(0.0).scales(statistic)


@dataclass(frozen=True)
class Gelu(Op):
    """x·Φ(x) (form "erf"), or its tanh approximation (form "tanh").  α = 1.701, β = 1.481; constrained 1.587."""

    form: Literal["erf", "tanh"] = "erf"
    inputs = ("x",)
    source = "Table A.2; quadrature"
    has_mean = True
    fast_forward, fast_backward = elements.gelu, elements.activation_backward
    bitwise = True

    def __post_init__(self) -> None:
        if self.form not in ("erf", "tanh"):
            raise ArgumentError(f"Gelu(form={self.form!r}): expected 'erf' or 'tanh'")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        value, derivative = (special.gelu_erf if self.form == "erf" else special.gelu_tanh)(x)
        return value, (derivative,)

    def backward(self, g: Array, derivative: Array) -> tuple[Array]:
        return (g * derivative,)

    def bound(
        self, scales: Scales, gradient: Array | None, *arrays: Array, model: ErrorModel | None = None
    ) -> tuple[Bounded, tuple[Bounded | None, ...]]:
        """Beside the error of the readable form an ulp of |x|: Φ as ½(1 + erf) errs by that where it is near 0."""
        from refscale.exact import bounded

        y, gradients = super().bound(scales, gradient, *arrays, model=model)
        cancelled = y.model.ulp * np.abs(scales.alpha * np.asarray(arrays[0], np.float64))
        return bounded(y.view(np.ndarray), y.error + cancelled, y.model), gradients

    def scale(self, x: Shape, statistic: Statistic = "std") -> Scales:
        return gelu_moments(self.form).scales(statistic)


class Silu(Op):
    """x·sigmoid(x)."""

    inputs = ("x",)
    source = "quadrature"
    has_mean = True
    fast_forward, fast_backward = elements.silu, elements.activation_backward
    bitwise = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        value, derivative = special.silu(x)
        return value, (derivative,)

    def backward(self, g: Array, derivative: Array) -> tuple[Array]:
        return (g * derivative,)

    def scale(self, x: Shape, statistic: Statistic = "std") -> Scales:
        return silu_moments().scales(statistic)


class Tanh(Op):
    """tanh(x), odd, so its mean is 0.  α = 1.593, β = 1.467."""

    inputs = ("x",)
    source = "Table A.2; quadrature"
    fast_forward, fast_backward = elements.tanh, elements.activation_backward
    bitwise = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return np.tanh(x), (tanh_derivative(x),)

    def backward(self, g: Array, derivative: Array) -> tuple[Array]:
        return (g * derivative,)

    def scale(self, x: Shape) -> Scales:
        return tanh_moments().scales("std")


class Sigmoid(Op):
    """1/(1+e^-x).  α = 4.801, β = 4.723; by RMS α = 1.846."""

    inputs = ("x",)
    source = "Table A.2; quadrature"
    has_mean = True
    fast_forward, fast_backward = elements.sigmoid, elements.activation_backward
    bitwise = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        # Not y·(1 − y), which cancels where y is near 1.
        return special.sigmoid(x), (sigmoid_derivative(x),)

    def backward(self, g: Array, derivative: Array) -> tuple[Array]:
        return (g * derivative,)

    def scale(self, x: Shape, statistic: Statistic = "std") -> Scales:
        return sigmoid_moments().scales(statistic)


class Softplus(Op):
    """log(1+e^x)."""

    inputs = ("x",)
    source = "quadrature"
    has_mean = True
    fast_forward, fast_backward = elements.softplus, elements.softplus_backward
    bitwise = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return special.softplus(x), (x,)

    def backward(self, g: Array, x: Array) -> tuple[Array]:
        return (g * special.sigmoid(x),)

    def scale(self, x: Shape, statistic: Statistic = "std") -> Scales:
        return softplus_moments().scales(statistic)


class Exp(Op):
    """e^x.  For X ~ N(0, 1): σ² = e(e−1), RMS = e, and the gradient's RMS is e too."""

    inputs = ("x",)
    source = "closed form (log-normal moments)"
    has_mean = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        y = np.exp(x)
        return y, (y,)

    def backward(self, g: Array, y: Array) -> tuple[Array]:
        return (g * y,)

    def scale(self, x: Shape, statistic: Statistic = "std") -> Scales:
        return Moments(math.sqrt(math.e * (math.e - 1)), math.e, math.e).scales(statistic)


class Log(Op):
    """log x, x > 0.  A Gaussian has no logarithm; the rule takes X = e^Z, Z ~ N(0, 1): α = 1, β = 1/RMS(1/X) = 1/e."""

    inputs = ("x",)
    source = "closed form (log-normal moments)"

    def forward(self, x: Array) -> tuple[Array, Kept]:
        if not np.all(x > 0):
            raise ArgumentError(f"log: smallest element is {np.min(x)}, expected all > 0")
        return np.log(x), (x,)

    def backward(self, g: Array, x: Array) -> tuple[Array]:
        return (g / x,)

    def scale(self, x: Shape) -> Scales:
        return Scales(1.0, (1 / math.e,))


class Sqrt(Op):
    """√x, x > 0.  Under the rule of ``log``, √X = e^(Z/2): σ² = e^¼(e^¼−1), E[X] = e^½, RMS(½X^-½) = ½e^¼."""

    inputs = ("x",)
    source = "closed form (log-normal moments)"
    has_mean = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        if not np.all(x > 0):
            raise ArgumentError(f"sqrt: smallest element is {np.min(x)}, expected all > 0")
        y = np.sqrt(x)
        return y, (y,)

    def backward(self, g: Array, y: Array) -> tuple[Array]:
        return (g * 0.5 / y,)

    def scale(self, x: Shape, statistic: Statistic = "std") -> Scales:
        std = math.sqrt(math.exp(0.25) * (math.exp(0.25) - 1))
        return Moments(std, math.exp(0.25), 0.5 * math.exp(0.25)).scales(statistic)
