"""Padding, nearest-neighbor and linear resizing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from refscale.engine import Array, Degree, Example, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.shapes import size, whole_numbers
from refscale.ops.sums import total
from refscale.ops.windows import LAYOUTS, PerAxis, layouts, per_axis, window_attributes
from refscale.scales import Scales, Shape
from refscale.scales.second_moments import SecondMoments, constant

Kept = tuple[Any, ...]
PadMode = Literal["constant", "reflect", "replicate"]
"""Content of the padding: a constant; elements mirrored at the first and the last; copies of the first and the last."""


@dataclass(frozen=True)
class Pad(Op):
    """x padded along each axis by a number, or by mirrored or repeated elements of x.

    α = 1: the elements of x do not change, and a convolution of x padded with zeros equals the convolution with
    padding. For mode "constant" β = 1: the padding has no gradient. In the other modes an element of x receives the sum
    of the gradients of its copies, N for n elements: β = √(n/N).

    Attributes:
        widths: (before, after) of each axis of x, ≥ 0; less than the side for mode "reflect".
        mode: "constant", "reflect" (1 2 3 → 3 2 | 1 2 3 | 2 1) or "replicate" (1 1 | 1 2 3 | 3 3): torch's names.
        value: the padding of mode "constant", finite.
    """

    widths: tuple[tuple[int, int], ...]
    mode: PadMode = "constant"
    value: float = 0.0
    inputs = ("x",)
    homogeneity = (1,)
    source = "moves values; Table A.2 (sum), terms counted"

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = [whole_numbers(pair, 0) for pair in self.widths] if isinstance(self.widths, tuple | list) else [None]
        if any(pair is None or len(pair) != 2 for pair in pairs):
            raise ArgumentError(f"Pad(widths={self.widths!r}): expected (before, after) of each axis, integers ≥ 0")
        object.__setattr__(self, "widths", tuple(pairs))
        if self.mode not in get_args(PadMode):
            raise ArgumentError(f"Pad(mode={self.mode!r}): expected 'constant', 'reflect' or 'replicate'")
        if not math.isfinite(self.value) or (self.value != 0 and self.mode != "constant"):
            raise ArgumentError(f"Pad(value={self.value}): expected a finite number, 0 unless mode is 'constant'")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        self._out(x.shape)
        if self.mode == "constant":
            return np.pad(x, self.widths, constant_values=self.value), (x.shape,)
        for axis, places in enumerate(self._places(x.shape)):
            x = np.take(x, places, axis)
        return x, (tuple(n - sum(w) for n, w in zip(x.shape, self.widths, strict=True)),)

    def backward(self, g: Array, shape: Shape) -> tuple[Array]:
        for axis, places in enumerate(self._places(shape)):
            before = self.widths[axis][0]
            inside = _along(axis, before, before + shape[axis])
            if self.mode == "constant":
                g = g[inside]
                continue
            whole, g = g, np.zeros_like(g, shape=(*g.shape[:axis], shape[axis], *g.shape[axis + 1 :]), order="C")
            g += whole[inside]
            for i, place in enumerate(places):
                if not before <= i < before + shape[axis]:
                    g[_along(axis, place, place + 1)] += whole[_along(axis, i, i + 1)]
        return (g,)

    def scale(self, x: Shape) -> Scales:
        out = self._out(x)
        return Scales(1.0, (1.0 if self.mode == "constant" else math.sqrt(size(x) / size(out)),))

    def degrees(self, inputs: int) -> tuple[Degree, ...]:
        return ("own",) if self.value else self.homogeneity

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (
            example(cls(((0, 0), (2, 1))), (at.b, at.m)),
            example(cls(((0, 0), (1, 1)), "reflect"), (at.b, at.m + 1)),
            example(cls(((0, 0), (2, 1)), "replicate"), (at.b, at.m)),
        )

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        share = size(x.shape) / size(out)
        return x.mapped_by_axis(self._matrices(x.shape), 0).plus(constant(out, self.value * math.sqrt(1 - share)))

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (g.mapped_by_axis([matrix.T for matrix in self._matrices(x.shape)], 0),)

    def _out(self, x: Shape) -> Shape:
        """Return the shape of the result, or raise ShapeError."""
        if len(x) != len(self.widths):
            raise ShapeError(f"pad: {len(self.widths)} widths of x {x}, expected one for each axis")
        for n, pair in zip(x, self.widths, strict=True):
            if any(pair) and (max(pair) >= n if self.mode == "reflect" else n < 1 and self.mode == "replicate"):
                raise ShapeError(f"pad(mode={self.mode!r}): widths {pair} of a side of {n}, expected a longer side")
        return tuple(n + sum(pair) for n, pair in zip(x, self.widths, strict=True))

    def _places(self, x: Shape) -> list[list[int]]:
        """For each axis, the index in x of every position of the result; clipped to x for constant padding."""
        mode: Literal["reflect", "edge"] = "reflect" if self.mode == "reflect" else "edge"
        return [np.pad(np.arange(n), pair, mode).tolist() if n else [] for n, pair in zip(x, self.widths, strict=True)]

    def _matrices(self, x: Shape) -> list[Array]:
        """For each axis, the weight of every element in every position of the result."""
        found = [np.eye(n)[places] for n, places in zip(x, self._places(x), strict=True)]
        if self.mode == "constant":
            for matrix, (before, after) in zip(found, self.widths, strict=True):
                matrix[:before] = matrix[len(matrix) - after :] = 0
        return found


def _along(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, slice(start, stop))


@dataclass(frozen=True)
class NearestResize(Op):
    """x (batch, *space, channels) with each element repeated ``factor`` times along every spatial axis.

    Copies keep σ: α = 1; the gradient of an element sums its r repeats: β = r^-½, r the product of the factors.

    Attributes:
        factor: number of copies, ≥ 1, one for every spatial axis of x or a tuple with one for each.
    """

    factor: PerAxis
    inputs = ("x",)
    homogeneity = (1,)
    source = "Table A.2 (broadcast bias)"

    def __post_init__(self) -> None:
        window_attributes(self, "factor")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        factors = self._factors(x.shape)
        for axis, factor in enumerate(factors, 1):
            x = np.repeat(x, factor, axis)
        return x, (factors,)

    def backward(self, g: Array, factors: tuple[int, ...]) -> tuple[Array]:
        split = [side for n, factor in zip(g.shape[1:-1], factors, strict=True) for side in (n // factor, factor)]
        repeats = tuple(range(2, 2 + len(split), 2))
        return (total(g.reshape(g.shape[0], *split, g.shape[-1]), repeats),)

    def scale(self, x: Shape) -> Scales:
        return Scales(1.0, (math.prod(self._factors(x)) ** -0.5,))

    def rows(self, x: Shape) -> tuple[Shape]:
        return ((1, *self._factors(x), 1),)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(2), (at.b, at.s, at.m)),)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return x.mapped_by_axis(self._matrices(x.shape), 1)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (g.mapped_by_axis([matrix.T for matrix in self._matrices(x.shape)], 1),)

    def _factors(self, x: Shape) -> tuple[int, ...]:
        axes = len(x) - 2
        expected = (len(self.factor),) if isinstance(self.factor, tuple) else tuple(LAYOUTS)
        if axes not in expected:
            raise ShapeError(f"{self.name}(factor={self.factor}): x {x}, expected {layouts(expected)}")
        return per_axis(self, "factor", self.factor, axes)

    def _matrices(self, x: Shape) -> list[Array]:
        """For each spatial axis, the element at every position of the result."""
        return [np.repeat(np.eye(n), f, 0) for n, f in zip(x[1:-1], self._factors(x), strict=True)]


@dataclass(frozen=True)
class LinearResize(Op):
    """x (batch, *space, channels) at other sizes, by linear interpolation along every spatial axis.

    Along an axis of n elements, result o of N is y_o = (1 − t)·x_i + t·x_{i+1} at the position p = i + t, 0 ≤ t < 1:
    p = (o + ½)·n/N − ½, clipped to 0 … n − 1; with aligned corners p = o·(n − 1)/(N − 1), and 0 for N = 1.

    For independent elements, the mean square of a result is the mean square weight m of each axis: α = Π m^-½. The
    gradient of an element sums its weights: β = Π (m·N/n)^-½.

    Attributes:
        size: size of the result, ≥ 1; one number for every spatial axis of x or a tuple with one for each.
        align_corners: whether the first and last results are the first and last elements; torch's name.
    """

    size: PerAxis
    align_corners: bool = False
    inputs = ("x",)
    homogeneity = (1,)
    source = "Table A.2 (sum), weighted; torch.nn.functional.interpolate(mode='linear')"

    def __post_init__(self) -> None:
        window_attributes(self, "size")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        shape = x.shape
        for axis, places in enumerate(self._places(shape), 1):
            first, second, share = places.along(axis, x)
            x = np.take(x, first, axis) * (1 - share) + np.take(x, second, axis) * share
        return x, (shape,)

    def backward(self, g: Array, shape: Shape) -> tuple[Array]:
        for axis, places in enumerate(self._places(shape), 1):
            whole, g = g, np.zeros_like(g, shape=(*g.shape[:axis], shape[axis], *g.shape[axis + 1 :]), order="C")
            first, second, share = places.along(axis, whole)
            for i, piece in ((first, whole * (1 - share)), (second, whole * share)):
                for o, element in enumerate(i):
                    g[_along(axis, element, element + 1)] += piece[_along(axis, o, o + 1)]
        return (g,)

    def scale(self, x: Shape) -> Scales:
        axes = self._places(x)
        squares = math.prod(float(np.sum(axis.share**2 + (1 - axis.share) ** 2)) for axis in axes)
        places, elements = math.prod(axis.share.size for axis in axes), math.prod(x[1:-1])
        return Scales(math.sqrt(places / squares), (math.sqrt(elements / squares),))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (
            example(cls(2 * at.s - 1), (at.b, at.s, at.m)),
            example(cls((at.n, 3), True), (at.b, 3, 4, at.m)),
        )

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return x.mapped_by_axis(self._matrices(x.shape), 1)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (g.mapped_by_axis([matrix.T for matrix in self._matrices(x.shape)], 1),)

    def _places(self, x: Shape) -> list[_Places]:
        """Return the two elements and the weight of the second at every position, for each spatial axis."""
        axes = len(x) - 2
        expected = (len(self.size),) if isinstance(self.size, tuple) else tuple(LAYOUTS)
        if axes not in expected or min(x[1:-1]) < 1:
            raise ShapeError(f"{self.name}(size={self.size}): x {x}, expected {layouts(expected)} with elements")
        return [
            _places(n, size, self.align_corners)
            for n, size in zip(x[1:-1], per_axis(self, "size", self.size, axes), strict=True)
        ]

    def _matrices(self, x: Shape) -> list[Array]:
        """Return the weight of every element at every position of the result, for each spatial axis."""
        found = []
        for n, places in zip(x[1:-1], self._places(x), strict=True):
            share = places.share[:, None]
            found.append(np.eye(n)[places.first] * (1 - share) + np.eye(n)[places.second] * share)
        return found


class _Places(NamedTuple):
    """Positions of a result on an axis: between two elements, with the weight of the second."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    share: NDArray[np.float64]

    def along(self, axis: int, x: Array) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
        """Return the elements, and the weights in x's dtype along that axis."""
        return self.first, self.second, self.share.astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1 - axis))


def _places(n: int, size: int, align_corners: bool) -> _Places:
    """Return the positions of ``size`` results on an axis of n elements."""
    o = np.arange(size, dtype=np.float64)
    at = o * ((n - 1) / max(size - 1, 1)) if align_corners else np.clip((o + 0.5) * (n / size) - 0.5, 0, n - 1)
    first = np.minimum(at.astype(np.intp), n - 1)
    return _Places(first, np.minimum(first + 1, n - 1), at - first)
