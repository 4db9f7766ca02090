"""Positions of sliding windows on one, two or three axes, with stride, dilation and padding; checks of attributes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale.arguments import whole_number
from refscale.engine import Array, Op
from refscale.errors import ArgumentError, ShapeError, counted
from refscale.ops.shapes import size, whole_numbers
from refscale.scales import Shape

Padding = int | tuple[int, int]
"""Elements added before and after an axis: one number for both sides, or (before, after)."""
PerAxis = int | tuple[int, ...]
"""One number for every spatial axis, or one for each."""
PaddingPerAxis = int | tuple[Padding, ...]
"""One number for all sides, or the padding of each spatial axis."""

LAYOUTS = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
"""Names of the spatial axes, by their number."""


class WindowGrid(NamedTuple):
    """Positions of windows on the spatial axes of x (batch, *space, channels); one entry per axis.

    Window o has the elements o·stride + k·dilation − before, for k < kernel.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    def outputs(self, name: str, space: Shape) -> Shape:
        """Return the number of windows on each axis, or raise ShapeError if there are none."""
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        padded = [n + sum(p) for n, p in zip(space, self.padding, strict=True)]
        if any(n < 1 for n in space) or any(n < span for n, span in zip(padded, spans, strict=True)):
            raise ShapeError(f"{name}: space {space} padded to {tuple(padded)}, expected at least {tuple(spans)}")
        return tuple((n - span) // s + 1 for n, span, s in zip(padded, spans, self.stride, strict=True))

    def seen(self, space: Shape) -> list[NDArray[np.bool_]]:
        """Return a boolean array (windows, kernel, side) for each axis: True where a tap of a window is an element."""
        axes = zip(self.outputs("windows", space), *self, space, strict=True)
        return [
            (np.arange(n)[:, None, None] * s + np.arange(k)[:, None] * d - before) == np.arange(side)
            for n, k, s, d, (before, _), side in axes
        ]

    def of(self, x: Array, fill: float) -> Array:
        """Return a view (batch, *outputs, channels, *kernel) of x padded with ``fill``."""
        padded = np.pad(x, [(0, 0), *self.padding, (0, 0)], constant_values=fill) if any(map(any, self.padding)) else x
        axes = tuple(range(1, x.ndim - 1))
        spans = tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        view = np.lib.stride_tricks.sliding_window_view(padded, spans, axes)
        starts = tuple(slice(None, None, s) for s in self.stride)
        taps = tuple(slice(None, None, d) for d in self.dilation)
        return view[(slice(None), *starts, slice(None), *taps)]

    def rows(self, x: Array, fill: float) -> Array:
        """Return the windows with their elements along one axis: (batch, *outputs, channels, size of the kernel)."""
        view = self.of(x, fill)
        return view.reshape(*view.shape[: x.ndim], size(self.kernel))

    def add_up(self, pieces: Array, shape: Shape) -> Array:
        """Apply the transpose of ``of``: each element of x sums its ``pieces`` (batch, *outputs, channels, *kernel).

        The positions of the kernel are added one after the other, in the same order on every machine.
        """
        space = tuple(zip(shape[1:-1], self.padding, strict=True))
        padded = np.zeros_like(pieces, shape=(shape[0], *(n + sum(p) for n, p in space), shape[-1]), order="C")
        by_tap = np.moveaxis(pieces, range(-len(self.kernel), 0), range(len(self.kernel)))
        for tap, seen in self._taps(by_tap.shape[len(self.kernel) + 1 : -1]):
            padded[(slice(None), *seen)] += by_tap[tap]
        return padded[(slice(None), *(slice(before, before + n) for n, (before, _) in space))]

    def _taps(self, outputs: Shape) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """Each position of the kernel, and the elements of the padded axes that it sees, in order of the windows."""
        for tap in np.ndindex(*self.kernel):
            axes = zip(tap, self.dilation, outputs, self.stride, strict=True)
            yield tap, tuple(slice(k * d, k * d + s * (n - 1) + 1, s) for k, d, n, s in axes)


def both_sides(padding: Padding) -> tuple[int, int]:
    """Return padding as (before, after)."""
    return (padding, padding) if isinstance(padding, int) else padding


def layouts(axes: tuple[int, ...]) -> str:
    """Return the shapes of x with given numbers of spatial axes as text, for messages."""
    return " or ".join(f"(batch, {', '.join(LAYOUTS[n])}, channels)" for n in axes)


# --- Attributes -------------------------------------------------------------------------------------------------------


def window_attributes(op: Op, *attributes: str) -> None:
    """Convert attributes to integers, or, if one of them has a number for each axis, to tuples of integers.

    Raises:
        ArgumentError: an attribute is neither an integer nor a tuple of integers, or tuples have different lengths.
    """
    given = {name: getattr(op, name) for name in attributes}
    several = {name: len(value) for name, value in given.items() if isinstance(value, tuple | list)}
    for name, axes in several.items():
        if axes not in LAYOUTS:
            raise ArgumentError(
                f"{type(op).__name__}({name}={given[name]}): expected a number, or one for each of 1, 2 or 3 axes"
            )
    axes = next(iter(several.values()), 1)
    for name, value in given.items():
        if value is None:
            continue
        values: tuple[Padding, ...] = padding_per_axis(op, value, axes) if name == "padding" else ()
        values = values or per_axis(op, name, value, axes, 0 if name == "output_padding" else 1)
        # Numbers alone suit any number of axes; an attribute that was added later stays one number where it is one.
        one = not several or (name in op.later and len(set(values)) == 1)
        object.__setattr__(op, name, values[0] if one else values)


def per_axis(op: Op, attribute: str, value: PerAxis, axes: int, least: int = 1) -> tuple[int, ...]:
    """Return one number ≥ ``least`` for all axes, or one for each, as a tuple; or raise ArgumentError."""
    number = whole_number(value, least)
    numbers = whole_numbers(value, least) if number is None else (number,) * axes
    if numbers is None or len(numbers) != axes:
        expected = f"an integer ≥ {least}, or one for each of {counted(axes, 'axis', 'axes')}"
        raise ArgumentError(f"{type(op).__name__}({attribute}={value!r}): expected {expected}")
    return numbers


def padding_per_axis(op: Op, value: PaddingPerAxis, axes: int) -> tuple[Padding, ...]:
    """Return padding, a number for all sides or for each axis a number or (before, after), as a tuple for each axis."""
    number = whole_number(value, 0)
    values = (number,) * axes if number is not None else value if isinstance(value, tuple | list) else ()
    found = tuple(p for p in map(padding_of, values) if p is not None)
    if not len(found) == len(values) == axes:
        expected = f"an integer ≥ 0, or for each of {counted(axes, 'axis', 'axes')} one or a pair (before, after)"
        raise ArgumentError(f"{type(op).__name__}(padding={value!r}): expected {expected}")
    return found


def padding_of(value: object) -> Padding | None:
    """Return the padding of one axis in Python ints; None unless it is a number ≥ 0 or a pair of such numbers."""
    number = whole_number(value, 0)
    if number is not None:
        return number
    pair = whole_numbers(value, 0)
    return (pair[0], pair[1]) if pair is not None and len(pair) == 2 else None
