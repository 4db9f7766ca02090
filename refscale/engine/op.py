"""The interface of an op: its readable form, its factors, its examples, and an optional fast form."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from refscale.engine.example import Input, Sizes
from refscale.scales import Scales, Shape
from refscale.scales.second_moments import SecondMoments

if TYPE_CHECKING:
    from refscale.exact import Bounded, ErrorModel

Array = NDArray[Any]

Degree = float | Literal["together", "weighted", "any", "own"] | None
"""Dependence of a result on the scale of one input; see ``Op``."""


def _no_rows(self: Op, *shapes: Shape) -> tuple[Shape, ...]:
    return ((),) * len(shapes)


class Op:
    """One row of the op table: forward, backward and factors of one function.

    A subclass with attributes is a frozen dataclass; the attributes are its fields. It defines

    * ``inputs``: the names of the inputs; ``source``: the source of the factors;
    * ``forward(*arrays) -> (y, kept)``: the function, and a tuple of the arrays that backward uses;
    * ``backward(g, *kept) -> (gradient of each input, None for those in ``constants``)``;
    * ``scale(*shapes) -> Scales``: the factors that give unit variance if inputs and gradients are independent N(0, 1).
      They depend on shapes and attributes only;
    * ``examples(sizes) -> (Example, ...)``: the op with typical attributes and inputs; tables, golden vectors, claims
      and default strategies use them;
    * ``products(*shapes)``, of a contraction: the number of multiplications of its forward pass;
    * ``homogeneity``: for each input, the effect on the result of multiplying it by a number s > 0. A degree d: the
      result is multiplied by s^d. "together": it is multiplied by s if all inputs of this kind are. "weighted": it is a
      weighted sum, and the weights can absorb s. "any": it does not change, except through eps. "own": none of these.
      None for constants. One entry applies to all of ``*x``;
    * ``rows(*shapes) -> (shape, ...)``: for an input whose gradient sums over rows (a weight, a bias, a table), the
      number of rows along each axis of y, 1 for axes that are not summed over; () for other inputs, the default.
      ``scale`` assumes independent rows;
    * ``predict(shape of y, *moments) -> moments of y`` and ``predict_gradients(moments of g, *moments) -> (moments of
      each gradient, None for those in ``constants``)``: the second moments of the result and of the gradients, both
      without factors. An op without these two rules is reported as not predicted.

    ``constants`` are the positions of inputs without gradient. ``contraction`` marks ops that hardware runs on narrow
    operands; ``weight_inputs`` are the positions of their weights, if these are matrices. ``has_mean`` marks
    outputs whose standard deviation and RMS differ: ``scale`` then takes ``statistic``. ``multiplies`` are the
    positions of inputs that are multiplied by others: the output's scale depends on their mean square.
    ``reports`` marks outputs that are reported, not used by ops (losses): neither they nor their gradients are rounded.
    ``carries_factors`` marks identities that exist only for their factors: a regular model is the same without them.

    ``moves`` marks ops that only move elements: y consists of elements of the inputs, and the gradients of elements of
    g, so that neither is rounded; with a single input, its gradient is g or a view of it. ``passes`` are the positions
    of inputs whose gradient is g itself if they have the output's shape. ``settles`` marks an identity whose β may be
    chosen so that the uses of its input agree (forks). ``adds`` marks sums of the inputs: the recipe constrains their
    factors by ``to_output_scale``. ``of_batch`` names attributes that are sizes, which may differ between batches of
    one program. ``has_ids`` marks look-ups in a table by ids: ``scale`` then takes ``embeddings``. ``later`` names
    attributes that were added after records of the op had been published: ``attributes`` omits them at their defaults.

    An op may have a fast form: the same function in passes that stay in cache, with the factors fused. The results of
    both forms are within ``bound`` of the real ones; ``bitwise`` marks ops whose two forms have the same bits.

    * ``fast_forward(α, *arrays) -> (α·y, kept)``
    * ``fast_backward(betas, g, *kept) -> (β_i · gradient of input i, ...)``; None where β_i is None: not wanted.

    A fast form receives its factors and chooses only where to apply them. It does not write to its arguments, except
    that its backward, which runs once, may overwrite arrays that its own forward has made and kept. It returns new,
    distinct arrays; y may also be one of the kept arrays, and a gradient may be g itself. A subclass that overrides
    ``forward`` or ``backward`` has no fast form, unless it defines its own.
    """

    inputs: ClassVar[tuple[str, ...]]
    source: ClassVar[str]
    name: ClassVar[str]
    constants: ClassVar[tuple[int, ...]] = ()
    contraction: ClassVar[bool] = False
    weight_inputs: ClassVar[tuple[int, ...]] = ()
    multiplies: ClassVar[tuple[int, ...]] = ()
    has_mean: ClassVar[bool] = False
    reports: ClassVar[bool] = False
    carries_factors: ClassVar[bool] = False
    moves: ClassVar[bool] = False
    passes: ClassVar[tuple[int, ...]] = ()
    settles: ClassVar[bool] = False
    of_batch: ClassVar[tuple[str, ...]] = ()
    later: ClassVar[tuple[str, ...]] = ()
    adds: ClassVar[bool] = False
    has_ids: ClassVar[bool] = False
    bitwise: ClassVar[bool] = False
    fast_forward: ClassVar[Callable[..., tuple[Array, tuple[Any, ...]]] | None] = None
    fast_backward: ClassVar[Callable[..., tuple[Any, ...]] | None] = None
    forward: ClassVar[Callable[..., tuple[Array, tuple[Any, ...]]]]
    backward: ClassVar[Callable[..., tuple[Array | None, ...]]]
    scale: ClassVar[Callable[..., Scales]]
    products: ClassVar[Callable[..., int] | None] = None
    homogeneity: ClassVar[tuple[Degree, ...]] = ()
    rows: ClassVar[Callable[..., tuple[Shape, ...]]] = _no_rows
    predict: ClassVar[Callable[..., SecondMoments] | None] = None
    predict_gradients: ClassVar[Callable[..., tuple[SecondMoments | None, ...]] | None] = None

    @classmethod
    def examples(cls, at: Sizes) -> tuple[Example, ...]:
        """Return the op with typical attributes, and inputs of these sizes; the op table has a row for each.

        Examples of one class differ in their attributes.
        """
        return ()

    def rows_beside(self, *shapes: Shape) -> tuple[float, ...]:
        """Return, for each input, the mean number of other terms that each term of its gradient is added to."""
        return tuple(max(1, math.prod(rows)) - 1.0 for rows in self.rows(*shapes))

    def __init_subclass__(cls) -> None:
        cls.name = op_name(cls)
        own = vars(cls)
        if ("forward" in own or "backward" in own) and "fast_forward" not in own:
            cls.fast_forward = cls.fast_backward = None

    def degrees(self, inputs: int) -> tuple[Degree, ...]:
        """Return ``homogeneity`` for a given number of inputs."""
        return self.homogeneity * inputs if self.inputs[0][0] == "*" else self.homogeneity

    def at_scales(self, *scales: float) -> tuple[Op, float]:
        """Return the op that computes the same function of inputs that are divided by given scales.

        An op whose attributes depend on the scale of its inputs overrides this method.

        Args:
            scales: s > 0 of each input; 1 for constants and inputs marked "own", one value for all marked "together".

        Returns:
            (op, factor) with f(s_1·x_1, …) = factor·op(x_1, …).
        """
        factor, together = 1.0, 1.0
        for s, degree in zip(scales, self.degrees(len(scales)), strict=True):
            if degree == "together":
                together = s
            elif isinstance(degree, int | float):
                factor *= s**degree
        return self, factor * together

    def bound(
        self, scales: Scales, gradient: Array | None, *arrays: Array, model: ErrorModel | None = None
    ) -> tuple[Bounded, tuple[Bounded | None, ...]]:
        """Compute the real result and gradients of a call, each with a bound on the error of its float32 evaluation.

        Derived from ``forward`` and ``backward`` by running error analysis, ``refscale.exact.bounded``: it covers every
        evaluation of the same formulas, for any order of summation and any place of the factors. An op whose forms have
        a smaller or larger error overrides this method.

        Args:
            scales: α and β of the call.
            gradient: the gradient of the output; None: bound the result only.
            arrays: the inputs; operands are already cast.
            model: error model of the arithmetic, default float32.

        Returns:
            α·y, and β_i times the gradient of each input, None for constants (an empty tuple without a gradient).
        """
        from refscale.exact import FLOAT32, as_bounded

        def lifted(x: Array) -> Any:
            return as_bounded(x, model or FLOAT32)

        def times(factor: float, x: Array) -> Any:
            return lifted(x) if factor == 1 else lifted(x) * factor

        y, kept = self.forward(*[lifted(x) for x in arrays])
        if gradient is None:
            return times(scales.alpha, y), ()
        pieces = self.backward(lifted(gradient), *kept)
        return times(scales.alpha, y), tuple(
            [
                None if beta is None or piece is None else times(beta, piece)
                for beta, piece in zip(scales.beta, pieces, strict=True)
            ]
        )

    def attributes(self) -> dict[str, Any]:
        """Return the attributes by name, as in ids and files: without those in ``later`` at their defaults."""
        return {k: v for k, v in vars(self).items() if k not in self.later or v != getattr(type(self), k)}

    # The methods of a frozen dataclass: ops without attributes are not made one, as that takes half a millisecond.
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self!r}: cannot assign to {name!r}, the attributes of an op do not change")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{self!r}: cannot delete {name!r}, the attributes of an op do not change")

    def __eq__(self, other: object) -> bool:
        """Return whether two ops have the same class and attributes."""
        return vars(self) == vars(other) if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"

    def __post_init__(self) -> None:
        # A NumPy scalar attribute would widen float32 arrays to float64.
        for field, value in vars(self).items():
            if isinstance(value, np.floating):
                object.__setattr__(self, field, float(value))


@dataclass(frozen=True)
class Example:
    """An op and inputs that it accepts.

    Attributes:
        op: the op with its attributes.
        inputs: one input for each argument of ``forward``.
    """

    op: Op
    inputs: tuple[Input, ...]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Shapes of the inputs."""
        return tuple(x.shape for x in self.inputs)

    def arrays(self, rng: np.random.Generator) -> list[Array]:
        """Return random inputs."""
        return [x.draw(rng) for x in self.inputs]


def example(op: Op, *inputs: Shape | Input) -> Example:
    """Make an example; an input given as a shape is N(0, 1).

    >>> from refscale import ops
    >>> example(ops.Matmul(), (3, 4), (4, 5)).shapes
    ((3, 4), (4, 5))
    """
    return Example(op, tuple(x if isinstance(x, Input) else Input(x) for x in inputs))


def op_name(kind: type[Op]) -> str:
    """Convert the name of a class to that of its op: ``SoftmaxCrossEntropy`` → ``softmax_cross_entropy``."""
    return "".join("_" + c.lower() if c.isupper() else c for c in kind.__name__).lstrip("_")
