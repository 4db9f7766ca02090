"""Padding, nearest-neighbor and linear resizing."""

from __future__ import annotations

from collections.abc import Sequence

from refscale import ops
from refscale.arguments import whole_number
from refscale.engine import Tensor, apply
from refscale.errors import ArgumentError
from refscale.ops.shapes import whole_numbers
from refscale.scales import Constraint, geometric

__all__ = ["LINEAR_MODES", "interpolate", "pad"]

LINEAR_MODES = ("linear", "bilinear", "trilinear")
"""Torch's names of linear interpolation along one, two and three axes."""


def pad(
    x: Tensor,
    pad: Sequence[int],
    mode: ops.PadMode = "constant",
    value: float = 0.0,
    *,
    constraint: str | Constraint = geometric,
) -> Tensor:
    """Pad x by a number, mirrored elements, or copies of its first and last elements; see ``ops.Pad``.

    Args:
        x: tensor of any shape.
        pad: numbers of elements before and after the last axis, then the axis before it, and so on, as in torch. (Here
            the last axis of an image is its channels: (0, 0, left, right, top, bottom).)
        mode: "constant", "reflect" or "replicate".
        value: the padding of mode "constant", default 0.
        constraint: constraint of α and β, or its name; default geometric.

    Returns:
        A tensor of the shape of x, larger by ``pad``.

    Raises:
        ArgumentError: ``pad`` has an odd length, more than two numbers per axis, or a negative number.
    """
    if len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise ArgumentError(f"pad(pad={tuple(pad)}): expected pairs (before, after), at most one for each axis of {x}")
    pairs = [(0, 0)] * (x.ndim - len(pad) // 2) + list(zip(pad[::2], pad[1::2], strict=True))[::-1]
    return apply(ops.Pad(tuple(pairs), mode, value), x, constraint=constraint, constrained=(0,))


def interpolate(
    x: Tensor,
    size: ops.PerAxis | None = None,
    scale_factor: ops.PerAxis | None = None,
    mode: str = "nearest",
    *,
    align_corners: bool = False,
    constraint: str | Constraint = geometric,
) -> Tensor:
    """Resize x along the spatial axes, channels last; see ``ops.NearestResize`` and ``ops.LinearResize``.

    Args:
        x: (batch, *space, channels).
        size: size of the result, one number or one for each axis; in mode "nearest" a multiple of that of x;
            alternatively
        scale_factor: results per element, one number or one for each axis.
        mode: "nearest": every element is repeated; or linear interpolation, with torch's names: "linear" for one
            spatial axis, "bilinear" for two, "trilinear" for three.
        align_corners: whether linear interpolation maps the first and last results to the first and last elements.
        constraint: constraint of α and β, or its name; default geometric.

    Returns:
        (batch, *size, channels).

    Raises:
        ArgumentError: neither or both of ``size`` and ``scale_factor`` are given, ``size`` is not a multiple of that of
            x in mode "nearest", ``align_corners`` is True in mode "nearest", or ``mode`` is unknown.
    """
    call = f"interpolate(size={size}, scale_factor={scale_factor}, mode={mode!r})"
    linear = dict(enumerate(LINEAR_MODES, 1)).get(x.ndim - 2)
    if mode not in ("nearest", linear):
        raise ArgumentError(f"{call}: expected mode 'nearest'" + (f" or {linear!r}" if linear else ""))
    if (size is None) == (scale_factor is None):
        raise ArgumentError(f"{call}: expected one of size and scale_factor")
    if align_corners and mode == "nearest":
        raise ArgumentError(f"{call}: align_corners applies to linear interpolation only")
    space = x.shape[1:-1]
    if mode == linear:
        if size is None:
            number = whole_number(scale_factor, 1)
            factors = whole_numbers(scale_factor, 1) if number is None else (number,) * len(space)
            if factors is None or len(factors) != len(space):
                raise ArgumentError(f"{call}: expected one of size and scale_factor, one number or {len(space)}")
            size = tuple(n * f for n, f in zip(space, factors, strict=True))
        return apply(ops.LinearResize(size, align_corners), x, constraint=constraint, constrained=(0,))
    if size is not None:
        number = whole_number(size, 1)
        sizes = whole_numbers(size, 1) if number is None else (number,) * len(space)
        if sizes is None or len(sizes) != len(space) or any(n < 1 or s % n for s, n in zip(sizes, space, strict=True)):
            raise ArgumentError(f"{call}: expected a multiple of {space} on each axis")
        scale_factor = tuple(s // n for s, n in zip(sizes, space, strict=True))
    return apply(ops.NearestResize(scale_factor or 0), x, constraint=constraint, constrained=(0,))
