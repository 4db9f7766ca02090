"""Losses, and sums of losses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale import ops
from refscale.arrays import plain
from refscale.engine import Tensor, apply, tape_of
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.shapes import broadcast

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "huber_loss",
    "mse_loss",
    "smooth_l1_loss",
    "total_loss",
]


def cross_entropy(
    logits: Tensor,
    targets: Tensor | ArrayLike,
    ignore_index: int | None = None,
    *,
    weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: ops.Reduction = "mean",
) -> Tensor:
    """Compute the cross-entropy −log softmax(logits)[target], or that of probabilities as targets.

    With targets q (integer targets as one-hot rows), smoothing ε and class weights w, the loss of a row is
    −Σ_j w_j·q_j·(1 − ε)·log p_j − ε/s·Σ_j w_j·log p_j, p = softmax(logits). A row with the target ``ignore_index`` does
    not count. With integer targets the mean is the sum over the total weight of the targets that count (without
    weights, over their number); with probabilities, over the number of rows.
    Under u-μP, p = softmax(m·logits) with the scheme's loss multiplier m, which does not multiply the gradient.

    Args:
        logits: (…, s).
        targets: integers (…), 0 … s−1 or ``ignore_index``; or probabilities (…, s).
        ignore_index: integer target of rows that do not count.
        weight: class weights (s,), ≥ 0; None: 1.
        label_smoothing: ε, 0 ≤ ε ≤ 1, the fraction of every target that is spread over all classes.
        reduction: "mean", "sum", or "none" for the loss of every row.

    Returns:
        A scalar, or (…) for reduction "none". Only rows that count enter the mean and β.

    Raises:
        ArgumentError: no row counts, or a target, a weight or ε is out of range.

    Source: the formula of torch.nn.functional.cross_entropy; classes are the last axis here.
    """
    targets = plain("cross_entropy", "targets", targets.value if isinstance(targets, Tensor) else targets)
    if (m := tape_of("cross_entropy", logits).scheme.multipliers.loss) != 1:
        logits = apply(ops.Scaled(m, 1.0), logits)
    dense = targets.dtype.kind == "f" and targets.shape == logits.shape
    if dense and ignore_index is not None:
        raise ArgumentError(f"cross_entropy(ignore_index={ignore_index}): targets are probabilities, expected integers")
    kept = None if ignore_index is None else int(np.count_nonzero(targets != ignore_index))
    if not dense and weight is None and label_smoothing == 0:
        return apply(ops.SoftmaxCrossEntropy(reduction, ignore_index, kept), logits, targets)
    return _soft_cross_entropy(logits, targets, ignore_index, kept, weight, label_smoothing, reduction)


def _soft_cross_entropy(
    logits: Tensor,
    targets: NDArray[Any],
    ignore_index: int | None,
    kept: int | None,
    weight: ArrayLike | None,
    smoothing: float,
    reduction: ops.Reduction,
) -> Tensor:
    """Cross-entropy of any weights of the classes, one row of them for each row of logits."""
    s = logits.shape[-1] if logits.ndim else 0
    w = np.ones(s) if weight is None else np.asarray(plain("cross_entropy", "weight", weight), np.float64)
    if not 0 <= smoothing <= 1:
        raise ArgumentError(f"cross_entropy(label_smoothing={smoothing}): expected 0 ≤ label_smoothing ≤ 1")
    if w.shape != (s,) or not np.all((w >= 0) & (w < np.inf)) or not w.any():
        raise ArgumentError(f"cross_entropy(weight={w}): expected ({s},) finite weights ≥ 0, not all 0")
    divisor = None
    if targets.dtype.kind == "f" and targets.shape == logits.shape:
        rows = (1 - smoothing) * targets + smoothing / s
    else:
        counts = np.ones(targets.shape, np.bool_) if ignore_index is None else targets != ignore_index
        index = np.where(counts, targets, 0)
        if index.size and (targets.dtype.kind not in "iu" or index.min() < 0 or index.max() >= s):
            raise ArgumentError(
                f"cross_entropy: targets from {index.min()} to {index.max()} ({targets.dtype}), "
                f"expected integers 0 … {s - 1}"
            )
        rows = ((1 - smoothing) * (index[..., None] == np.arange(s)) + smoothing / s) * counts[..., None]
        divisor = float(np.sum(w[index] * counts))
    op = ops.SoftTargetCrossEntropy(reduction, divisor, kept, _gradient_rms(w, smoothing))
    return apply(op, logits, (w * rows).astype(logits.dtype))


def _gradient_rms(w: NDArray[np.float64], smoothing: float) -> float:
    """RMS of T/s − t over that of one-hot rows, classes taken as equally likely; T = Σ t_j."""
    s, hard = len(w), 1 - smoothing
    if s == 1 or (hard == 0 and np.ptp(w) == 0):  # the gradient is 0 at uniform logits
        return 1.0
    sums = hard * w + smoothing * w.mean()
    squares = (smoothing / s) ** 2 * np.sum(w**2) + w**2 * hard * (hard + 2 * smoothing / s)
    return float(np.sqrt(np.mean(squares - sums**2 / s) / (1 - 1 / s)))


def binary_cross_entropy_with_logits(
    logits: Tensor,
    target: Tensor | ArrayLike,
    weight: ArrayLike | None = None,
    *,
    reduction: ops.Reduction = "mean",
    pos_weight: ArrayLike | None = None,
) -> Tensor:
    """Compute −w·(p·t·log σ(x) + (1 − t)·log σ(−x)) of logits x, σ the sigmoid; see ``ops.BinaryCrossEntropy``.

    Args:
        logits: any shape.
        target: targets t of the shape of the logits, 0 ≤ t ≤ 1.
        weight: weights w ≥ 0 of elements, broadcast to the logits; None: 1.
        reduction: "mean" over all elements, "sum", or "none".
        pos_weight: weight p ≥ 0 of the positive class, broadcast to the logits; None: 1.

    Returns:
        A scalar, or the shape of the logits for reduction "none".

    Raises:
        ArgumentError: a target is out of range, or a weight is negative or not finite.
        ShapeError: the target has another shape than the logits, or a weight does not broadcast to it.
    """
    call = "binary_cross_entropy_with_logits"
    t = plain(call, "target", target.value if isinstance(target, Tensor) else target)
    if t.size and not (t.min() >= 0 and t.max() <= 1):
        raise ArgumentError(f"{call}: target from {t.min()} to {t.max()}, expected 0 … 1")
    w, p = (
        np.asarray(1.0 if a is None else plain(call, n, a)) for n, a in (("weight", weight), ("pos_weight", pos_weight))
    )
    if t.shape != logits.shape or broadcast(call, logits.shape, w.shape, p.shape) != logits.shape:
        raise ShapeError(
            f"{call}: logits {logits.shape}, target {t.shape}, weight {w.shape} and pos_weight {p.shape}, "
            "expected a target of the logits' shape, and weights that broadcast to it"
        )
    for n, a in (("weight", w), ("pos_weight", p)):
        if not np.all((a >= 0) & (a < np.inf)):
            raise ArgumentError(f"{call}({n}={a}): expected finite weights ≥ 0")
    negative, positive = (np.broadcast_to(a, logits.shape) for a in (w, w * p))
    square = float(np.mean(positive**2 + negative**2)) / 2 if logits.value.size else 1.0
    op = ops.BinaryCrossEntropy(reduction, square**0.5)
    dtype = logits.dtype
    return apply(op, logits, (positive * t).astype(dtype), (negative * (1 - t)).astype(dtype))


def mse_loss(x: Tensor, target: Tensor | ArrayLike) -> Tensor:
    """Compute the mean of (x − target)² over all elements; see ``ops.MseLoss``.

    Args:
        x: tensor of any shape.
        target: tensor or array of the shape of x.

    Returns:
        A scalar.
    """
    return apply(ops.MseLoss(), x, target)


def huber_loss(
    x: Tensor, target: Tensor | ArrayLike, *, reduction: ops.Reduction = "mean", delta: float = 1.0
) -> Tensor:
    """Compute ½d² where |d| ≤ delta, else delta·(|d| − delta/2), of d = x − target; see ``ops.HuberLoss``.

    Args:
        x: tensor of any shape.
        target: tensor or array of the shape of x.
        reduction: "mean" over all elements, "sum", or "none".
        delta: largest |d| of the quadratic part, ≥ 2^-10.

    Returns:
        A scalar, or the shape of x for reduction "none".
    """
    return apply(ops.HuberLoss(delta, reduction), x, target)


def smooth_l1_loss(
    x: Tensor, target: Tensor | ArrayLike, *, reduction: ops.Reduction = "mean", beta: float = 1.0
) -> Tensor:
    """Compute ½d²/beta where |d| ≤ beta, else |d| − beta/2, of d = x − target; see ``ops.SmoothL1Loss``.

    Args:
        x: tensor of any shape.
        target: tensor or array of the shape of x.
        reduction: "mean" over all elements, "sum", or "none".
        beta: largest |d| of the quadratic part, ≥ 2^-10; or 0: the loss is |d|.

    Returns:
        A scalar, or the shape of x for reduction "none".
    """
    return apply(ops.SmoothL1Loss(beta, reduction), x, target)


def total_loss(*losses: Tensor) -> Tensor:
    """Add losses without factors: the sum is the objective.

    Args:
        losses: scalars; if they share a trunk, each head gets its own ``fork`` of it.
    """
    return apply(ops.LossSum(), *losses)
