"""Losses: scalars, not rounded, whose gradient starts the backward pass at unit variance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from refscale.engine import Array, Example, Input, Op, Sizes, example
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.kernels import rows
from refscale.ops.shapes import size
from refscale.ops.softmax_moments import cross_entropy_gradient
from refscale.ops.sums import total
from refscale.scales import Scales, Shape
from refscale.scales.second_moments import SecondMoments, constant

Kept = tuple[Any, ...]


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Op):
    """−log softmax(logits)[target], summed or averaged over the rows that count.

    logits (…, s), integer targets (…); a row whose target is ``ignore_index`` counts for nothing.  At uniform logits
    the gradient of a counted row has RMS √(s−1)/s exactly.  With ``kept`` of b rows counted, the whole array has
    √(kept/b) of that, and a mean divides it by ``kept``: β = s/√(s−1) · √(b/kept) for the sum, times ``kept`` for the
    mean.  α = 1: the value is the loss.  With one class there is no gradient; β = 1.

    Attributes:
        reduction: "mean" or "sum" over counted rows.
        ignore_index: target of rows that do not count, or None.
        kept: number of rows that count; None if all do.  (A factor must not read the targets: the caller counts.)
    """

    reduction: Literal["mean", "sum"] = "mean"
    ignore_index: int | None = None
    kept: int | None = field(default=None, compare=False)  # of the batch, not of the program
    inputs = ("logits", "targets")
    homogeneity = ("own", None)
    source = "Table A.2, with the mean and ignored rows counted"
    constants = (1,)
    reports = True
    fast_forward, fast_backward = rows.cross_entropy, rows.cross_entropy_backward

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "sum"):
            raise ArgumentError(f"SoftmaxCrossEntropy(reduction={self.reduction!r}): expected 'mean' or 'sum'")
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
        value = total(np.where(counts, weight * (np.log(sums[:, 0]) - picked), np.zeros((), logits.dtype)))
        # The gradient for dL = 1, made here so that only one array of this size is kept.
        p /= sums
        p[np.arange(rows), index] -= 1
        p *= weight[:, None]
        p[~counts] = 0
        return value, (p.reshape(logits.shape),)

    def backward(self, g: Array, gradient: Array) -> tuple[Array, None]:
        return g * gradient, None

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
        return constant(out, 0.0)

    def predict_gradients(
        self, g: SecondMoments, logits: SecondMoments, targets: SecondMoments
    ) -> tuple[SecondMoments, None]:
        _, kept = self._rows_and_kept(logits.shape, targets.shape)
        share = 1 / kept if self.reduction == "mean" else 1.0
        return cross_entropy_gradient(logits, kept).times(share * g.rms), None

    def check(self, logits: Shape, targets: Array) -> tuple[Array, Array, int]:
        """Which rows count, the target of each (0 where it does not), and how many count; or an error."""
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


class MseLoss(Op):
    """Σ (x − target)² / N over all N elements; x and target of one shape.

    x − target of two independent N(0, 1) has σ = √2, so the gradient 2(x − target)/N has 2√2/N: β = N/(2√2) for both.
    α = 1: the value is the loss.
    """

    inputs = ("x", "target")
    homogeneity = ("own", "own")
    source = "closed form"
    reports = True

    def forward(self, x: Array, target: Array) -> tuple[Array, Kept]:
        self._check(x.shape, target.shape)
        difference = x - target
        return total(difference**2, over=difference.size), (difference,)

    def backward(self, g: Array, difference: Array) -> tuple[Array, Array]:
        gradient = g * (2 / difference.size) * difference
        return gradient, -gradient

    def scale(self, x: Shape, target: Shape) -> Scales:
        self._check(x, target)
        beta = size(x) / (2 * math.sqrt(2))
        return Scales(1.0, (beta, beta))

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        return (example(cls(), (at.b, at.m), (at.b, at.m)),)

    def predict(self, out: Shape, x: SecondMoments, target: SecondMoments) -> SecondMoments:
        return constant(out, 0.0)

    def predict_gradients(self, g: SecondMoments, x: SecondMoments, target: SecondMoments) -> tuple[SecondMoments, ...]:
        both = x.plus(target).times(2 / math.prod(x.shape) * g.rms)
        return both, both

    def _check(self, x: Shape, target: Shape) -> None:
        if x != target or math.prod(x) < 1:
            raise ShapeError(f"mse_loss: x {x} and target {target}, expected one shape with at least one element")


class LossSum(Op):
    """Σ losses.  α = β = 1: the value is the objective, and each loss starts its own backward pass."""

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
