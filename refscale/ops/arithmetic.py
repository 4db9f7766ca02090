"""Elementwise arithmetic of several tensors: sums, products, maximum and minimum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from refscale.engine import Array, Example, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.kernels import elements
from refscale.ops.shapes import broadcast, broadcast_factor, repeats
from refscale.ops.sums import unbroadcast
from refscale.scales import Scales, Shape, Statistic
from refscale.scales.second_moments import SecondMoments, through

Kept = tuple[Any, ...]


def _of_sum(out: Shape, xs: Sequence[SecondMoments], weights: Sequence[float]) -> SecondMoments:
    parts = [x.repeated(out).times(w).k for x, w in zip(xs, weights, strict=True)]
    return SecondMoments(out, np.sum(parts, axis=0))


def _gradients_of_sum(
    g: SecondMoments, xs: Sequence[SecondMoments], weights: Sequence[float]
) -> tuple[SecondMoments, ...]:
    return tuple(g.times(w).unbroadcast(x.shape) for x, w in zip(xs, weights, strict=True))


class Add(Op):
    """x + y, broadcast.

    The sum of two independent N(0, 1) has variance 2: α = 2^-½. β = r^-½ for an input that is repeated r times.
    """

    inputs = ("x", "y")
    homogeneity = ("weighted", "weighted")
    source = "Table A.2 (weighted add, γ = 1)"
    adds = True
    passes = (0, 1)
    weights: ClassVar[tuple[float, float]] = (1.0, 1.0)
    fast_forward, fast_backward = elements.add, elements.add_backward

    def forward(self, x: Array, y: Array) -> tuple[Array, Kept]:
        self.broadcast(x.shape, y.shape)
        return x + y, (x.shape, y.shape)

    def backward(self, g: Array, x_shape: Shape, y_shape: Shape) -> tuple[Array, Array]:
        return unbroadcast(g, x_shape), unbroadcast(g, y_shape)

    def scale(self, x: Shape, y: Shape) -> Scales:
        out = self.broadcast(x, y)
        return Scales(2**-0.5, (broadcast_factor(x, out), broadcast_factor(y, out)))

    def rows(self, x: Shape, y: Shape) -> tuple[Shape, Shape]:
        out = self.broadcast(x, y)
        return repeats(x, out), repeats(y, out)

    def at_scales(self, *scales: float) -> tuple[Op, float]:
        return WeightedAdd(self.weights).at_scales(*scales)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.b, at.m)),)

    def predict(self, out: Shape, *xs: SecondMoments) -> SecondMoments:
        return _of_sum(out, xs, self.weights)

    def predict_gradients(self, g: SecondMoments, *xs: SecondMoments) -> tuple[SecondMoments, ...]:
        return _gradients_of_sum(g, xs, self.weights)

    def broadcast(self, x: Shape, y: Shape) -> Shape:
        """Return the common shape, or raise ShapeError."""
        return broadcast(self.name, x, y)


class Subtract(Op):
    """x − y, broadcast. Factors as for x + y: the sign does not change a variance."""

    inputs = ("x", "y")
    homogeneity = ("together", "together")
    source = "Table A.2 (weighted add, |γ| = 1)"
    adds = True
    passes = (0,)
    weights: ClassVar[tuple[float, float]] = (1.0, -1.0)
    fast_forward, fast_backward = elements.add, elements.add_backward

    def forward(self, x: Array, y: Array) -> tuple[Array, Kept]:
        self.broadcast(x.shape, y.shape)
        return x - y, (x.shape, y.shape)

    def backward(self, g: Array, x_shape: Shape, y_shape: Shape) -> tuple[Array, Array]:
        return unbroadcast(g, x_shape), unbroadcast(-g, y_shape)

    def scale(self, x: Shape, y: Shape) -> Scales:
        self.broadcast(x, y)
        return Add().scale(x, y)

    def rows(self, x: Shape, y: Shape) -> tuple[Shape, Shape]:
        out = self.broadcast(x, y)
        return repeats(x, out), repeats(y, out)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.b, at.m)),)

    def predict(self, out: Shape, *xs: SecondMoments) -> SecondMoments:
        return _of_sum(out, xs, self.weights)

    def predict_gradients(self, g: SecondMoments, *xs: SecondMoments) -> tuple[SecondMoments, ...]:
        return _gradients_of_sum(g, xs, self.weights)

    def broadcast(self, x: Shape, y: Shape) -> Shape:
        """Return the common shape, or raise ShapeError."""
        return broadcast(self.name, x, y)


@dataclass(frozen=True)
class WeightedAdd(Op):
    """Σ γ_i x_i, broadcast, with weights that are part of the function.

    α = (Σ γ_i²)^-½. The gradient of x_i is γ_i·g, so β_i = 1/γ_i (times r^-½ if x_i is repeated r times).

    Attributes:
        weights: γ_i > 0, one per input.
    """

    weights: tuple[float, ...]
    inputs = ("*x",)
    homogeneity = ("weighted",)
    source = "Table A.2 (weighted add)"
    adds = True
    fast_forward, fast_backward = elements.add, elements.add_backward

    def __post_init__(self) -> None:
        if not self.weights or not all(w > 0 and math.isfinite(w) for w in self.weights):
            raise ArgumentError(f"WeightedAdd(weights={self.weights}): expected positive finite weights")
        object.__setattr__(self, "weights", tuple(float(w) for w in self.weights))

    def forward(self, *xs: Array) -> tuple[Array, Kept]:
        self.broadcast(*(x.shape for x in xs))
        total = self.weights[0] * xs[0]
        for weight, x in zip(self.weights[1:], xs[1:], strict=True):
            total = total + weight * x
        return total, tuple(x.shape for x in xs)

    def backward(self, g: Array, *shapes: Shape) -> tuple[Array, ...]:
        return tuple(unbroadcast(w * g, s) for w, s in zip(self.weights, shapes, strict=True))

    def scale(self, *shapes: Shape) -> Scales:
        out = self.broadcast(*shapes)
        betas = tuple(broadcast_factor(s, out) / w for s, w in zip(shapes, self.weights, strict=True))
        return Scales(sum(w**2 for w in self.weights) ** -0.5, betas)

    def rows(self, *shapes: Shape) -> tuple[Shape, ...]:
        out = self.broadcast(*shapes)
        return tuple(repeats(s, out) for s in shapes)

    def at_scales(self, *scales: float) -> tuple[Op, float]:
        """Return the op with weights γ_i·s_i/h and the factor h = √Σ (γ_i·s_i)²."""
        weights = [w * s for w, s in zip(self.weights, scales, strict=True)]
        factor = math.hypot(*weights)
        return WeightedAdd(tuple(w / factor for w in weights)), factor

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls((0.75, 0.5)), (at.b, at.m), (at.b, at.m)),)

    def predict(self, out: Shape, *xs: SecondMoments) -> SecondMoments:
        return _of_sum(out, xs, self.weights)

    def predict_gradients(self, g: SecondMoments, *xs: SecondMoments) -> tuple[SecondMoments, ...]:
        return _gradients_of_sum(g, xs, self.weights)

    def broadcast(self, *shapes: Shape) -> Shape:
        """Return the common shape, or raise ShapeError."""
        if len(shapes) != len(self.weights):
            raise ShapeError(f"weighted_add: {len(self.weights)} weights for {len(shapes)} inputs")
        return broadcast(self.name, *shapes)


class Bias(Op):
    """x + bias, bias broadcast over the b rows of x (the product of its leading axes).

    Biases start at 0 and add no variance: α = β_x = 1; the bias gradient sums b rows: β_bias = b^-½.
    """

    inputs = ("x", "bias")
    homogeneity = ("together", "together")
    source = "Table A.2 (broadcast bias)"
    passes = (0,)
    fast_forward, fast_backward = elements.add_bias, elements.add_bias_backward

    def forward(self, x: Array, bias: Array) -> tuple[Array, Kept]:
        self.check(x.shape, bias.shape)
        return x + bias, (bias.shape,)

    def backward(self, g: Array, shape: Shape) -> tuple[Array, Array]:
        return g, unbroadcast(g, shape)

    def scale(self, x: Shape, bias: Shape) -> Scales:
        return Scales(1.0, (1.0, broadcast_factor(bias, x)))

    def rows(self, x: Shape, bias: Shape) -> tuple[Shape, Shape]:
        return (), repeats(bias, x)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.m,)),)

    def predict(self, out: Shape, *xs: SecondMoments) -> SecondMoments:
        return _of_sum(out, xs, (1.0, 1.0))

    def predict_gradients(self, g: SecondMoments, *xs: SecondMoments) -> tuple[SecondMoments, ...]:
        return _gradients_of_sum(g, xs, (1.0, 1.0))

    def check(self, x: Shape, bias: Shape) -> None:
        """Raise ShapeError unless the shapes fit."""
        if broadcast(self.name, x, bias) != x:
            raise ShapeError(f"bias: shape {bias} does not fit x of shape {x}")


class Multiply(Op):
    """x·y, broadcast.

    The product of independent unit-RMS variables has RMS 1, and so has each gradient: α = 1, and β = r^-½ for an input
    that broadcasting repeats r times.
    """

    inputs = ("x", "y")
    homogeneity = (1, 1)
    source = "E[(xy)²] = E[x²]·E[y²]"
    multiplies = (0, 1)

    def forward(self, x: Array, y: Array) -> tuple[Array, Kept]:
        broadcast(self.name, x.shape, y.shape)
        return x * y, (x, y)

    def backward(self, g: Array, x: Array, y: Array) -> tuple[Array, Array]:
        return unbroadcast(g * y, x.shape), unbroadcast(g * x, y.shape)

    def scale(self, x: Shape, y: Shape) -> Scales:
        out = broadcast(self.name, x, y)
        return Scales(1.0, (broadcast_factor(x, out), broadcast_factor(y, out)))

    def rows(self, x: Shape, y: Shape) -> tuple[Shape, Shape]:
        out = broadcast(self.name, x, y)
        return repeats(x, out), repeats(y, out)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.b, at.m)),)

    def predict(self, out: Shape, x: SecondMoments, y: SecondMoments) -> SecondMoments:
        return SecondMoments(out, x.repeated(out).k * y.repeated(out).k)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments, y: SecondMoments) -> tuple[SecondMoments, ...]:
        for_x, for_y = (SecondMoments(g.shape, g.k * other.repeated(g.shape).k) for other in (y, x))
        return for_x.unbroadcast(x.shape), for_y.unbroadcast(y.shape)


class _Extreme(Op):
    """The larger or the smaller of two elements: factors, gradients and moments of both."""

    inputs = ("x", "y")
    homogeneity = ("together", "together")
    source = "closed form: E max(X, Y) = π^-½"
    has_mean = True
    sign: ClassVar[int]

    def backward(self, g: Array, share: Array, x_shape: Shape, y_shape: Shape) -> tuple[Array, Array]:
        share = share.astype(g.dtype)
        return unbroadcast(g * share, x_shape), unbroadcast(g * (1 - share), y_shape)

    def scale(self, x: Shape, y: Shape, statistic: Statistic = "std") -> Scales:
        out = broadcast(self.name, x, y)
        alpha = (1 - 1 / math.pi) ** -0.5 if statistic == "std" else 1.0
        return Scales(alpha, tuple(math.sqrt(2) * broadcast_factor(shape, out) for shape in (x, y)))

    def rows(self, x: Shape, y: Shape) -> tuple[Shape, Shape]:
        out = broadcast(self.name, x, y)
        return repeats(x, out), repeats(y, out)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.b, at.m)),)

    def predict(self, out: Shape, x: SecondMoments, y: SecondMoments) -> SecondMoments:
        """max(x, y) = ½(x + y) + ½|x − y|, uncorrelated: one is odd in (x, y), the other even."""
        both = x.repeated(out).plus(y.repeated(out))
        return SecondMoments(out, 0.25 * (both.k + through(both, np.abs).k))

    def predict_gradients(self, g: SecondMoments, x: SecondMoments, y: SecondMoments) -> tuple[SecondMoments, ...]:
        both = x.repeated(g.shape).plus(y.repeated(g.shape))
        chosen = SecondMoments(g.shape, g.k * through(both, lambda d: 0.5 + 0.5 * np.sign(d)).k)
        return chosen.unbroadcast(x.shape), chosen.unbroadcast(y.shape)

    def _kept(self, x: Array, y: Array) -> Kept:
        """The share of x in the gradient."""
        broadcast(self.name, x.shape, y.shape)
        above, below = (x > y, x < y) if self.sign > 0 else (x < y, x > y)
        return np.where(above, 1.0, np.where(below, 0.0, 0.5)), x.shape, y.shape


class Maximum(_Extreme):
    """max(x, y), broadcast; the gradient goes to the larger element, half to each of two equal ones (as in torch).

    The maximum of two independent N(0, 1) has mean π^-½ and mean square 1: α = (1 − 1/π)^-½ = 1.211, by RMS 1. Half of
    the elements of g go to each input: β = √2·r^-½ for an input that broadcasting repeats r times.
    """

    sign = 1

    def forward(self, x: Array, y: Array) -> tuple[Array, Kept]:
        kept = self._kept(x, y)
        return np.maximum(x, y), kept


class Minimum(_Extreme):
    """min(x, y) = −max(−x, −y), broadcast, with the factors of ``Maximum``."""

    sign = -1

    def forward(self, x: Array, y: Array) -> tuple[Array, Kept]:
        kept = self._kept(x, y)
        return np.minimum(x, y), kept
