"""Norms: layer norm, RMS norm, batch norm, group norm."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from refscale import ops
from refscale.engine import Tensor, apply
from refscale.scales import geometric

__all__ = ["batch_norm", "group_norm", "layer_norm", "rms_norm"]


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-12) -> Tensor:
    """Apply layer norm over the last axis; α and β_x are constrained (both are 1, as in Table A.2).

    Args:
        x: (…, n).
        gain: (n,), starts at 1.
        bias: (n,), starts at 0.
        eps: number added to the variance.
    """
    return apply(ops.LayerNorm(eps), x, gain, bias, constraint=geometric, constrained=(0,))


def rms_norm(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    """Apply RMS norm over the last axis; α and β_x are constrained, both are 1.

    Args:
        x: (…, n).
        gain: (n,), starts at 1.
        eps: number added to the mean square.
    """
    return apply(ops.RmsNorm(eps), x, gain, constraint=geometric, constrained=(0,))


def batch_norm(
    x: Tensor,
    gain: Tensor,
    bias: Tensor,
    running: tuple[NDArray[Any], NDArray[Any]] | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Apply batch norm: normalize each channel over all rows; α and β_x are constrained, both are 1.

    Args:
        x: (…, n), channels last.
        gain: (n,), starts at 1.
        bias: (n,), starts at 0.
        running: constant mean and variance of each channel, (n,) each (evaluation); None: those of x (training).
        eps: number added to the variance.
    """
    if running is None:
        return apply(ops.BatchNorm(eps), x, gain, bias, constraint=geometric, constrained=(0,))
    return apply(ops.FrozenBatchNorm(eps), x, gain, bias, *running, constraint=geometric, constrained=(0,))


def group_norm(x: Tensor, groups: int, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Apply group norm: normalize each group of channels of a sample; α and β_x are constrained, both are 1.

    Args:
        x: (batch, …, n), channels last.
        groups: number of groups of channels; divides n.
        gain: (n,), starts at 1.
        bias: (n,), starts at 0.
        eps: number added to the variance.
    """
    return apply(ops.GroupNorm(groups, eps), x, gain, bias, constraint=geometric, constrained=(0,))
