"""Sizes and a seed at which a claim is tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from refscale.errors import ArgumentError

LARGEST = 4096
"""Largest value of every size: a Hadamard matrix of that side takes 128 MiB."""


@dataclass(frozen=True)
class Place:
    """Sizes and a seed; a claim about shapes must be true for all of them.

    Attributes:
        b: rows of a batch; for a whole model, tokens. Default: 64.
        m: width, the inner dimension of a product. Default: 48.
        n: another width: columns of a weight, the hidden layer, output channels. Default: 80.
        s: length of a sequence or of a softmax, number of classes. Default: 32.
        seed: random seed of all inputs. Default: 0.

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
        """Return the sizes as ``refscale verify --shape`` reads them; the seed is separate."""
        return ",".join(f"{name}={size}" for name, size in self.sizes.items())

    @property
    def sizes(self) -> Mapping[str, int]:
        """Sizes by name."""
        return {name: value for name, value in asdict(self).items() if name != "seed"}

    def rng(self) -> np.random.Generator:
        """Return a generator, in the same state at every call."""
        return np.random.default_rng(self.seed)

    def at_most(self, **limits: int) -> Place:
        """Return a place with sizes cut to given limits: ``at_most(m=8)``."""
        return replace(self, **{name: min(getattr(self, name), limit) for name, limit in limits.items()})
