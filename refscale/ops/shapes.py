"""Arithmetic and checks of shapes, axes and counts for several modules of ops."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from refscale.arguments import whole_number
from refscale.errors import ArgumentError, ShapeError
from refscale.scales import Shape

Axes = int | tuple[int, ...] | None
"""An axis, several axes, or None for all; a negative axis counts from the end."""


def size(shape: Shape) -> int:
    """Return the number of elements, at least 1, so that the factors of an empty tensor are finite."""
    return max(1, math.prod(shape))


def broadcast(name: str, *shapes: Shape) -> Shape:
    """Return the common shape, or raise a ShapeError that names op and shapes."""
    first = shapes[0]
    if all(shape in (first, ()) for shape in shapes):  # most often; NumPy takes two microseconds
        return first
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ShapeError(f"{name}: shapes {', '.join(map(str, shapes))} do not broadcast together") from None


def broadcast_factor(shape: Shape, to: Shape) -> float:
    """Compute β of an input that broadcasting repeats r times: its gradient sums r terms, so β = r^-½.

    Source: paper, Table A.2 (broadcast bias).
    """
    return math.sqrt(size(shape) / size(to))


def repeats(shape: Shape, to: Shape) -> Shape:
    """Return the number of repeats of a broadcast input along each axis of the result, ≥ 1: its ``Op.rows``."""
    sides = (*(1,) * (len(to) - len(shape)), *shape)
    return tuple(n // max(1, m) if n != m else 1 for m, n in zip(sides, to, strict=True))


def leading(shape: Shape) -> Shape:
    """Return the leading axes, and 1 for the last: ``Op.rows`` of an input whose gradient sums over leading axes."""
    return (*shape[:-1], 1)


# --- Integers that a caller passes ------------------------------------------------------------------------------------


def whole_numbers(values: object, least: float = -math.inf) -> tuple[int, ...] | None:
    """Return several integers ≥ ``least`` as a tuple of Python ints; None for any other value."""
    if not isinstance(values, Iterable):
        return None
    numbers = [whole_number(v, least) for v in values]
    found = tuple(n for n in numbers if n is not None)
    return found if len(found) == len(numbers) else None


def integer_attributes(op: object, *attributes: str, least: float = -math.inf) -> None:
    """Convert attributes of an op to Python ints, or raise an ArgumentError."""
    for attribute in attributes:
        value = getattr(op, attribute)
        number = whole_number(value, least)
        if number is None:
            bound = "" if least == -math.inf else f" ≥ {least}"
            raise ArgumentError(f"{type(op).__name__}({attribute}={value!r}): expected an integer{bound}")
        object.__setattr__(op, attribute, number)


def tuple_attribute(op: object, attribute: str) -> None:
    """Convert an attribute of an op, an integer or several, to a tuple of Python ints, or raise an ArgumentError."""
    value = getattr(op, attribute)
    number = whole_number(value)
    numbers = whole_numbers(value) if number is None else (number,)
    if numbers is None:
        raise ArgumentError(f"{type(op).__name__}({attribute}={value!r}): expected an integer or a tuple of integers")
    object.__setattr__(op, attribute, numbers)


# --- Axes -------------------------------------------------------------------------------------------------------------


def axis_of(name: str, axis: int, ndim: int) -> int:
    """Return ``axis``, counted from 0, as a Python int; or raise ArgumentError or ShapeError."""
    number = whole_number(axis)
    if number is None:
        raise ArgumentError(f"{name}: axis {axis}, expected an integer")
    if not -ndim <= number < ndim:
        raise ShapeError(f"{name}: axis {axis} of an array with {ndim} dimensions")
    return number % ndim


def axes_of(name: str, axes: Axes, shape: Shape) -> tuple[int, ...]:
    """Return ``axes``, counted from 0; raise ShapeError if one is out of range or occurs twice."""
    if axes is None:
        return tuple(range(len(shape)))
    counted = tuple(axis_of(name, a, len(shape)) for a in ((axes,) if isinstance(axes, int) else axes))
    if len(set(counted)) != len(counted):
        raise ShapeError(f"{name}: axes {axes} of {shape} name one axis twice")
    return counted
