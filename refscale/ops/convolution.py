"""Sliding windows: convolutions along one or two axes, and the maximum or the mean of each window.

Channels come last, as in every other op: x (batch, length, channels) or (batch, height, width, channels).  The windows
of x are laid out as rows of a matrix, so that a convolution is a matrix product and its rule that of a matmul.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from refscale.arguments import whole_number
from refscale.engine import Array, Example, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError, counted
from refscale.ops.shapes import integer_attributes, size, whole_numbers
from refscale.ops.sums import total
from refscale.scales import Scales, Shape, Statistic, gaussian_mean
from refscale.scales.second_moments import SecondMoments, of_axes

Kept = tuple[Any, ...]
Padding = int | tuple[int, int]
"""Elements added before and after an axis: one number for both sides, or (before, after)."""
PerAxis = int | tuple[int, ...]
"""One number for every spatial axis, or one for each."""
PaddingPerAxis = int | tuple[Padding, ...]
"""One number for all sides, or the padding of each spatial axis."""

_LAYOUTS = {1: ("length",), 2: ("height", "width")}


class WindowGrid(NamedTuple):
    """Where the windows lie on the spatial axes of x (batch, *space, channels); one entry per axis.

    Output o sees the elements o·stride + k·dilation − before, for k < kernel.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    def outputs(self, name: str, space: Shape) -> Shape:
        """Number of windows on each axis, or a ShapeError if not even one fits."""
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        padded = [n + sum(p) for n, p in zip(space, self.padding, strict=True)]
        if any(n < 1 for n in space) or any(n < span for n, span in zip(padded, spans, strict=True)):
            raise ShapeError(f"{name}: space {space} padded to {tuple(padded)}, expected at least {tuple(spans)}")
        return tuple((n - span) // s + 1 for n, span, s in zip(padded, spans, self.stride, strict=True))

    def of(self, x: Array, fill: float) -> Array:
        """A view (batch, *outputs, channels, *kernel) of x padded with ``fill``."""
        padded = np.pad(x, [(0, 0), *self.padding, (0, 0)], constant_values=fill) if any(map(any, self.padding)) else x
        axes = tuple(range(1, x.ndim - 1))
        spans = tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        view = np.lib.stride_tricks.sliding_window_view(padded, spans, axes)
        starts = tuple(slice(None, None, s) for s in self.stride)
        taps = tuple(slice(None, None, d) for d in self.dilation)
        return view[(slice(None), *starts, slice(None), *taps)]

    def rows(self, x: Array, fill: float) -> Array:
        """As ``of``, with the elements of a window along one axis: (batch, *outputs, channels, size of the kernel)."""
        view = self.of(x, fill)
        return view.reshape(*view.shape[: x.ndim], size(self.kernel))

    def add_up(self, pieces: Array, shape: Shape) -> Array:
        """The transpose of ``of``: each element of x sums its ``pieces`` (batch, *outputs, channels, *kernel).

        Summed one position of the kernel after the other, in an order that no machine changes.
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


class _Convolution(Op, ABC):
    """What Conv1d and Conv2d share: everything but the number of axes."""

    inputs = ("x", "weight")
    homogeneity = (1, 1)
    source = "Table A.2 (matmul), terms counted by window"
    contraction = True
    groups: int
    _layout: ClassVar[tuple[str, ...]]

    @abstractmethod
    def _axes(self) -> tuple[tuple[int, ...], tuple[Padding, ...], tuple[int, ...]]:
        """Stride, padding and dilation of each spatial axis."""

    def __post_init__(self) -> None:
        integer_attributes(self, "groups", least=1)

    def forward(self, x: Array, weight: Array) -> tuple[Array, Kept]:
        windows, outputs = self._windows(x.shape, weight.shape)
        y = self._rows(windows.of(x, 0.0)) @ self._matrix(weight)
        return _from_groups(y).reshape(len(x), *outputs, weight.shape[-1]), (x, weight)

    def backward(self, g: Array, x: Array, weight: Array) -> tuple[Array, Array]:
        windows, outputs = self._windows(x.shape, weight.shape)
        kernel, channels = weight.shape[:-2], x.shape[-1]
        rows = g.reshape(math.prod(g.shape[:-1]), self.groups, g.shape[-1] // self.groups).swapaxes(0, 1)
        pieces = _from_groups(rows @ self._matrix(weight).swapaxes(1, 2))
        pieces = pieces.reshape(len(x), *outputs, channels, *kernel)
        taps = self._rows(windows.of(x, 0.0)).swapaxes(1, 2) @ rows
        taps = _from_groups(taps).reshape(channels // self.groups, *kernel, g.shape[-1])
        return windows.add_up(pieces, x.shape), np.moveaxis(taps, 0, -2)

    def scale(self, x: Shape, weight: Shape) -> Scales:
        windows, outputs = self._windows(x, weight)
        kernel, stride = size(windows.kernel), size(windows.stride)
        return Scales(
            (kernel * max(1, weight[-2])) ** -0.5,
            ((kernel / stride * max(1, weight[-1] // self.groups)) ** -0.5, size((x[0], *outputs)) ** -0.5),
        )

    def terms(self, x: Shape, weight: Shape) -> int:
        return math.prod(weight[:-1])

    def _windows(self, x: Shape, weight: Shape) -> tuple[WindowGrid, Shape]:
        """Where the windows lie, and how many on each axis; or a ShapeError."""
        space, kernel, axes = x[1:-1], weight[:-2], len(self._layout)
        if (
            not len(x) == len(weight) == axes + 2
            or weight[-2] * self.groups != x[-1]
            or weight[-1] % self.groups
            or 0 in kernel
        ):
            raise ShapeError(
                f"{self.name}(groups={self.groups}): x {x} and weight {weight}, expected (batch, "
                f"{', '.join(self._layout)}, channels_in) and ({'kernel, ' * axes}channels_in/groups, channels_out)"
            )
        stride, padding, dilation = self._axes()
        windows = WindowGrid(kernel, stride, dilation, tuple(map(_both_sides, padding)))
        return windows, windows.outputs(self.name, space)

    def _rows(self, view: Array) -> Array:
        """Windows (batch, *outputs, channels, *kernel) as rows (groups, batch·outputs, channels/groups·kernel)."""
        axes = len(self._layout)
        columns = math.prod(view.shape[1 + axes :]) // self.groups
        return view.reshape(math.prod(view.shape[: 1 + axes]), self.groups, columns).swapaxes(0, 1)

    def _matrix(self, weight: Array) -> Array:
        """Weight (*kernel, channels_in/groups, n) as matrices (groups, channels_in/groups·kernel, n/groups)."""
        columns = weight.shape[-1] // self.groups
        rows = np.moveaxis(weight, -2, 0).reshape(math.prod(weight.shape[:-1]), self.groups, columns)
        return rows.swapaxes(0, 1)


@dataclass(frozen=True)
class Conv1d(_Convolution):
    """Convolution of x (batch, length, channels_in) with weight (kernel, channels_in/groups, channels_out).

    y[b, o, j] = Σ x[b, o·stride + k·dilation − before, i]·weight[k, i, j] over k and the channels i of j's group (no
    flip of the kernel).  Each output sums kernel·channels_in/groups products: α = (kernel·channels_in/groups)^-1/2.
    An element of x is seen by kernel/stride windows, each with channels_out/groups outputs:
    β_x = (kernel/stride·channels_out/groups)^-1/2.  The gradient of the weight sums over all windows:
    β_w = (batch·output positions)^-1/2.  At the ends, where windows reach into the padding, there are fewer terms.

    Attributes:
        stride: distance of neighboring windows, ≥ 1.
        padding: zeros before and after, one number or (before, after); (kernel − 1, 0) makes the convolution causal.
        dilation: distance of the elements of a window, ≥ 1.
        groups: parts of the channels that are convolved separately; divides channels_in and channels_out.
    """

    stride: int = 1
    padding: Padding = 0
    dilation: int = 1
    groups: int = 1
    _layout = _LAYOUTS[1]

    def __post_init__(self) -> None:
        super().__post_init__()
        integer_attributes(self, "stride", "dilation", least=1)
        padding = _padding(self.padding)
        if padding is None:
            raise ArgumentError(f"Conv1d(padding={self.padding!r}): expected an integer ≥ 0 or a pair (before, after)")
        object.__setattr__(self, "padding", padding)

    def _axes(self) -> tuple[tuple[int, ...], tuple[Padding, ...], tuple[int, ...]]:
        return (self.stride,), (self.padding,), (self.dilation,)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(padding=3), (at.b, at.s, at.m), (7, at.m, at.n)),)

    def predict(self, out: Shape, x: SecondMoments, weight: SecondMoments) -> SecondMoments:
        """What two places share, they share tap by tap; weights are independent."""
        k = np.zeros((2, 2, 2))
        terms = self._seen(x.shape, weight.shape) / out[1] * weight.shape[1]
        k[..., 1] = x.k[..., 1] * (terms * weight.square)
        return of_axes(out, k)

    def predict_gradients(
        self, g: SecondMoments, x: SecondMoments, weight: SecondMoments
    ) -> tuple[SecondMoments, SecondMoments]:
        """The transposed convolution, and sums over the windows of a batch."""
        seen = self._seen(x.shape, weight.shape)
        batch, length, _ = x.shape
        taps = weight.shape[0]
        dx = np.zeros((2, 2, 2))
        dx[..., 1] = g.k[..., 1] * (seen / length * (weight.shape[2] / self.groups) * weight.square)
        rows = seen / taps  # windows of one sequence whose element at a tap is none of the padding
        dw = np.empty((2, 2, 2))
        for tap, i, o in np.ndindex(2, 2, 2):
            # Of two windows: the same one; two of a sequence; one each of two sequences.  Two taps see two places.
            same = x.k[1, tap, i] * g.k[1, 1, o]
            near = x.k[1, 0, i] * g.k[1, 0, o] * (rows - 1)
            far = (x.k[0, tap, i] * g.k[0, 1, o] + x.k[0, 0, i] * g.k[0, 0, o] * (rows - 1)) * (batch - 1)
            dw[tap, i, o] = batch * rows * (same + near + far)
        return of_axes(x.shape, dx), of_axes(weight.shape, dw)

    def _seen(self, x: Shape, weight: Shape) -> float:
        """Pairs of an output and an element of its window on the axis, those in the padding aside."""
        windows, (outputs,) = self._windows(x, weight)
        first = np.arange(outputs)[:, None] * self.stride - windows.padding[0][0]
        places = first + np.arange(weight[0]) * self.dilation
        return float(np.count_nonzero((places >= 0) & (places < x[1])))


@dataclass(frozen=True)
class Conv2d(_Convolution):
    """Convolution of x (batch, height, width, channels) with weight (kernel, kernel, channels/groups, channels_out).

    Formula and factors as for ``conv1d``, with the product over both axes for kernel, stride and output positions.

    Attributes:
        stride, dilation: ≥ 1, one number for both axes or a pair (height, width).
        padding: one number for all sides, or a pair (height, width), each a number or (before, after).
        groups: parts of the channels that are convolved separately.
    """

    stride: PerAxis = (1, 1)
    padding: PaddingPerAxis = (0, 0)
    dilation: PerAxis = (1, 1)
    groups: int = 1
    _layout = _LAYOUTS[2]

    def __post_init__(self) -> None:
        super().__post_init__()
        for attribute, value in zip(("stride", "padding", "dilation"), self._axes(), strict=True):
            object.__setattr__(self, attribute, value)

    def _axes(self) -> tuple[tuple[int, ...], tuple[Padding, ...], tuple[int, ...]]:
        return (
            _per_axis(self, "stride", self.stride, 2),
            _padding_per_axis(self, self.padding, 2),
            _per_axis(self, "dilation", self.dilation, 2),
        )

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(stride=(2, 2), padding=(1, 1)), (at.b, at.s, at.s, at.m), (3, 3, at.m, at.n)),)


@cache
def maximum_moments(k: int) -> tuple[float, float]:
    """(std, RMS) of the largest of k independent N(0, 1), whose density is k·φ(x)·Φ(x)^(k−1).  By quadrature."""

    def density_ratio(x: Array) -> Array:
        below = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
        return k * below ** (k - 1)

    mean = gaussian_mean(lambda x: x * density_ratio(x))
    variance = gaussian_mean(lambda x: (x - mean) ** 2 * density_ratio(x))
    return math.sqrt(variance), math.sqrt(variance + mean**2)


@dataclass(frozen=True)
class _Pool(Op):
    """What poolings share: windows of x (batch, *space, channels)."""

    kernel: PerAxis
    stride: PerAxis | None = None
    padding: PaddingPerAxis | None = None
    inputs = ("x",)
    homogeneity = (1,)

    def __post_init__(self) -> None:
        several = {name: len(value) for name, value in vars(self).items() if isinstance(value, tuple | list)}
        for name, axes in several.items():
            if axes not in _LAYOUTS:
                raise ArgumentError(
                    f"{type(self).__name__}({name}={getattr(self, name)}): "
                    "expected a number, or one for each of 1 or 2 axes"
                )
        axes = next(iter(several.values()), 1)
        kernel = _per_axis(self, "kernel", self.kernel, axes)
        stride = None if self.stride is None else _per_axis(self, "stride", self.stride, axes)
        padding = None if self.padding is None else _padding_per_axis(self, self.padding, axes)
        if any(max(_both_sides(p)) >= k for p, k in zip(padding or (), kernel, strict=False)):
            raise ArgumentError(
                f"{type(self).__name__}(padding={self.padding}): expected less than the kernel {self.kernel}"
            )
        for attribute, values in (("kernel", kernel), ("stride", stride), ("padding", padding)):
            if values is not None:  # numbers alone suit any number of axes
                object.__setattr__(self, attribute, values if several else values[0])

    def _windows(self, x: Shape) -> tuple[WindowGrid, Shape]:
        expected = (len(self.kernel),) if isinstance(self.kernel, tuple) else tuple(_LAYOUTS)
        axes = len(x) - 2
        if axes not in expected:
            layouts = " or ".join(f"(batch, {', '.join(_LAYOUTS[n])}, channels)" for n in expected)
            raise ShapeError(f"{self.name}(kernel={self.kernel}): x {x}, expected {layouts}")
        kernel = _per_axis(self, "kernel", self.kernel, axes)
        stride = kernel if self.stride is None else _per_axis(self, "stride", self.stride, axes)
        padding = _padding_per_axis(self, self.padding or 0, axes)
        windows = WindowGrid(kernel, stride, (1,) * axes, tuple(map(_both_sides, padding)))
        return windows, windows.outputs(self.name, x[1:-1])


@dataclass(frozen=True)
class MaxPool(_Pool):
    """The largest element of each window of x (batch, *space, channels), over one or two spatial axes.

    α = 1/σ of the largest of k N(0, 1), k the size of the window (k = 4: 1.426).  Each output's gradient goes to the
    one element it came from (the first, if several are equal), so of the input's mean square there remains
    outputs/inputs, whether windows overlap or not: β = √(inputs/outputs).

    Attributes:
        kernel: side of the window, one number for every spatial axis of x or a tuple with one for each.
        stride: distance of neighboring windows, likewise; None: the kernel.
        padding: positions before and after an axis, less than the kernel, likewise; never the largest, and never taken
            for an element of x.  None: none.
    """

    source = "quadrature of order statistics"
    has_mean = True

    def forward(self, x: Array) -> tuple[Array, Kept]:
        windows, _ = self._windows(x.shape)
        flat = windows.rows(x, -np.inf)
        winner = flat.argmax(-1)[..., None]
        # Padding is −∞, too: of a window whose largest is −∞ the winner is its first element of x.
        first = windows.rows(np.ones((1, *x.shape[1:-1], 1), np.bool_), False).argmax(-1)[..., None]
        winner = np.where(np.isneginf(np.take_along_axis(flat, winner, -1)), first, winner)
        return np.take_along_axis(flat, winner, -1)[..., 0], (x.shape, winner)

    def backward(self, g: Array, shape: Shape, winner: Array) -> tuple[Array]:
        windows, _ = self._windows(shape)
        pieces = np.where(np.arange(size(windows.kernel)) == winner, g[..., None], 0)
        return (windows.add_up(pieces.reshape(*g.shape, *windows.kernel), shape),)

    def scale(self, x: Shape, statistic: Statistic = "std") -> Scales:
        windows, outputs = self._windows(x)
        std, rms = maximum_moments(size(windows.kernel))
        return Scales(1 / (std if statistic == "std" else rms), (math.sqrt(size(x[1:-1]) / size(outputs)),))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls((2, 2)), (at.b, 2 * at.s, 2 * at.s, at.m)),)


@dataclass(frozen=True)
class AvgPool(_Pool):
    """The mean of each window of x (batch, *space, channels), over one or two spatial axes.

    A mean of k independent elements has σ = k^-½: α = √k, k the size of the window.  An element of x is seen by
    k/stride windows, each of which sends it g/k: β = √(k·stride).  At the ends, where windows reach into the padding,
    there are fewer terms.  (After an activation with a mean, values of a window are alike, and α = 1 is nearer.)

    Attributes:
        kernel: side of the window, one number for every spatial axis of x or a tuple with one for each.
        stride: distance of neighboring windows, likewise; None: the kernel.
        padding: zeros before and after an axis, less than the kernel, likewise; they count as elements.  None: none.
    """

    source = "Table A.2 (sum), terms counted by window"

    def forward(self, x: Array) -> tuple[Array, Kept]:
        windows, _ = self._windows(x.shape)
        return total(windows.rows(x, 0.0), -1, over=size(windows.kernel)), (x.shape,)

    def backward(self, g: Array, shape: Shape) -> tuple[Array]:
        windows, _ = self._windows(shape)
        share = (g / size(windows.kernel)).reshape(*g.shape, *(1,) * len(windows.kernel))
        return (windows.add_up(np.broadcast_to(share, (*g.shape, *windows.kernel)), shape),)

    def scale(self, x: Shape) -> Scales:
        windows, _ = self._windows(x)
        kernel = size(windows.kernel)
        return Scales(math.sqrt(kernel), (math.sqrt(kernel * size(windows.stride)),))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls((2, 2)), (at.b, 2 * at.s, 2 * at.s, at.m)),)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        for axis, matrix in enumerate(self._matrices(x.shape), 1):
            x = x.mapped(axis, matrix)
        return x

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        for axis, matrix in enumerate(self._matrices(x.shape), 1):
            g = g.mapped(axis, matrix.T)
        return (g,)

    def _matrices(self, x: Shape) -> list[Array]:
        """Of each spatial axis: the weight of every element in every output."""
        windows, outputs = self._windows(x)
        found = []
        for i, side in enumerate(x[1:-1]):
            first = np.arange(outputs[i]) * windows.stride[i] - windows.padding[i][0]
            distance = np.arange(side) - first[:, None]
            found.append(np.where((distance >= 0) & (distance < windows.kernel[i]), 1 / windows.kernel[i], 0.0))
        return found


def _both_sides(padding: Padding) -> tuple[int, int]:
    return (padding, padding) if isinstance(padding, int) else padding


def _from_groups(y: Array) -> Array:
    """(groups, rows, n) → (rows, groups·n)."""
    groups, rows, n = y.shape
    return y.swapaxes(0, 1).reshape(rows, groups * n)


# --- Attributes of windows --------------------------------------------------------------------------------------------


def _per_axis(op: Op, attribute: str, value: PerAxis, axes: int) -> tuple[int, ...]:
    """A number ≥ 1 for every axis, or one for each, as a tuple with one for each; or an ArgumentError."""
    number = whole_number(value, 1)
    numbers = whole_numbers(value, 1) if number is None else (number,) * axes
    if numbers is None or len(numbers) != axes:
        expected = f"an integer ≥ 1, or one for each of {counted(axes, 'axis', 'axes')}"
        raise ArgumentError(f"{type(op).__name__}({attribute}={value!r}): expected {expected}")
    return numbers


def _padding_per_axis(op: Op, value: PaddingPerAxis, axes: int) -> tuple[Padding, ...]:
    """Likewise of padding: a number for all sides, or for each axis a number or (before, after)."""
    number = whole_number(value, 0)
    values = (number,) * axes if number is not None else value if isinstance(value, tuple | list) else ()
    found = tuple(p for p in map(_padding, values) if p is not None)
    if not len(found) == len(values) == axes:
        expected = f"an integer ≥ 0, or for each of {counted(axes, 'axis', 'axes')} one or a pair (before, after)"
        raise ArgumentError(f"{type(op).__name__}(padding={value!r}): expected {expected}")
    return found


def _padding(value: object) -> Padding | None:
    """Padding of one axis in Python integers; None if it is no number ≥ 0 or pair of such."""
    number = whole_number(value, 0)
    if number is not None:
        return number
    pair = whole_numbers(value, 0)
    return (pair[0], pair[1]) if pair is not None and len(pair) == 2 else None
