"""Elementwise choice of one of two tensors: maximum, minimum, or by a mask."""

from __future__ import annotations

from numpy.typing import ArrayLike

from refscale import ops
from refscale.engine import Tensor, apply
from refscale.functional.probabilities import Mask
from refscale.scales import Constraint, geometric

__all__ = ["maximum", "minimum", "where"]


def where(
    condition: Mask, x: Tensor | ArrayLike, y: Tensor | ArrayLike, *, constraint: str | Constraint = geometric
) -> Tensor:
    """Choose x where the condition is True, else y; see ``ops.Where``.

    Args:
        condition: boolean array, broadcast with x and y.
        x, y: tensors or arrays whose shapes broadcast, at least one of them a tensor.
        constraint: constraint of α and both β, or its name; default geometric.

    Returns:
        A tensor of the common shape.
    """
    return apply(ops.Where(), condition, x, y, constraint=constraint, constrained=(1, 2))


def maximum(x: Tensor | ArrayLike, y: Tensor | ArrayLike, *, constraint: str | Constraint = geometric) -> Tensor:
    """Compute α·max(x, y), broadcast; see ``ops.Maximum``.

    Args:
        x, y: tensors or arrays whose shapes broadcast, at least one of them a tensor.
        constraint: constraint of α and both β, or its name; default geometric.

    Returns:
        A tensor of the common shape.
    """
    return apply(ops.Maximum(), x, y, constraint=constraint, constrained=(0, 1))


def minimum(x: Tensor | ArrayLike, y: Tensor | ArrayLike, *, constraint: str | Constraint = geometric) -> Tensor:
    """Compute α·min(x, y), broadcast; see ``ops.Minimum``.

    Args:
        x, y: tensors or arrays whose shapes broadcast, at least one of them a tensor.
        constraint: constraint of α and both β, or its name; default geometric.

    Returns:
        A tensor of the common shape.
    """
    return apply(ops.Minimum(), x, y, constraint=constraint, constrained=(0, 1))
