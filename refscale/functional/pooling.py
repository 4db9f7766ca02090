"""Pooling over windows, and mean pooling of a sequence."""

from __future__ import annotations

import numpy as np

from refscale import ops
from refscale.arrays import freeze, plain
from refscale.engine import Tensor, apply, tape_of
from refscale.errors import ShapeError
from refscale.functional.probabilities import Mask
from refscale.scales import Constraint, geometric

__all__ = ["avg_pool", "max_pool", "mean_pooled"]


def mean_pooled(h: Tensor, mask: Mask) -> Tensor:
    """Compute the mean of the tokens of each sequence, without padding.

    Args:
        h: encoder output (batch, seq, d).
        mask: (batch, seq), False for padding; at least one True in each sequence.

    Returns:
        (batch, d): the mean, times √seq under unit scaling, the factor for independent tokens.

    Raises:
        ShapeError: the mask does not fit, or a sequence has no token.
    """
    mask = plain("mean_pooled", "mask", mask)
    if mask.shape != h.shape[:2] or not mask.any(-1).all():
        raise ShapeError(f"mean_pooled: mask {mask.shape} of {h}, expected (batch, seq) with a True in each row")
    share = mask * (mask.shape[1] / mask.sum(-1, keepdims=True))
    weights = np.broadcast_to(share[:, :, None], h.shape).astype(tape_of("mean_pooled", h).dtype)
    return apply(ops.Mean((1,)), apply(ops.Multiply(), h, freeze(weights)))


def max_pool(
    x: Tensor,
    kernel_size: ops.PerAxis,
    stride: ops.PerAxis | None = None,
    padding: ops.PaddingPerAxis = 0,
    dilation: ops.PerAxis = 1,
    *,
    constraint: str | Constraint = geometric,
) -> Tensor:
    """Compute α·(largest element of each window) along one, two or three axes, channels last; see ``ops.MaxPool``.

    Args:
        x: (batch, *space, channels).
        kernel_size: size of the window, one number or one for each axis.
        stride: distance of neighboring windows; None: the kernel.
        padding: number of positions added on all sides, which are never the largest element; or, for each axis, a
            number for both sides or (before, after).
        dilation: distance of neighboring elements of a window, ≥ 1.
        constraint: constraint of α and β, or its name; default geometric.

    Returns:
        (batch, *windows, channels).
    """
    op = ops.MaxPool(kernel_size, stride, padding or None, dilation)
    return apply(op, x, constraint=constraint, constrained=(0,))


def avg_pool(
    x: Tensor,
    kernel_size: ops.PerAxis,
    stride: ops.PerAxis | None = None,
    padding: ops.PaddingPerAxis = 0,
    count_include_pad: bool = True,
    *,
    constraint: str | Constraint = geometric,
) -> Tensor:
    """Compute α·(mean of each window) along one, two or three axes, channels last; see ``ops.AvgPool``.

    Args:
        x: (batch, *space, channels).
        kernel_size: size of the window, one number or one for each axis.
        stride: distance of neighboring windows; None: the kernel.
        padding: number of zeros on all sides; or, for each axis, a number for both sides or (before, after).
        count_include_pad: count the padding as elements of the mean.
        constraint: constraint of α and β, or its name; default geometric.

    Returns:
        (batch, *windows, channels).
    """
    op = ops.AvgPool(kernel_size, stride, padding or None, count_include_pad=count_include_pad)
    return apply(op, x, constraint=constraint, constrained=(0,))
