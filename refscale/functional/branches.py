"""Several uses of one tensor: parts, forks, residual branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from refscale import ops
from refscale.engine import Tensor, apply, tape_of
from refscale.ops.shapes import axis_of
from refscale.scales import ResidualRule, default, get_residual, to_output_scale

__all__ = ["fork", "residual", "split"]


def split(x: Tensor, parts: int | Sequence[int], axis: int = -1) -> list[Tensor]:
    """x in equal ``parts`` along an axis, or in parts of the given sizes; all of them are to be used.

    Args:
        x: any shape.
        parts: how many, or their sizes, which add up to the side.
        axis: which.

    Returns:
        The parts; factors 1, for their gradients together fill x.
    """
    axis = axis_of("split", axis, len(x.shape))
    points = ops.split_points(x.shape[axis], parts)
    return [apply(ops.Slice(axis, a, b), x, constraint=to_output_scale, constrained=(0,)) for a, b in points]


def fork(x: Tensor, ways: int) -> list[Tensor]:
    """x for ``ways`` separate uses whose gradients may carry different factors; ``backward`` settles them.

    Args:
        x: any shape.
        ways: how many uses there will be.

    Returns:
        That many identities of x.
    """
    return [apply(ops.Fork(ways**-0.5), x) for _ in range(ways)]


def residual(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    tau: str | ResidualRule = default,
    layer: int = 1,
    depth: int | None = None,
) -> Tensor:
    """a·x + b·fn(x), with unit variance of activations *and* gradients inside the branch.

    The gradient meets the branch's weight b at the branch's start instead of at its end:
    y = a·x + scaled(fn(scaled(x, 1, b)), b, 1), for a² + b² = 1. If α = β on every edge inside the branch, the
    gradient of x is right. If not, the start is a ``Fork``, whose β ``backward`` chooses so that it is.

    Args:
        fn: the branch, (…) → (…) of the same shape.
        x: the stream.
        tau: ``scales.default``, ``fixed(τ)``, ``running_mean``, ``ratio(τ)``, a name of ``scales.get_residual``, or any
            rule from layer to (a, b).
        layer: number of this addition, from 1, since the stream was last normalized.
        depth: how many additions there will be, ``layer`` if None; some schemes ask.

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
