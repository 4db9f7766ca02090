"""Elementwise arithmetic of several tensors, and the identities that carry factors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from refscale.engine import Array, Example, Input, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.activations import Elementwise, Silu, gate_moments, sigmoid_derivative
from refscale.ops.kernels import elements
from refscale.ops.shapes import broadcast, broadcast_factor
from refscale.ops.sums import unbroadcast
from refscale.scales import Moments, Scales, Shape, Statistic
from refscale.scales.second_moments import SecondMoments, through
from refscale.special import sigmoid, silu

Kept = tuple[Any, ...]

_SMALLEST = 2.0**-126  # normal in float32, and so is its inverse


def _of_sum(out: Shape, xs: Sequence[SecondMoments], weights: Sequence[float]) -> SecondMoments:
    parts = [x.repeated(out).times(w).k for x, w in zip(xs, weights, strict=True)]
    return SecondMoments(out, np.sum(parts, axis=0))


def _gradients_of_sum(
    g: SecondMoments, xs: Sequence[SecondMoments], weights: Sequence[float]
) -> tuple[SecondMoments, ...]:
    return tuple(g.times(w).unbroadcast(x.shape) for x, w in zip(xs, weights, strict=True))


class Add(Op):
    """x + y, broadcast.

    Two independent N(0, 1) add to variance 2: α = 2^-1/2.  β = r^-1/2 for an input that broadcasting repeats r times.
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
        """The common shape, or a ShapeError."""
        return broadcast(self.name, x, y)


class Subtract(Op):
    """x − y, broadcast.  Factors as for x + y: the sign does not change a variance."""

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

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.b, at.m)),)

    def predict(self, out: Shape, *xs: SecondMoments) -> SecondMoments:
        return _of_sum(out, xs, self.weights)

    def predict_gradients(self, g: SecondMoments, *xs: SecondMoments) -> tuple[SecondMoments, ...]:
        return _gradients_of_sum(g, xs, self.weights)

    def broadcast(self, x: Shape, y: Shape) -> Shape:
        """The common shape, or a ShapeError."""
        return broadcast(self.name, x, y)


@dataclass(frozen=True)
class WeightedAdd(Op):
    """Σ γ_i x_i, broadcast, with weights that are part of the function.

    α = (Σ γ_i²)^-1/2.  The gradient of x_i is γ_i·g, so β_i = 1/γ_i (times r^-1/2 if x_i is repeated r times).

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

    def at_scales(self, *scales: float) -> tuple[Op, float]:
        """With weights γ_i·s_i/h, h = √Σ (γ_i·s_i)²: h times its result."""
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
        """The common shape, or a ShapeError."""
        if len(shapes) != len(self.weights):
            raise ShapeError(f"weighted_add: {len(self.weights)} weights for {len(shapes)} inputs")
        return broadcast(self.name, *shapes)


class Bias(Op):
    """x + bias, bias broadcast over the b leading elements of x.

    Biases start at 0 and so add no variance: α = β_x = 1; the bias gradient sums b rows: β_bias = b^-1/2.
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

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.m,)),)

    def predict(self, out: Shape, *xs: SecondMoments) -> SecondMoments:
        return _of_sum(out, xs, (1.0, 1.0))

    def predict_gradients(self, g: SecondMoments, *xs: SecondMoments) -> tuple[SecondMoments, ...]:
        return _gradients_of_sum(g, xs, (1.0, 1.0))

    def check(self, x: Shape, bias: Shape) -> None:
        """A ShapeError, unless they fit."""
        if broadcast(self.name, x, bias) != x:
            raise ShapeError(f"bias: shape {bias} does not fit x of shape {x}")


class Multiply(Op):
    """x·y, broadcast.

    The product of independent unit-RMS variables has RMS 1, and so has each gradient: α = 1, β = r^-1/2.
    """

    inputs = ("x", "y")
    homogeneity = (1, 1)
    source = "E[(xy)²] = E[x²]·E[y²]"

    def forward(self, x: Array, y: Array) -> tuple[Array, Kept]:
        broadcast(self.name, x.shape, y.shape)
        return x * y, (x, y)

    def backward(self, g: Array, x: Array, y: Array) -> tuple[Array, Array]:
        return unbroadcast(g * y, x.shape), unbroadcast(g * x, y.shape)

    def scale(self, x: Shape, y: Shape) -> Scales:
        out = broadcast(self.name, x, y)
        return Scales(1.0, (broadcast_factor(x, out), broadcast_factor(y, out)))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.b, at.m)),)

    def predict(self, out: Shape, x: SecondMoments, y: SecondMoments) -> SecondMoments:
        return SecondMoments(out, x.repeated(out).k * y.repeated(out).k)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments, y: SecondMoments) -> tuple[SecondMoments, ...]:
        for_x, for_y = (SecondMoments(g.shape, g.k * other.repeated(g.shape).k) for other in (y, x))
        return for_x.unbroadcast(x.shape), for_y.unbroadcast(y.shape)


class _Extreme(Op):
    """What ``Maximum`` and ``Minimum`` share: all but which of two elements is taken."""

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

    Of two independent N(0, 1): mean π^-½, mean square 1: α = (1 − 1/π)^-½ = 1.211, by RMS 1.  Half of the elements of g
    go to each input: β = √2·r^-½ for an input that broadcasting repeats r times.
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


@dataclass(frozen=True)
class ScalarMultiply(Elementwise):
    """c·x for a number c that is part of the function; c = −1 is the negation.

    σ(c·X) = |c|, and the gradient is c·g: α = β = 1/|c|.  So under unit scaling y is ±x, and the sign alone is left of
    c.  (``Multiply`` by a constant has α = 1.)

    Attributes:
        factor: c, 2^-126 ≤ |c| ≤ 2^126.
    """

    factor: float
    source = "closed form: σ(c·X) = |c|·σ(X)"
    homogeneity = (1,)
    has_mean = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number(self, "factor", self.factor)

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return x * self.factor, (self.factor,)

    def backward(self, g: Array, factor: float) -> tuple[Array]:  # type: ignore[override]
        return (g * factor,)

    def moments(self) -> Moments:
        return Moments(*(abs(self.factor),) * 3)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(-1.0), (at.b, at.m)), example(cls(0.375), (at.b, at.m)))

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return x.times(self.factor)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (g.times(self.factor),)


@dataclass(frozen=True)
class ScalarDivide(Elementwise):
    """x/c for a number c that is part of the function: one rounding, where x·(1/c) has two.

    σ(X/c) = 1/|c|, and the gradient is g/c: α = β = |c|.

    Attributes:
        divisor: c, 2^-126 ≤ |c| ≤ 2^126.
    """

    divisor: float
    source = "closed form: σ(X/c) = σ(X)/|c|"
    homogeneity = (1,)
    has_mean = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number(self, "divisor", self.divisor)

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return x / self.divisor, (self.divisor,)

    def backward(self, g: Array, divisor: float) -> tuple[Array]:  # type: ignore[override]
        return (g / divisor,)

    def moments(self) -> Moments:
        return Moments(*(1 / abs(self.divisor),) * 3)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(3.0), (at.b, at.m)),)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return x.times(1 / self.divisor)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (g.times(1 / self.divisor),)


def _check_number(op: Op, attribute: str, value: float) -> None:
    """Make the attribute a Python float whose inverse is finite, or raise an ArgumentError."""
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not _SMALLEST <= abs(number) <= 1 / _SMALLEST:
        raise ArgumentError(f"{type(op).__name__}({attribute}={value!r}): expected a number, 2^-126 ≤ |c| ≤ 2^126")
    object.__setattr__(op, attribute, number)


class SiluGlu(Op):
    """x·silu(gate), the gated linear unit of SwiGLU; x and gate of one shape.

    A product of independents sees the RMS, not the standard deviation: α = β_x = 1/RMS(silu(X)),
    β_gate = 1/RMS(silu'(X)).
    """

    inputs = ("x", "gate")
    homogeneity = (1, "own")
    source = "quadrature; arXiv 2002.05202"
    fast_forward, fast_backward = elements.silu_glu, elements.silu_glu_backward

    def forward(self, x: Array, gate: Array) -> tuple[Array, Kept]:
        self.check(x.shape, gate.shape)
        value, derivative = silu(gate)
        return x * value, (x, value, derivative)

    def backward(self, g: Array, x: Array, value: Array, derivative: Array) -> tuple[Array, Array]:
        return g * value, g * x * derivative

    def scale(self, x: Shape, gate: Shape) -> Scales:
        m = Silu().moments()
        return Scales(1 / m.rms, (1 / m.rms, 1 / m.gradient_rms))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.b, at.m)),)

    def predict(self, out: Shape, x: SecondMoments, gate: SecondMoments) -> SecondMoments:
        return SecondMoments(out, x.k * through(gate, Silu().function).k)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments, gate: SecondMoments) -> tuple[SecondMoments, ...]:
        value, slope = through(gate, Silu().function), through(gate, Silu().derivative)
        return SecondMoments(g.shape, g.k * value.k), SecondMoments(g.shape, g.k * x.k * slope.k)

    def check(self, x: Shape, gate: Shape) -> None:
        """A ShapeError, unless they have one shape."""
        if x != gate:
            raise ShapeError(f"silu_glu: x {x} and gate {gate} must have one shape")


@dataclass(frozen=True)
class Highway(Op):
    """(1 − s)·h + s·c with the gate s = sigmoid(update + bias): the cell of a recurrent highway network.

    The state h after a step is a mean of what it was and of the candidate c, whatever the gate: α = 1 keeps it one.  (A
    factor that suits independent h and c would multiply the state at every step, and grow over a sequence without
    bound where the gate is shut.)  β_h = 1/RMS(1 − s), β_c = 1/RMS(s), β_update = 1/(√2·RMS(s′)), for N(0, 1) in all.

    Attributes:
        bias: of the gate; −1 lets the state persist.
    """

    bias: float = 0.0
    inputs = ("h", "candidate", "update")
    homogeneity = ("together", "together", "own")
    source = "quadrature; Zilly et al. 2017 (arXiv 1607.03474), mean of two equal values"
    fast_forward, fast_backward = elements.highway, elements.highway_backward

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.bias):
            raise ArgumentError(f"Highway(bias={self.bias}): expected a finite number")

    def forward(self, h: Array, candidate: Array, update: Array) -> tuple[Array, Kept]:
        self.check(h.shape, candidate.shape, update.shape)
        change, shifted = candidate - h, update + self.bias
        return h + sigmoid(shifted) * change, (change, shifted)

    def backward(self, g: Array, change: Array, shifted: Array) -> tuple[Array, Array, Array]:
        return g * sigmoid(-shifted), g * sigmoid(shifted), g * change * sigmoid_derivative(shifted)

    def scale(self, h: Shape, candidate: Shape, update: Shape) -> Scales:
        self.check(h, candidate, update)
        carry, gate = gate_moments(-self.bias), gate_moments(self.bias)
        return Scales(1.0, (1 / carry.rms, 1 / gate.rms, 1 / (math.sqrt(2) * gate.gradient_rms)))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(-1.0), *[(at.b, at.m)] * 3),)

    def predict(self, out: Shape, h: SecondMoments, candidate: SecondMoments, update: SecondMoments) -> SecondMoments:
        carry, gate = self._gates(update)
        return SecondMoments(out, h.k * carry.k + candidate.k * gate.k)

    def predict_gradients(
        self, g: SecondMoments, h: SecondMoments, candidate: SecondMoments, update: SecondMoments
    ) -> tuple[SecondMoments, ...]:
        carry, gate = self._gates(update)
        slope = through(update, lambda z: sigmoid_derivative(z + self.bias))
        change = h.plus(candidate)
        return tuple(SecondMoments(g.shape, g.k * k) for k in (carry.k, gate.k, change.k * slope.k))

    def _gates(self, update: SecondMoments) -> tuple[SecondMoments, SecondMoments]:
        """Second moments of 1 − s and of s."""
        carry, gate = (lambda z: sigmoid(-z - self.bias)), (lambda z: sigmoid(z + self.bias))
        return through(update, carry), through(update, gate)

    def check(self, h: Shape, candidate: Shape, update: Shape) -> None:
        """A ShapeError, unless they have one shape."""
        if not h == candidate == update:
            raise ShapeError(f"highway: h {h}, candidate {candidate} and update {update} must have one shape")


class _Identity(Op):
    """What ``Scaled`` and ``Fork`` compute: nothing; the engine multiplies by their factors."""

    inputs = ("x",)
    homogeneity = (1,)
    carries_factors = True
    moves = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return x, ()

    def backward(self, g: Array) -> tuple[Array]:
        return (g,)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return x

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (g,)


@dataclass(frozen=True)
class Scaled(_Identity):
    """Identity with chosen factors: α·x forward, β·g backward.  Under the regular scheme, the identity.

    Attributes:
        alpha, beta: positive factors.
    """

    alpha: float = 1.0
    beta: float = 1.0
    source = "authors' code, examples/listings.py (scaled)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(f > 0 and math.isfinite(f) for f in (self.alpha, self.beta)):
            raise ArgumentError(f"Scaled(alpha={self.alpha}, beta={self.beta}): expected positive finite factors")

    def scale(self, x: Shape) -> Scales:
        return Scales(self.alpha, (self.beta,))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(1.0, 0.5), (at.b, at.m)),)


@dataclass(frozen=True)
class Fork(_Identity):
    """Identity at the start of one of several uses of a tensor: the place where gradients of different c are put right.

    x forward, β·g backward.  Where the uses of a tensor send back different multiples of the true gradient, their sum
    would be wrong; ``backward`` then replaces the β of forks so that all agree.

    Attributes:
        beta: what to use where they agree already; ways^-½ keeps a sum of that many gradients at unit variance.
    """

    beta: float = 1.0
    source = "c(x_i) = c(y)·β_i/α, solved for β"
    settles = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise ArgumentError(f"Fork(beta={self.beta}): expected a positive finite factor")

    def scale(self, x: Shape) -> Scales:
        return Scales(1.0, (self.beta,))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(2**-0.5), (at.b, at.m)),)


@dataclass(frozen=True)
class Dropout(Op):
    """x·keep/(1−p), where keep is a boolean array drawn by the caller.

    The output has variance 1/(1−p), and so has the gradient: α = β = √(1−p).

    Attributes:
        p: probability of dropping an element, 0 ≤ p < 1.
    """

    p: float
    inputs = ("x", "keep")
    homogeneity = (1, None)
    source = "paper, Table A.2; E[keep²]/(1−p)² = 1/(1−p)"
    constants = (1,)
    fast_forward, fast_backward = elements.drop, elements.drop_backward

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.p < 1:
            raise ArgumentError(f"Dropout(p={self.p}): expected 0 ≤ p < 1")

    def forward(self, x: Array, keep: Array) -> tuple[Array, Kept]:
        self.check(x, keep)
        return np.where(keep, x * (1 / (1 - self.p)), 0).astype(x.dtype, copy=False), (keep,)

    def backward(self, g: Array, keep: Array) -> tuple[Array, None]:
        return np.where(keep, g * (1 / (1 - self.p)), 0).astype(g.dtype, copy=False), None

    def scale(self, x: Shape, keep: Shape) -> Scales:
        return Scales(math.sqrt(1 - self.p), (math.sqrt(1 - self.p), None))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(0.1), (at.b, at.m), Input((at.b, at.m), "mask")),)

    def predict(self, out: Shape, x: SecondMoments, keep: SecondMoments) -> SecondMoments:
        return self._thinned(x)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments, keep: SecondMoments) -> tuple[SecondMoments, None]:
        return self._thinned(g), None

    def _thinned(self, x: SecondMoments) -> SecondMoments:
        """Each element is kept by itself: only its square grows, to 1/(1 − p)."""
        k = x.k.copy()
        k[(1,) * k.ndim] /= 1 - self.p
        return SecondMoments(x.shape, k)

    def check(self, x: Array, keep: Array) -> None:
        """A ShapeError, unless there is one boolean for every element."""
        if keep.dtype != np.bool_ or keep.shape != x.shape:
            raise ShapeError(f"dropout: keep is {keep.dtype}{keep.shape}, expected bool{x.shape}")
