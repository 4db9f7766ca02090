"""Products with weights: linear layers, the readout, convolutions."""

from __future__ import annotations

from numpy.typing import ArrayLike

from refscale import ops
from refscale.engine import Tensor, apply, tape_of
from refscale.scales import Constraint, geometric, none

__all__ = ["conv1d", "linear", "matmul", "readout"]


def matmul(x: Tensor | ArrayLike, weight: Tensor | ArrayLike, *, constraint: str | Constraint = geometric) -> Tensor:
    """α·(x @ weight).

    Args:
        x: (…, m).
        weight: (m, n), of standard deviation 1 under unit scaling.
        constraint: ties α and β_x; β_weight is unconstrained, as a weight used once is on a cut-edge.

    Returns:
        (…, n).  Source: paper, Table A.2.
    """
    return apply(ops.Matmul(), x, weight, constraint=constraint, constrained=(0,))


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, constraint: str | Constraint = geometric
) -> Tensor:
    """α·(x @ weight) + bias.

    The bias is outside the forward factor: it is added after α, starts at zero, and its gradient takes β = rows^-1/2.

    Args:
        x: (…, m).
        weight: (m, n), of standard deviation 1 under unit scaling.
        bias: (n,) or None.
        constraint: ties α and β_x, as in ``matmul``.

    Returns:
        (…, n).  Source: paper, Table A.2.
    """
    y = matmul(x, weight, constraint=constraint)
    return y if bias is None else apply(ops.Bias(), y, bias)


def readout(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, constraint: str | Constraint = none) -> Tensor:
    """α·(x @ weight) + bias for an output layer; α is m^-1/2, or 1/m under schemes that damp it.

    Args:
        x: (…, m).
        weight: (m, n).
        bias: (n,) or None.
        constraint: ties α and β_x.

    Returns:
        (…, n).  α and β_x = n^-1/2 differ: legal on a cut-edge or in a branch that starts with ``fork``.
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
        (batch, positions, channels_out).  Source: paper, Table A.2 (matmul), terms counted by window.
    """
    op = ops.Conv1d(stride=stride, padding=padding, dilation=dilation, groups=groups)
    y = apply(op, x, weight, constraint=constraint, constrained=(0,))
    return y if bias is None else apply(ops.Bias(), y, bias)
