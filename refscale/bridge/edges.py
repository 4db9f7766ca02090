"""The casts and factors around a call, as functions of torch tensors with their own forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from refscale.engine import Op
from refscale.precision import Precision, Rounder, fp32

__all__ = ["Edges"]

Cast = Callable[[Any], Any]


class _Label(NamedTuple):
    """The attributes of a tensor that a rounder reads."""

    shape: tuple[int, ...]
    reports: bool
    name: str = ""


class Edges:
    """The casts and factors around calls, as functions of torch tensors; None: the identity.

    Attributes:
        rounder: carries out the casts, on arrays.
    """

    def __init__(self, policy: Precision) -> None:
        self.rounder = Rounder(policy, np.dtype(np.float32))
        self._casts = policy != fp32
        self._function_class = _edge_function()

    def edge(self, t: Any, forward: Cast | None, backward: Cast | None) -> Any:
        """A function of torch with its own forward and backward pass, each applied to one tensor."""
        if forward is None and backward is None:
            return t
        return self._function_class.apply(t, forward, backward)

    def operand(self, op: Op, shape: tuple[int, ...], call: int, i: int) -> Cast | None:
        """Input ``i`` of a call, as the op computes with it."""
        return self._function(lambda x: self.rounder.operand(op, x, _Label(shape, False), call, i))

    def incoming(self, op: Op, shape: tuple[int, ...], call: int) -> Cast | None:
        """The gradient of a call's output, as the backward pass computes with it."""
        return self._function(lambda g: self.rounder.incoming(op, g, _Label(shape, op.reports), call))

    def stored(self, shape: tuple[int, ...], reports: bool, place: str, factor: float | None = 1.0) -> Cast | None:
        """A leaf, an output times α, or a gradient times β."""
        label = _Label(shape, reports)
        return self._function(lambda x: self.rounder.store(x, label, place), 1.0 if factor is None else factor)

    def constant(self, t: Any) -> Any:
        """A plain tensor that enters a call, such as an input of the module: stored as a leaf if it is floating."""
        shape = tuple(t.shape)
        return self.edge(t, self.stored(shape, False, "leaf"), None) if t.is_floating_point() else t

    def _function(self, place: Callable[[Any], Any], factor: float = 1.0) -> Cast | None:
        if not self._casts:
            return None if factor == 1 else lambda t: t * factor

        def cast(t: Any) -> Any:
            import torch

            x = t.detach().cpu().numpy()
            y = place(x if factor == 1 else np.asarray(x.dtype.type(factor) * x))
            return torch.tensor(np.ascontiguousarray(y), device=t.device).reshape(t.shape)

        return cast


@cache
def _edge_function() -> Any:
    """The class of edges, made when torch is first needed."""
    import torch

    class CastAndScale(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, t: Any, forward: Cast | None, backward: Cast | None) -> Any:
            ctx.backward_cast = backward
            return t.view_as(t) if forward is None else forward(t)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return (g if ctx.backward_cast is None else ctx.backward_cast(g)), None, None

    return CastAndScale
