"""What an op is: its readable form, its factors, its examples, and its fast form, if it has one."""

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
"""How a result depends on the scale of one input; see ``Op``."""


def _no_rows(self: Op, *shapes: Shape) -> tuple[Shape, ...]:
    return ((),) * len(shapes)


class Op:
    """One row of the op table: forward, backward and factors of one function.

    A subclass with attributes is a frozen dataclass, of which they are the fields. It defines

    * ``inputs``: their names; ``source``: where the factors come from;
    * ``forward(*arrays) -> (y, kept)``: the function, and a tuple of what backward will need;
    * ``backward(g, *kept) -> (gradient of each input, None for those in ``constants``)``;
    * ``scale(*shapes) -> Scales``: the factors that give unit variance when inputs and gradients are
      independent N(0, 1). It sees shapes and attributes only;
    * ``examples(sizes) -> (Example, ...)``: the op with typical attributes and inputs, of which tables, golden vectors,
      claims and default strategies are made;
    * ``products(*shapes)``, of a contraction: the multiplications of its forward pass;
    * ``homogeneity``: what becomes of the result if an input is multiplied by a number s > 0, for each input: d, it is
      multiplied by s^d; "together", it is multiplied by s if all inputs so marked are; "weighted", it is a sum with
      weights, which can absorb s; "any", it stays, eps aside; "own", none of these; None for constants. One entry
      stands for all of ``*x``;
    * ``rows(*shapes) -> (shape, ...)``: where the gradient of an input sums over rows (a weight, a bias, a table), the
      rows along each axis of y, 1 for axes that are not summed over; () for the other inputs, the default. ``scale``
      assumes independent rows;
    * ``predict(shape of y, *moments) -> moments of y`` and ``predict_gradients(moments of g, *moments) -> (moments of
      each gradient, None for those in ``constants``)``: what the op makes of second moments, both without factors; an
      op without these two rules is reported as not predicted.

    ``constants`` are positions of inputs without gradient. ``contraction`` marks ops that hardware runs on narrow
    operands, ``weight_inputs`` the positions of those that are weights, where they are matrices. ``has_mean`` marks
    outputs whose standard deviation and RMS differ: ``scale`` then takes ``statistic``. ``multiplies`` are the
    positions of inputs that are multiplied by others: the output's scale is that of their mean square.
    ``reports`` marks a value that is read by people, not by ops, and is not rounded, nor is its gradient (losses).
    ``carries_factors`` marks identities that exist only for their factors: a regular model is the same without them.

    ``moves`` marks ops that compute nothing: y holds elements of the inputs, and the gradients hold those of g, so that
    neither has to be rounded; of one input, its gradient is g or a view of it. ``passes`` are the positions of inputs
    whose gradient is g itself, where they have the output's shape. ``settles`` marks an identity whose β may be chosen
    so that the uses of its input agree (forks). ``adds`` marks sums of the inputs: where their factors are
    tied, the recipe ties them to that of the output, ``to_output_scale``. ``of_batch`` names attributes that are
    sizes, and so may differ between batches of one program. ``has_ids`` marks look-ups in a
    table by ids: ``scale`` then takes ``embeddings``. ``later`` names attributes that the op got after
    records of it were published: at their defaults, ``attributes`` leaves them out.

    An op may have a fast form: the same function, in passes that stay in cache, with the factors inside. Its results
    are within ``bound`` of the real ones, as those of the readable form are; ``bitwise`` marks ops whose two forms have
    the same bits.

    * ``fast_forward(α, *arrays) -> (α·y, kept)``
    * ``fast_backward(betas, g, *kept) -> (β_i · gradient of input i, ...)``; None where β_i is None: not wanted.

    A fast form receives its factors and chooses only where to apply them. It writes to none of its arguments, except
    that its backward, which runs once, may overwrite arrays that its own forward has made and kept. It returns new,
    distinct arrays; y may also be one of the kept arrays, and a gradient may be g itself. A subclass that overrides
    ``forward`` or ``backward`` has no fast form, unless it brings its own.
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
        """The op with typical attributes, and its inputs, at these sizes; the op table has a row for each.

        Examples of one class differ in their attributes.
        """
        return ()

    def rows_beside(self, *shapes: Shape) -> tuple[float, ...]:
        """For each input, how many terms each term of its gradient is added to, in the mean."""
        return tuple(max(1, math.prod(rows)) - 1.0 for rows in self.rows(*shapes))

    def __init_subclass__(cls) -> None:
        cls.name = op_name(cls)
        own = vars(cls)
        if ("forward" in own or "backward" in own) and "fast_forward" not in own:
            cls.fast_forward = cls.fast_backward = None

    def degrees(self, inputs: int) -> tuple[Degree, ...]:
        """``homogeneity`` of that many inputs."""
        return self.homogeneity * inputs if self.inputs[0][0] == "*" else self.homogeneity

    def at_scales(self, *scales: float) -> tuple[Op, float]:
        """The op that computes the same of inputs that are each smaller by a number.

        Args:
            scales: s > 0 of each input; 1 of constants and of those marked "own", one for all marked "together".

        Returns:
            (op, factor) with f(s_1·x_1, …) = factor·op(x_1, …). An op whose attributes depend on the scale of its
            inputs overrides it.
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
        """The real result and gradients of a call, each with a bound on the error of its float32 evaluation.

        Derived from ``forward`` and ``backward`` by running error analysis, ``refscale.exact.bounded``: it covers every
        evaluation of the same formulas, in whatever order sums are added and wherever factors are applied. An op whose
        forms err by less, or by more, overrides it.

        Args:
            scales: α and β of the call.
            gradient: of the output; None: the result only.
            arrays: inputs, as the op computes with them: operands are cast already.
            model: the errors of the arithmetic; None: those of float32.

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
        """Attributes by name, as ids and files have them: without those of ``later`` that have their defaults."""
        return {k: v for k, v in vars(self).items() if k not in self.later or v != getattr(type(self), k)}

    # What a frozen dataclass has; one is made for ops with attributes only, as making it takes half a millisecond.
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self!r}: cannot assign to {name!r}, the attributes of an op do not change")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{self!r}: cannot delete {name!r}, the attributes of an op do not change")

    def __eq__(self, other: object) -> bool:
        """Of one class, and of the same attributes."""
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
        op: with its attributes.
        inputs: one for each argument of ``forward``.
    """

    op: Op
    inputs: tuple[Input, ...]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Shapes of the inputs."""
        return tuple(x.shape for x in self.inputs)

    def arrays(self, rng: np.random.Generator) -> list[Array]:
        """Random inputs."""
        return [x.draw(rng) for x in self.inputs]


def example(op: Op, *inputs: Shape | Input) -> Example:
    """An example; an input given as a shape is N(0, 1).

    >>> from refscale import ops
    >>> example(ops.Matmul(), (3, 4), (4, 5)).shapes
    ((3, 4), (4, 5))
    """
    return Example(op, tuple(x if isinstance(x, Input) else Input(x) for x in inputs))


def op_name(kind: type[Op]) -> str:
    """``SoftmaxCrossEntropy`` → ``softmax_cross_entropy``."""
    return "".join("_" + c.lower() if c.isupper() else c for c in kind.__name__).lstrip("_")
