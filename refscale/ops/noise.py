"""Dropout, with noise drawn by the caller."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from refscale.engine import Array, Example, Input, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.kernels import elements
from refscale.scales import Scales, Shape
from refscale.scales.second_moments import SecondMoments

Kept = tuple[Any, ...]


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
        """Raise ShapeError unless ``keep`` has one boolean for every element of x."""
        if keep.dtype != np.bool_ or keep.shape != x.shape:
            raise ShapeError(f"dropout: keep is {keep.dtype}{keep.shape}, expected bool{x.shape}")
