"""The maximum or the mean of each window of x (batch, *space, channels), over one, two or three spatial axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np

from refscale.engine import Array, Example, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.shapes import size
from refscale.ops.sums import total
from refscale.ops.windows import (
    LAYOUTS,
    PaddingPerAxis,
    PerAxis,
    WindowGrid,
    both_sides,
    layouts,
    padding_per_axis,
    per_axis,
    window_attributes,
)
from refscale.scales import Scales, Shape, Statistic, gaussian_mean
from refscale.scales.second_moments import SecondMoments

Kept = tuple[Any, ...]


@cache
def maximum_moments(k: int) -> tuple[float, float]:
    """Compute (std, RMS) of the largest of k independent N(0, 1), with density k·φ(x)·Φ(x)^(k−1), by quadrature."""

    def density_ratio(x: Array) -> Array:
        below = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
        return k * below ** (k - 1)

    mean = gaussian_mean(lambda x: x * density_ratio(x))
    variance = gaussian_mean(lambda x: (x - mean) ** 2 * density_ratio(x))
    return math.sqrt(variance), math.sqrt(variance + mean**2)


@dataclass(frozen=True)
class _Pool(Op):
    """Windows of x (batch, *space, channels)."""

    kernel: PerAxis
    stride: PerAxis | None = None
    padding: PaddingPerAxis | None = None
    dilation: PerAxis = 1
    inputs = ("x",)
    homogeneity = (1,)
    later: ClassVar[tuple[str, ...]] = ("dilation",)

    def __post_init__(self) -> None:
        window_attributes(self, "kernel", "stride", "padding", "dilation")
        kernel = (self.kernel,) if isinstance(self.kernel, int) else self.kernel
        padding = self.padding if isinstance(self.padding, tuple) else (self.padding or 0,)
        if any(max(both_sides(p)) >= k for p, k in zip(padding, kernel, strict=False)):
            raise ArgumentError(
                f"{type(self).__name__}(padding={self.padding}): expected less than the kernel {self.kernel}"
            )

    def _windows(self, x: Shape) -> tuple[WindowGrid, Shape]:
        expected = (len(self.kernel),) if isinstance(self.kernel, tuple) else tuple(LAYOUTS)
        axes = len(x) - 2
        if axes not in expected:
            raise ShapeError(f"{self.name}(kernel={self.kernel}): x {x}, expected {layouts(expected)}")
        kernel, dilation = (per_axis(self, n, getattr(self, n), axes) for n in ("kernel", "dilation"))
        stride = kernel if self.stride is None else per_axis(self, "stride", self.stride, axes)
        padding = tuple(map(both_sides, padding_per_axis(self, self.padding or 0, axes)))
        windows = WindowGrid(kernel, stride, dilation, padding)
        outputs = windows.outputs(self.name, x[1:-1])
        if max(dilation) > 1 and not all(seen.any((1, 2)).all() for seen in windows.seen(x[1:-1])):
            raise ShapeError(f"{self.name}: a window of {x[1:-1]} has only padding, expected an element of x in each")
        return windows, outputs


@dataclass(frozen=True)
class MaxPool(_Pool):
    """The largest element of each window of x (batch, *space, channels), over one, two or three spatial axes.

    α = 1/σ of the largest of k N(0, 1), k the size of the window (k = 4: 1.426). The gradient of each output goes to
    its largest element (the first, if several are equal). The mean square of the input's gradient is outputs/inputs,
    with or without overlap of windows: β = √(inputs/outputs).

    Attributes:
        kernel: side of the window, one number for every spatial axis of x or a tuple with one for each.
        stride: distance of neighboring windows, likewise; None: the kernel.
        padding: positions before and after an axis, less than the kernel, likewise; they are never the largest element.
            None: none.
        dilation: distance of neighboring elements of a window, ≥ 1, likewise.
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
    """The mean of each window of x (batch, *space, channels), over one, two or three spatial axes.

    A mean of k independent elements has σ = k^-½: α = √k, k the size of the window. An element of x is in k/stride
    windows, and receives g/k from each: β = √(k·stride). At the ends, where windows overlap the padding, there are
    fewer terms. (After an activation with nonzero mean the values of a window are correlated, and α = 1 is closer.)

    Attributes:
        kernel: side of the window, one number for every spatial axis of x or a tuple with one for each.
        stride: distance of neighboring windows, likewise; None: the kernel.
        padding: number of zeros before and after an axis, less than the kernel, likewise. None: none.
        dilation: distance of neighboring elements of a window, ≥ 1, likewise.
        count_include_pad: count padding as elements of the mean (torch's name).
    """

    count_include_pad: bool = True
    source = "Table A.2 (sum), terms counted by window"
    later: ClassVar[tuple[str, ...]] = ("dilation", "count_include_pad")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        windows, _ = self._windows(x.shape)
        rows = windows.rows(x, 0.0)
        if self.count_include_pad:
            return total(rows, -1, over=size(windows.kernel)), (x.shape,)
        return total(rows, -1) / self._counts(windows, x.shape).astype(x.dtype), (x.shape,)

    def backward(self, g: Array, shape: Shape) -> tuple[Array]:
        windows, _ = self._windows(shape)
        n = size(windows.kernel) if self.count_include_pad else self._counts(windows, shape).astype(g.dtype)
        share = (g / n).reshape(*g.shape, *(1,) * len(windows.kernel))
        return (windows.add_up(np.broadcast_to(share, (*g.shape, *windows.kernel)), shape),)

    def scale(self, x: Shape) -> Scales:
        windows, _ = self._windows(x)
        kernel = size(windows.kernel)
        return Scales(math.sqrt(kernel), (math.sqrt(kernel * size(windows.stride)),))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls((2, 2)), (at.b, 2 * at.s, 2 * at.s, at.m)),)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return x.mapped_by_axis(self._matrices(x.shape), 1)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (g.mapped_by_axis([matrix.T for matrix in self._matrices(x.shape)], 1),)

    def _counts(self, windows: WindowGrid, x: Shape) -> Array:
        """Elements of x in each window, (*outputs, 1)."""
        by_axis = [seen.sum((1, 2)) for seen in windows.seen(x[1:-1])]
        return np.asarray(math.prod(np.ix_(*by_axis)))[..., None]

    def _matrices(self, x: Shape) -> list[Array]:
        """For each spatial axis, the weight of every element in every output."""
        windows, _ = self._windows(x)
        weights = []
        for seen, kernel in zip(windows.seen(x[1:-1]), windows.kernel, strict=True):
            matrix = seen.sum(1).astype(np.float64)
            weights.append(matrix / (kernel if self.count_include_pad else matrix.sum(1, keepdims=True)))
        return weights
