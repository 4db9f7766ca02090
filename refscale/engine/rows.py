"""Sparse gradients with a few nonzero rows, such as the gradient of an embedding's table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.engine.op import Array


class Rows:
    """An array of shape (n, …) with ``values`` in the rows ``indices``, and zeros in the other rows.

    Attributes:
        indices: row numbers, in ascending order, each once.
        values: the nonzero rows, of shape (len(indices), …).
        shape: shape of the dense array.
    """

    __slots__ = ("indices", "shape", "values")

    def __init__(self, indices: NDArray[np.intp], values: Array, shape: tuple[int, ...]) -> None:
        self.indices, self.values, self.shape = indices, values, shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        return self.values.dtype

    def dense(self) -> Array:
        """Return the dense array."""
        y = np.zeros(self.shape, self.dtype)
        y[self.indices] = self.values
        return y
