"""Shape arithmetic that several pages of the op table share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.errors import ShapeError
from refscale.scales import Shape


def size(shape: Shape) -> int:
    """Number of elements, at least 1 so that a factor of an empty tensor stays finite."""
    return max(1, math.prod(shape))


def broadcast(name: str, *shapes: Shape) -> Shape:
    """The common shape, or a ShapeError that names op and shapes."""
    first = shapes[0]
    if all(shape in (first, ()) for shape in shapes):  # most often; NumPy takes two microseconds
        return first
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ShapeError(f"{name}: shapes {', '.join(map(str, shapes))} do not broadcast together") from None


def broadcast_factor(shape: Shape, to: Shape) -> float:
    """β of an input that broadcasting repeats r times: the gradient sums r terms, so r^-1/2.

    Source: paper, Table A.2 (broadcast bias).
    """
    return math.sqrt(size(shape) / size(to))


def unbroadcast(g: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """Sum a gradient over the axes along which an input of ``shape`` was repeated."""
    if g.shape == shape:
        return g
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return np.asarray(g.sum(axis=tuple(i for i, n in enumerate(shape) if n != g.shape[i]), keepdims=True))


def axis_of(name: str, axis: int, ndim: int) -> int:
    """``axis`` counted from 0, or a ShapeError."""
    if not -ndim <= axis < ndim:
        raise ShapeError(f"{name}: axis {axis} of an array with {ndim} dimensions")
    return axis % ndim
