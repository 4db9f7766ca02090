"""Pooling of a sequence into one vector."""

from __future__ import annotations

import numpy as np

from refscale import ops
from refscale.arrays import freeze, plain
from refscale.engine import Tensor, apply, tape_of
from refscale.errors import ShapeError
from refscale.functional.probabilities import Mask

__all__ = ["mean_pooled"]


def mean_pooled(h: Tensor, mask: Mask) -> Tensor:
    """The mean of the tokens that are no padding.

    Args:
        h: encoder output (batch, seq, d).
        mask: (batch, seq), True at real tokens, at least one in each sequence.

    Returns:
        (batch, d): the mean, times √seq under unit scaling, as is right for independent tokens.

    Raises:
        ShapeError: the mask does not fit, or a sequence has no token.
    """
    mask = plain("mean_pooled", "mask", mask)
    if mask.shape != h.shape[:2] or not mask.any(-1).all():
        raise ShapeError(f"mean_pooled: mask {mask.shape} of {h}, expected (batch, seq) with a True in each row")
    share = mask * (mask.shape[1] / mask.sum(-1, keepdims=True))
    weights = np.broadcast_to(share[:, :, None], h.shape).astype(tape_of("mean_pooled", h).dtype)
    return apply(ops.Mean((1,)), apply(ops.Multiply(), h, freeze(weights)))
