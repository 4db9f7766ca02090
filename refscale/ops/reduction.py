"""Sums and means along axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from refscale.engine import Array, Example, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.shapes import Axes, axes_of, size, tuple_attribute
from refscale.ops.sums import total
from refscale.scales import Scales, Shape
from refscale.scales.second_moments import SecondMoments

Kept = tuple[Any, ...]


def _summed(x: SecondMoments, axes: tuple[int, ...]) -> SecondMoments:
    """Summed over these axes, which are kept with length 1."""
    for axis in axes:
        x = x.summed(axis)
    return x


def _repeated(g: SecondMoments, shape: Shape, axes: tuple[int, ...]) -> SecondMoments:
    """The moments of a gradient that is copied along these axes."""
    return g.reshaped(tuple(1 if a in axes else n for a, n in enumerate(shape))).repeated(shape)


@dataclass(frozen=True)
class Sum(Op):
    """Sum over ``axes`` (None: all) of n elements. α = n^-½; the gradient is copied: β = 1.

    The sum of no elements is 0.

    Attributes:
        axes: an axis, several axes, or None (all).
        keepdims: keep the summed axes, with length 1.
    """

    axes: Axes = None
    keepdims: bool = False
    inputs = ("x",)
    homogeneity = (1,)
    source = "Table A.2"
    later = ("keepdims",)

    def __post_init__(self) -> None:
        if self.axes is not None:
            tuple_attribute(self, "axes")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        axes = axes_of(self.name, self.axes, x.shape)
        return total(x, axes, self.keepdims), (x.shape, axes)

    def backward(self, g: Array, shape: Shape, axes: tuple[int, ...]) -> tuple[Array]:
        return (np.broadcast_to(g if self.keepdims else np.expand_dims(g, axes), shape),)

    def scale(self, x: Shape) -> Scales:
        n = size(tuple(x[a] for a in axes_of(self.name, self.axes, x)))
        return Scales(n**-0.5, (1.0,))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls((-1,)), (at.b, at.m)),)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return _summed(x, axes_of(self.name, self.axes, x.shape)).reshaped(out)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (_repeated(g, x.shape, axes_of(self.name, self.axes, x.shape)),)


@dataclass(frozen=True)
class Mean(Op):
    """Mean over ``axes`` (None: all) of n elements.

    σ of the mean of independent elements is n^-½: α = √n ("independent"). Correlated elements, for example after an
    activation with nonzero mean or after attention, do not average out: α = 1 ("correlated") keeps the mean of equal
    elements. The gradient is copied and divided by n: β = n. The mean or loss of no elements is undefined, and raises
    an error.

    Attributes:
        axes: an axis, several axes, or None (all).
        keepdims: keep the averaged axes, with length 1.
        values: assumed correlation of the elements, "independent" or "correlated".
    """

    axes: Axes = None
    keepdims: bool = False
    values: Literal["independent", "correlated"] = "independent"
    inputs = ("x",)
    homogeneity = (1,)
    later = ("keepdims", "values")
    source = "Table A.2 (sum, divided by n); correlated: mean of n equal values"

    def __post_init__(self) -> None:
        if self.axes is not None:
            tuple_attribute(self, "axes")
        if self.values not in ("independent", "correlated"):
            raise ArgumentError(f"Mean(values={self.values!r}): expected 'independent' or 'correlated'")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        axes, n = self._axes_and_terms(x.shape)
        return total(x, axes, self.keepdims, n), (x.shape, axes, n)

    def backward(self, g: Array, shape: Shape, axes: tuple[int, ...], n: int) -> tuple[Array]:
        return (np.broadcast_to(g / n if self.keepdims else np.expand_dims(g / n, axes), shape),)

    def scale(self, x: Shape) -> Scales:
        _, n = self._axes_and_terms(x)
        return Scales(math.sqrt(n) if self.values == "independent" else 1.0, (n,))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls((-1,)), (at.b, at.m)),)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        axes, n = self._axes_and_terms(x.shape)
        return _summed(x, axes).times(1 / n).reshaped(out)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        axes, n = self._axes_and_terms(x.shape)
        return (_repeated(g, x.shape, axes).times(1 / n),)

    def _axes_and_terms(self, x: Shape) -> tuple[tuple[int, ...], int]:
        axes = axes_of(self.name, self.axes, x)
        n = math.prod(x[a] for a in axes)
        if n < 1:
            raise ShapeError(f"mean: x {x} along axes {axes}, expected at least one element")
        return axes, n
