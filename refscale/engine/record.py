"""What is recorded: tensors, calls, and the tape, which says how each array is rounded.

The tape holds no values.  What an op needs for its backward it returns as ``kept``; ``backward`` drops each as it goes.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from refscale.arrays import freeze, kept, plain
from refscale.blocks import BlockCast, Operand, Recipe
from refscale.blocks.cast import scale_shape
from refscale.blocks.operand import Role, convert, lost
from refscale.engine.op import Array, Kernel, Op
from refscale.errors import CarrierError, TapeError
from refscale.formats import Cast, Format
from refscale.precision import Precision, fp32, get_precision, random_bits
from refscale.scales import Scales, Scheme, Shape, get_scheme, regular

_FLOAT32 = Cast("float32", "nearest_even", "nonsaturate")


class OperandScales(Protocol):
    """Powers of two around the casts of operands, see ``refscale.rivals``."""

    def scale(self, key: str, x: Array, format: Format) -> float:
        """That of the operand at a place of the program."""


class Variable:
    """What the tape remembers of a tensor: everything but its value."""

    __slots__ = ("gradient", "name", "node", "requires_grad", "shape")

    def __init__(self, name: str, shape: Shape, requires_grad: bool, node: Node | None) -> None:
        self.name, self.shape, self.requires_grad, self.node = name, shape, requires_grad, node
        self.gradient: Array | None = None

    def __repr__(self) -> str:
        return f"{self.name}{list(self.shape)}"


class Node:
    """One recorded call: op, variables in and out, factors, and what backward will need (None once used).

    ``kernel`` is the fast form, if it was run: what is kept is for that one.
    """

    __slots__ = ("index", "inputs", "kept", "kernel", "op", "output", "scales")

    def __init__(self, index: int, op: Op, inputs: tuple[Variable, ...], scales: Scales) -> None:
        self.index, self.op, self.inputs, self.scales = index, op, inputs, scales
        self.output: Variable
        self.kept: tuple[Any, ...] | None = None
        self.kernel: Kernel | None = None

    def __repr__(self) -> str:
        return f"#{self.index} {self.op.name}"


class Tensor:
    """A value with an identity on a tape.

    Attributes:
        value: the array, of the tape's carrier dtype (or integer or boolean for constants); read-only.
        variable: its identity; ``grad``, ``shape`` and ``name`` read from it.
        tape: where it is recorded; scheme and precision travel with it.
    """

    __slots__ = ("tape", "value", "variable")

    def __init__(self, value: Array, variable: Variable, tape: Tape) -> None:
        self.value, self.variable, self.tape = value, variable, tape

    @property
    def shape(self) -> Shape:
        """Shape of the value."""
        return self.variable.shape

    @property
    def name(self) -> str:
        """Name shown in reports and errors."""
        return self.variable.name

    @property
    def grad(self) -> Array | None:
        """Gradient accumulated by ``backward``, for leaves; read-only.  None before, and for all else."""
        return self.variable.gradient

    def __repr__(self) -> str:
        return f"Tensor({self.name}, shape={self.shape}, {self.value.dtype})"


class CastRecord(NamedTuple):
    """One rounding: of which variable, where, by which cast, and (if the tape counts) what it lost.

    ``place`` is "leaf", "output", "operand", "operand_gradient" or "gradient". ``clipped`` counts finite elements
    that the format cannot hold (beyond its largest value; of an unsigned format, negative), ``flushed`` non-zero
    elements that became zero; None if not counted.  ``scale`` is the factor around the cast, 1 without; ``blocks``
    how many blocks got a scale of their own.  An operand that several products use is rounded once, and recorded for
    each; in blocks it is converted for each.
    """

    variable: Variable
    place: str
    cast: Cast | BlockCast
    elements: int
    clipped: int | None
    flushed: int | None
    scale: float = 1.0
    blocks: int = 0


Probe = Callable[[str, Variable, Array], None]
"""``probe("forward" | "backward", variable, value or complete gradient)``, called for every one as it is made; arrays
are read-only."""


class Tape:
    """A recording: scheme, precision, carrier, and the calls made so far.

    Args:
        scheme: decides the factors; a scheme or its name.
        precision: decides the rounding; a policy or its name.
        dtype: the carrier, float32 or float64 (for proofs and gradient checks).
        probe: called with every value and gradient as it is made.
        rng: source of random bits, needed only if a cast rounds stochastically.
        count_casts: also count what each cast clipped and flushed.
        operand_scales: the powers of two around the casts of operands; used once.
    """

    def __init__(
        self,
        scheme: str | Scheme = regular,
        precision: str | Precision = fp32,
        dtype: type[np.floating[Any]] = np.float32,
        *,
        probe: Probe | None = None,
        rng: np.random.Generator | None = None,
        count_casts: bool = False,
        operand_scales: OperandScales | None = None,
    ) -> None:
        self.nodes: list[Node] = []
        if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise CarrierError(f"Tape(dtype={dtype}): expected float32 or float64")
        self.scheme, self.precision, self.dtype = get_scheme(scheme), get_precision(precision), np.dtype(dtype)
        self.probe, self.rng, self.count_casts, self.operand_scales = probe, rng, count_casts, operand_scales
        self.exact, self._blocked = self.precision.accumulate is not None, self.precision.blocks is not None
        self.rounds = self.exact or self.precision.store is not None
        self.casts: list[CastRecord] = []
        self._scope: list[str] = []
        self._narrow: dict[int, tuple[weakref.ref[Array], weakref.ref[Array], CastRecord]] = {}

    def __del__(self) -> None:
        # A call and its output refer to each other.  No tensor is left when the tape goes: let go of the arrays now,
        # and not when Python's collector comes round.
        for node in self.nodes:
            node.kept = None
            for variable in node.inputs:
                variable.gradient = None

    def tensor(self, value: ArrayLike, name: str = "leaf", *, requires_grad: bool = True) -> Tensor:
        """A leaf: rounded once to the policy's ``store`` format.  Integers and booleans enter as they are.

        A later write to ``value`` changes nothing: an array that needs no rounding is copied, unless it is read-only
        down to its base, as parameters are.

        Raises:
            CarrierError: a masked array, a matrix, or a dtype that is not real floating-point, integer or boolean.
        """
        call = f"Tape.tensor({name!r})"
        array = plain(call, "value", value)
        variable = Variable(self._name(name), array.shape, requires_grad and array.dtype.kind not in "iub", None)
        if array.dtype.kind in "iub":
            return Tensor(kept(array), variable, self)
        stored = self._enter(call, array, variable, "leaf")
        if self.probe:
            self.probe("forward", variable, stored)
        return Tensor(stored, variable, self)

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix ``name.`` to the names of what is recorded inside; for reports only."""
        self._scope.append(name)
        try:
            yield
        finally:
            self._scope.pop()

    def _name(self, name: str) -> str:
        return ".".join((*self._scope, name)) if self._scope else name

    def _enter(self, call: str, x: Array, variable: Variable, place: str) -> Array:
        """An array from outside, rounded once to what the tape stores; read-only, and nobody else's to write to."""
        if not np.can_cast(x.dtype, np.float64):  # complex, text, objects, records, long doubles
            raise CarrierError(f"{call}: got {x.dtype}, expected a float, integer or boolean array")
        stored = self._store(x.astype(np.float64) if x.dtype.kind in "iub" else x, variable, place)
        if stored.dtype != self.dtype:
            with np.errstate(invalid="ignore"):  # a signaling NaN becomes quiet
                stored = stored.astype(self.dtype)
        return kept(x) if stored is x else freeze(stored)

    def _store(self, x: Any, variable: Variable, place: str, own: bool = False) -> Array:
        """A value or gradient as the tape stores it; those of a report stay as they are, in the carrier."""
        if self.precision.store is not None and not is_report(variable):
            return self._round(self.precision.store, x, variable, place, own=own)
        if self.exact and x.dtype != self.dtype:  # computed exactly, and not rounded yet
            x = _exact().rounded(x, _FLOAT32)
        elif self.exact and isinstance(x, _exact().Product):
            x = x.array()
        return np.asarray(x)

    def has_arithmetic(self, op: Op) -> bool:
        """Whether the arrays of an op compute in a way of their own, in its readable form."""
        return self.exact or (self._blocked and self._recipe(op) is not None)

    def _arithmetic(self, x: Any, node: Node | None = None, index: int | None = None) -> Any:
        """An array as an op computes with it: exactly, or converted to blocks where it is multiplied, or as it is.

        It is input ``index`` of the call ``node``, or without an index the gradient of its output.
        """
        if self.exact:
            return _exact().as_exact(x, self.precision.accumulate)
        if not self._blocked or node is None or (recipe := self._recipe(node.op)) is None:
            return x
        if index is None:
            return Operand.of(x, recipe, "gradient", node.output, self._convert)
        role: Role = "weight" if index in node.op.weight_inputs and x.ndim == 2 else "activation"
        return Operand.of(x, recipe, role, node.inputs[index], self._convert)

    def _recipe(self, op: Op) -> Recipe | None:
        """How the operands of an op are block-scaled."""
        recipe = self.precision.blocks
        if recipe is None or not op.contraction or not self.precision.narrows(op.name):
            return None
        return recipe if op.weight_inputs or not recipe.hadamard else replace(recipe, hadamard=0)

    def _convert(self, x: Array, cast: BlockCast, operand: Operand) -> Array:
        """An operand in blocks, recorded."""
        bits = random_bits(cast, x.shape, self.rng, "Tape")
        q = convert(x, cast, operand, bits)
        clipped, flushed = lost(x, q, cast) if self.count_casts else (None, None)
        place = "operand_gradient" if operand.role == "gradient" else "operand"
        blocks = math.prod(scale_shape(cast, x.shape))
        self.casts.append(CastRecord(operand.label, place, cast, x.size, clipped, flushed, blocks=blocks))
        return q

    def _operand(self, x: Array, variable: Variable, key: str) -> Array:
        """An operand of a contraction, rounded; one array that several of them use is rounded once."""
        cast = self.precision.operand
        if cast is None or self.operand_scales or cast.rounding == "stochastic":
            return self._round(cast, x, variable, "operand", key)
        known = self._narrow.get(id(x))
        if known and known[0]() is x and (q := known[1]()) is not None:
            self.casts.append(known[2]._replace(variable=variable))
            return q
        q = self._round(cast, x, variable, "operand")
        self._narrow[id(x)] = weakref.ref(x), weakref.ref(q), self.casts[-1]
        return q

    def _round(
        self, cast: Cast | None, x: Any, variable: Variable, place: str, key: str = "", own: bool = False
    ) -> Array:
        """cast(x·s)/s, where s is a power of two for the operand ``key``, if operands are scaled, and else 1.

        Where x is the engine's ``own``, the result may take its place.
        """
        if cast is None:
            return np.asarray(x)
        s = self.operand_scales.scale(key, x, cast.format) if key and self.operand_scales else 1.0
        scaled = x if s == 1 else _times(s, x)
        bits = random_bits(cast, x.shape, self.rng, "Tape") if cast.rounding == "stochastic" else None
        if self.exact:
            q = _exact().rounded(scaled, cast, bits)
        else:
            q = cast(scaled, bits, out=x if own and x.dtype == np.float32 and not self.count_casts else None)
        clipped = flushed = None
        if self.count_casts:
            beyond = (np.abs(scaled) > cast.format.max) | ~np.isfinite(q)
            clipped = int(np.count_nonzero(np.isfinite(x) & beyond))
            flushed = int(np.count_nonzero((q == 0) & (x != 0)))
        self.casts.append(CastRecord(variable, place, cast, math.prod(variable.shape), clipped, flushed, s))
        if q.dtype != self.dtype:
            q = q.astype(self.dtype)
        return q if s == 1 else np.asarray(q / s)


def is_report(variable: Variable) -> bool:
    """Whether it is the value of a loss."""
    return variable.node is not None and variable.node.op.reports


def tape_of(call: str, *inputs: object) -> Tape:
    """The one tape of the tensors among the inputs.

    Raises:
        TapeError: no tensor among them, or tensors of two tapes; ``call`` is named in the message.
    """
    tapes = [x.tape for x in inputs if isinstance(x, Tensor)]
    if not tapes:
        raise TapeError(f"{call}: no tensor among the inputs, expected at least one, from Tape.tensor")
    if tapes.count(tapes[0]) < len(tapes):
        raise TapeError(f"{call}: expected tensors of one tape, got {len(set(tapes))} tapes")
    return tapes[0]


def _times(factor: float, x: Array) -> Array:
    """x times a power of two around a cast: what leaves the carrier is beyond the format, too."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(x * factor)


def _exact() -> Any:
    """``refscale.exact``, imported late: only who computes exactly pays for it."""
    from refscale import exact

    return exact
