"""Products with weights: linear layers, readout, convolutions."""

from __future__ import annotations

from numpy.typing import ArrayLike

from refscale import ops
from refscale.engine import Op, Tensor, apply, tape_of
from refscale.scales import Constraint, geometric, none

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose", "linear", "matmul", "readout"]


def matmul(x: Tensor | ArrayLike, weight: Tensor | ArrayLike, *, constraint: str | Constraint = geometric) -> Tensor:
    """Compute α·(x @ weight).

    Args:
        x: (…, m).
        weight: (m, n), with standard deviation 1 under unit scaling.
        constraint: constraint of α and β_x, or its name; default geometric. β_weight is unconstrained: a weight used
            once is on a cut-edge.

    Returns:
        (…, n). Source: paper, Table A.2.
    """
    return apply(ops.Matmul(), x, weight, constraint=constraint, constrained=(0,))


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, constraint: str | Constraint = geometric
) -> Tensor:
    """Compute α·(x @ weight) + bias.

    The bias is added after α, starts at zero, and its gradient has β = rows^-½.

    Args:
        x: (…, m).
        weight: (m, n), with standard deviation 1 under unit scaling.
        bias: (n,) or None.
        constraint: constraint of α and β_x, or its name; default geometric.

    Returns:
        (…, n). Source: paper, Table A.2.
    """
    y = matmul(x, weight, constraint=constraint)
    return y if bias is None else apply(ops.Bias(), y, bias)


def readout(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, constraint: str | Constraint = none) -> Tensor:
    """Compute α·(x @ weight) + bias for an output layer; α is m^-½, or 1/m under some schemes.

    Args:
        x: (…, m).
        weight: (m, n).
        bias: (n,) or None.
        constraint: constraint of α and β_x, or its name; default none.

    Returns:
        (…, n). α and β_x = n^-½ differ, which is legal on a cut-edge or in a branch that starts with ``fork``.
        Source: paper, Table A.2; 1/m: u-μP (arXiv 2407.17465).
    """
    rule = tape_of("readout", x, weight).scheme.readout
    y = apply(ops.Readout(rule), x, weight, constraint=constraint, constrained=(0,))
    return y if bias is None else apply(ops.Bias(), y, bias)


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int = 1,
    groups: int = 1,
    constraint: str | Constraint = geometric,
) -> Tensor:
    """Compute α·(x ∗ weight) + bias, ∗ a convolution along one axis, channels last; see ``ops.Conv1d``.

    Args:
        x: (batch, length, channels_in).
        weight: (kernel, channels_in/groups, channels_out).
        bias: (channels_out,) or None.
        stride: distance of neighboring windows, ≥ 1.
        padding: number of zeros before and after; (kernel − 1, 0) makes the convolution causal.
        dilation: distance of neighboring elements of a window, ≥ 1.
        groups: number of parts of the channels that are convolved separately.
        constraint: constraint of α and β_x, or its name; default geometric.

    Returns:
        (batch, positions, channels_out). Source: paper, Table A.2 (matmul), terms counted by window.
    """
    op = ops.Conv1d(stride=stride, padding=padding, dilation=dilation, groups=groups)
    return _convolution(op, x, weight, bias, constraint)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: ops.PerAxis = 1,
    padding: ops.PaddingPerAxis = 0,
    dilation: ops.PerAxis = 1,
    groups: int = 1,
    constraint: str | Constraint = geometric,
) -> Tensor:
    """Compute α·(x ∗ weight) + bias, ∗ a convolution along two axes, channels last; see ``ops.Conv2d``.

    Args:
        x: (batch, height, width, channels_in).
        weight: (kernel, kernel, channels_in/groups, channels_out).
        bias: (channels_out,) or None.
        stride: distance of neighboring windows, ≥ 1, one number or one for each axis.
        padding: number of zeros on all sides; or, for each axis, a number for both sides or (before, after).
        dilation: distance of neighboring elements of a window, ≥ 1, one number or one for each axis.
        groups: number of parts of the channels that are convolved separately.
        constraint: constraint of α and β_x, or its name; default geometric.

    Returns:
        (batch, positions, positions, channels_out). Source: paper, Table A.2 (matmul), terms counted by window.
    """
    return _convolution(ops.Conv2d(stride, padding, dilation, groups), x, weight, bias, constraint)


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: ops.PerAxis = 1,
    padding: ops.PaddingPerAxis = 0,
    dilation: ops.PerAxis = 1,
    groups: int = 1,
    constraint: str | Constraint = geometric,
) -> Tensor:
    """Compute α·(x ∗ weight) + bias, ∗ a convolution along three axes, channels last; see ``ops.Conv3d``.

    Args:
        x: (batch, depth, height, width, channels_in).
        weight: (kernel, kernel, kernel, channels_in/groups, channels_out).
        bias: (channels_out,) or None.
        stride, padding, dilation, groups: see ``conv2d``.
        constraint: constraint of α and β_x, or its name; default geometric.

    Returns:
        (batch, positions, positions, positions, channels_out).
    """
    return _convolution(ops.Conv3d(stride, padding, dilation, groups), x, weight, bias, constraint)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: ops.PerAxis = 1,
    padding: ops.PaddingPerAxis = 0,
    output_padding: ops.PerAxis = 0,
    groups: int = 1,
    dilation: ops.PerAxis = 1,
    constraint: str | Constraint = geometric,
) -> Tensor:
    """Compute α·(transposed convolution) + bias along one, two or three axes, channels last; see ``ops.ConvTranspose``.

    Args:
        x: (batch, *space, channels_in).
        weight: (*kernel, channels_in/groups, channels_out).
        bias: (channels_out,) or None.
        stride: distance of neighboring elements of x, in output positions, ≥ 1, one number or one for each axis.
        padding: number of positions cut on all sides; or, for each axis, a number for both sides or (before, after).
        output_padding: number of positions added at the end, one number or one for each axis.
        groups: number of parts of the channels that are convolved separately.
        dilation: distance of neighboring kernel taps, in output positions, ≥ 1, one number or one for each axis.
        constraint: constraint of α and β_x, or its name; default geometric.

    Returns:
        (batch, *positions, channels_out). For an axis of n elements of x the number of positions is
        (n − 1)·stride + (kernel − 1)·dilation + 1 − padding + output_padding.
    """
    op = ops.ConvTranspose(stride, padding, dilation, output_padding, groups)
    return _convolution(op, x, weight, bias, constraint)


def _convolution(op: Op, x: Tensor, weight: Tensor, bias: Tensor | None, constraint: str | Constraint) -> Tensor:
    """The op, α and β_x tied, and a bias."""
    y = apply(op, x, weight, constraint=constraint, constrained=(0,))
    return y if bias is None else apply(ops.Bias(), y, bias)
