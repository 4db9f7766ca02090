"""Activations and elementary functions of one tensor, with factors by quadrature or closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from refscale import special
from refscale.engine import Array, Degree, Example, Input, Op, Sizes, example
from refscale.errors import ArgumentError
from refscale.ops.kernels import elements
from refscale.scales import Moments, Scales, Shape, Statistic, gaussian_moments
from refscale.scales.second_moments import SecondMoments, through

if TYPE_CHECKING:
    from refscale.exact import Bounded, ErrorModel

Kept = tuple[Any, ...]


def tanh_derivative(x: Array) -> Array:
    """Compute 1 − tanh² as 4e/(1+e)² with e = exp(−2|x|), without cancellation or overflow."""
    e = np.exp(-2 * np.abs(x))
    return np.asanyarray(4 * e / (1 + e) ** 2)


def sigmoid_derivative(x: Array) -> Array:
    """Compute the derivative of the sigmoid, σ(x)·σ(−x)."""
    return special.sigmoid(x) * special.sigmoid(-x)


@cache
def gate_moments(bias: float) -> Moments:
    """Compute the moments of a gate 1/(1+e^-(x+bias)) = 1 − 1/(1+e^(x+bias)), x ~ N(0, 1)."""
    return gaussian_moments(lambda x: special.sigmoid(x + bias), lambda x: sigmoid_derivative(x + bias))


class Elementwise(Op):
    """Base class of elementwise functions y_i = f(x_i), such as activations.

    A subclass defines ``forward``, which keeps f′(x); if it keeps other arrays, it also defines ``backward``.

    α = 1/σ(f(X)), β = 1/RMS(G·f′(X)) for independent X, G ~ N(0, 1), by quadrature of forward and backward. A function
    with kinks lists them in ``kinks``, or overrides ``moments`` with a closed form.
    """

    inputs = ("x",)
    homogeneity: ClassVar[tuple[Degree, ...]] = ("own",)
    source = "quadrature"
    has_mean = True

    def backward(self, g: Array, derivative: Array) -> tuple[Array]:
        return (g * derivative,)

    def kinks(self) -> tuple[float, ...]:
        """Points where f or f′ is discontinuous: the breakpoints of the quadrature."""
        return ()

    def moments(self) -> Moments:
        """Standard deviation and RMS of f(X), and RMS of G·f′(X), for independent X, G ~ N(0, 1)."""
        return _moments_by_quadrature(self)

    def scale(self, x: Shape, statistic: Statistic = "std") -> Scales:
        return self.moments().scales(statistic)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m)),)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return through(x, self.function)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (SecondMoments(g.shape, g.k * through(x, self.derivative).k),)

    def function(self, x: Array) -> Array:
        """Compute f(x)."""
        return np.asarray(self.forward(x)[0])

    def derivative(self, x: Array) -> Array:
        """Compute f′(x)."""
        return np.asarray(self.backward(np.ones_like(x), *self.forward(x)[1])[0])


@cache
def _moments_of_ramp(slope: float) -> Moments:
    """The moments of x where x > 0, else slope·x, in closed form."""
    mean, square = (1 - slope) / math.sqrt(2 * math.pi), (1 + slope**2) / 2
    return Moments(math.sqrt(square - mean**2), math.sqrt(square), math.sqrt(square))


@cache
def _moments_by_quadrature(op: Elementwise) -> Moments:
    return gaussian_moments(op.function, op.derivative, op.kinks())


class Relu(Elementwise):
    """max(x, 0); derivative 0 at 0. α = √(2/(1−1/π)), β = √2."""

    source = "Table A.2; closed form"
    homogeneity = (1,)

    def forward(self, x: Array) -> tuple[Array, Kept]:
        positive = x > 0
        # maximum, not a product with the mask, so that NaN stays NaN and −inf gives 0.
        return np.maximum(x, 0), (positive,)

    def backward(self, g: Array, positive: Array) -> tuple[Array]:
        return (np.where(positive, g, np.zeros((), g.dtype)),)

    def moments(self) -> Moments:
        return _moments_of_ramp(0.0)


@dataclass(frozen=True)
class LeakyRelu(Elementwise):
    """x where x > 0, else slope·x; derivative ``slope`` at 0. E f = (1−a)/√(2π), E f² = (1+a²)/2 = E f'².

    Attributes:
        slope: 0 < slope < 1; ``Relu`` is slope 0.
    """

    slope: float = 0.01
    source = "closed form"
    homogeneity = (1,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.slope < 1:
            raise ArgumentError(f"LeakyRelu(slope={self.slope}): expected 0 < slope < 1")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        positive = x > 0
        return np.where(positive, x, self.slope * x), (positive,)

    def backward(self, g: Array, positive: Array) -> tuple[Array]:
        return (np.where(positive, g, self.slope * g),)

    def moments(self) -> Moments:
        return _moments_of_ramp(self.slope)


@dataclass(frozen=True)
class Gelu(Elementwise):
    """x·Φ(x) (form "erf"), or its tanh approximation (form "tanh"). α = 1.701, β = 1.481; constrained 1.587."""

    form: Literal["erf", "tanh"] = "erf"
    source = "Table A.2; quadrature"
    fast_forward, fast_backward = elements.gelu, elements.activation_backward
    bitwise = True

    def __post_init__(self) -> None:
        if self.form not in ("erf", "tanh"):
            raise ArgumentError(f"Gelu(form={self.form!r}): expected 'erf' or 'tanh'")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        value, derivative = (special.gelu_erf if self.form == "erf" else special.gelu_tanh)(x)
        return value, (derivative,)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return tuple(example(cls(form), (at.b, at.m)) for form in ("erf", "tanh"))

    def bound(
        self, scales: Scales, gradient: Array | None, *arrays: Array, model: ErrorModel | None = None
    ) -> tuple[Bounded, tuple[Bounded | None, ...]]:
        """Bound of the readable form plus an ulp of |x|: the error of Φ = ½(1 + erf) where Φ is near 0."""
        from refscale.exact import bounded

        y, gradients = super().bound(scales, gradient, *arrays, model=model)
        cancelled = y.model.ulp * np.abs(scales.alpha * np.asarray(arrays[0], np.float64))
        return bounded(y.view(np.ndarray), y.error + cancelled, y.model), gradients


class Silu(Elementwise):
    """x·sigmoid(x)."""

    fast_forward, fast_backward = elements.silu, elements.activation_backward
    bitwise = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        value, derivative = special.silu(x)
        return value, (derivative,)


@dataclass(frozen=True)
class Swish(Elementwise):
    """x·sigmoid(βx) = silu(βx)/β. β = 1.702: an approximation of gelu.

    Attributes:
        beta: β, 0 < β ≤ 32; for larger β the error of the factors exceeds 1e-14.
    """

    beta: float = 1.0
    source = "quadrature; arXiv 1710.05941"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta <= 32:
            raise ArgumentError(f"Swish(beta={self.beta}): expected 0 < beta ≤ 32")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        value, derivative = special.silu(self.beta * x)
        return value / self.beta, (derivative,)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(1.702), (at.b, at.m)),)


class Tanh(Elementwise):
    """tanh(x), odd, so its mean is 0. α = 1.593, β = 1.467."""

    source = "Table A.2; quadrature"
    has_mean = False
    fast_forward, fast_backward = elements.tanh, elements.activation_backward
    bitwise = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return np.tanh(x), (tanh_derivative(x),)


@dataclass(frozen=True)
class SoftCap(Elementwise):
    """cap·tanh(x/cap): about x for small |x|, bounded by ±cap.

    Attributes:
        cap: the bound, ≥ 1/16, finite; for a smaller cap the error of the factors exceeds 1e-14.
    """

    cap: float = 50.0
    source = "quadrature; Gemma 2 (arXiv 2408.00118), section 2"
    has_mean = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 / 16 <= self.cap < math.inf:
            raise ArgumentError(f"SoftCap(cap={self.cap}): expected a finite number ≥ 1/16")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        inner = x / self.cap
        return self.cap * np.tanh(inner), (tanh_derivative(inner),)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(2.0), (at.b, at.m)),)


class Sigmoid(Elementwise):
    """1/(1+e^-x). α = 4.801, β = 4.723; by RMS α = 1.846."""

    source = "Table A.2; quadrature"
    fast_forward, fast_backward = elements.sigmoid, elements.activation_backward
    bitwise = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        # Not y·(1 − y), which cancels where y is near 1.
        return special.sigmoid(x), (sigmoid_derivative(x),)


class Softplus(Elementwise):
    """log(1+e^x)."""

    fast_forward, fast_backward = elements.softplus, elements.softplus_backward
    bitwise = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return special.softplus(x), (x,)

    def backward(self, g: Array, x: Array) -> tuple[Array]:
        return (g * special.sigmoid(x),)


@dataclass(frozen=True)
class ThresholdedSoftplus(Elementwise):
    """log(1+e^(βx))/β, and x where βx is above a threshold, as in torch.softplus.

    Attributes:
        beta: β, 0 < β ≤ 32, see ``Swish``.
        threshold: ≥ 0; where βx exceeds it, f(x) = x and f′(x) = 1.
    """

    beta: float = 1.0
    threshold: float = 20.0
    source = "quadrature with breakpoints"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.beta <= 32 and 0 <= self.threshold < math.inf):
            raise ArgumentError(
                f"ThresholdedSoftplus(beta={self.beta}, threshold={self.threshold}): "
                "expected 0 < beta ≤ 32 and 0 ≤ threshold < ∞"
            )

    def forward(self, x: Array) -> tuple[Array, Kept]:
        steep = self.beta * x
        linear = steep > self.threshold
        one = np.ones((), x.dtype)
        value = np.where(linear, x, special.softplus(steep) / self.beta)
        return value, (np.where(linear, one, special.sigmoid(steep)),)

    def kinks(self) -> tuple[float, ...]:
        """The threshold, and points around 0, as quadrature of a steep function needs shorter intervals there."""
        return self.threshold / self.beta, *(k / self.beta for k in range(-4, 5))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(2.0, 3.0), (at.b, at.m)),)


class Abs(Elementwise):
    """|x|; derivative 0 at 0. E|X| = √(2/π), E X² = 1: α = (1 − 2/π)^-½ = 1.659, by RMS 1; β = 1."""

    source = "closed form"
    homogeneity = (1,)

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return np.abs(x), (np.sign(x),)

    def moments(self) -> Moments:
        return Moments(math.sqrt(1 - 2 / math.pi), 1.0, 1.0)


class Square(Elementwise):
    """x². E X² = 1, E X⁴ = 3, E (2X)² = 4: α = 1/√2, by RMS 1/√3; β = ½."""

    source = "closed form"
    homogeneity = (2,)

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return x * x, (2 * x,)

    def moments(self) -> Moments:
        return Moments(math.sqrt(2), math.sqrt(3), 2.0)


@dataclass(frozen=True)
class Clip(Elementwise):
    """min(max(x, low), high); derivative 1 where low ≤ x ≤ high, else 0, as in torch.clamp.

    E f′² = P(low ≤ X ≤ high). relu6 is clip(0, 6), hardtanh clip(−1, 1).

    Attributes:
        low, high: bounds, finite, low < high, with P(low ≤ X ≤ high) ≥ 2^-20, as β = P^-½.
    """

    low: float = -1.0
    high: float = 1.0
    source = "quadrature with breakpoints"

    def __post_init__(self) -> None:
        super().__post_init__()
        seen = 0.5 * (math.erf(self.high / math.sqrt(2)) - math.erf(self.low / math.sqrt(2)))
        if not (math.isfinite(self.low) and math.isfinite(self.high) and seen >= 2**-20):
            raise ArgumentError(
                f"Clip(low={self.low}, high={self.high}): expected finite low < high, P(low ≤ X ≤ high) ≥ 2^-20"
            )

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return np.minimum(np.maximum(x, self.low), self.high), ((x >= self.low) & (x <= self.high),)

    def backward(self, g: Array, inside: Array) -> tuple[Array]:
        return (np.where(inside, g, np.zeros((), g.dtype)),)

    def kinks(self) -> tuple[float, ...]:
        return self.low, self.high

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return tuple(example(cls(low, high), (at.b, at.m)) for low, high in ((-1.0, 1.0), (0.0, 6.0)))


class HardSigmoid(Elementwise):
    """min(max(x + 3, 0), 6)/6; derivative 1/6 where |x| < 3, else 0."""

    source = "quadrature with breakpoints; arXiv 1905.02244"

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return np.minimum(np.maximum(x + 3, 0), 6) / 6, (np.abs(x) < 3,)

    def backward(self, g: Array, inside: Array) -> tuple[Array]:
        return (np.where(inside, g / 6, np.zeros((), g.dtype)),)

    def kinks(self) -> tuple[float, ...]:
        return -3.0, 3.0


class HardSwish(Elementwise):
    """x·min(max(x + 3, 0), 6)/6; derivative 0 where x ≤ −3, 1 where x ≥ 3, else x/3 + ½."""

    source = "quadrature with breakpoints; arXiv 1905.02244"

    def forward(self, x: Array) -> tuple[Array, Kept]:
        zero, one = np.zeros((), x.dtype), np.ones((), x.dtype)
        inner = x * (np.minimum(x, 3) + 3) / 6
        slope = np.where(x >= 3, one, x / 3 + 0.5)
        # where, so that −∞ gives 0.
        return np.where(x <= -3, zero, inner), (np.where(x <= -3, zero, slope),)

    def kinks(self) -> tuple[float, ...]:
        return -3.0, 3.0


class Exp(Op):
    """e^x. For X ~ N(0, 1): σ² = e(e−1), RMS = e, and the gradient's RMS is e too."""

    inputs = ("x",)
    homogeneity = ("own",)
    source = "closed form (log-normal moments)"
    has_mean = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        y = np.exp(x)
        return y, (y,)

    def backward(self, g: Array, y: Array) -> tuple[Array]:
        return (g * y,)

    def scale(self, x: Shape, statistic: Statistic = "std") -> Scales:
        return Moments(math.sqrt(math.e * (math.e - 1)), math.e, math.e).scales(statistic)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m)),)


class Log(Op):
    """log x, x > 0. The factors assume X = e^Z > 0, Z ~ N(0, 1), in place of N(0, 1): α = 1, β = 1/RMS(1/X) = 1/e."""

    inputs = ("x",)
    homogeneity = ("own",)
    source = "closed form (log-normal moments)"

    def forward(self, x: Array) -> tuple[Array, Kept]:
        if not np.all(x > 0):
            raise ArgumentError(f"log: smallest element is {np.min(x)}, expected all > 0")
        return np.log(x), (x,)

    def backward(self, g: Array, x: Array) -> tuple[Array]:
        return (g / x,)

    def scale(self, x: Shape) -> Scales:
        return Scales(1.0, (1 / math.e,))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), Input((at.b, at.m), "positive")),)


class Sqrt(Op):
    """√x, x > 0. With X = e^Z as for ``log``, √X = e^(Z/2): σ² = e^¼(e^¼−1), E[X] = e^½, RMS(½X^-½) = ½e^¼."""

    inputs = ("x",)
    homogeneity = (0.5,)
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

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), Input((at.b, at.m), "positive")),)


ACTIVATIONS: dict[str, Elementwise] = {
    "gelu": Gelu(),
    "gelu-tanh": Gelu("tanh"),
    "relu": Relu(),
    "silu": Silu(),
    "tanh": Tanh(),
    "sigmoid": Sigmoid(),
}
"""Activations by name, as in the configurations of models."""
