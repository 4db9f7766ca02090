"""Second moments of a tensor: expected products of two elements, by the axes on which their indices agree.

An element of a tensor has an index on every axis. If weights are drawn at random, and all indices of an axis are
equivalent, the expected product of two elements depends only on the axes on which their indices agree. The second
moments of a tensor of k axes are therefore an array of shape (2, …, 2), k times. Entry (1, …, 1) is the mean square;
(0, …, 0) is the expected product of elements without a common index (the square of the mean); (1, 0) of a (batch,
features) tensor is the expected product of two features of one row; and so on. A sum over an axis of length L has L
pairs of equal indices and L·(L − 1) pairs of different ones, which determines the moments of a matrix product.

``Op.predict`` and ``Op.predict_gradients`` use them; ``analysis.predict`` applies these rules to a graph.

Source: the covariance kernels of infinitely wide networks (Neal 1996; Lee et al. 2018, arXiv 1711.00165), with one axis
for each axis of the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from refscale.scales.factors import Shape

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """The second moments of a tensor.

    Attributes:
        shape: shape of the tensor.
        k: array of shape (2, …, 2), one axis for each axis of the tensor: E x·x′ for indices that agree (1) or differ
            (0) on the axis. On an axis of length 1 both entries are equal.
    """

    shape: Shape
    k: Array

    @property
    def square(self) -> float:
        """E x²."""
        return float(self.k[(1,) * self.k.ndim])

    @property
    def mean_square(self) -> float:
        """E (mean over all elements)²."""
        total = self.k
        for n in reversed(self.shape):
            total = total[..., 1] / n + total[..., 0] * (n - 1) / n
        return float(total)

    @property
    def rms(self) -> float:
        """√E x²."""
        return math.sqrt(max(self.square, 0.0))

    @property
    def std(self) -> float:
        """√(E x² − E mean²): the standard deviation over all elements."""
        return math.sqrt(max(self.square - self.mean_square, 0.0))

    def times(self, factor: float) -> SecondMoments:
        """Return the moments of factor·x."""
        return SecondMoments(self.shape, self.k * factor**2)

    def plus(self, other: SecondMoments) -> SecondMoments:
        """Return the moments of the sum with an independent tensor of the same shape."""
        return SecondMoments(self.shape, self.k + other.k)

    def with_axes(self, ndim: int) -> SecondMoments:
        """Return the moments with axes of length 1 added in front, ``ndim`` axes in all."""
        new = ndim - len(self.shape)
        k = np.broadcast_to(self.k, (2,) * new + self.k.shape)
        return SecondMoments((1,) * new + self.shape, np.array(k))

    def repeated(self, shape: Shape) -> SecondMoments:
        """Return the moments of the tensor broadcast to a shape; all copies of an element are equal."""
        return SecondMoments(shape, self.with_axes(len(shape)).k)

    def summed(self, axis: int) -> SecondMoments:
        """Return the moments of the sum over an axis, which is kept with length 1."""
        n = self.shape[axis]
        one = np.take(self.k, [1], axis) * n + np.take(self.k, [0], axis) * n * (n - 1)
        return SecondMoments((*self.shape[:axis], 1, *self.shape[axis + 1 :]), np.repeat(one, 2, axis))

    def dropped(self, axis: int) -> SecondMoments:
        """Return the moments without an axis of length 1."""
        return SecondMoments(self.shape[:axis] + self.shape[axis + 1 :], np.take(self.k, 1, axis))

    def unbroadcast(self, shape: Shape) -> SecondMoments:
        """Return the moments of the sum over the axes along which a tensor of that shape was repeated."""
        found = self
        while len(found.shape) > len(shape):
            found = found.summed(0).dropped(0)
        for axis, n in enumerate(shape):
            if n != found.shape[axis]:
                found = found.summed(axis)
        return found

    def transposed(self, axes: Sequence[int]) -> SecondMoments:
        """Return the moments of the transposed tensor."""
        return SecondMoments(tuple(self.shape[a] for a in axes), self.k.transpose(axes))

    def swapped(self) -> SecondMoments:
        """Return the moments with the last two axes exchanged."""
        ndim = len(self.shape)
        return self.transposed((*range(ndim - 2), ndim - 1, ndim - 2))

    def filling(self, axis: int, shape: Shape) -> SecondMoments:
        """Return the moments of the tensor as k of n elements of an axis, the rest 0; n is the length in ``shape``."""
        n, k = shape[axis], self.shape[axis]
        shares = np.array([k * (k - 1) / max(1, n * (n - 1)), k / n])
        sides = [2 if a == axis % len(shape) else 1 for a in range(len(shape))]
        return SecondMoments(shape, self.k * shares.reshape(sides))

    def mapped(self, axis: int, matrix: Array) -> SecondMoments:
        """Return the moments of matrix @ x along an axis, averaged over positions; matrix (positions, side)."""
        places = len(matrix)
        agreeing, all_pairs = matrix @ matrix.T, np.outer(matrix.sum(1), matrix.sum(1))
        other, same = np.take(self.k, 0, axis), np.take(self.k, 1, axis)

        def entry(mean: Callable[[Array], float]) -> Array:
            shared = mean(agreeing)
            return np.asarray(same * shared + other * (mean(all_pairs) - shared))

        def of_one(a: Array) -> float:
            return float(np.trace(a)) / places

        def of_two(a: Array) -> float:
            return (float(a.sum()) - float(np.trace(a))) / (places * (places - 1)) if places > 1 else of_one(a)

        shape = (*self.shape[:axis], places, *self.shape[axis + 1 :])
        return SecondMoments(shape, np.stack([entry(of_two), entry(of_one)], axis))

    def mapped_by_axis(self, matrices: Sequence[Array], first: int) -> SecondMoments:
        """Return the moments of the product with one matrix along each axis from ``first`` on; see ``mapped``."""
        x = self
        for axis, matrix in enumerate(matrices, first):
            x = x.mapped(axis, matrix)
        return x

    def reshaped(self, shape: Shape) -> SecondMoments:
        """Return the moments of the reshaped tensor.

        Indices of a split axis agree if those of all its parts do, those of a merged axis if all merged ones do. Exact,
        except that partial agreement of merged axes is averaged.
        """
        found = self
        place = 0
        for old, new in _factors(self.shape, shape):
            while len(old) > 1:  # merge the last two
                found = found._merged(place + len(old) - 2)
                old = (*old[:-2], old[-2] * old[-1])
            if not old:  # a new axis of length 1
                found = SecondMoments(
                    (*found.shape[:place], 1, *found.shape[place:]), np.stack([found.k, found.k], axis=place)
                )
                old = (1,)
            rest = new
            while len(rest) > 1:
                found = found._split(place + len(new) - len(rest), rest[0], math.prod(rest[1:]))
                rest = rest[1:]
            if not new:
                found = found.dropped(place)
            place += len(new)
        return found

    def _merged(self, axis: int) -> SecondMoments:
        m, n = self.shape[axis : axis + 2]
        k = np.moveaxis(self.k, (axis, axis + 1), (0, 1))
        pairs = m * n - 1
        apart = (k[1, 0] * (n - 1) + k[0, 1] * (m - 1) + k[0, 0] * (m - 1) * (n - 1)) / pairs if pairs else k[1, 1]
        merged = np.moveaxis(np.stack([apart, k[1, 1]]), 0, axis)
        return SecondMoments((*self.shape[:axis], m * n, *self.shape[axis + 2 :]), merged)

    def _split(self, axis: int, m: int, n: int) -> SecondMoments:
        k = np.moveaxis(self.k, axis, 0)
        # Where one of the parts has length 1, it agrees always, and the other decides.
        table = np.stack([np.stack([k[0], k[int(m == 1)]]), np.stack([k[int(n == 1)], k[1]])])
        split = np.moveaxis(table, (0, 1), (axis, axis + 1))
        return SecondMoments((*self.shape[:axis], m, n, *self.shape[axis + 1 :]), split)


def of_axes(shape: Shape, k: Array) -> SecondMoments:
    """Make second moments from k, after setting both entries of each axis of length 1 to the same value."""
    for axis, n in enumerate(shape):
        if n == 1:
            k = np.repeat(np.take(k, [1], axis), 2, axis)
    return SecondMoments(shape, k)


def independent(shape: Shape, sigma: float) -> SecondMoments:
    """Return the moments of independent elements of mean 0 and standard deviation ``sigma``."""
    k = np.zeros((2,) * len(shape))
    k[(1,) * len(shape)] = sigma**2
    return of_axes(shape, k)


def constant(shape: Shape, value: float) -> SecondMoments:
    """Return the moments of a tensor of equal elements."""
    return SecondMoments(shape, np.full((2,) * len(shape), value**2))


def contrast(x: SecondMoments) -> Array:
    """Return the moments of x minus its mean over the last axis, times n/(n − 1), by agreement of the other axes."""
    return np.asarray(x.k[..., 1] - x.k[..., 0])


def without_mean(squares: Array, shape: Shape) -> SecondMoments:
    """Return the moments of rows that sum to 0, given their mean squares by agreement of the other axes."""
    n = shape[-1]
    return SecondMoments(shape, np.stack([-squares / max(1, n - 1), squares], axis=-1))


def contracted(x: SecondMoments, w: SecondMoments) -> SecondMoments:
    """Return the moments of x @ w for independent x (…, b, m) and w (…, m, n)."""
    ndim = max(len(x.shape), len(w.shape))
    x, w = x.with_axes(ndim), w.with_axes(ndim)
    m = x.shape[-1]
    k = m * x.k[..., :, 1, None] * w.k[..., 1, :][..., None, :]
    k = k + m * (m - 1) * x.k[..., :, 0, None] * w.k[..., 0, :][..., None, :]
    lead = tuple(max(a, b) for a, b in zip(x.shape[:-2], w.shape[:-2], strict=True))
    return SecondMoments((*lead, x.shape[-2], w.shape[-1]), k)


_Z = np.linspace(-8.0, 8.0, 128)  # none of them at 0, where activations have their kinks
_W = np.exp(-0.5 * _Z**2) / np.exp(-0.5 * _Z**2).sum()


def through(x: SecondMoments, f: Callable[[Array], Array]) -> SecondMoments:
    """Return the moments of f(x), elementwise, for jointly normal x: E f(u)·f(v) for every covariance, on a grid."""
    square = x.square
    if square <= 0:
        return constant(x.shape, float(f(np.zeros(1))[0]))

    @cache
    def product(rho: float) -> float:
        if rho >= 1:
            return float(np.sum(_W * f(math.sqrt(square) * _Z) ** 2))
        u = math.sqrt(square) * _Z
        v = rho * u[:, None] + math.sqrt(1 - rho**2) * u[None, :]
        return float(np.sum((_W * f(u))[:, None] * _W[None, :] * f(v)))

    rho = np.clip(x.k / square, -1.0, 1.0)
    values = np.array([product(round(float(r), 9)) for r in rho.ravel()])
    return SecondMoments(x.shape, values.reshape(x.k.shape))


def _factors(old: Shape, new: Shape) -> list[tuple[Shape, Shape]]:
    """Runs of axes of two shapes of one size that have the same number of elements, as short as can be."""
    groups: list[tuple[Shape, Shape]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = list(old[i : i + 1]), list(new[j : j + 1])
        i, j = i + len(a), j + len(b)
        while math.prod(a) != math.prod(b):
            if (math.prod(a) < math.prod(b) or not b) and i < len(old):
                a.append(old[i])
                i += 1
            elif j < len(new):
                b.append(new[j])
                j += 1
            else:
                a.append(old[i])
                i += 1
        groups.append((tuple(a), tuple(b)))
    return groups
