"""Softmax along the last axis: plain, masked, and its logarithm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from refscale.engine import Array, Example, Input, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.kernels import rows
from refscale.ops.shapes import broadcast
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


def _softmax_scales(s: int, statistic: Statistic) -> tuple[float, float]:
    """(α, β) of a softmax over s logits N(0, 1).

    "std" is the paper's rule, s both ways: it makes the mean 1.  By RMS, as s grows, RMS(y) → √e/s and so does that of
    the gradient.
    """
    return (s, s) if statistic == "std" else (s / math.sqrt(math.e), s / math.sqrt(math.e))


class Softmax(Op):
    """e^x_i / Σ e^x_j over the s elements of the last axis.  α = β = s."""

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
        """Width of the rows, or a ShapeError."""
        return _width(self.name, x)


@dataclass(frozen=True)
class MaskedSoftmax(Op):
    """Softmax over the keys that a query may see; 0 for the others.

    x (…, s, t) are logits of s queries and t keys, mask is boolean, broadcast to x, True where a key may be seen.
    With ``causal``, query i sees only keys j ≤ i + t − s.  A query that may see no key gets zeros.
    α = β = t, the rule of softmax: how many keys a mask leaves is data, which a factor must not depend on.

    Attributes:
        causal: also hide later keys.
    """

    causal: bool = False
    inputs = ("x", "mask")
    homogeneity = ("own", None)
    source = "Table A.2 (softmax)"
    constants = (1,)
    has_mean = True
    fast_forward, fast_backward = rows.masked_softmax, rows.masked_softmax_backward

    def forward(self, x: Array, mask: Array) -> tuple[Array, Kept]:
        self.check(x, mask)
        if self.causal:
            s, t = x.shape[-2:]
            mask = mask & np.tri(s, t, t - s, dtype=np.bool_)
        top = np.max(x, -1, keepdims=True, where=mask, initial=-np.inf)
        y = np.exp(np.where(mask, x - np.where(np.isneginf(top), 0, top), -np.inf))
        total = y.sum(-1, keepdims=True)
        y /= np.where(total == 0, 1, total)
        return y, (y,)

    def backward(self, g: Array, y: Array) -> tuple[Array, None]:
        return _softmax_backward(g, y), None

    def scale(self, x: Shape, mask: Shape, statistic: Statistic = "std") -> Scales:
        self._fits(x, mask)
        alpha, beta = _softmax_scales(_width(self.name, x), statistic)
        return Scales(alpha, (beta, None))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(causal=True), (at.b, at.s, at.s), Input((at.b, 1, at.s), "mask")),)

    def predict(self, out: Shape, x: SecondMoments, mask: SecondMoments) -> SecondMoments:
        return softmax_of(x, self.causal)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments, mask: SecondMoments) -> tuple[SecondMoments, None]:
        return softmax_gradient(g, x, self.causal), None

    def check(self, x: Array, mask: Array) -> None:
        """A ShapeError or ArgumentError, unless the mask is one of x."""
        self._fits(x.shape, mask.shape)
        if mask.dtype != np.bool_:
            raise ArgumentError(f"masked_softmax: mask is {mask.dtype}, expected bool")

    def _fits(self, x: Shape, mask: Shape) -> None:
        _width(self.name, x)
        if len(x) < 2 or broadcast(self.name, x, mask) != x:
            raise ShapeError(f"masked_softmax: x {x} and mask {mask}, expected (…, s, t) and a shape that fits it")


class LogSoftmax(Op):
    """x_i − log Σ e^x_j over the s elements of the last axis.

    Shifting by a nearly constant term, log s + ½ for logits N(0, 1), leaves the variance: α = 1; by RMS,
    α = (1 + (log s + ½)²)^-1/2.  At uniform logits the gradient is g minus its mean:
    β = (1 − 1/s)^-1/2, and 1 for s = 1, where the gradient is 0.
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
        s = _width(self.name, x)
        alpha = 1.0 if statistic == "std" else (1 + (math.log(s) + 0.5) ** 2) ** -0.5
        return Scales(alpha, (1.0 if s == 1 else (1 - 1 / s) ** -0.5,))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.s)),)
