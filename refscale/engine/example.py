"""Examples of ops: four sizes, and inputs by shape and kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refscale.scales import Shape

Kind = Literal["normal", "positive", "mask", "index"]
"""Distribution of the elements: N(0, 1); e^z of z ~ N(0, ¼); booleans; integers 0 … below − 1."""


class Sizes(NamedTuple):
    """The sizes of an example, each ≥ 1.

    Attributes:
        b: number of rows of a batch.
        m: input width, the fan-in of a product.
        n: output width: columns of a weight, channels out.
        s: length of a sequence or of a softmax, or number of classes.
    """

    b: int
    m: int
    n: int
    s: int


@dataclass(frozen=True)
class Input:
    """One input of an example.

    Attributes:
        shape: shape of the array.
        kind: distribution of the elements, default "normal".
        below: for indices: the number of rows or classes that they index.
    """

    shape: Shape
    kind: Kind = "normal"
    below: int = 0

    def draw(self, rng: np.random.Generator) -> NDArray[Any]:
        """Return a random array of this shape and kind: float64, bool or int64."""
        match self.kind:
            case "mask":
                return np.asarray(rng.random(self.shape) >= 0.3)
            case "index":
                return np.asarray(rng.integers(0, self.below, self.shape))
        x = np.asarray(rng.standard_normal(self.shape))
        return np.exp(0.5 * x) if self.kind == "positive" else x
