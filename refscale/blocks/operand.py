"""Operands of contractions that are converted when they are multiplied, each along the axis that is summed over.

A block-scaled product sums over blocks, so that both operands need blocks along the contracted axis. The three products
of a training step contract three different axes,

    y = x @ w        over the columns of x
    dx = g @ wᵀ      over the columns of g
    dw = xᵀ @ g      over the rows of x and g

so one tensor is converted twice, along two axes, to two different sets of values, unless its blocks are squares. An
``Operand`` is an array with a recipe: its views, transposes and multiples are operands, too, and ``@`` converts both
sides. The code of ops does not depend on formats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refscale.arguments import integer
from refscale.blocks.cast import quantize_blocks, split_blocks
from refscale.blocks.table import BlockCast, get_block_cast
from refscale.errors import ArgumentError
from refscale.formats import Cast

Array = NDArray[Any]
Role = Literal["activation", "weight", "gradient"]


@dataclass(frozen=True, init=False)
class Recipe:
    """The conversion of the operands of contractions: formats of activations, weights and gradients.

    Args:
        activation, weight, gradient: format of each, a name in ``BLOCK_FORMATS`` or a ``BlockCast``; 1 × n blocks are
            along the contracted axis.
        hadamard: length of the random Hadamard transform of both operands of a weight's gradient along the contracted
            axis, a power of two; 0: none. It does not change the exact product, and spreads outliers.

    Raises:
        ArgumentError: ``hadamard`` is not 0 or a power of two.
        FormatError: a format is unknown.
    """

    activation: BlockCast
    weight: BlockCast
    gradient: BlockCast
    hadamard: int

    def __init__(
        self, activation: str | BlockCast, weight: str | BlockCast, gradient: str | BlockCast, hadamard: int = 0
    ) -> None:
        for role, cast in (("activation", activation), ("weight", weight), ("gradient", gradient)):
            object.__setattr__(self, role, get_block_cast(cast))
        object.__setattr__(self, "hadamard", hadamard_length("Recipe", hadamard))

    def cast(self, role: Role, axis: int) -> BlockCast:
        """Return the format of an operand that is contracted along an axis."""
        found: BlockCast = getattr(self, role)
        return found if len(found.block) == 2 else replace(found, axis=axis)

    def __str__(self) -> str:
        """``float8_e4m3fn in blocks of 1 × 32, …``; the weights and the gradients after it where they are others."""
        parts = [str(self.activation)]
        parts += [f"{what} {how}" for what, how in (("weights", self.weight), ("gradients", self.gradient))
                  if how != self.activation]  # fmt: skip
        return "; ".join(parts) + (f"; Hadamard {self.hadamard}" if self.hadamard else "")


def hadamard_length(call: str, n: Any) -> int:
    """Return the length of a Hadamard transform; raise ArgumentError unless it is 0 or a power of two > 1."""
    length = integer(call, "hadamard", n)
    if length < 0 or length == 1 or length & (length - 1):
        raise ArgumentError(f"{call}(hadamard={length}): expected 0 or a power of two")
    return length


@dataclass(frozen=True)
class TransformedCasts:
    """A recipe without blocks: operands are transformed before they are cast.

    Attributes:
        operand, gradient: casts of an operand, and of the gradient that a contraction receives; None: not cast.
        hadamard: length of the random Hadamard transform, see ``Recipe``.
    """

    operand: Cast | None
    gradient: Cast | None
    hadamard: int

    def cast(self, role: Role, axis: int) -> Cast | None:
        """Return the cast of an operand, the same for any axis."""
        return self.gradient if role == "gradient" else self.operand


def _recipe(activation: BlockCast, weight: str = "", hadamard: int = 0) -> Recipe:
    """A recipe with one format; with a transform, gradients are rounded stochastically."""
    gradient = replace(activation, rounding="stochastic") if hadamard else activation
    return Recipe(activation, get_block_cast(weight) if weight else activation, gradient, hadamard)


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "mxfp8": _recipe(get_block_cast("mxfp8_e4m3", rule="rceil")),  # Mishra et al. 2025, arXiv 2506.08027
        "mxfp6": _recipe(get_block_cast("mxfp6_e3m2")),  # Rouhani et al. 2023, arXiv 2310.10537
        "mxfp4": _recipe(get_block_cast("mxfp4")),  # OCP MX 1.0, and nothing beside it
        "nvfp4": _recipe(get_block_cast("nvfp4"), "nvfp4_16x16", 16),  # NVIDIA 2025, arXiv 2509.25149
        "fp8-tiles": _recipe(get_block_cast("fp8_1x128"), "fp8_128x128"),  # DeepSeek-V3, arXiv 2412.19437
    }
)
"""Recipes by the name of the precision policy that uses them; the other casts of such a policy are bfloat16."""

Convert = Callable[[Array, Any, "Operand"], Array]
"""``convert(x, cast, operand)`` returns x, values of the operand, after the recipe's cast, in the dtype of x."""


def convert(x: Array, cast: BlockCast, operand: Operand | None = None, words: Array | None = None) -> Array:
    """Convert x to a block-scaled format, in the dtype of x; scales by rule "amax" are those of x in float32."""
    with np.errstate(all="ignore"):  # a float64 beyond float32 is infinite there
        narrow = x.astype(np.float32) if x.dtype == np.float64 and cast.rule == "amax" else x
    return quantize_blocks(narrow, cast, words, dtype=x.dtype)


def lost(x: Array, q: Array, cast: BlockCast) -> tuple[int, int]:
    """Count clipped and flushed elements: finite ones beyond the largest value of their block, and new zeros."""
    with np.errstate(all="ignore"):
        narrow = x.astype(np.float32)
        parts = split_blocks(narrow, cast if cast.rounding != "stochastic" else replace(cast, rounding="down"))
        top = parts.scale_of_each(np.float64) * (parts.tensor_scale * cast.element.max)
        return int(np.count_nonzero(np.isfinite(x) & (np.abs(x) > top))), int(np.count_nonzero((q == 0) & (x != 0)))


class Operand(np.ndarray[Any, Any]):
    """An array whose products are block-scaled, a view of a given array."""

    recipe: Recipe | TransformedCasts
    role: Role
    label: Any
    convert: Convert

    @classmethod
    def of(
        cls, x: Array, recipe: Recipe | TransformedCasts, role: Role, label: Any = None, convert: Convert = convert
    ) -> Operand:
        """View an array as an operand.

        Args:
            x: float32 or float64.
            recipe: formats and transform of the conversion.
            role: "activation", "weight" or "gradient".
            label: argument of ``convert``, for records of casts.
            convert: function that converts an array.
        """
        y = x.view(cls)
        y.recipe, y.role, y.label, y.convert = recipe, role, label, convert
        return y

    def __array_finalize__(self, source: Any) -> None:
        if isinstance(source, Operand):
            vars(self).update(vars(source))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        """Operands of products are converted; other functions of an operand return an operand of the same kind."""
        if ufunc is np.matmul and method == "__call__":
            left, right = inputs
            if not (isinstance(left, Operand) and isinstance(right, Operand)):
                raise ArgumentError("Operand @: expected an operand on both sides")
            return np.matmul(*_converted(left, right), out=None if out is None else out[0])
        plain = [np.asarray(x) if isinstance(x, Operand) else x for x in inputs]
        if out is not None:
            kwargs["out"] = tuple(np.asarray(x) if isinstance(x, Operand) else x for x in out)
        result = getattr(ufunc, method)(*plain, **kwargs)
        if not isinstance(result, np.ndarray):
            return result
        return Operand.of(result, self.recipe, self.role, self.label, self.convert)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Keep the kind; refuse other ways to contract, which would pass the conversion by."""
        if function in (np.dot, np.einsum, np.inner, np.tensordot, np.vdot):
            raise ArgumentError(f"Operand: {function.__name__} would not convert its operands, expected @")
        result = super().__array_function__(function, types, args, kwargs)
        if type(result) is np.ndarray and result.dtype == self.dtype:  # what pads or slides forgets the kind
            return Operand.of(result, self.recipe, self.role, self.label, self.convert)
        return result


def _converted(left: Operand, right: Operand) -> tuple[Array, Array]:
    """Both sides, in blocks along the axis that is summed over."""
    x, w = np.asarray(left), np.asarray(right)
    roles = {left.role, right.role}
    if left.recipe.hadamard and roles == {"activation", "gradient"}:
        x, w = transform(x, left.recipe.hadamard, -1), transform(w, left.recipe.hadamard, -2)
    return (
        left.convert(x, left.recipe.cast(left.role, -1), left),
        right.convert(w, right.recipe.cast(right.role, -2), right),
    )


def transform(x: Array, n: int, axis: int) -> Array:
    """Apply the random Hadamard transform to every n elements along an axis; the last ones are filled with zeros.

        y = H·diag(signs)·x / √n

    The transform is orthogonal: if both operands are transformed along the contracted axis, their product does not
    change. The signs are constant, the same in every step and layer, as in arXiv 2509.25149.
    """
    moved = np.moveaxis(x, axis, -1)
    length = moved.shape[-1]
    filled = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, -length % n)])
    y = filled.reshape(*filled.shape[:-1], -1, n) @ _hadamard(n).astype(x.dtype)
    return np.moveaxis(y.reshape(filled.shape), -1, axis)


def sylvester(n: int) -> NDArray[np.float64]:
    """Return the Hadamard matrix of size n, a power of two, with entries ±1.

    Source: Sylvester (1867), Philosophical Magazine 34.
    """
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return h


@lru_cache(maxsize=8)
def _hadamard(n: int) -> NDArray[np.float64]:
    """(H·diag(signs)/√n)ᵀ; signs from the raw output of PCG64, which no release changes."""
    signs = 1 - 2 * (np.asarray(np.random.PCG64(n).random_raw(n), np.uint64) >> np.uint64(63)).astype(np.float64)
    return np.asarray((sylvester(n) * signs).T / math.sqrt(n))
