"""Convolutions along one, two or three axes, and their transpose.

Channels are the last axis, as in all ops: x (batch, length, channels) or (batch, height, width, channels). The windows
of x become rows of a matrix, so that a convolution is a matrix product with the factors of matmul.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from refscale.engine import Array, Example, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.shapes import integer_attributes, leading, size
from refscale.ops.windows import (
    LAYOUTS,
    Padding,
    PaddingPerAxis,
    PerAxis,
    WindowGrid,
    both_sides,
    layouts,
    padding_of,
    padding_per_axis,
    per_axis,
    window_attributes,
)
from refscale.scales import Scales, Shape
from refscale.scales.second_moments import SecondMoments, of_axes

Kept = tuple[Any, ...]


class _Convolution(Op, ABC):
    """Convolution along any number of axes."""

    inputs = ("x", "weight")
    homogeneity = (1, 1)
    source = "Table A.2 (matmul), terms counted by window"
    contraction = True
    multiplies = (0, 1)
    groups: int
    _layout: ClassVar[tuple[str, ...]]

    @abstractmethod
    def _axes(self) -> tuple[tuple[int, ...], tuple[Padding, ...], tuple[int, ...]]:
        """Stride, padding and dilation of each spatial axis."""

    def __post_init__(self) -> None:
        integer_attributes(self, "groups", least=1)

    def products(self, x: Shape, weight: Shape) -> int:
        _, outputs = self._windows(x, weight)
        return math.prod((x[0], *outputs, *weight))

    def forward(self, x: Array, weight: Array) -> tuple[Array, Kept]:
        windows, outputs = self._windows(x.shape, weight.shape)
        y = _rows(windows.of(x, 0.0), self.groups) @ _matrix(weight, self.groups)
        return _from_groups(y).reshape(len(x), *outputs, weight.shape[-1]), (x, weight)

    def backward(self, g: Array, x: Array, weight: Array) -> tuple[Array, Array]:
        windows, outputs = self._windows(x.shape, weight.shape)
        kernel, channels = weight.shape[:-2], x.shape[-1]
        rows = _rows(g[(..., *[None] * len(kernel))], self.groups)
        pieces = _from_groups(rows @ _matrix(weight, self.groups).swapaxes(1, 2))
        pieces = pieces.reshape(len(x), *outputs, channels, *kernel)
        taps = _rows(windows.of(x, 0.0), self.groups).swapaxes(1, 2) @ rows
        taps = _from_groups(taps).reshape(channels // self.groups, *kernel, g.shape[-1])
        return windows.add_up(pieces, x.shape), np.moveaxis(taps, 0, -2)

    def scale(self, x: Shape, weight: Shape) -> Scales:
        windows, outputs = self._windows(x, weight)
        kernel, stride = size(windows.kernel), size(windows.stride)
        return Scales(
            (kernel * max(1, weight[-2])) ** -0.5,
            ((kernel / stride * max(1, weight[-1] // self.groups)) ** -0.5, size((x[0], *outputs)) ** -0.5),
        )

    def rows(self, x: Shape, weight: Shape) -> tuple[Shape, Shape]:
        _, outputs = self._windows(x, weight)
        return (), (x[0], *outputs, 1)

    def predict(self, out: Shape, x: SecondMoments, weight: SecondMoments) -> SecondMoments:
        """Predict the output: the correlation of two positions adds up over the taps; weights are independent."""
        k = np.zeros((2,) * len(out))
        terms = math.prod(self._seen(x.shape, weight.shape)) / math.prod(out[1:-1]) * weight.shape[-2]
        k[..., 1] = x.k[..., 1] * (terms * weight.square)
        return of_axes(out, k)

    def predict_gradients(
        self, g: SecondMoments, x: SecondMoments, weight: SecondMoments
    ) -> tuple[SecondMoments, SecondMoments]:
        """The transposed convolution, and sums over the windows of a batch."""
        seen, axes = self._seen(x.shape, weight.shape), len(self._layout)
        batch, space = x.shape[0], x.shape[1:-1]
        dx = np.zeros((2,) * len(x.shape))
        share = math.prod(seen) / math.prod(space) * (weight.shape[-1] / self.groups)
        dx[..., 1] = g.k[..., 1] * (share * weight.square)
        # Windows along each axis whose element at a tap is none of the padding.
        rows = [n / taps for n, taps in zip(seen, weight.shape[:axes], strict=True)]
        dw = _sums_over_windows(x.k, g.k, rows, batch)
        return of_axes(x.shape, dx), of_axes(weight.shape, dw)

    def _seen(self, x: Shape, weight: Shape) -> list[int]:
        """Pairs of a window and an element of it on each axis, those in the padding aside."""
        windows, _ = self._windows(x, weight)
        return [int(np.count_nonzero(seen)) for seen in windows.seen(x[1:-1])]

    def _windows(self, x: Shape, weight: Shape) -> tuple[WindowGrid, Shape]:
        """Return the positions of the windows, and their number on each axis; or raise ShapeError."""
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
        windows = WindowGrid(kernel, stride, dilation, tuple(map(both_sides, padding)))
        return windows, windows.outputs(self.name, space)


@dataclass(frozen=True)
class Conv1d(_Convolution):
    """Convolution of x (batch, length, channels_in) with weight (kernel, channels_in/groups, channels_out).

    y[b, o, j] = Σ x[b, o·stride + k·dilation − before, i]·weight[k, i, j] over k and the channels i of j's group (no
    flip of the kernel). Each output sums kernel·channels_in/groups products: α = (kernel·channels_in/groups)^-½.
    An element of x is in kernel/stride windows, each with channels_out/groups outputs:
    β_x = (kernel/stride·channels_out/groups)^-½. The gradient of the weight sums over all windows:
    β_w = (batch·output positions)^-½. At the ends, where windows overlap the padding, there are fewer terms.

    Attributes:
        stride: distance of neighboring windows, ≥ 1.
        padding: number of zeros before and after, one number or (before, after); (kernel − 1, 0) makes the convolution
            causal.
        dilation: distance of neighboring elements of a window, ≥ 1.
        groups: number of parts of the channels that are convolved separately; divides channels_in and channels_out.
    """

    stride: int = 1
    padding: Padding = 0
    dilation: int = 1
    groups: int = 1
    _layout = LAYOUTS[1]

    def __post_init__(self) -> None:
        super().__post_init__()
        integer_attributes(self, "stride", "dilation", least=1)
        padding = padding_of(self.padding)
        if padding is None:
            raise ArgumentError(f"Conv1d(padding={self.padding!r}): expected an integer ≥ 0 or a pair (before, after)")
        object.__setattr__(self, "padding", padding)

    def _axes(self) -> tuple[tuple[int, ...], tuple[Padding, ...], tuple[int, ...]]:
        return (self.stride,), (self.padding,), (self.dilation,)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(padding=3), (at.b, at.s, at.m), (7, at.m, at.n)),)


class _ConvolutionOfAxes(_Convolution):
    """Convolution whose attributes have a number for each axis."""

    stride: PerAxis
    padding: PaddingPerAxis
    dilation: PerAxis

    def __post_init__(self) -> None:
        super().__post_init__()
        for attribute, value in zip(("stride", "padding", "dilation"), self._axes(), strict=True):
            object.__setattr__(self, attribute, value)

    def _axes(self) -> tuple[tuple[int, ...], tuple[Padding, ...], tuple[int, ...]]:
        axes = len(self._layout)
        return (
            per_axis(self, "stride", self.stride, axes),
            padding_per_axis(self, self.padding, axes),
            per_axis(self, "dilation", self.dilation, axes),
        )


@dataclass(frozen=True)
class Conv2d(_ConvolutionOfAxes):
    """Convolution of x (batch, height, width, channels) with weight (kernel, kernel, channels/groups, channels_out).

    Formula and factors as for ``Conv1d``; kernel, stride and output positions there are products over both axes here.

    Attributes:
        stride, dilation: ≥ 1, one number for both axes or a pair (height, width).
        padding: one number for all sides, or a pair (height, width), each a number or (before, after).
        groups: number of parts of the channels that are convolved separately.
    """

    stride: PerAxis = (1, 1)
    padding: PaddingPerAxis = (0, 0)
    dilation: PerAxis = (1, 1)
    groups: int = 1
    _layout = LAYOUTS[2]

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(stride=(2, 2), padding=(1, 1)), (at.b, at.s, at.s, at.m), (3, 3, at.m, at.n)),)


@dataclass(frozen=True)
class Conv3d(_ConvolutionOfAxes):
    """Convolution of x (batch, depth, height, width, channels) with weight (kernel, …, channels/groups, channels_out).

    Formula and factors as for ``Conv1d``; kernel, stride and output positions there are products over all axes here.

    Attributes:
        stride, dilation: ≥ 1, one number for all axes or three (depth, height, width).
        padding: one number for all sides, or three, each a number or (before, after).
        groups: number of parts of the channels that are convolved separately.
    """

    stride: PerAxis = (1, 1, 1)
    padding: PaddingPerAxis = (0, 0, 0)
    dilation: PerAxis = (1, 1, 1)
    groups: int = 1
    _layout = LAYOUTS[3]

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(stride=(1, 2, 1)), (at.b, 2, 3, 2, at.m), (2, 1, 2, at.m, at.n)),)


@dataclass(frozen=True)
class ConvTranspose(Op):
    """Transposed convolution of x (batch, *space, channels_in) with weight (*kernel, channels_in/groups, channels_out).

    One, two or three spatial axes. On one axis y[b, i·stride + k·dilation − before, j] = Σ x[b, i, c]·weight[k, c, j]
    over i, k and the channels c of j's group: the gradient of a convolution with respect to its input. The result has
    (n − 1)·stride + (kernel − 1)·dilation + 1 − before − after + output_padding positions.

    A position sums kernel/stride·channels_in/groups products on average: α = (kernel/stride·channels_in/groups)^-½.
    An element of x is in kernel·channels_out/groups products:
    β_x = (kernel·channels_out/groups)^-½. The gradient of the weight sums over the elements of x:
    β_w = (batch·input positions)^-½.

    Attributes:
        stride, dilation: ≥ 1, one number for every spatial axis of x or a tuple with one for each.
        padding: positions cut before and after, one number for all sides or, for each axis, a number or a pair.
        output_padding: positions added at the end, less than stride or dilation; one number or one for each axis.
        groups: number of parts of the channels that are convolved separately.
    """

    stride: PerAxis = 1
    padding: PaddingPerAxis = 0
    dilation: PerAxis = 1
    output_padding: PerAxis = 0
    groups: int = 1
    inputs = ("x", "weight")
    homogeneity = (1, 1)
    source = "Table A.2 (matmul), terms counted by window"
    contraction = True
    multiplies = (0, 1)

    def __post_init__(self) -> None:
        integer_attributes(self, "groups", least=1)
        window_attributes(self, "stride", "padding", "dilation", "output_padding")

    def forward(self, x: Array, weight: Array) -> tuple[Array, Kept]:
        windows, out = self._windows(x.shape, weight.shape)
        rows = _rows(x[(..., *[None] * len(windows.kernel))], self.groups)
        pieces = _from_groups(rows @ self._matrix(weight))
        pieces = pieces.reshape(*x.shape[:-1], weight.shape[-1], *windows.kernel)
        return windows.add_up(pieces, out), (x, weight)

    def backward(self, g: Array, x: Array, weight: Array) -> tuple[Array, Array]:
        windows, _ = self._windows(x.shape, weight.shape)
        # With output_padding ≥ stride, windows beyond the last element of x fit, too.
        each = tuple(slice(n) for n in x.shape[1:-1])
        seen = _rows(windows.of(g, 0.0)[(slice(None), *each)], self.groups)
        rows = _rows(x[(..., *[None] * len(windows.kernel))], self.groups)
        gradient = _from_groups(seen @ self._matrix(weight).swapaxes(1, 2)).reshape(x.shape)
        taps = _from_groups(rows.swapaxes(1, 2) @ seen)  # (channels_in/groups, channels_out·kernel)
        taps = taps.reshape(*weight.shape[-2:], *windows.kernel)
        axes = tuple(range(2, taps.ndim))
        return gradient, taps.transpose(*axes, 0, 1)

    def scale(self, x: Shape, weight: Shape) -> Scales:
        windows, _ = self._windows(x, weight)
        kernel, stride = size(windows.kernel), size(windows.stride)
        return Scales(
            (kernel / stride * max(1, weight[-2])) ** -0.5,
            ((kernel * max(1, weight[-1] // self.groups)) ** -0.5, size(x[:-1]) ** -0.5),
        )

    def products(self, x: Shape, weight: Shape) -> int:
        """Return the number of multiplications: each element of x is multiplied into a window of the output."""
        return math.prod((*x, *weight[:-2], weight[-1])) // self.groups

    def rows(self, x: Shape, weight: Shape) -> tuple[Shape, Shape]:
        self._windows(x, weight)
        return (), leading(x)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(stride=2, padding=1), (at.b, at.s, at.m), (4, at.m, at.n)),)

    def predict(self, out: Shape, x: SecondMoments, weight: SecondMoments) -> SecondMoments:
        """Predict the output: the correlation of two positions adds up over the taps; weights are independent."""
        terms = math.prod(self._seen(x.shape, weight.shape)) / math.prod(out[1:-1]) * weight.shape[-2]
        k = np.zeros((2,) * len(out))
        k[..., 1] = x.k[..., 1] * (terms * weight.square)
        for axis, stride in enumerate(self._windows(x.shape, weight.shape)[0].stride, 1):
            if stride > 1:  # of two places, 1/stride see the same taps
                np.moveaxis(k, axis, 0)[0] /= stride
        return of_axes(out, k)

    def predict_gradients(
        self, g: SecondMoments, x: SecondMoments, weight: SecondMoments
    ) -> tuple[SecondMoments, SecondMoments]:
        """Predict the gradients: of x, a convolution of g; of the weight, sums over the elements of x."""
        seen = self._seen(x.shape, weight.shape)
        dx = np.zeros((2,) * len(x.shape))
        share = math.prod(seen) / math.prod(x.shape[1:-1]) * (weight.shape[-1] / self.groups)
        dx[..., 1] = g.k[..., 1] * (share * weight.square)
        rows = [n / taps for n, taps in zip(seen, weight.shape, strict=False)]
        dw = _sums_over_windows(g.k, x.k, rows, x.shape[0]).swapaxes(-2, -1)
        return of_axes(x.shape, dx), of_axes(weight.shape, dw)

    def _seen(self, x: Shape, weight: Shape) -> list[int]:
        """Pairs of an element of x and one of the result on each axis, those left out aside."""
        windows, out = self._windows(x, weight)
        return [int(np.count_nonzero(seen[:n])) for seen, n in zip(windows.seen(out[1:-1]), x[1:-1], strict=True)]

    def _windows(self, x: Shape, weight: Shape) -> tuple[WindowGrid, Shape]:
        """The windows of the result that the elements of x go to, and its shape; or a ShapeError."""
        axes, kernel = len(x) - 2, weight[:-2]
        if (
            axes not in LAYOUTS
            or len(weight) != len(x)
            or weight[-2] * self.groups != x[-1]
            or weight[-1] % self.groups
        ):
            raise ShapeError(
                f"{self.name}(groups={self.groups}): x {x} and weight {weight}, expected {layouts(tuple(LAYOUTS))} and "
                "(*kernel, channels_in/groups, channels_out)"
            )
        stride, dilation = (per_axis(self, n, getattr(self, n), axes) for n in ("stride", "dilation"))
        more = per_axis(self, "output_padding", self.output_padding, axes, 0)
        padding = tuple(map(both_sides, padding_per_axis(self, self.padding, axes)))
        space = tuple(
            (n - 1) * s + (k - 1) * d + 1 - sum(p) + m
            for n, s, k, d, p, m in zip(x[1:-1], stride, kernel, dilation, padding, more, strict=True)
        )
        if min((*kernel, *x[1:-1], *space)) < 1 or any(
            m >= max(s, d) for m, s, d in zip(more, stride, dilation, strict=True)
        ):
            raise ShapeError(
                f"{self.name}: space {x[1:-1]}, kernel {kernel}, padding {padding} and output_padding {more} give "
                f"{space}, expected at least one place, and output_padding less than stride or dilation"
            )
        return WindowGrid(kernel, stride, dilation, padding), (x[0], *space, weight[-1])

    def _matrix(self, weight: Array) -> Array:
        """Weight (*kernel, channels_in/groups, n) as matrices (groups, channels_in/groups, n/groups·kernel)."""
        axes = tuple(range(weight.ndim - 2))
        flat = weight.transpose(-2, -1, *axes).reshape(weight.shape[-2], self.groups, -1)
        return flat.swapaxes(0, 1)


def _rows(view: Array, groups: int) -> Array:
    """Windows (batch, *outputs, channels, *kernel) as rows (groups, batch·outputs, channels/groups·kernel)."""
    lead = view.ndim // 2  # as many axes of outputs as of the kernel
    columns = math.prod(view.shape[lead:]) // groups
    return view.reshape(math.prod(view.shape[:lead]), groups, columns).swapaxes(0, 1)


def _matrix(weight: Array, groups: int) -> Array:
    """Weight (*kernel, channels_in/groups, n) as matrices (groups, channels_in/groups·kernel, n/groups)."""
    columns = weight.shape[-1] // groups
    rows = np.moveaxis(weight, -2, 0).reshape(math.prod(weight.shape[:-1]), groups, columns)
    return rows.swapaxes(0, 1)


def _sums_over_windows(seen: Array, each: Array, rows: Sequence[float], batch: int) -> Array:
    """Second moments (*kernel, channels of one, of the other) of sums of products over all windows of a batch.

    Args:
        seen: second moments of the array that windows look at, (batch, *space, channels).
        each: of the array with one element for each window, likewise.
        rows: windows along each axis.
        batch: samples.
    """
    k = np.zeros((2,) * seen.ndim)
    for *tap, i, o in np.ndindex(k.shape):
        # Two windows of one sample or of two, by the axes on which they are the same; two taps see two places.
        for agree in np.ndindex(*[2] * len(rows)):
            pairs = math.prod(1 if same else n - 1 for same, n in zip(agree, rows, strict=True))
            places = tuple(same and t for same, t in zip(agree, tap, strict=True))
            for sample, samples in ((1, 1), (0, batch - 1)):
                product = seen[(sample, *places, i)] * each[(sample, *agree, o)]
                k[(*tap, i, o)] += batch * math.prod(rows) * samples * pairs * product
    return k


def _from_groups(y: Array) -> Array:
    """(groups, rows, n) → (rows, groups·n)."""
    groups, rows, n = y.shape
    return y.swapaxes(0, 1).reshape(rows, groups * n)
