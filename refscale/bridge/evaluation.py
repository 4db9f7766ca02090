"""One evaluation of a module: the operations that rules call."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from refscale import ops
from refscale.arrays import freeze
from refscale.engine import Op, Tensor, apply
from refscale.errors import ProgramError

__all__ = ["Evaluation"]


class Evaluation:
    """One evaluation of a module by refscale's ops; ``module.TorchEvaluation`` evaluates the same rules in torch.

    A move of axes that undoes an earlier one returns the earlier tensor, so two convolutions in a row share a layout.

    Attributes:
        rng: the generator of dropout; None: dropout is off.
    """

    def __init__(self, rng: np.random.Generator | None = None) -> None:
        self.rng = rng
        self._moves: dict[Any, tuple[Any, tuple[int, ...]]] = {}

    @property
    def noisy(self) -> bool:
        """Whether dropout is on."""
        return self.rng is not None

    @property
    def frozen(self) -> bool:
        """Whether batch norms of constants that were exported in train mode use their running statistics."""
        return False

    def depends(self, x: object) -> bool:
        """Return whether a value depends on parameters; others are constants."""
        return isinstance(x, Tensor)

    def scope(self, name: str) -> AbstractContextManager[None]:
        """A context around the calls of a submodule."""
        return nullcontext()

    def apply(self, op: Op, *inputs: Any) -> Any:
        """The output of a scaled op."""
        return apply(op, *inputs)

    def dropout(self, x: Any, p: float) -> Any:
        """Drop elements with probability p, if this evaluation has a source of noise.

        A product with keep/(1 − p), or with 1: the calls of a program are the same with noise and without, so a plan
        that was recorded without noise holds in training.
        """
        if not 0 <= p < 1:
            raise ProgramError(f"dropout with p={p}: expected 0 ≤ p < 1")
        return x if p == 0 else self.apply(ops.Multiply(), x, self.kept(x, p))

    def kept(self, x: Any, p: float) -> Any:
        """The factor keep/(1 − p) of each element of x, or 1 without noise."""
        if self.rng is None:
            return self.filled(x.shape, 1.0, x)
        return freeze(((self.rng.random(x.shape) >= p) / (1 - p)).astype(x.value.dtype))

    def detached(self, x: Any) -> Any:
        """The value of a tensor, as a constant."""
        return x.value if isinstance(x, Tensor) else x

    def batch_norm(
        self,
        x: Any,
        gain: Any,
        bias: Any,
        statistics: tuple[Any, Any] | None,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Any:
        """A batch norm, channels last: with the batch's own statistics (training), or with running ones.

        Args:
            x: (batch, …, channels).
            gain, bias: (channels,).
            statistics: running mean and variance (channels,); None: the module has none.
            training: the form that was exported.
            momentum: share of the batch in an update of the running statistics.
            eps: the number that is added to the variance.
        """
        if training or statistics is None:
            return self.apply(ops.BatchNorm(eps), x, gain, bias)
        return self.apply(ops.FrozenBatchNorm(eps), x, gain, bias, *statistics)

    def filled(self, shape: tuple[int, ...], value: float | bool, like: Any) -> Any:
        """A constant array of one value; numbers have the dtype of ``like``."""
        return np.full(shape, value, np.bool_ if isinstance(value, bool) else like.dtype)

    def is_mask(self, x: Any) -> bool:
        """Return whether a constant is boolean."""
        return bool(x.dtype == np.bool_)

    def _permuted(self, x: Any, order: tuple[int, ...]) -> Any:
        return np.transpose(x, order)

    def _key(self, x: Any) -> Any:
        return x.variable

    def transpose(self, x: Any, axes: Sequence[int]) -> Any:
        """Return x with its axes in the given order, a permutation of 0 … n−1."""
        order = tuple(a % len(x.shape) for a in axes)
        if not self.depends(x):
            return self._permuted(x, order)
        source, before = self._moves.get(self._key(x), (x, tuple(range(len(x.shape)))))
        order = tuple(before[a] for a in order)
        if order == tuple(range(len(order))):
            return source
        y = self.apply(ops.Transpose(order), source)
        self._moves[self._key(y)] = source, order
        return y

    def last(self, x: Any) -> Any:
        """Return x (batch, channels, …) with its channels last."""
        return self.transpose(x, (0, *range(2, len(x.shape)), 1))

    def first(self, x: Any) -> Any:
        """Return x (batch, …, channels) with its channels in axis 1."""
        return self.transpose(x, (0, len(x.shape) - 1, *range(1, len(x.shape) - 1)))
