"""Dropout."""

from __future__ import annotations

import numpy as np

from refscale import ops
from refscale.arrays import freeze
from refscale.engine import Tensor, apply

__all__ = ["dropout"]


def dropout(x: Tensor, p: float, rng: np.random.Generator | None) -> Tensor:
    """Apply dropout: x·keep/(1−p) with ``keep`` drawn from ``rng``; x itself if p = 0 or ``rng`` is None (evaluation).

    Args:
        x: tensor of any shape.
        p: probability of dropping an element, 0 ≤ p < 1.
        rng: generator that draws the mask.
    """
    if p == 0 or rng is None:
        return x
    return apply(ops.Dropout(p), x, freeze(rng.random(x.shape) >= p))
