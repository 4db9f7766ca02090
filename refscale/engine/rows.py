"""A gradient that is zero but for some rows: what an embedding sends back to its table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.engine.op import Array


class Rows:
    """The array of a shape (n, …) that has ``values`` in the rows of these ``indices``, and zeros in the others.

    Attributes:
        indices: rows, in ascending order, each once.
        values: (len(indices), …).
        shape: of the whole.
    """

    __slots__ = ("indices", "shape", "values")

    def __init__(self, indices: NDArray[np.intp], values: Array, shape: tuple[int, ...]) -> None:
        self.indices, self.values, self.shape = indices, values, shape

    @classmethod
    def summed(cls, rows: Array, indices: Array, shape: tuple[int, ...], factor: float = 1.0) -> Rows:
        """factor · Σ rows[j] over all j of equal ``indices[j]``, in order of j.

        Args:
            rows: (k, d).
            indices: k numbers from 0 to shape[0] − 1.
            shape: (n, d).
            factor: of every sum.
        """
        order = np.argsort(indices, kind="stable")
        ranked = indices[order].astype(np.intp, copy=False)
        starts = np.flatnonzero(np.diff(ranked, prepend=-1))
        lengths = np.diff(starts, append=len(ranked))
        values = rows[order[starts]]
        longest = int(lengths.max(initial=0))
        if longest <= len(starts):  # all seconds, all thirds, …
            for rank in range(1, longest):
                some = np.flatnonzero(lengths > rank)
                values[some] += rows[order[starts[some] + rank]]
        else:  # few rows, used often
            for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
                rows[order[start : start + length]].sum(0, out=values[i])
        if factor != 1:
            values *= factor
        return cls(ranked[starts], values, shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the values."""
        return self.values.dtype

    def dense(self) -> Array:
        """The whole array."""
        y = np.zeros(self.shape, self.dtype)
        y[self.indices] = self.values
        return y
