"""Dropout."""

from __future__ import annotations

import numpy as np

from refscale import ops
from refscale.arrays import freeze
from refscale.engine import Tensor, apply

__all__ = ["dropout"]


def dropout(x: Tensor, p: float, rng: np.random.Generator | None) -> Tensor:
    """x·keep/(1−p) with keep drawn from ``rng``; x itself if p = 0 or ``rng`` is None (evaluation).

    Args:
        x: any shape.
        p: probability of dropping, 0 ≤ p < 1.
        rng: source of the mask.
    """
    if p == 0 or rng is None:
        return x
    return apply(ops.Dropout(p), x, freeze(rng.random(x.shape) >= p))
