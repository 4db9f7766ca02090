"""Where a claim is tested: sizes and a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from refscale.errors import ArgumentError

LARGEST = 4096
"""Of every size: a Hadamard matrix of that side takes 128 MiB."""


@dataclass(frozen=True)
class Place:
    """Sizes and a seed; a claim about shapes must hold at any.

    Attributes:
        b: rows of a batch; of a whole model, tokens.
        m: width: the length that a product sums over.
        n: another width: columns of a weight, the hidden layer, channels out.
        s: length of a sequence, of a softmax, number of classes.
        seed: of everything random.

    Raises:
        ArgumentError: a size is not in 1 ... ``LARGEST``, or the seed is negative.
    """

    b: int = 64
    m: int = 48
    n: int = 80
    s: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, size in self.sizes.items():
            if not (isinstance(size, int) and 1 <= size <= LARGEST):
                raise ArgumentError(f"Place: {name} is {size!r}, expected an integer from 1 to {LARGEST}")
        if self.seed < 0:
            raise ArgumentError(f"Place: seed is {self.seed!r}, expected an integer >= 0")

    def __str__(self) -> str:
        """As ``refscale verify --shape`` reads it; the seed is a matter of its own."""
        return ",".join(f"{name}={size}" for name, size in self.sizes.items())

    @property
    def sizes(self) -> Mapping[str, int]:
        """The sizes by name."""
        return {name: value for name, value in asdict(self).items() if name != "seed"}

    def rng(self) -> np.random.Generator:
        """A generator, the same at every call."""
        return np.random.default_rng(self.seed)

    def at_most(self, **limits: int) -> Place:
        """The same, with sizes cut: ``at_most(m=8)``."""
        return replace(self, **{name: min(getattr(self, name), limit) for name, limit in limits.items()})
