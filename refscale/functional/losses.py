"""Losses, and their sum."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from refscale import ops
from refscale.arrays import plain
from refscale.engine import Tensor, apply

__all__ = ["cross_entropy", "mse_loss", "total_loss"]


def cross_entropy(logits: Tensor, targets: Tensor | ArrayLike, ignore_index: int | None = None) -> Tensor:
    """Mean of −log softmax(logits)[target] over the rows whose target is not ``ignore_index``.

    Args:
        logits: (…, s).
        targets: integers (…), 0 … s−1 or ``ignore_index``.
        ignore_index: marks rows that do not count.

    Returns:
        A scalar; both the mean and its factor β count only the rows that do.

    Raises:
        ArgumentError: no row counts, or a target is out of range.
    """
    targets = plain("cross_entropy", "targets", targets.value if isinstance(targets, Tensor) else targets)
    kept = None if ignore_index is None else int(np.count_nonzero(targets != ignore_index))
    return apply(ops.SoftmaxCrossEntropy("mean", ignore_index, kept), logits, targets)


def mse_loss(x: Tensor, target: Tensor | ArrayLike) -> Tensor:
    """Mean of (x − target)² over all elements; see ``ops.MseLoss``.

    Args:
        x: any shape.
        target: x's shape.

    Returns:
        A scalar.
    """
    return apply(ops.MseLoss(), x, target)


def total_loss(*losses: Tensor) -> Tensor:
    """Σ losses, unscaled: the sum is the objective.

    Args:
        losses: scalars; heads that share a trunk take it through ``fork``.
    """
    return apply(ops.LossSum(), *losses)
