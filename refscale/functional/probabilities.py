"""Softmax and its logarithm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refscale import ops
from refscale.engine import Tensor, apply
from refscale.scales import Constraint, geometric

__all__ = ["Mask", "log_softmax", "softmax"]

Mask = NDArray[np.bool_]
"""A boolean array, True for visible elements."""


def softmax(
    x: Tensor,
    mask: Mask | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
    constraint: str | Constraint = geometric,
) -> Tensor:
    """Compute α·e^x_i / Σ e^x_j over the last axis; see ``ops.Softmax`` and ``ops.MaskedSoftmax``.

    Args:
        x: (…, t), or (…, s, t) with a mask, causal or a window.
        mask: boolean, broadcast to x, True for visible elements; None: all are visible.
        causal: hide elements j > i + t − s of row i.
        window: hide elements |i + t − s − j| ≥ window of row i.
        constraint: constraint of α and β, or its name; default geometric.

    Returns:
        A tensor of the shape of x; 0 at hidden elements.
    """
    if mask is None and not causal and window is None:
        return apply(ops.Softmax(), x, constraint=constraint, constrained=(0,))
    return apply(ops.MaskedSoftmax(causal, window), x, _mask_of(x, mask), constraint=constraint, constrained=(0,))


def log_softmax(
    x: Tensor, mask: Mask | None = None, *, causal: bool = False, constraint: str | Constraint = geometric
) -> Tensor:
    """Compute α·(x_i − log Σ e^x_j) over the last axis; see ``ops.LogSoftmax`` and ``ops.MaskedLogSoftmax``.

    Args:
        x: (…, t), or (…, s, t) with a mask or causal.
        mask: boolean, broadcast to x, True for visible elements; None: all are visible.
        causal: hide elements j > i + t − s of row i.
        constraint: constraint of α and β, or its name; default geometric.

    Returns:
        A tensor of the shape of x; 0 at hidden elements.
    """
    if mask is None and not causal:
        return apply(ops.LogSoftmax(), x, constraint=constraint, constrained=(0,))
    return apply(ops.MaskedLogSoftmax(causal), x, _mask_of(x, mask), constraint=constraint, constrained=(0,))


def _mask_of(x: Tensor, mask: Mask | None) -> Mask:
    """The mask, or one of ones."""
    return np.ones((1,) * (x.ndim - 1) + x.shape[-1:], np.bool_) if mask is None else mask
