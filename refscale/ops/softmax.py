"""Softmax and its logarithm along the last axis, plain and masked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from refscale.engine import Array, Example, Input, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.kernels import rows
from refscale.ops.shapes import broadcast, integer_attributes
from refscale.ops.softmax_moments import softmax_gradient, softmax_of
from refscale.scales import Scales, Shape, Statistic
from refscale.scales.second_moments import SecondMoments

Kept = tuple[Any, ...]


def _softmax(x: Array) -> Array:
    y: Array = np.exp(x - x.max(-1, keepdims=True))
    y /= y.sum(-1, keepdims=True)
    return y


def _softmax_backward(g: Array, y: Array) -> Array:
    return np.asanyarray(y * (g - (g * y).sum(-1, keepdims=True)))


def _width(name: str, x: Shape) -> int:
    if not x or x[-1] < 1:
        raise ShapeError(f"{name}: x {x}, expected (…, s) with s ≥ 1")
    return x[-1]


def _fits(name: str, x: Shape, mask: Shape) -> None:
    _width(name, x)
    if len(x) < 2 or broadcast(name, x, mask) != x:
        raise ShapeError(f"{name}: x {x} and mask {mask}, expected (…, s, t) and a shape that fits it")


def _check_mask(name: str, x: Array, mask: Array) -> None:
    _fits(name, x.shape, mask.shape)
    if mask.dtype != np.bool_:
        raise ArgumentError(f"{name}: mask is {mask.dtype}, expected bool")


def _seen(x: Array, mask: Array, causal: bool) -> Array:
    """The mask, without later keys if they are hidden."""
    if not causal:
        return mask
    s, t = x.shape[-2:]
    return np.asarray(mask & np.tri(s, t, t - s, dtype=np.bool_))


def _shifted(x: Array, mask: Array) -> Array:
    """x less the largest element of a row that counts, −∞ where an element does not."""
    top = np.max(x, -1, keepdims=True, where=mask, initial=-np.inf)
    return np.where(mask, x - np.where(np.isneginf(top), 0, top), -np.inf)


def _log_scales(s: int, statistic: Statistic) -> tuple[float, float]:
    """(α, β) of the logarithm of a softmax over s logits N(0, 1)."""
    alpha = 1.0 if statistic == "std" else (1 + (math.log(s) + 0.5) ** 2) ** -0.5
    return alpha, 1.0 if s == 1 else (1 - 1 / s) ** -0.5


def _softmax_scales(s: int, statistic: Statistic) -> tuple[float, float]:
    """(α, β) of a softmax over s logits N(0, 1).

    "std" is the paper's rule, s both ways: it makes the mean 1. By RMS, as s grows, RMS(y) → √e/s and so does that of
    the gradient.
    """
    return (s, s) if statistic == "std" else (s / math.sqrt(math.e), s / math.sqrt(math.e))


class Softmax(Op):
    """e^x_i / Σ e^x_j over the s elements of the last axis. α = β = s."""

    inputs = ("x",)
    homogeneity = ("own",)
    source = "Table A.2"
    has_mean = True
    fast_forward, fast_backward = rows.softmax, rows.softmax_backward

    def forward(self, x: Array) -> tuple[Array, Kept]:
        self.check(x.shape)
        y = _softmax(x)
        return y, (y,)

    def backward(self, g: Array, y: Array) -> tuple[Array]:
        return (_softmax_backward(g, y),)

    def scale(self, x: Shape, statistic: Statistic = "std") -> Scales:
        alpha, beta = _softmax_scales(self.check(x), statistic)
        return Scales(alpha, (beta,))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.s)),)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return softmax_of(x)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (softmax_gradient(g, x),)

    def check(self, x: Shape) -> int:
        """Return the length of the rows, or raise ShapeError."""
        return _width(self.name, x)


@dataclass(frozen=True)
class MaskedSoftmax(Op):
    """Softmax over the visible keys of each query; 0 for the others.

    x (…, s, t) are logits of s queries and t keys; mask is boolean, broadcast to x, True for visible keys. Query i has
    the position of key p = i + t − s: with ``causal`` it sees only keys j ≤ p, with a window only those with
    |p − j| < window. A query without visible keys gets zeros.

    α = β = t, the rule of softmax, or the number of keys in a window if that is smaller: the elements in the window
    then have mean 1. The number of keys that a mask shows is data, on which a factor must not depend.

    Attributes:
        causal: also hide later keys.
        window: also hide keys at this distance or farther, an integer ≥ 1; None: no window.
    """

    causal: bool = False
    window: int | None = None
    inputs = ("x", "mask")
    homogeneity = ("own", None)
    source = "Table A.2 (softmax)"
    constants = (1,)
    has_mean = True
    fast_forward, fast_backward = rows.masked_softmax, rows.masked_softmax_backward

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None:
            integer_attributes(self, "window", least=1)

    def forward(self, x: Array, mask: Array) -> tuple[Array, Kept]:
        self.check(x, mask)
        seen = mask & self.places(*x.shape[-2:]) if self.hides_by_place else mask
        y = np.exp(_shifted(x, seen))
        total = y.sum(-1, keepdims=True)
        y /= np.where(total == 0, 1, total)
        return y, (y,)

    def backward(self, g: Array, y: Array) -> tuple[Array, None]:
        return _softmax_backward(g, y), None

    def scale(self, x: Shape, mask: Shape, statistic: Statistic = "std") -> Scales:
        _fits(self.name, x, mask)
        alpha, beta = _softmax_scales(self.most_keys(_width(self.name, x)), statistic)
        return Scales(alpha, (beta, None))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        shapes = (at.b, at.s, at.s), Input((at.b, 1, at.s), "mask")
        return example(cls(causal=True), *shapes), example(cls(causal=True, window=4), *shapes)

    def predict(self, out: Shape, x: SecondMoments, mask: SecondMoments) -> SecondMoments:
        return softmax_of(x, self.causal, self.window)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments, mask: SecondMoments) -> tuple[SecondMoments, None]:
        return softmax_gradient(g, x, self.causal, self.window), None

    @property
    def hides_by_place(self) -> bool:
        """Return whether some keys are hidden by their position."""
        return self.causal or self.window is not None

    def places(self, s: int, t: int) -> Array:
        """Return a boolean array (s, t): True where ``causal`` and ``window`` show the key to the query."""
        ahead = 0 if self.causal else t if self.window is None else self.window - 1
        seen = np.tri(s, t, t - s + ahead, dtype=np.bool_)
        return seen if self.window is None else seen & ~np.tri(s, t, t - s - self.window, dtype=np.bool_)

    def most_keys(self, t: int) -> int:
        """Return the largest number of t keys that ``causal`` and ``window`` show to a query."""
        if self.window is None:
            return t
        return min(t, self.window if self.causal else 2 * self.window - 1)

    def check(self, x: Array, mask: Array) -> None:
        """Raise ShapeError or ArgumentError unless the mask fits x."""
        _check_mask(self.name, x, mask)


class LogSoftmax(Op):
    """x_i − log Σ e^x_j over the s elements of the last axis.

    A shift by a nearly constant term, log s + ½ for logits N(0, 1), preserves the variance: α = 1; by RMS,
    α = (1 + (log s + ½)²)^-½. At uniform logits the gradient is g minus its mean:
    β = (1 − 1/s)^-½, and 1 for s = 1, where the gradient is 0.
    """

    inputs = ("x",)
    homogeneity = ("own",)
    source = "closed form at uniform logits"
    has_mean = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        _width(self.name, x.shape)
        shifted = x - x.max(-1, keepdims=True)
        y = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        return y, (y,)

    def backward(self, g: Array, y: Array) -> tuple[Array]:
        return (g - np.exp(y) * g.sum(-1, keepdims=True),)

    def scale(self, x: Shape, statistic: Statistic = "std") -> Scales:
        alpha, beta = _log_scales(_width(self.name, x), statistic)
        return Scales(alpha, (beta,))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.s)),)


@dataclass(frozen=True)
class MaskedLogSoftmax(Op):
    """Logarithm of softmax over the visible elements, as in ``masked_softmax``; 0, not −∞, for the others.

    Sums over a row thus exclude the hidden elements. Factors are those of ``log_softmax`` over all t elements: the
    number of visible elements is data.

    Attributes:
        causal: also hide later keys.
    """

    causal: bool = False
    inputs = ("x", "mask")
    homogeneity = ("own", None)
    source = "closed form at uniform logits"
    constants = (1,)
    has_mean = True

    def forward(self, x: Array, mask: Array) -> tuple[Array, Kept]:
        _check_mask(self.name, x, mask)
        mask = np.broadcast_to(_seen(x, mask, self.causal), x.shape)
        shifted = _shifted(x, mask)
        p = np.exp(shifted)
        total = p.sum(-1, keepdims=True)
        total = np.where(total == 0, 1, total)
        return np.where(mask, shifted - np.log(total), np.zeros((), x.dtype)), (p / total, mask)

    def backward(self, g: Array, p: Array, mask: Array) -> tuple[Array, None]:
        zero = np.zeros((), g.dtype)
        seen = np.where(mask, g, zero)
        return np.where(mask, seen - p * seen.sum(-1, keepdims=True), zero), None

    def scale(self, x: Shape, mask: Shape, statistic: Statistic = "std") -> Scales:
        _fits(self.name, x, mask)
        alpha, beta = _log_scales(x[-1], statistic)
        return Scales(alpha, (beta, None))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.s, at.s), Input((at.b, 1, at.s), "mask")),)
