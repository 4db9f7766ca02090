"""Products with weights: linear layers, the readout, convolutions."""

from __future__ import annotations

from numpy.typing import ArrayLike

from refscale import ops
from refscale.engine import Op, Tensor, apply, tape_of
from refscale.scales import Constraint, geometric, none

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose", "linear", "matmul", "readout"]


def matmul(x: Tensor | ArrayLike, weight: Tensor | ArrayLike, *, constraint: str | Constraint = geometric) -> Tensor:
    """α·(x @ weight).

    Args:
        x: (…, m).
        weight: (m, n), of standard deviation 1 under unit scaling.
        constraint: ties α and β_x; β_weight is unconstrained, as a weight used once is on a cut-edge.

    Returns:
        (…, n). Source: paper, Table A.2.
    """
    return apply(ops.Matmul(), x, weight, constraint=constraint, constrained=(0,))


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, constraint: str | Constraint = geometric
) -> Tensor:
    """α·(x @ weight) + bias.

    The bias is outside the forward factor: it is added after α, starts at zero, and its gradient takes β = rows^-½.

    Args:
        x: (…, m).
        weight: (m, n), of standard deviation 1 under unit scaling.
        bias: (n,) or None.
        constraint: ties α and β_x, as in ``matmul``.

    Returns:
        (…, n). Source: paper, Table A.2.
    """
    y = matmul(x, weight, constraint=constraint)
    return y if bias is None else apply(ops.Bias(), y, bias)


def readout(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, constraint: str | Constraint = none) -> Tensor:
    """α·(x @ weight) + bias for an output layer; α is m^-½, or 1/m under schemes that damp it.

    Args:
        x: (…, m).
        weight: (m, n).
        bias: (n,) or None.
        constraint: ties α and β_x.

    Returns:
        (…, n). α and β_x = n^-½ differ: legal on a cut-edge or in a branch that starts with ``fork``.
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
    """α·(x ∗ weight) + bias along one axis, channels last; see ``ops.Conv1d``.

    Args:
        x: (batch, length, channels_in).
        weight: (kernel, channels_in/groups, channels_out).
        bias: (channels_out,) or None.
        stride: distance of neighboring windows, ≥ 1.
        padding: zeros before and after; (kernel − 1, 0) makes the convolution causal.
        dilation: distance of the elements of a window, ≥ 1.
        groups: parts of the channels that are convolved separately.
        constraint: ties α and β_x.

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
    """α·(x ∗ weight) + bias along two axes, channels last; see ``ops.Conv2d``.

    Args:
        x: (batch, height, width, channels_in).
        weight: (kernel, kernel, channels_in/groups, channels_out).
        bias: (channels_out,) or None.
        stride: distance of neighboring windows, ≥ 1, one number or one for each axis.
        padding: zeros on all sides; or, for each axis, on both, or (before, after).
        dilation: distance of the elements of a window, ≥ 1, one number or one for each axis.
        groups: parts of the channels that are convolved separately.
        constraint: ties α and β_x.

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
    """α·(x ∗ weight) + bias along three axes, channels last; see ``ops.Conv3d``.

    Args:
        x: (batch, depth, height, width, channels_in).
        weight: (kernel, kernel, kernel, channels_in/groups, channels_out).
        bias: (channels_out,) or None.
        stride, padding, dilation, groups: as of ``conv2d``.
        constraint: ties α and β_x.

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
    """α·(transposed convolution) + bias along one, two or three axes, channels last; see ``ops.ConvTranspose``.

    Args:
        x: (batch, *space, channels_in).
        weight: (*kernel, channels_in/groups, channels_out).
        bias: (channels_out,) or None.
        stride: distance of the places of neighboring elements of x, ≥ 1, one number or one for each axis.
        padding: places left out on all sides; or, for each axis, on both, or (before, after).
        output_padding: places added at the end, one number or one for each axis.
        groups: parts of the channels that are convolved separately.
        dilation: distance of the places that an element goes to, ≥ 1, one number or one for each axis.
        constraint: ties α and β_x.

    Returns:
        (batch, *places, channels_out), (n − 1)·stride + (kernel − 1)·dilation + 1 − padding + output_padding places.
    """
    op = ops.ConvTranspose(stride, padding, dilation, output_padding, groups)
    return _convolution(op, x, weight, bias, constraint)


def _convolution(op: Op, x: Tensor, weight: Tensor, bias: Tensor | None, constraint: str | Constraint) -> Tensor:
    """The op, α and β_x tied, and a bias."""
    y = apply(op, x, weight, constraint=constraint, constrained=(0,))
    return y if bias is None else apply(ops.Bias(), y, bias)
