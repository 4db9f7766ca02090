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

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the values."""
        return self.values.dtype

    def dense(self) -> Array:
        """The whole array."""
        y = np.zeros(self.shape, self.dtype)
        y[self.indices] = self.values
        return y
