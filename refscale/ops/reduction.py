"""Sums and means along axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from refscale.engine import Array, Op
from refscale.errors import ShapeError
from refscale.ops.shapes import axis_of, size
from refscale.scales import Scales, Shape

Kept = tuple[Any, ...]


def _axes(name: str, axes: tuple[int, ...] | None, shape: Shape) -> tuple[int, ...]:
    if axes is None:
        return tuple(range(len(shape)))
    counted = tuple(axis_of(name, a, len(shape)) for a in axes)
    if len(set(counted)) != len(counted):
        raise ShapeError(f"{name}: axes {axes} of {shape} name one axis twice")
    return counted


@dataclass(frozen=True)
class Sum(Op):
    """Sum over ``axes`` (None: all) of n elements in all.  α = n^-1/2; the gradient is copied: β = 1."""

    axes: tuple[int, ...] | None = None
    inputs = ("x",)
    source = "Table A.2"

    def forward(self, x: Array) -> tuple[Array, Kept]:
        axes = _axes(self.name, self.axes, x.shape)
        return np.asarray(x.sum(axes)), (x.shape, axes)

    def backward(self, g: Array, shape: Shape, axes: tuple[int, ...]) -> tuple[Array]:
        return (np.broadcast_to(np.expand_dims(g, axes), shape),)

    def scale(self, x: Shape) -> Scales:
        n = size(tuple(x[a] for a in _axes(self.name, self.axes, x)))
        return Scales(n**-0.5, (1.0,))


@dataclass(frozen=True)
class Mean(Op):
    """Mean over ``axes`` (None: all) of n elements in all.

    σ of the mean is n^-1/2: α = √n; the gradient is copied and divided by n: β = n.
    """

    axes: tuple[int, ...] | None = None
    inputs = ("x",)
    source = "Table A.2 (sum, divided by n)"

    def forward(self, x: Array) -> tuple[Array, Kept]:
        axes = _axes(self.name, self.axes, x.shape)
        n = size(tuple(x.shape[a] for a in axes))
        return np.asarray(x.sum(axes) / n).astype(x.dtype, copy=False), (x.shape, axes, n)

    def backward(self, g: Array, shape: Shape, axes: tuple[int, ...], n: int) -> tuple[Array]:
        return (np.broadcast_to(np.expand_dims(g / n, axes), shape),)

    def scale(self, x: Shape) -> Scales:
        n = size(tuple(x[a] for a in _axes(self.name, self.axes, x)))
        return Scales(math.sqrt(n), (n,))
