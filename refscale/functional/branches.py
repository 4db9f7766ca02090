"""Functions for several uses of one tensor: split, fork, residual branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from refscale import ops
from refscale.engine import Tensor, apply, tape_of
from refscale.ops.shapes import axis_of
from refscale.scales import ResidualRule, default, get_residual, to_output_scale

__all__ = ["fork", "residual", "split"]


def split(x: Tensor, parts: int | Sequence[int], axis: int = -1) -> list[Tensor]:
    """Split x along an axis into equal parts, or into parts of given sizes; use all of them.

    Args:
        x: tensor of any shape.
        parts: number of equal parts, or their sizes, which add up to the length of the axis.
        axis: the axis, default last.

    Returns:
        The parts, with factors 1, because their gradients together fill the gradient of x.
    """
    axis = axis_of("split", axis, len(x.shape))
    points = ops.split_points(x.shape[axis], parts)
    return [apply(ops.Slice(axis, a, b), x, constraint=to_output_scale, constrained=(0,)) for a, b in points]


def fork(x: Tensor, ways: int) -> list[Tensor]:
    """Make ``ways`` copies of x for separate uses, whose gradients may have different constants c.

    ``backward`` chooses β of each copy so that the constants agree; see ``ops.Fork``.

    Args:
        x: tensor of any shape.
        ways: number of uses, ≥ 1.

    Returns:
        ``ways`` tensors equal to x, one for each use.
    """
    return [apply(ops.Fork(ways**-0.5), x) for _ in range(ways)]


def residual(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    tau: str | ResidualRule = default,
    layer: int = 1,
    depth: int | None = None,
) -> Tensor:
    """Compute a·x + b·fn(x), with unit variance of activations *and* gradients inside the branch.

    The weight b multiplies the gradient at the start of the branch, not at its end:
    y = a·x + scaled(fn(scaled(x, 1, b)), b, 1), for a² + b² = 1. If α = β on every edge inside the branch, the
    gradient of x is correct. Otherwise the branch starts with a ``Fork``, whose β ``backward`` chooses accordingly.

    Args:
        fn: the residual branch, a function that keeps the shape.
        x: the residual stream, a tensor of any shape.
        tau: the residual rule: ``scales.default``, ``fixed(τ)``, ``running_mean``, ``ratio(τ)``, a name of
            ``scales.get_residual``, or any function from layer to (a, b).
        layer: number of this addition since the last norm of the stream, ≥ 1.
        depth: total number of additions, which some schemes use; None: ``layer``.

    Returns:
        The stream after the branch. Source: paper, weighted addition and the reference FFN.
    """
    scheme = tape_of("residual", x).scheme
    skip, branch = scheme.residual_weights(get_residual(tau), layer, layer if depth is None else depth)
    if skip == 0:
        return fn(x)
    # WeightedAdd has α = (a² + b²)^-½, β_x = α by the constraint, β_f = 1/b: the branch's incoming gradient lacks the
    # factor b·α; the ``Fork`` at its start applies it.
    start = apply(ops.Fork(branch * (skip**2 + branch**2) ** -0.5), x)
    return apply(ops.WeightedAdd((skip, branch)), x, fn(start), constraint=to_output_scale, constrained=(0,))
