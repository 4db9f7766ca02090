"""Positions of tokens in attention: rotary embedding, and scores by relative position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refscale.engine import Array, Example, Op, Sizes, example
from refscale.errors import ShapeError
from refscale.scales import Scales, Shape
from refscale.scales.second_moments import SecondMoments

Kept = tuple[Any, ...]


@dataclass(frozen=True)
class Rotary(Op):
    """Rotation of each pair (x_i, x_{i+d/2}) of x (…, s, d) by an angle with given cos and sin (s, d/2).

    A rotation keeps lengths, and its gradient is the inverse rotation: α = β = 1.

    Attributes:
        interleaved: rotate the pairs (x_2i, x_{2i+1}), as in the paper; default False, as in most published decoders.
    """

    interleaved: bool = False
    inputs = ("x", "cos", "sin")
    homogeneity = (1, None, None)
    source = "a rotation keeps lengths; arXiv 2104.09864"
    constants = (1, 2)

    def forward(self, x: Array, cos: Array, sin: Array) -> tuple[Array, Kept]:
        self.check(x.shape, cos.shape, sin.shape)
        return self._rotated(x, cos, sin), (cos, sin)

    def backward(self, g: Array, cos: Array, sin: Array) -> tuple[Array, None, None]:
        return self._rotated(g, cos, -sin), None, None

    def scale(self, x: Shape, cos: Shape, sin: Shape) -> Scales:
        self.check(x, cos, sin)
        return Scales(1.0, (1.0, None, None))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        half = max(1, at.m // 2)
        shapes = (at.b, at.s, 2 * half), (at.s, half), (at.s, half)
        return example(cls(), *shapes), example(cls(interleaved=True), *shapes)

    def predict(self, out: Shape, x: SecondMoments, cos: SecondMoments, sin: SecondMoments) -> SecondMoments:
        return x

    def predict_gradients(
        self, g: SecondMoments, x: SecondMoments, cos: SecondMoments, sin: SecondMoments
    ) -> tuple[SecondMoments, None, None]:
        return g, None, None

    def _rotated(self, x: Array, cos: Array, sin: Array) -> Array:
        if self.interleaved:
            a, b = x[..., ::2], x[..., 1::2]
            return np.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)
        half = x.shape[-1] // 2
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def check(self, x: Shape, cos: Shape, sin: Shape) -> None:
        """Raise ShapeError unless the shapes fit."""
        if len(x) < 2 or x[-1] % 2 or not cos == sin == (x[-2], x[-1] // 2):
            raise ShapeError(f"rotary: x {x}, cos {cos}, sin {sin}, expected (…, s, d) with d even and twice (s, d/2)")


class RelativeShift(Op):
    """Scores by distance, ordered by position: y[…, i, j] = x[…, i, i − j] for j ≤ i, and 0 for j > i; x is (…, s, s).

    Query i has distances 0 … i: i + 1 scores of its row are used, and have a gradient. Values keep their variance:
    α = 1 (the causal mask that follows hides the zeros). A fraction (s + 1)/(2s) of the elements has a gradient:
    β = √(2s/(s + 1)) for an incoming gradient that is not masked. The map is its own transpose.
    """

    inputs = ("x",)
    homogeneity = (1,)
    source = "share of elements with a gradient; Dai et al. 2019 (arXiv 1901.02860), Appendix B"
    moves = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return self._shifted(x), ()

    def backward(self, g: Array) -> tuple[Array]:
        return (self._shifted(g),)

    def scale(self, x: Shape) -> Scales:
        s = self._side(x)
        return Scales(1.0, ((2 * s / (s + 1)) ** 0.5,))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.s, at.s)),)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return x

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (g,)

    def _shifted(self, x: Array) -> Array:
        s = self._side(x.shape)
        # Row i of ``wide`` is x_{i, s−1} … x_{i, 0} and s zeros; y_ij is in its column s − 1 − i + j. In rows that are
        # shorter by one, these columns are 0 … s − 1.
        wide = np.zeros_like(x, shape=(*x.shape[:-1], 2 * s), order="C")
        wide[..., :s] = x[..., ::-1]
        flat = wide.reshape(*x.shape[:-2], 2 * s * s)[..., s - 1 : 2 * s * s - 1]
        return flat.reshape(*x.shape[:-1], 2 * s - 1)[..., :s].copy()

    def _side(self, x: Shape) -> int:
        if len(x) < 2 or x[-1] != x[-2] or x[-1] < 1:
            raise ShapeError(f"relative_shift: x {x}, expected (…, s, s)")
        return x[-1]
