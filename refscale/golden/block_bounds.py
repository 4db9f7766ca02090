"""Bounds through a conversion to a block-scaled format, for operands that are converted before a product.

A converted element is T·s·e(|x|/(s·T)), with the sign of x, where s is the scale of the block and e the cast of the
elements. An exact operand has one conversion. An operand with a bound, because it was computed, may be on either side
of a point at which an element, a scale or the scale of the tensor rounds differently. Its conversion is then between
the smallest and the largest possible one:

* |x| between x₁ = max(|x| − error, 0) and x₂ = |x| + error, for each element;
* s between s₁, of the largest x₁ of the block, and s₂, of the largest x₂: every rule is monotone;
* T likewise, between T₁ and T₂, of the whole tensor; s₁ uses T₂, and s₂ uses T₁.

For one s the conversion is monotone in x, so it is between T₁·s·e(x₁/(s·T₂)) and T₂·s·e(x₂/(s·T₁)). If no value of the
scale format lies between s₁ and s₂, the interval is the hull of these two; else it is from T₁·s₁·e(x₁/(s₂·T₂)) to
T₂·s₂·e(x₂/(s₁·T₁)). Where x may have either sign, the interval is symmetric. Rounded stochastically, e is rounded
down for the lower end and up for the upper one.

Scales by amax are not powers of two; their arithmetic is float32, in an order that the format defines. Operands with a
bound are widened by 2^-21, which covers every order, and each product T·s·e by an ulp of float32.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.blocks import BlockCast, Blocks, Recipe, split_blocks
from refscale.blocks.operand import Role, convert, transform
from refscale.blocks.parts import block_axes
from refscale.errors import ArgumentError
from refscale.exact import Bounded, as_bounded, bounded
from refscale.formats import Cast

Array = NDArray[Any]

_ROOM = 2.0**-21
"""Relative error of the quotients that compute scales and elements: at most five float32 roundings."""


_SMALLEST = 2.0**-149


class BlockOperand(Bounded):
    """A bounded array whose products are block-scaled: ``blocks.Operand`` with bounds.

    Attributes:
        recipe: conversions of its products.
        role: role of the operand.
    """

    recipe: Recipe
    role: Role

    @classmethod
    def of(cls, x: Bounded, recipe: Recipe, role: Role) -> BlockOperand:
        """Return a view of a bounded array as an operand."""
        y = x.view(cls)
        y._error, y.recipe, y.role = x.error, recipe, role
        return y

    def __array_finalize__(self, parent: Any) -> None:
        super().__array_finalize__(parent)
        if isinstance(parent, BlockOperand):
            self.recipe, self.role = parent.recipe, parent.role

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Convert the operands of a product; other results stay operands of the same kind."""
        if ufunc is np.matmul and method == "__call__":
            left, right = inputs
            if not (isinstance(left, BlockOperand) and isinstance(right, BlockOperand)):
                raise ArgumentError("BlockOperand @: expected an operand on both sides")
            return np.matmul(*_converted(left, right), **options)
        return self._kept(super().__array_ufunc__(ufunc, method, *inputs, **options))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Dispatch as ``Bounded``, which has no rule for other contractions."""
        return self._kept(super().__array_function__(func, types, args, kwargs))

    def __getitem__(self, index: Any) -> Any:
        return self._kept(super().__getitem__(index))

    def _kept(self, result: Any) -> Any:
        if isinstance(result, tuple | list):
            return type(result)(self._kept(x) for x in result)
        return BlockOperand.of(result, self.recipe, self.role) if isinstance(result, Bounded) else result


def _moved(name: str) -> Any:
    def method(self: BlockOperand, *args: Any, **options: Any) -> Any:
        return self._kept(getattr(Bounded, name)(self, *args, **options))

    method.__name__ = name
    return method


for _name in ("reshape", "transpose", "swapaxes", "ravel", "squeeze", "copy", "take", "repeat"):
    setattr(BlockOperand, _name, _moved(_name))


def _converted(left: BlockOperand, right: BlockOperand) -> tuple[Bounded, Bounded]:
    """Return both operands in blocks along the contracted axis; ``blocks.operand`` does the same for arrays."""
    x, w = (bounded(side.view(np.ndarray), side.error, side.model) for side in (left, right))
    if (n := left.recipe.hadamard) and {left.role, right.role} == {"activation", "gradient"}:
        return (
            converted(as_bounded(transform(x, n, -1)), left.recipe.cast(left.role, -1)),
            converted(as_bounded(transform(w, n, -2)), right.recipe.cast(right.role, -2)),
        )
    return converted(x, left.recipe.cast(left.role, -1)), converted(w, right.recipe.cast(right.role, -2))


def converted(x: Bounded, cast: BlockCast) -> Bounded:
    """Convert a bounded array to a block-scaled format, with the bound of the module's docstring.

    Args:
        x: numbers with bounds; non-finite numbers have the bound 0.
        cast: block-scaled format.
    """
    wide, error = x.view(np.ndarray), x.error
    stochastic = cast.rounding == "stochastic"
    near = replace(cast, rounding="nearest_even") if stochastic else cast
    y = convert(wide, near)
    inexact = np.abs(y) * (x.model.ulp if cast.rule == "amax" else 0.0)
    if not (stochastic or error.any()):
        return bounded(y, np.where(np.isfinite(y), inexact, 0.0), x.model)
    with np.errstate(all="ignore"):
        low, high = _hull(np.abs(wide), error, cast)
        either = np.abs(wide) <= error
        below = np.where(either, -high, np.where(wide < 0, -high, low))
        above = np.where(either, high, np.where(wide < 0, -low, high))
        moved = np.fmax(np.fmax(above - y, y - below), 0.0)
    if not stochastic:
        moved = np.where(_of_blocks(error, cast) > 0, moved, 0.0) if not cast.tensor_scale else moved
    return bounded(y, np.where(np.isfinite(y), moved + inexact, 0.0), x.model)


def _hull(size: Array, error: Array, cast: BlockCast) -> tuple[Array, Array]:
    """Return the smallest and largest magnitudes after the conversion."""
    room = _ROOM if cast.rule == "amax" else 0.0
    x1, x2 = np.maximum(size - error, 0) * (1 - room), (size + error) * (1 + room)
    (t1, t2), (s1, s2) = _scales(x1, x2, cast)
    finite = np.isfinite(x2)
    down, up = _element_casts(cast)

    def at(s: Array, x: Array, t: float, e: Cast) -> Array:
        """Return e(x/(s·T)); with a scale of 0 the block is zero."""
        q = np.where(s > 0, x / (s * t), 0.0)
        return np.where(finite, e(q).astype(np.float64), 0.0)

    adjacent = _successor(s1, cast) >= s2
    low = np.where(adjacent, np.fmin(s1 * at(s1, x1, t2, down), s2 * at(s2, x1, t2, down)), s1 * at(s2, x1, t2, down))
    high = np.where(adjacent, np.fmax(s1 * at(s1, x2, t1, up), s2 * at(s2, x2, t1, up)), s2 * at(s1, x2, t1, up))
    return low * t1, high * t2


def _scales(x1: Array, x2: Array, cast: BlockCast) -> tuple[tuple[float, float], tuple[Array, Array]]:
    """Return (T₁, T₂), and (s₁, s₂), one for each element."""
    if cast.rule != "amax":
        plain = replace(cast, rounding="nearest_even")
        low, high = (split_blocks(x, plain).scale_of_each(np.float64) for x in (x1, x2))
        return (1.0, 1.0), (low, high)
    first, second = (_of_blocks(x, cast) for x in (x1, x2))
    t1 = t2 = 1.0
    if cast.tensor_scale:
        most = cast.element.max * cast.scale.max
        t1, t2 = (float(x.max(initial=0.0)) / most for x in (first, second))
        t1, t2 = (t1 or _SMALLEST, t2) if t2 else (1.0, 1.0)
    to_scale = Cast(cast.scale, "nearest_even", "saturate")
    low, high = (np.maximum(to_scale(a / (cast.element.max * t)), cast.least) for a, t in ((first, t2), (second, t1)))
    return (t1, t2), (low.astype(np.float64), high.astype(np.float64))


def _of_blocks(x: Array, cast: BlockCast) -> Array:
    """Return the largest of each block, one for each element; non-finite numbers count as 0."""
    found = np.where(np.isfinite(x), x, 0.0)
    for axis, n in zip(block_axes(cast, x.shape), cast.block, strict=True):
        if found.size:
            found = np.maximum.reduceat(found, np.arange(0, found.shape[axis], n), axis)
    return Blocks(cast, x, found, 1.0).scale_of_each(np.float64)


def _successor(s: Array, cast: BlockCast) -> Array:
    """Return the next value of the scale format after each s; for float32, s itself, so no scales are adjacent."""
    if not cast.scale.has_zero:
        return 2 * s
    return s + cast.scale.spacing(np.where(s > 0, s, cast.scale.min_subnormal)) if cast.scale.bits < 32 else s


def _element_casts(cast: BlockCast) -> tuple[Cast, Cast]:
    """Return the casts of the lower and of the upper end of a magnitude."""
    if cast.rounding == "stochastic":
        down, up = (Cast(cast.element, rounding, cast.overflow) for rounding in ("down", "up"))
        return down, up
    both = Cast(cast.element, cast.rounding, cast.overflow)
    return both, both
