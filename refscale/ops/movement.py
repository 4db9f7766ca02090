"""Ops that only move values: reshape, transpose, slice, concatenate, expand, where, gather, embedding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refscale.arguments import whole_number
from refscale.engine import Array, Example, Input, Op, Rows, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.shapes import (
    axis_of,
    broadcast,
    broadcast_factor,
    integer_attributes,
    repeats,
    size,
    tuple_attribute,
    whole_numbers,
)
from refscale.ops.sums import total_by_index, unbroadcast
from refscale.scales import EmbeddingRule, Scales, Shape
from refscale.scales.second_moments import SecondMoments, of_axes

Kept = tuple[Any, ...]


@dataclass(frozen=True)
class Reshape(Op):
    """The elements of x in another shape; one side may be −1."""

    shape: Shape
    inputs = ("x",)
    homogeneity = (1,)
    source = "moves values"
    moves = True
    of_batch = ("shape",)

    def __post_init__(self) -> None:
        tuple_attribute(self, "shape")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        try:
            return x.reshape(self.shape), (x.shape,)
        except ValueError:
            raise ShapeError(f"reshape: {x.shape} ({x.size} elements) into {self.shape}") from None

    def backward(self, g: Array, shape: Shape) -> tuple[Array]:
        return (g.reshape(shape),)

    def scale(self, x: Shape) -> Scales:
        return Scales(1.0, (1.0,))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls((at.b * at.m,)), (at.b, at.m)),)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return x.reshaped(out)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (g.reshaped(x.shape),)


@dataclass(frozen=True)
class Transpose(Op):
    """Axes in another order: axis i of the output is axis ``axes[i]`` of x."""

    axes: tuple[int, ...]
    inputs = ("x",)
    homogeneity = (1,)
    source = "moves values"
    moves = True

    def __post_init__(self) -> None:
        tuple_attribute(self, "axes")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        if sorted(self.axes) != list(range(x.ndim)):
            raise ShapeError(f"transpose: axes {self.axes}, expected a permutation of the {x.ndim} axes of x {x.shape}")
        return x.transpose(self.axes), ()

    def backward(self, g: Array) -> tuple[Array]:
        return (g.transpose(np.argsort(self.axes)),)

    def scale(self, x: Shape) -> Scales:
        return Scales(1.0, (1.0,))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls((1, 0)), (at.b, at.m)),)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return x.transposed(self.axes)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (g.transposed(np.argsort(self.axes).tolist()),)


def _cut(op: Any, alpha: float, x: Array) -> tuple[Array, Kept]:
    y, kept = op.forward(x)
    return y * y.dtype.type(alpha), kept


def _cut_backward(op: Any, betas: Sequence[float | None], g: Array, shape: Shape) -> tuple[Any]:
    """Along the first axis as ``Rows``: a sequence that is cut into its places takes each gradient where it belongs."""
    beta = betas[0]
    if beta is None:
        return (None,)
    if axis_of(op.name, op.axis, len(shape)) == 0:
        return (Rows(np.arange(op.start, op.stop), g * g.dtype.type(beta), shape),)
    (full,) = op.backward(g, shape)
    if beta != 1:
        full *= beta
    return (full,)


@dataclass(frozen=True)
class Slice(Op):
    """Elements start ≤ i < stop along one axis.

    The gradient of a single slice is zero outside of it: β = √(n/kept). If all slices of a split are used, their
    gradients fill the array; ``functional.split`` then constrains β = α = 1.
    """

    axis: int
    start: int
    stop: int
    inputs = ("x",)
    homogeneity = (1,)
    source = "share of elements with a gradient"
    moves = True
    fast_forward, fast_backward = _cut, _cut_backward

    def __post_init__(self) -> None:
        integer_attributes(self, "axis", "start", "stop")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        return x[self._index(x.shape)], (x.shape,)

    def backward(self, g: Array, shape: Shape) -> tuple[Array]:
        full = np.zeros_like(g, shape=shape, order="C")
        full[self._index(shape)] = g
        return (full,)

    def scale(self, x: Shape) -> Scales:
        self._index(x)
        return Scales(1.0, (math.sqrt(x[self.axis] / (self.stop - self.start)),))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(1, 0, max(1, at.m // 2)), (at.b, at.m)),)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return SecondMoments(out, x.k)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (g.filling(self.axis, x.shape),)

    def _index(self, shape: Shape) -> tuple[slice, ...]:
        axis = axis_of(self.name, self.axis, len(shape))
        if not 0 <= self.start < self.stop <= shape[axis]:
            raise ShapeError(f"slice: {self.start}:{self.stop} of axis {axis} of {shape}")
        return (*(slice(None),) * axis, slice(self.start, self.stop))


@dataclass(frozen=True)
class Concat(Op):
    """Concatenation of several arrays along one axis."""

    axis: int
    inputs = ("*x",)
    homogeneity = ("together",)
    source = "moves values"
    moves = True

    def __post_init__(self) -> None:
        integer_attributes(self, "axis")

    def forward(self, *xs: Array) -> tuple[Array, Kept]:
        axis = axis_of(self.name, self.axis, xs[0].ndim)
        sides = {x.shape[:axis] + x.shape[axis + 1 :] for x in xs}
        if len(sides) != 1 or len({x.ndim for x in xs}) != 1:
            raise ShapeError(f"concat: shapes {', '.join(str(x.shape) for x in xs)} differ in axes other than {axis}")
        return np.concatenate(xs, axis), (axis, tuple(x.shape[axis] for x in xs))

    def backward(self, g: Array, axis: int, sides: tuple[int, ...]) -> tuple[Array, ...]:
        return tuple(np.split(g, np.cumsum(sides)[:-1], axis))

    def scale(self, *xs: Shape) -> Scales:
        return Scales(1.0, (1.0,) * len(xs))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(1), (at.b, at.m), (at.b, at.n)),)

    def predict(self, out: Shape, *xs: SecondMoments) -> SecondMoments:
        return SecondMoments(out, np.sum([x.filling(self.axis, out).k for x in xs], axis=0))

    def predict_gradients(self, g: SecondMoments, *xs: SecondMoments) -> tuple[SecondMoments, ...]:
        return tuple(SecondMoments(x.shape, g.k) for x in xs)


@dataclass(frozen=True)
class Expand(Op):
    """x broadcast to a shape. Copies keep σ: α = 1; the gradient sums r repeats: β = r^-½.

    Attributes:
        shape: shape of the result.
    """

    shape: Shape
    inputs = ("x",)
    homogeneity = (1,)
    source = "Table A.2 (broadcast bias)"
    of_batch = ("shape",)

    def __post_init__(self) -> None:
        tuple_attribute(self, "shape")

    def forward(self, x: Array) -> tuple[Array, Kept]:
        self._check(x.shape)
        return np.broadcast_to(x, self.shape), (x.shape,)

    def backward(self, g: Array, shape: Shape) -> tuple[Array]:
        return (unbroadcast(g, shape),)

    def scale(self, x: Shape) -> Scales:
        self._check(x)
        return Scales(1.0, (broadcast_factor(x, self.shape),))

    def rows(self, x: Shape) -> tuple[Shape]:
        return (repeats(x, self.shape),)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls((at.b, at.s, at.m)), (at.b, 1, at.m)),)

    def predict(self, out: Shape, x: SecondMoments) -> SecondMoments:
        return x.repeated(out)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments) -> tuple[SecondMoments]:
        return (g.unbroadcast(x.shape),)

    def _check(self, x: Shape) -> None:
        if broadcast(self.name, x, self.shape) != self.shape:
            raise ShapeError(f"expand: x {x}, expected a shape that broadcasts to {self.shape}")


class Where(Op):
    """x where the mask is True, else y; all broadcast.

    α = 1: each element is N(0, 1). β = r^-½ for an input that broadcasting repeats r times. The fraction p of True is
    data, and factors do not depend on data: the gradients of x and y have RMS √p and √(1 − p).
    """

    inputs = ("mask", "x", "y")
    homogeneity = (None, "together", "together")
    source = "moves values; Table A.2 (broadcast bias)"
    constants = (0,)

    def forward(self, mask: Array, x: Array, y: Array) -> tuple[Array, Kept]:
        broadcast(self.name, mask.shape, x.shape, y.shape)
        if mask.dtype != np.bool_:
            raise ArgumentError(f"where: mask is {mask.dtype}, expected bool")
        return np.where(mask, x, y), (mask, x.shape, y.shape)

    def backward(self, g: Array, mask: Array, x_shape: Shape, y_shape: Shape) -> tuple[None, Array, Array]:
        zero = np.zeros((), g.dtype)
        return None, unbroadcast(np.where(mask, g, zero), x_shape), unbroadcast(np.where(mask, zero, g), y_shape)

    def scale(self, mask: Shape, x: Shape, y: Shape) -> Scales:
        out = broadcast(self.name, mask, x, y)
        return Scales(1.0, (None, broadcast_factor(x, out), broadcast_factor(y, out)))

    def rows(self, mask: Shape, x: Shape, y: Shape) -> tuple[Shape, ...]:
        out = broadcast(self.name, mask, x, y)
        return (), repeats(x, out), repeats(y, out)

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), Input((at.b, at.m), "mask"), (at.b, at.m), (at.b, at.m)),)


class Gather(Op):
    """Rows of each sequence: x (…, n, d) and positions (…, k) give (…, k, d), row ``positions[…, j]`` of x[…].

    If k of n rows are used, the other rows have gradient zero: β = √(n/k).
    """

    inputs = ("x", "positions")
    homogeneity = (1, None)
    source = "share of rows with a gradient"
    constants = (1,)

    def forward(self, x: Array, positions: Array) -> tuple[Array, Kept]:
        self._check(x.shape, positions.shape)
        _check_indices(self.name, positions, x.shape[-2])
        positions = positions.astype(np.intp)
        index = positions[..., None]
        return np.take_along_axis(x, index, -2), (x.shape, positions)

    def backward(self, g: Array, shape: Shape, positions: Array) -> tuple[Array, None]:
        sequences = math.prod(shape[:-2])
        offsets = np.arange(sequences).reshape((*shape[:-2], 1)) * shape[-2]
        full = _sum_rows(g.reshape(positions.size, shape[-1]), (positions + offsets).ravel(), sequences * shape[-2])
        return full.reshape(shape), None

    def scale(self, x: Shape, positions: Shape) -> Scales:
        self._check(x, positions)
        return Scales(1.0, (math.sqrt(max(1, x[-2]) / max(1, positions[-1])), None))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        positions = Input((at.b, max(1, at.s // 8)), "index", at.s)
        return (example(cls(), (at.b, at.s, at.m), positions),)

    def predict(self, out: Shape, x: SecondMoments, positions: SecondMoments) -> SecondMoments:
        """Predict the output: positions of one sequence differ; those of two sequences agree with probability 1/n."""
        n, k = x.shape[-2], x.k.copy()
        for bits in np.ndindex(*(2,) * (k.ndim - 2)):
            if not all(bits):
                k[bits] = np.stack([k[bits][1] / n + k[bits][0] * (n - 1) / n] * 2)
        return SecondMoments(out, k)

    def predict_gradients(
        self, g: SecondMoments, x: SecondMoments, positions: SecondMoments
    ) -> tuple[SecondMoments, None]:
        n, k, found = x.shape[-2], g.shape[-2], g.k.copy()
        for bits in np.ndindex(*(2,) * (found.ndim - 2)):
            other, same = g.k[bits]
            if all(bits):
                found[bits] = np.stack([other * k * (k - 1) / max(1, n * (n - 1)), same * k / n])
            else:
                found[bits] = np.stack([(same / k + other * (k - 1) / k) * (k / n) ** 2] * 2)
        return SecondMoments(x.shape, found), None

    def _check(self, x: Shape, positions: Shape) -> None:
        if len(x) < 2 or not positions or x[:-2] != positions[:-1]:
            raise ShapeError(f"gather: x {x} and positions {positions}, expected (…, n, d) and (…, k)")


def _embed(op: Any, alpha: float, table: Array, ids: Array) -> tuple[Array, Kept]:
    y, kept = op.forward(table, ids)
    if alpha != 1:
        y *= alpha
    return y, kept


def _embed_backward(op: Op, betas: Sequence[float | None], g: Array, shape: Shape, ids: Array) -> tuple[Any, None]:
    """The gradient of a table as ``Rows``: only rows that were used are summed and added to other gradients."""
    if betas[0] is None:
        return None, None
    indices, sums = total_by_index(g.reshape(ids.size, shape[1]), ids.ravel())
    if betas[0] != 1:
        sums *= betas[0]
    return Rows(indices, sums, shape), None


def _agreement(ids: SecondMoments) -> float:
    """The chance that two ids are the same, from the second moments of their one-hot vectors."""
    return float(ids.k[(0,) * ids.k.ndim])


class Embedding(Op):
    """Rows of a table (v, d) by ids (…): the result is (…, d).

    If b ids are uniform over v rows, the gradient of a row sums b/v terms on average: β = √(v/b) if they are
    independent ("sqrt(v/b)"). The authors' code uses v/b, for equal terms ("v/b"), which is larger than √(v/b) if
    tokens are fewer than rows.
    """

    inputs = ("table", "ids")
    homogeneity = (1, None)
    source = "uniform tokens: b/v independent terms to a row; v/b: authors' code, scmm/uscale/layers.py"
    constants = (1,)
    has_ids = True
    fast_forward, fast_backward = _embed, _embed_backward

    def forward(self, table: Array, ids: Array) -> tuple[Array, Kept]:
        self._check(table.shape)
        _check_indices(self.name, ids, len(table))
        return table[ids], (table.shape, ids)

    def backward(self, g: Array, shape: Shape, ids: Array) -> tuple[Array, None]:
        return _sum_rows(g.reshape(ids.size, shape[1]), ids.ravel(), shape[0]), None

    def scale(self, table: Shape, ids: Shape, embeddings: EmbeddingRule = "sqrt(v/b)") -> Scales:
        self._check(table)
        beta = max(1, table[0]) / size(ids)
        return Scales(1.0, (beta if embeddings == "v/b" else math.sqrt(beta), None))

    def rows(self, table: Shape, ids: Shape) -> tuple[Shape, Shape]:
        return (*ids, 1), ()

    def rows_beside(self, table: Shape, ids: Shape) -> tuple[float, float]:  # type: ignore[override]
        """Return the mean number of other terms in a sum of the table's gradient: (b − 1)/v for uniform ids."""
        return (size(ids) - 1) / max(1, table[0]), 0.0

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.s, at.m), Input((at.b,), "index", at.s)),)

    def predict(self, out: Shape, table: SecondMoments, ids: SecondMoments) -> SecondMoments:
        """Predict the output: two tokens have the same id, and so the same row, with some probability."""
        lead, agreement = len(out) - 1, _agreement(ids)
        k = np.empty((2,) * len(out))
        k[...] = table.k[1] * agreement + table.k[0] * (1 - agreement)
        k[(1,) * lead] = table.k[1]
        return of_axes(out, k)

    def predict_gradients(
        self, g: SecondMoments, table: SecondMoments, ids: SecondMoments
    ) -> tuple[SecondMoments, None]:
        """Predict the table's gradient: a row sums the gradients of the tokens with its id."""
        v, tokens, agreement = table.shape[0], math.prod(g.shape[:-1]), _agreement(ids)
        same, total = g.k[(1,) * (g.k.ndim - 1)], g
        for axis in range(len(g.shape) - 1):
            total = total.summed(axis)
        pairs = total.k[(1,) * (g.k.ndim - 1)] - tokens * same
        mixed = (1 - agreement) / max(1, v * (v - 1))  # the chance that two tokens are two given rows
        k = np.stack([pairs * mixed, (tokens * same + pairs * agreement) / v])
        return SecondMoments(table.shape, k), None

    def _check(self, table: Shape) -> None:
        if len(table) != 2:
            raise ShapeError(f"embedding: table {table}, expected (v, d)")


def _check_indices(name: str, indices: Array, n: int) -> None:
    if indices.dtype.kind not in "iu":
        raise ArgumentError(f"{name}: indices are {indices.dtype}, expected integers")
    if indices.size and (indices.min() < 0 or indices.max() >= n):
        raise ArgumentError(f"{name}: indices from {indices.min()} to {indices.max()}, expected 0 … {n - 1}")


def _sum_rows(rows: Array, indices: Array, n: int) -> Array:
    """out[i] = Σ rows[j] over indices[j] = i, added up in float64 in order of j: sort, then sum each run."""
    out = np.zeros_like(rows, shape=(n, rows.shape[1]), order="C")
    if len(indices):
        order = np.argsort(indices, kind="stable")
        present, starts = np.unique(indices[order], return_index=True)
        out[present] = np.add.reduceat(rows[order], starts, dtype=np.float64)
    return out


def split_points(n: int, parts: int | Sequence[int]) -> list[tuple[int, int]]:
    """Return (start, stop) of a number of equal parts, or of parts of given sizes, that add up to n."""
    count = whole_number(parts)
    sizes = whole_numbers(parts, 1) if count is None else (n // max(1, count),) * count
    if not sizes or sum(sizes) != n or not all(sizes):
        raise ShapeError(f"split: {n} elements into parts {parts}")
    stops = np.cumsum(sizes).tolist()
    return list(zip([0, *stops[:-1]], stops, strict=True))
