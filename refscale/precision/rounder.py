"""Application of a policy: a ``Rounder`` casts arrays at the places that the policy defines, and records each cast.

The engine calls it at six places, in this order:

==============  ============================================================================================
``enter``       an array from outside: a leaf, or the gradient that starts ``backward``
``operand``     an input, before an op computes with it
``store``       an output after the factor α, or a gradient after the factor β
``incoming``    the complete gradient of an output, before the op's backward pass
``sum``         two gradients of one tensor
``wide``        an array, before a factor multiplies it
==============  ============================================================================================

A rounder uses the flags of ops and the labels of tensors only; it has no access to tapes or gradients.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refscale.arrays import freeze, kept
from refscale.blocks import BlockCast, Operand, Recipe
from refscale.blocks.operand import Role, TransformedCasts, convert, lost
from refscale.blocks.parts import scale_shape
from refscale.errors import ArgumentError, CarrierError
from refscale.formats import Cast, Format
from refscale.precision.policy import Precision, random_bits

Array = NDArray[Any]

_FLOAT32 = Cast("float32", "nearest_even", "nonsaturate")


class Label(Protocol):
    """The properties of a tensor that a rounder uses."""

    @property
    def name(self) -> str:
        """Name of the tensor: scopes, and the op that made it or the name of the leaf."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""

    @property
    def reports(self) -> bool:
        """Return whether the tensor is the value of a loss, which is not rounded."""


class OpFlags(Protocol):
    """The properties of an op that a rounder uses; see ``engine.Op``."""

    @property
    def name(self) -> str:
        """Name of the op, such as "matmul"."""

    @property
    def contraction(self) -> bool:
        """Return whether the op is a contraction, whose operands are cast."""

    @property
    def weight_inputs(self) -> tuple[int, ...]:
        """Positions of the inputs that are weights."""

    @property
    def moves(self) -> bool:
        """Return whether the op only moves elements."""

    @property
    def reports(self) -> bool:
        """Return whether the result of the op is the value of a loss."""


class OperandScaling(Protocol):
    """Powers of two around the casts of operands, see ``refscale.rivals``."""

    def scale(self, key: str, x: Array, format: Format) -> float:
        """Return the factor of the operand ``key``, a place in the program, for a cast to ``format``."""


class Placed(NamedTuple):
    """The policy of a call or tensor, and the pattern of its rule, which is empty if no rule matches."""

    rule: str
    policy: Precision


class CastRecord(NamedTuple):
    """The record of one cast: its tensor, place and cast, and the counts of clipped and flushed elements.

    ``variable`` is the label of the tensor, an ``engine.Variable``. ``place`` is "leaf", "output", "operand",
    "operand_gradient" or "gradient". ``clipped`` is the number of finite elements outside the range of the format
    (beyond its largest value; in an unsigned format, negative), ``flushed`` the number of nonzero elements that became
    zero; None if not counted. ``scale`` is the factor around the cast, default 1; ``blocks`` the number of block
    scales. An operand that several products use is rounded once, and recorded for each; in blocks it is converted for
    each. ``rule`` is the pattern of the rule that applied, empty if none did.
    """

    variable: Any
    place: str
    cast: Cast | BlockCast
    elements: int
    clipped: int | None
    flushed: int | None
    scale: float = 1.0
    blocks: int = 0
    rule: str = ""


class Rounder:
    """Applies the casts of a policy to the arrays of one tape, and records them.

    Args:
        precision: the policy.
        dtype: the carrier, float32 or float64.
        rng: source of random bits, needed only if a cast rounds stochastically.
        count_casts: count the elements that each cast clips and flushes to zero.
        operand_scales: powers of two around the casts of operands, for one tape only.

    Attributes:
        casts: a record of each cast, in order.
        exact: True if arithmetic is that of ``refscale.exact``.
        rounds: True if outputs and gradients are rounded.
        calls_by_rule: number of calls to which each rule of the policy applies, by pattern.
    """

    def __init__(
        self,
        precision: Precision,
        dtype: np.dtype[Any],
        *,
        rng: np.random.Generator | None = None,
        count_casts: bool = False,
        operand_scales: OperandScaling | None = None,
    ) -> None:
        if operand_scales and any(policy.hadamard for policy in (precision, *(r.policy for r in precision.rules))):
            raise ArgumentError(f"Tape(precision={precision.name!r}): hadamard together with scales of operands")
        self.precision, self.dtype, self.rng = precision, dtype, rng
        self.count_casts, self.operand_scales = count_casts, operand_scales
        self.casts: list[CastRecord] = []
        self.exact = precision.accumulate is not None
        policies = (precision, *(rule.policy for rule in precision.rules))
        self.rounds = self.exact or any(policy.store is not None for policy in policies)
        self.calls_by_rule = {rule.pattern: 0 for rule in precision.rules}
        self._plain = not self.exact and not any(policy.blocks or policy.hadamard for policy in policies)
        self._base = Placed("", precision)
        self._labels: dict[Any, Placed] = {}
        self._leaves: set[Any] = set()
        self._calls: dict[int, Placed] = {}

    # --- Rules for places -------------------------------------------------------------------------------------------

    def place(self, call: int, output: Label, inputs: Sequence[Label]) -> None:
        """Find the policy of a call, by the name of its output and those of the leaves among its inputs."""
        if not self.precision.rules:
            return
        leaves = (label.name for label in inputs if label in self._leaves)
        placed = Placed(*self.precision.at(output.name, *leaves))
        self._labels[output] = self._calls[call] = placed
        if placed.rule:
            self.calls_by_rule[placed.rule] += 1

    def of(self, label: Label) -> Placed:
        """Return the policy by which a tensor is stored."""
        return self._labels.get(label, self._base)

    def of_call(self, call: int | None) -> Placed:
        """Return the policy by which a call casts its operands; for None, the policy of calls without a rule."""
        return self._base if call is None else self._calls.get(call, self._base)

    # --- The places -------------------------------------------------------------------------------------------------

    def enter(self, call: str, x: Array, label: Label, place: str) -> Array:
        """Round an array from outside once to the ``store`` format; the result is read-only, and a copy if x is not.

        Raises:
            CarrierError: the dtype is not a real float, integer or boolean type; the message names ``call``.
        """
        if not np.can_cast(x.dtype, np.float64):  # complex, text, objects, records, long doubles
            raise CarrierError(f"{call}: got {x.dtype}, expected a float, integer or boolean array")
        if place == "leaf" and self.precision.rules:
            self._labels[label] = Placed(*self.precision.at(label.name))
            self._leaves.add(label)
        stored = self.store(x.astype(np.float64) if x.dtype.kind in "iub" else x, label, place)
        if stored.dtype != self.dtype:
            with np.errstate(invalid="ignore"):  # a signaling NaN becomes quiet
                stored = stored.astype(self.dtype)
        return kept(x) if stored is x else freeze(stored)

    def operand(self, op: OpFlags, x: Array, label: Label, call: int, index: int) -> Any:
        """Return input ``index`` of the op of call number ``call``, cast or converted as the policy defines."""
        placed = self.of_call(call)
        if label.reports and not op.reports:  # a loss is rounded when an op computes with it
            x = self.cast(placed.policy.store, x, label, "operand", placed=placed)
        if self.narrows(op, call) and not self._transforms(op, call):
            x = self.narrow(x, label, f"{call}.{op.name}.{index}", placed)
        if self._plain:
            return x
        role: Role = "weight" if index in op.weight_inputs and x.ndim == 2 else "activation"
        return self._arithmetic(op, x, label, role, call)

    def store(self, x: Any, label: Label, place: str, out: Array | None = None) -> Array:
        """Round a value or gradient to the ``store`` format; a loss and its gradient stay in the carrier.

        ``out`` may be x if the caller owns it: the result may then be written over x.
        """
        placed = self.of(label)
        if placed.policy.store is not None and not label.reports:
            return self.cast(placed.policy.store, x, label, place, out=out, placed=placed)
        if self.exact and x.dtype != self.dtype:  # computed exactly, not rounded yet
            x = _exact().rounded(x, _FLOAT32)
        elif self.exact and isinstance(x, _exact().Product):
            x = x.array()
        return np.asarray(x)

    def incoming(self, op: OpFlags, g: Array, label: Label, call: int) -> Any:
        """Return the gradient of an op's output, cast or converted for its backward pass."""
        if self.narrows(op, call) and not self._transforms(op, call):
            placed = self.of_call(call)
            key = f"{call}.{op.name}.gradient"
            g = self.cast(placed.policy.operand_gradient, g, label, "operand_gradient", key, placed=placed)
        return g if self._plain else self._arithmetic(op, g, label, "gradient", call)

    def sum(self, a: Array, b: Array, label: Label) -> Array:
        """Add two gradients of one tensor, and round the sum to the ``store`` format."""
        return self.store(np.asarray(self.wide(a) + b), label, "gradient")

    def wide(self, x: Any) -> Any:
        """Return the array that a factor multiplies: float64 in exact arithmetic, else x."""
        return _exact().as_exact(x, self.precision.accumulate) if self.exact else x

    def carrier(self, x: Any) -> Array:
        """Return an array whose elements are already rounded in the dtype of the carrier."""
        return np.asarray(x, self.dtype)

    def narrow(self, x: Array, label: Label, key: str, placed: Placed) -> Array:
        """Cast an operand of a contraction to the ``operand`` format of its policy."""
        return self.cast(placed.policy.operand, x, label, "operand", key, placed=placed)

    # --- Common parts -----------------------------------------------------------------------------------------------

    def narrows(self, op: OpFlags, call: int | None = None) -> bool:
        """Return whether the operands of an op are cast in call number ``call``."""
        return op.contraction and self.of_call(call).policy.narrows(op.name)

    def has_arithmetic(self, op: OpFlags, call: int | None = None) -> bool:
        """Return whether an op computes in exact arithmetic or with operands converted to blocks."""
        return not self._plain and (self.exact or self.recipe(op, call) is not None)

    def _arithmetic(self, op: OpFlags, x: Array, label: Label, role: Role, call: int) -> Any:
        """An array as an op computes with it: exactly, or converted to blocks where it is multiplied, or as it is."""
        if op.moves:
            return x
        if self.exact:
            return self.wide(x)
        recipe, placed = self.recipe(op, call), self.of_call(call)
        return x if recipe is None else Operand.of(x, recipe, role, label, partial(self._convert, placed=placed))

    def cast(
        self,
        cast: Cast | None,
        x: Any,
        label: Label,
        place: str,
        key: str = "",
        out: Array | None = None,
        placed: Placed | None = None,
    ) -> Array:
        """Compute and record cast(x·s)/s; s is the power of two of the operand ``key``, default 1."""
        if cast is None:
            return np.asarray(x)
        rule, policy = placed or self._base
        s = policy.operand_factor if key else 1.0
        if key and self.operand_scales:
            s *= self.operand_scales.scale(key, x, cast.format)
        scaled = x if s == 1 else _times(s, x)
        bits = random_bits(cast, x.shape, self.rng, "Tape") if cast.rounding == "stochastic" else None
        if self.exact:
            q = _exact().rounded(scaled, cast, bits)
        else:
            in_place = out is not None and x.dtype == np.float32 and not self.count_casts
            q = cast(scaled, bits, out=out if in_place else None)
        clipped = flushed = None
        if self.count_casts:
            beyond = (np.abs(scaled) > cast.format.max) | ~np.isfinite(q)
            clipped = int(np.count_nonzero(np.isfinite(x) & beyond))
            flushed = int(np.count_nonzero((q == 0) & (x != 0)))
        self.casts.append(CastRecord(label, place, cast, math.prod(label.shape), clipped, flushed, s, rule=rule))
        if q.dtype != self.dtype:
            q = q.astype(self.dtype)
        return q if s == 1 else np.asarray(q / s)

    def _transforms(self, op: OpFlags, call: int | None) -> bool:
        """Return whether operands are transformed before they are cast, without blocks."""
        return bool(self.of_call(call).policy.hadamard and op.weight_inputs)

    def recipe(self, op: OpFlags, call: int | None = None) -> Recipe | TransformedCasts | None:
        """Return the conversion of an op's operands when they are multiplied; None if they are not converted."""
        policy = self.of_call(call).policy
        if policy.hadamard:
            transformed = TransformedCasts(policy.operand, policy.operand_gradient, policy.hadamard)
            return transformed if self._transforms(op, call) and self.narrows(op, call) else None
        recipe = policy.blocks
        if recipe is None or not self.narrows(op, call):
            return None
        return recipe if op.weight_inputs or not recipe.hadamard else replace(recipe, hadamard=0)

    def _convert(self, x: Array, cast: BlockCast | Cast | None, operand: Operand, placed: Placed) -> Array:
        """An operand in blocks, or transformed and cast, recorded."""
        if not isinstance(cast, BlockCast):
            place = "operand_gradient" if operand.role == "gradient" else "operand"
            return self.cast(cast, x, operand.label, place, "transformed", placed=placed)
        bits = random_bits(cast, x.shape, self.rng, "Tape")
        q = convert(x, cast, operand, bits)
        clipped, flushed = lost(x, q, cast) if self.count_casts else (None, None)
        place = "operand_gradient" if operand.role == "gradient" else "operand"
        blocks = math.prod(scale_shape(cast, x.shape))
        self.casts.append(
            CastRecord(operand.label, place, cast, x.size, clipped, flushed, blocks=blocks, rule=placed.rule)
        )
        return q


class Remembering(Rounder):
    """A rounder that casts an operand for the first product that uses it, and records a cast for each product."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._known: dict[int, tuple[weakref.ref[Array], weakref.ref[Array], CastRecord]] = {}

    def narrow(self, x: Array, label: Label, key: str, placed: Placed) -> Array:
        """Return an operand in the ``operand`` format; the copy is reused as long as a product references it."""
        cast = placed.policy.operand
        if cast is None or self.operand_scales or cast.rounding == "stochastic":
            return super().narrow(x, label, key, placed)
        wanted = cast, placed.policy.operand_factor
        known = self._known.get(id(x))
        if known and known[0]() is x and (known[2].cast, known[2].scale) == wanted and (q := known[1]()) is not None:
            self.casts.append(known[2]._replace(variable=label, rule=placed.rule))
            return q
        q = super().narrow(x, label, key, placed)
        self._known[id(x)] = weakref.ref(x), weakref.ref(q), self.casts[-1]
        return q


def _times(factor: float, x: Array) -> Array:
    """x times a power of two around a cast: what leaves the carrier is beyond the format, too."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(x * factor)


def _exact() -> Any:
    """``refscale.exact``, imported lazily: only exact arithmetic needs it."""
    from refscale import exact

    return exact
