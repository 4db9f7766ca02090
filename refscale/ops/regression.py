"""Losses of differences: squared error, Huber and smooth L1; not rounded, with gradients of unit variance."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from refscale.engine import Array, Example, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.losses import Reduction, check_reduction, times_gradient
from refscale.ops.shapes import size
from refscale.ops.sums import total
from refscale.scales import Scales, Shape
from refscale.scales.second_moments import SecondMoments, constant, through

Kept = tuple[Any, ...]


def _check(name: str, x: Shape, target: Shape) -> None:
    if x != target or math.prod(x) < 1:
        raise ShapeError(f"{name}: x {x} and target {target}, expected one shape with at least one element")


class MseLoss(Op):
    """Σ (x − target)² / N over all N elements; x and target of the same shape.

    For independent N(0, 1), x − target has σ = √2, and the gradient 2(x − target)/N has σ = 2√2/N: β = N/(2√2) for
    both.
    α = 1: the value is the loss.
    """

    inputs = ("x", "target")
    homogeneity = ("own", "own")
    source = "closed form"
    reports = True

    def forward(self, x: Array, target: Array) -> tuple[Array, Kept]:
        _check(self.name, x.shape, target.shape)
        difference = x - target
        return total(difference**2, over=difference.size), (difference,)

    def backward(self, g: Array, difference: Array) -> tuple[Array, Array]:
        gradient = g * (2 / difference.size) * difference
        return gradient, -gradient

    def scale(self, x: Shape, target: Shape) -> Scales:
        _check(self.name, x, target)
        beta = size(x) / (2 * math.sqrt(2))
        return Scales(1.0, (beta, beta))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.b, at.m)),)

    def predict(self, out: Shape, x: SecondMoments, target: SecondMoments) -> SecondMoments:
        return constant(out, 0.0)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments, target: SecondMoments) -> tuple[SecondMoments, ...]:
        both = x.plus(target).times(2 / math.prod(x.shape) * g.rms)
        return both, both


class _Clipped(Op):
    """A loss of d = x − target whose gradient is c·d, clipped to ±limit; x and target of one shape."""

    inputs = ("x", "target")
    homogeneity = ("own", "own")
    source = "closed form: E min(D², δ²), D ~ N(0, 2)"
    reports = True
    reduction: Reduction

    @abstractmethod
    def _corner(self) -> float:
        """δ: where the square ends."""

    @abstractmethod
    def _slope(self) -> float:
        """The gradient beyond it."""

    def forward(self, x: Array, target: Array) -> tuple[Array, Kept]:
        _check(self.name, x.shape, target.shape)
        n = x.size if self.reduction == "mean" else 1
        each, gradient = self._losses(x - target)
        return each if self.reduction == "none" else total(each, over=n), (gradient, n)

    def _losses(self, d: Array) -> tuple[Array, Array]:
        """½·(slope/δ)·d², or slope·(|d| − δ/2), and its derivative."""
        corner, slope = self._corner(), self._slope()
        inner = np.minimum(np.maximum(d, -corner), corner)
        gradient = np.sign(d) * slope if corner == 0 else inner * (slope / corner)
        return gradient * (d - 0.5 * inner), gradient

    def backward(self, g: Array, gradient: Array, n: int) -> tuple[Array, Array]:
        found = g * gradient / n
        return found, -found

    def scale(self, x: Shape, target: Shape) -> Scales:
        _check(self.name, x, target)
        beta = (size(x) if self.reduction == "mean" else 1) / self._gradient_rms()
        return Scales(1.0, (beta, beta))

    def predict(self, out: Shape, x: SecondMoments, target: SecondMoments) -> SecondMoments:
        return through(x.plus(target), lambda d: self._losses(d)[0]) if self.reduction == "none" else constant(out, 0.0)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments, target: SecondMoments) -> tuple[SecondMoments, ...]:
        share = 1 / math.prod(x.shape) if self.reduction == "mean" else 1.0
        both = times_gradient(g, through(x.plus(target), lambda d: self._losses(d)[1]).times(share))
        return both, both

    def _gradient_rms(self) -> float:
        """E min(D², δ²) = 2·(erf(δ/2) − δ·e^(−δ²/4)/√π) + δ²·erfc(δ/2), its root times slope/δ."""
        corner = self._corner()
        if corner == 0:
            return self._slope()
        inside = math.erf(corner / 2) - corner * math.exp(-(corner**2) / 4) / math.sqrt(math.pi)
        return self._slope() / corner * math.sqrt(2 * inside + corner**2 * math.erfc(corner / 2))


@dataclass(frozen=True)
class HuberLoss(_Clipped):
    """½d² where |d| ≤ δ, else δ·(|d| − δ/2), d = x − target: the loss of every element, or their sum or mean.

    The gradient is d, clipped to ±δ; d of two independent N(0, 1) has variance 2:
    β = (E min(d², δ²))^-½, times the number of elements for the mean. α = 1: the value is the loss.

    Attributes:
        delta: the threshold δ, 2^-10 ≤ δ < ∞.
        reduction: "mean" over all elements, "sum", or "none".
    """

    delta: float = 1.0
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduction(self, self.reduction)
        if not 2**-10 <= self.delta < math.inf:  # below, the two terms of the gradient's RMS cancel
            raise ArgumentError(f"HuberLoss(delta={self.delta}): expected 2^-10 ≤ delta < ∞")

    def _corner(self) -> float:
        return self.delta

    def _slope(self) -> float:
        return self.delta

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.b, at.m)),)


@dataclass(frozen=True)
class SmoothL1Loss(_Clipped):
    """½d²/δ where |d| ≤ δ, else |d| − δ/2, of d = x − target: the loss of ``huber_loss``, divided by δ.

    β = δ·(E min(d², δ²))^-½, times the number of elements for the mean; 1 for δ = 0, where the loss is |d|. α = 1.

    Attributes:
        beta: the threshold δ (torch's name), 0 or 2^-10 ≤ δ < ∞.
        reduction: "mean" over all elements, "sum", or "none".
    """

    beta: float = 1.0
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduction(self, self.reduction)
        if self.beta != 0 and not 2**-10 <= self.beta < math.inf:
            raise ArgumentError(f"SmoothL1Loss(beta={self.beta}): expected 0, or 2^-10 ≤ beta < ∞")

    def _corner(self) -> float:
        return self.beta

    def _slope(self) -> float:
        return 1.0

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(0.5), (at.b, at.m), (at.b, at.m)),)
