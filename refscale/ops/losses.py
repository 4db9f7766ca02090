"""Losses of classifiers, and sums of losses; losses are not rounded, and their gradients have unit variance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from refscale.engine import Array, Example, Input, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.kernels import rows
from refscale.ops.softmax_moments import cross_entropy_gradient
from refscale.ops.sums import total
from refscale.scales import Scales, Shape
from refscale.scales.second_moments import SecondMoments, constant, contrast, independent, through
from refscale.special import sigmoid, softplus

Kept = tuple[Any, ...]
Reduction = Literal["mean", "sum", "none"]
"""Reduction of the losses of rows or elements: mean, sum, or none (all losses)."""


def check_reduction(op: Op, reduction: str) -> None:
    """Raise an ArgumentError unless ``reduction`` is "mean", "sum" or "none"."""
    if reduction not in ("mean", "sum", "none"):
        raise ArgumentError(f"{type(op).__name__}(reduction={reduction!r}): expected 'mean', 'sum' or 'none'")


def _of_rows(out: Shape, logits: SecondMoments) -> SecondMoments:
    """The moments of −log softmax at a target: mean log s + σ²/2 for many logits, plus −x of the target."""
    variance = max(float(contrast(logits).ravel()[-1]), 0.0)
    return constant(out, math.log(logits.shape[-1]) + variance / 2).plus(independent(out, math.sqrt(variance)))


def check_positive(op: Op, attribute: str, value: float) -> None:
    """Raise an ArgumentError unless an attribute is a positive finite number."""
    if not 0 < value < math.inf:
        raise ArgumentError(f"{type(op).__name__}({attribute}={value}): expected a positive finite number")


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Op):
    """−log softmax(logits)[target]: the loss of every row, or the sum or mean over the rows that count.

    logits (…, s), integer targets (…); a row with the target ``ignore_index`` does not count. At uniform logits the
    gradient of a row that counts has RMS √(s−1)/s exactly. If ``kept`` of b rows count, the RMS of the whole array is
    √(kept/b) times that, and a mean divides it by ``kept``: β = s/√(s−1) · √(b/kept) for the sum and for the losses of
    rows, times ``kept`` for the mean. α = 1: the value is the loss. With one class the gradient is 0, and β = 1.

    Attributes:
        reduction: "mean" or "sum" over the rows that count; "none": the loss of every row (…), 0 if it does not count.
        ignore_index: target of rows that do not count, or None.
        kept: number of rows that count; None: all. The caller counts, because factors must not depend on the targets.
    """

    reduction: Reduction = "mean"
    ignore_index: int | None = None
    kept: int | None = field(default=None, compare=False)  # of the batch, not of the program
    inputs = ("logits", "targets")
    homogeneity = ("own", None)
    source = "Table A.2, with the mean and ignored rows counted"
    constants = (1,)
    reports = True
    fast_forward, fast_backward = rows.cross_entropy, rows.cross_entropy_backward

    def __post_init__(self) -> None:
        check_reduction(self, self.reduction)
        if self.kept is not None and self.kept < 1:
            raise ArgumentError(f"SoftmaxCrossEntropy(kept={self.kept}): expected at least one row that counts")

    def forward(self, logits: Array, targets: Array) -> tuple[Array, Kept]:
        counts, index, kept = self.check(logits.shape, targets)
        rows = len(index)
        flat = logits.reshape(rows, logits.shape[-1])
        shifted = flat - flat.max(-1, keepdims=True)
        picked = shifted[np.arange(rows), index]
        p = np.exp(shifted, out=shifted)
        sums = p.sum(-1, keepdims=True)
        weight = (counts / (kept if self.reduction == "mean" else 1)).astype(logits.dtype)
        # where, not a product with 0: an ignored row may be NaN.
        losses = np.where(counts, weight * (np.log(sums[:, 0]) - picked), np.zeros((), logits.dtype))
        # The gradient for dL = 1, made here so that only one array of this size is kept.
        p /= sums
        p[np.arange(rows), index] -= 1
        p *= weight[:, None]
        p[~counts] = 0
        value = losses.reshape(targets.shape) if self.reduction == "none" else total(losses)
        return value, (p.reshape(logits.shape),)

    def backward(self, g: Array, gradient: Array) -> tuple[Array, None]:
        return (g[..., None] if self.reduction == "none" else g) * gradient, None

    def scale(self, logits: Shape, targets: Shape) -> Scales:
        rows, kept = self._rows_and_kept(logits, targets)
        s = logits[-1]
        beta = s / math.sqrt(s - 1) * math.sqrt(rows / kept) if s > 1 else 1.0
        return Scales(1.0, (beta * kept if self.reduction == "mean" else beta, None))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        targets = Input((at.b,), "index", at.s)
        return tuple(example(cls(reduction), (at.b, at.s), targets) for reduction in ("sum", "mean"))

    def predict(self, out: Shape, logits: SecondMoments, targets: SecondMoments) -> SecondMoments:
        return _of_rows(out, logits) if self.reduction == "none" else constant(out, 0.0)

    def predict_gradients(
        self, g: SecondMoments, logits: SecondMoments, targets: SecondMoments
    ) -> tuple[SecondMoments, None]:
        _, kept = self._rows_and_kept(logits.shape, targets.shape)
        share = 1 / kept if self.reduction == "mean" else 1.0
        return cross_entropy_gradient(logits, kept).times(share * g.rms), None

    def check(self, logits: Shape, targets: Array) -> tuple[Array, Array, int]:
        """Check the inputs; return whether each row counts, its target (0 if it does not), and how many rows count."""
        rows, kept = self._rows_and_kept(logits, targets.shape)
        if targets.dtype.kind not in "iu":
            raise ArgumentError(f"softmax_cross_entropy: targets are {targets.dtype}, expected integers")
        counts = np.ones(rows, np.bool_) if self.ignore_index is None else targets.ravel() != self.ignore_index
        index = np.where(counts, targets.ravel(), 0)
        if np.count_nonzero(counts) != kept:
            raise ArgumentError(f"softmax_cross_entropy: kept={kept}, but {np.count_nonzero(counts)} rows count")
        if index.min() < 0 or index.max() >= logits[-1]:
            raise ArgumentError(
                f"softmax_cross_entropy: targets from {index.min()} to {index.max()}, expected 0 … {logits[-1] - 1}"
            )
        return counts, index, kept

    def _rows_and_kept(self, logits: Shape, targets: Shape) -> tuple[int, int]:
        if not logits or logits[-1] < 1 or logits[:-1] != targets:
            raise ShapeError(f"softmax_cross_entropy: logits {logits}, targets {targets}, expected (…, s) and (…)")
        rows = math.prod(targets)
        kept = rows if self.kept is None else self.kept
        if not 1 <= kept <= rows:
            raise ArgumentError(f"softmax_cross_entropy: {kept} rows count of {rows}, expected at least one")
        return rows, kept


@dataclass(frozen=True)
class SoftTargetCrossEntropy(Op):
    """−Σ_j t_j·log softmax(logits)_j for weights t_j ≥ 0: the loss of every row, or their sum or mean.

    logits (…, s), targets (…, s): probabilities of classes, or one-hot rows, smoothed or weighted by class; a row of
    zeros does not count. The gradient T·softmax(logits) − t, T = Σ t_j, is T/s − t_j at uniform logits. For one-hot
    rows its RMS is √(s−1)/s, as in ``SoftmaxCrossEntropy``, and for others ``gradient_rms`` times that:
    β = s/√(s−1) / gradient_rms · √(b/kept), times ``divisor`` for the mean. With one class, β = 1. α = 1.

    Attributes:
        reduction: "mean": the sum over rows, divided by ``divisor``; "sum"; "none": the loss of every row (…).
        divisor: divisor of the mean, > 0; None: the number b of rows. With class weights, the sum of the targets'
            weights.
        kept: number of nonzero rows; None: all. The caller counts, because factors must not depend on the targets.
        gradient_rms: RMS of T/s − t over that of one-hot rows, > 0; 1 − ε for labels smoothed by ε.
    """

    reduction: Reduction = "mean"
    divisor: float | None = field(default=None, compare=False)  # of the batch, not of the program
    kept: int | None = field(default=None, compare=False)
    gradient_rms: float = 1.0
    inputs = ("logits", "targets")
    homogeneity = ("own", None)
    source = "closed form at uniform logits"
    constants = (1,)
    reports = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduction(self, self.reduction)
        check_positive(self, "gradient_rms", self.gradient_rms)
        if self.divisor is not None:
            check_positive(self, "divisor", self.divisor)
        if self.kept is not None and self.kept < 1:
            raise ArgumentError(f"SoftTargetCrossEntropy(kept={self.kept}): expected at least one row that counts")

    def forward(self, logits: Array, targets: Array) -> tuple[Array, Kept]:
        rows, _ = self._rows_and_kept(logits.shape, targets.shape)
        if not np.all(targets >= 0):
            raise ArgumentError(f"{self.name}: smallest target is {np.min(targets)}, expected all ≥ 0")
        shifted = logits - logits.max(-1, keepdims=True)
        p = np.exp(shifted)
        sums, weight = p.sum(-1, keepdims=True), total(targets, -1, keepdims=True)
        counts, zero = weight > 0, np.zeros((), logits.dtype)
        share = 1 / self._divisor(rows)
        # where, not a product with 0: a row that does not count may be NaN.
        each = np.where(counts, weight * np.log(sums) - total(targets * shifted, -1, keepdims=True), zero)[..., 0]
        gradient = np.where(counts, (weight * (p / sums) - targets) * share, zero)
        return each if self.reduction == "none" else total(each) * share, (gradient,)

    def backward(self, g: Array, gradient: Array) -> tuple[Array, None]:
        return (g[..., None] if self.reduction == "none" else g) * gradient, None

    def scale(self, logits: Shape, targets: Shape) -> Scales:
        rows, kept = self._rows_and_kept(logits, targets)
        s = logits[-1]
        beta = s / math.sqrt(s - 1) * math.sqrt(rows / kept) / self.gradient_rms if s > 1 else 1.0
        return Scales(1.0, (beta * self._divisor(rows), None))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.s), Input((at.b, at.s), "positive")),)

    def predict(self, out: Shape, logits: SecondMoments, targets: SecondMoments) -> SecondMoments:
        return _of_rows(out, logits) if self.reduction == "none" else constant(out, 0.0)

    def predict_gradients(
        self, g: SecondMoments, logits: SecondMoments, targets: SecondMoments
    ) -> tuple[SecondMoments, None]:
        """Predict the gradient: that of hard targets times ``gradient_rms``, which is exact at uniform logits."""
        rows, kept = self._rows_and_kept(logits.shape, targets.shape)
        share = self.gradient_rms / self._divisor(rows)
        return cross_entropy_gradient(logits, kept).times(share * g.rms), None

    def _divisor(self, rows: int) -> float:
        return 1.0 if self.reduction != "mean" else self.divisor or rows

    def _rows_and_kept(self, logits: Shape, targets: Shape) -> tuple[int, int]:
        if not logits or logits[-1] < 1 or logits != targets:
            raise ShapeError(f"{self.name}: logits {logits}, targets {targets}, expected one shape (…, s)")
        rows = math.prod(logits[:-1])
        kept = rows if self.kept is None else self.kept
        if not 1 <= kept <= rows:
            raise ArgumentError(f"{self.name}: {kept} rows count of {rows}, expected at least one")
        return rows, kept


@dataclass(frozen=True)
class BinaryCrossEntropy(Op):
    """−positive·log σ(x) − negative·log σ(−x), σ the sigmoid: the loss of every logit x, or their sum or mean.

    The three inputs have the same shape. positive = t and negative = 1 − t for targets t; class weights and the weight
    of positive targets are factors of them. The gradient negative·σ(x) − positive·σ(−x) of hard targets has RMS ½ at
    x = 0, and with weights ``gradient_rms`` times that: β = 2/gradient_rms, times the number N of elements for the
    mean. α = 1.

    Attributes:
        reduction: "mean" over all N elements, "sum", or "none".
        gradient_rms: RMS of negative − positive, > 0, for equally likely classes.
    """

    reduction: Reduction = "mean"
    gradient_rms: float = 1.0
    inputs = ("logits", "positive", "negative")
    homogeneity = ("own", None, None)
    source = "closed form at logits 0"
    constants = (1, 2)
    reports = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduction(self, self.reduction)
        check_positive(self, "gradient_rms", self.gradient_rms)

    def forward(self, logits: Array, positive: Array, negative: Array) -> tuple[Array, Kept]:
        n = self._divisor(logits.shape, positive.shape, negative.shape)
        each = positive * softplus(-logits) + negative * softplus(logits)
        gradient = (negative * sigmoid(logits) - positive * sigmoid(-logits)) / n
        return each if self.reduction == "none" else total(each, over=n), (gradient,)

    def backward(self, g: Array, gradient: Array) -> tuple[Array, None, None]:
        return g * gradient, None, None

    def scale(self, logits: Shape, positive: Shape, negative: Shape) -> Scales:
        return Scales(1.0, (2 * self._divisor(logits, positive, negative) / self.gradient_rms, None, None))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        weights = Input((at.b, at.m), "positive")
        return (example(cls(), (at.b, at.m), weights, weights),)

    def predict(
        self, out: Shape, logits: SecondMoments, positive: SecondMoments, negative: SecondMoments
    ) -> SecondMoments:
        """Predict the loss from log(1 + e^∓x) = f(x) ∓ x/2, with an even function f, and independent targets."""
        if self.reduction != "none":
            return constant(out, 0.0)
        even = through(logits, lambda z: softplus(z) - z / 2)
        return even.plus(independent(out, logits.rms / 2)).times(self.gradient_rms)

    def predict_gradients(
        self, g: SecondMoments, logits: SecondMoments, positive: SecondMoments, negative: SecondMoments
    ) -> tuple[SecondMoments, None, None]:
        """Predict the gradient of the logits: σ(x) − ½, plus ±½ for independent targets."""
        share = self.gradient_rms / self._divisor(logits.shape, positive.shape, negative.shape)
        of_targets = independent(logits.shape, 0.5)
        gradient = through(logits, lambda z: sigmoid(z) - 0.5).plus(of_targets).times(share)
        return times_gradient(g, gradient), None, None

    def _divisor(self, logits: Shape, positive: Shape, negative: Shape) -> int:
        if not logits == positive == negative or math.prod(logits) < 1:
            raise ShapeError(
                f"{self.name}: logits {logits}, positive {positive} and negative {negative}, expected one shape with "
                "at least one element"
            )
        return math.prod(logits) if self.reduction == "mean" else 1


def times_gradient(g: SecondMoments, gradient: SecondMoments) -> SecondMoments:
    """Predict the product of the incoming gradient, one number or one per element, and the gradient of the loss."""
    return SecondMoments(gradient.shape, gradient.k * g.repeated(gradient.shape).k)


class LossSum(Op):
    """Σ losses. α = β = 1: the value is the objective, and the gradient of each loss is g."""

    inputs = ("*losses",)
    homogeneity = ("own",)
    source = "the objective is not rescaled"
    reports = True

    def forward(self, *losses: Array) -> tuple[Array, Kept]:
        if any(x.shape != () for x in losses):
            raise ShapeError(f"loss_sum: shapes {', '.join(str(x.shape) for x in losses)}, expected scalars")
        return total(np.stack(losses), 0), (len(losses),)

    def backward(self, g: Array, count: int) -> tuple[Array, ...]:
        return (g,) * count

    def scale(self, *losses: Shape) -> Scales:
        return Scales(1.0, (1.0,) * len(losses))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (), ()),)

    def predict(self, out: Shape, *losses: SecondMoments) -> SecondMoments:
        return constant(out, 0.0)

    def predict_gradients(self, g: SecondMoments, *losses: SecondMoments) -> tuple[SecondMoments, ...]:
        return (g,) * len(losses)
