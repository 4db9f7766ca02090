"""How a gradient is made: Tensor, Tape, Op, apply, backward.

``apply`` rounds an op's inputs, runs it, multiplies by α, rounds the result, and records the call on the tape.
``backward`` walks the records in reverse: it rounds the incoming gradient, runs the op's backward, multiplies by each
β, rounds, and adds up what the consumers of a tensor send back.  Nothing else in the package multiplies by a factor or
rounds; an op is two pure functions of arrays and one of shapes.

The tape holds no values.  What an op needs for its backward it returns as ``kept``; backward drops each as it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.errors import ArgumentError, CarrierError, ShapeError, TapeError
from refscale.exact import Product, as_exact, rounded
from refscale.formats import Cast
from refscale.precision import OperandScales, Precision, fp32, random_bits
from refscale.scales import Call, Constraint, Scales, Scheme, Shape, none, regular

Array = NDArray[Any]


_FLOAT32 = Cast("float32", "nearest_even", "nonsaturate")


class Op:
    """One row of the op table: forward, backward and factors of one function.

    A subclass is a frozen dataclass whose fields are the op's attributes, and defines

    * ``inputs``: their names; ``source``: where the factors come from;
    * ``forward(*arrays) -> (y, kept)``: the function, and a tuple of what backward will need;
    * ``backward(g, *kept) -> (gradient of each input, None for those in ``constants``)``;
    * ``scale(*shapes) -> Scales``: the factors that give unit variance when inputs and gradients are
      independent N(0, 1).  It sees shapes and attributes only.

    ``constants`` are positions of inputs without gradient.  ``contraction`` marks ops that hardware runs on narrow
    operands.  ``has_mean`` marks outputs whose standard deviation and RMS differ: ``scale`` then takes ``statistic``.
    ``reports`` marks a value that is read by people, not by ops, and is not rounded, nor is its gradient (losses).
    ``carries_factors`` marks identities that exist only for their factors: a regular model is the same without them.
    """

    inputs: ClassVar[tuple[str, ...]]
    source: ClassVar[str]
    constants: ClassVar[tuple[int, ...]] = ()
    contraction: ClassVar[bool] = False
    has_mean: ClassVar[bool] = False
    reports: ClassVar[bool] = False
    carries_factors: ClassVar[bool] = False
    forward: ClassVar[Callable[..., tuple[Array, tuple[Any, ...]]]]
    backward: ClassVar[Callable[..., tuple[Array | None, ...]]]
    scale: ClassVar[Callable[..., Scales]]

    def __post_init__(self) -> None:
        # A NumPy scalar attribute would widen float32 arrays to float64.
        for field, value in vars(self).items():
            if isinstance(value, np.floating):
                object.__setattr__(self, field, float(value))

    @property
    def name(self) -> str:
        """``SoftmaxCrossEntropy`` → ``softmax_cross_entropy``."""
        return op_name(type(self))


def op_name(kind: type[Op]) -> str:
    """``Op.name`` of a class."""
    return "".join("_" + c.lower() if c.isupper() else c for c in kind.__name__).lstrip("_")


class Variable:
    """What the tape remembers of a tensor: everything but its value."""

    __slots__ = ("gradient", "name", "node", "requires_grad", "shape")

    def __init__(self, name: str, shape: Shape, requires_grad: bool, node: Node | None) -> None:
        self.name, self.shape, self.requires_grad, self.node = name, shape, requires_grad, node
        self.gradient: Array | None = None

    def __repr__(self) -> str:
        return f"{self.name}{list(self.shape)}"


class Node:
    """One recorded call: op, variables in and out, factors, and what backward will need (None once used)."""

    __slots__ = ("index", "inputs", "kept", "op", "output", "scales")

    def __init__(self, index: int, op: Op, inputs: tuple[Variable, ...], scales: Scales) -> None:
        self.index, self.op, self.inputs, self.scales = index, op, inputs, scales
        self.output: Variable
        self.kept: tuple[Any, ...] | None = None

    def __repr__(self) -> str:
        return f"#{self.index} {self.op.name}"


class Tensor:
    """A value with an identity on a tape.

    Attributes:
        value: the array, of the tape's carrier dtype (or integer or boolean for constants); not to be written to.
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


@dataclass(frozen=True)
class CastRecord:
    """One rounding: of which variable, where, by which cast, and (if the tape counts) what it lost.

    ``place`` is "leaf", "output", "operand", "operand_gradient" or "gradient". ``clipped`` counts finite elements
    that the format cannot hold (beyond its largest value; of an unsigned format, negative), ``flushed`` non-zero
    elements that became zero; None if not counted.  ``scale`` is the factor around the cast, 1 without.
    """

    variable: Variable
    place: str
    cast: Cast
    elements: int
    clipped: int | None
    flushed: int | None
    scale: float = 1.0


Probe = Callable[[str, Variable, Array], None]
"""``probe("forward" | "backward", variable, value or complete gradient)``, called for every one as it is made."""


class Tape:
    """A recording: scheme, precision, carrier, and the calls made so far.

    Args:
        scheme: decides the factors.
        precision: decides the rounding.
        dtype: the carrier, float32 or float64 (for proofs and gradient checks).
        probe: called with every value and gradient as it is made.
        rng: source of random bits, needed only if a cast rounds stochastically.
        count_casts: also count what each cast clipped and flushed.
        operand_scales: the powers of two around the casts of operands; used once.
    """

    def __init__(
        self,
        scheme: Scheme = regular,
        precision: Precision = fp32,
        dtype: type[np.floating[Any]] = np.float32,
        *,
        probe: Probe | None = None,
        rng: np.random.Generator | None = None,
        count_casts: bool = False,
        operand_scales: OperandScales | None = None,
    ) -> None:
        if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise CarrierError(f"Tape(dtype={dtype}): expected float32 or float64")
        self.scheme, self.precision, self.dtype = scheme, precision, np.dtype(dtype)
        self.probe, self.rng, self.count_casts, self.operand_scales = probe, rng, count_casts, operand_scales
        self.nodes: list[Node] = []
        self.casts: list[CastRecord] = []
        self._scope: list[str] = []

    def tensor(self, value: ArrayLike, name: str = "leaf", *, requires_grad: bool = True) -> Tensor:
        """A leaf: rounded once to the policy's ``store`` format.  Integers and booleans enter as they are.

        An array that needs no rounding is kept, not copied: do not write to it before ``backward``.

        Raises:
            CarrierError: the dtype is no real floating-point, integer or boolean type.
        """
        array = np.asarray(value)
        variable = Variable(self._name(name), array.shape, requires_grad and array.dtype.kind not in "iub", None)
        if array.dtype.kind in "iub":
            return Tensor(array, variable, self)
        stored = self._enter(f"Tape.tensor({name!r})", array, variable, "leaf").view()
        stored.flags.writeable = False
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
        return ".".join((*self._scope, name))

    def _enter(self, call: str, x: Array, variable: Variable, place: str) -> Array:
        """An array from outside, rounded once to what the tape stores."""
        if not np.can_cast(x.dtype, np.float64):  # complex, text, objects, records, long doubles
            raise CarrierError(f"{call}: got {x.dtype}, expected a float, integer or boolean array")
        if x.dtype.kind in "iub":
            x = x.astype(np.float64)
        return self._store(x, variable, place).astype(self.dtype, copy=False)

    def _store(self, x: Array | Product, variable: Variable, place: str) -> Array:
        """A value or gradient as the tape stores it; those of a report stay as they are, in the carrier."""
        if not _is_report(variable):
            x = self._round(self.precision.store, x, variable, place)
        return self._in_carrier(x)

    def _sum(self, g: Array, piece: Array, variable: Variable) -> Array:
        """What two consumers of a tensor send back, added and stored."""
        return self._store(np.asarray(self._arithmetic(g) + piece), variable, "gradient")

    def _arithmetic(self, x: Array) -> Array:
        """An array as an op computes with it: exactly, if the policy says so."""
        accumulate = self.precision.accumulate
        return x if accumulate is None else as_exact(x, accumulate)

    def _in_carrier(self, x: Array | Product) -> Array:
        """What an op has computed exactly, and no cast has rounded, rounded to the carrier; anything else as it is."""
        if x.dtype != self.dtype and self.precision.accumulate is not None:
            return rounded(x, _FLOAT32)
        return np.asarray(x.array() if isinstance(x, Product) else x)

    def _round(self, cast: Cast | None, x: Any, variable: Variable, place: str, key: str = "") -> Any:
        """cast(x·s)/s, where s is a power of two for the operand ``key``, if operands are scaled, and else 1."""
        if cast is None:
            return x
        s = self.operand_scales.scale(key, x, cast.format) if key and self.operand_scales else 1.0
        with np.errstate(over="ignore", under="ignore"):  # what leaves the carrier is beyond the format, too
            scaled = x if s == 1 else np.asarray(x * s)
        q = rounded(scaled, cast, random_bits(cast, x.shape, self.rng, "Tape"))
        clipped = flushed = None
        if self.count_casts:
            beyond = (np.abs(scaled) > cast.format.max) | ~np.isfinite(q)
            clipped = int(np.count_nonzero(np.isfinite(x) & beyond))
            flushed = int(np.count_nonzero((q == 0) & (x != 0)))
        self.casts.append(CastRecord(variable, place, cast, x.size, clipped, flushed, s))
        q = q.astype(self.dtype, copy=False)
        return q if s == 1 else np.asarray(q / s)


def apply(
    op: Op, *inputs: Tensor | ArrayLike, constraint: Constraint = none, constrained: Sequence[int] = ()
) -> Tensor:
    """Run a scaled op: round operands, forward, times α, round the output, record.

    Args:
        op: what to compute.
        inputs: tensors of one tape; plain arrays enter as constants without gradient.
        constraint: ties α and the β of the inputs in ``constrained``; asked of the tape's scheme.
        constrained: positions of inputs whose edges are not cut-edges.

    Returns:
        The output, on the same tape.

    Raises:
        TapeError: no tensor among the inputs, or tensors of two tapes.
        ShapeError: shapes that do not fit the op, or another number of inputs than it has.
        CarrierError: integers or booleans where the op computes with numbers.
        ArgumentError: ``constrained`` names no input.
    """
    tape = _tape_of(op, inputs)
    tensors = [
        x if isinstance(x, Tensor) else tape.tensor(x, f"{op.name}.constant", requires_grad=False) for x in inputs
    ]
    shapes = tuple(t.shape for t in tensors)
    if op.inputs[0][0] != "*" and len(tensors) != len(op.inputs):
        raise ShapeError(f"apply({op.name}): {len(tensors)} inputs given, expected {', '.join(op.inputs)}")
    for i, t in enumerate(tensors):
        if t.value.dtype != tape.dtype and i not in op.constants:
            raise CarrierError(f"apply({op.name}): input {i} is {t.value.dtype}, expected numbers of {tape.dtype}")
    if not all(0 <= i < len(tensors) for i in constrained):
        raise ArgumentError(f"apply({op.name}): constrained={tuple(constrained)} but {len(tensors)} inputs given")
    scales = tape.scheme.scales(Call(op, shapes, constraint, tuple(constrained), len(tape.nodes)))
    node = Node(len(tape.nodes), op, tuple(t.variable for t in tensors), scales)
    arrays = [t.value for t in tensors]
    narrow = op.contraction and tape.precision.narrows(op.name)
    for i, t in enumerate(tensors):
        if _is_report(t.variable) and not op.reports:  # a loss is not rounded until an op computes with it
            arrays[i] = tape._round(tape.precision.store, arrays[i], t.variable, "operand")
        if narrow:
            key = f"{node.index}.{op.name}.{i}"
            arrays[i] = tape._round(tape.precision.operand, arrays[i], t.variable, "operand", key)
    y, kept = op.forward(*map(tape._arithmetic, arrays))
    y = _as_array(y)
    requires_grad = any(t.variable.requires_grad for i, t in enumerate(tensors) if i not in op.constants)
    node.output = Variable(tape._name(op.name), y.shape, requires_grad, node)
    y = _times(scales.alpha, y, *arrays, *kept)
    # A view times 1 holds values that are representable already.
    if scales.alpha != 1 or not _aliases(y, arrays):
        y = tape._store(y, node.output, "output")
    node.kept = kept if requires_grad else None
    _check(f"{op.name}.forward", y, y.shape, tape)
    tape.nodes.append(node)
    if tape.probe:
        tape.probe("forward", node.output, y)
    return Tensor(y, node.output, tape)


def backward(output: Tensor, gradient: ArrayLike | None = None) -> None:
    """Propagate a gradient from ``output`` to the leaves, adding to their ``grad``.

    Args:
        output: where to start.
        gradient: dL/d(output), of its shape; may be left out for a scalar, where it is 1.

    Raises:
        TapeError: ``output`` is not scalar and no gradient is given, or it does not depend on a leaf with
            gradient, or a buffer it needs was consumed by an earlier backward.
        ShapeError: ``gradient`` has another shape than ``output``.
    """
    tape, start = output.tape, output.variable
    if start.node is None or not start.requires_grad:
        raise TapeError(f"backward({output}): it depends on no leaf that requires a gradient")
    if gradient is None:
        if output.value.size != 1:
            raise TapeError(f"backward({output}): not a scalar, so dL/d(output) must be given")
        gradient = np.ones(start.shape)
    seed = np.asarray(gradient)
    if seed.shape != start.shape:
        raise ShapeError(f"backward({output}): gradient has shape {seed.shape}, expected {start.shape}")
    seed = tape._enter(f"backward({output})", seed, start, "gradient").view()
    seed.flags.writeable = False  # it may be the caller's own array
    pending = {start: seed}
    for node in reversed(tape.nodes[: start.node.index + 1]):
        g = pending.pop(node.output, None)
        if g is None:
            continue
        if node.kept is None:
            raise TapeError(f"backward: {node} was consumed by an earlier backward; record it again")
        if tape.probe:
            tape.probe("backward", node.output, g)
        if node.op.contraction and tape.precision.narrows(node.op.name):
            key = f"{node.index}.{node.op.name}.gradient"
            g = tape._round(tape.precision.operand_gradient, g, node.output, "operand_gradient", key)
        # The gradient of an identity is that of its output: β multiplies it in place, where nobody else holds it.
        spare = node.op.carries_factors and not tape.probe and not _aliases(g, list(pending.values()))
        for variable, piece in _pieces(tape, node, g, spare):
            if variable in pending:
                pending[variable] = tape._sum(pending[variable], piece, variable)
            else:
                pending[variable] = piece
        node.kept = None
    for leaf, g in pending.items():
        if tape.probe:
            tape.probe("backward", leaf, g)
        if leaf.gradient is not None:  # of an earlier backward, from another output
            g = tape._sum(leaf.gradient, g, leaf)
        leaf.gradient = g.view()
        leaf.gradient.flags.writeable = False


def _pieces(tape: Tape, node: Node, g: Array, spare: bool) -> Iterator[tuple[Variable, Array]]:
    """The gradient that one node sends to each of its inputs: vjp, times β, rounded; ``spare`` lets it overwrite g."""
    kept = node.kept or ()
    pieces = node.op.backward(tape._arithmetic(g), *kept)
    if len(pieces) != len(node.inputs):
        raise TapeError(f"{node.op.name}.backward returned {len(pieces)} gradients for {len(node.inputs)} inputs")
    for i, (variable, piece, beta) in enumerate(zip(node.inputs, pieces, node.scales.beta, strict=True)):
        if not variable.requires_grad or i in node.op.constants:
            continue
        if piece is None or beta is None:
            raise TapeError(f"{node.op.name}: input {i} requires a gradient, but backward or scale gave None")
        piece = _as_array(piece)
        _check(f"{node.op.name}.backward", piece, variable.shape, tape)
        others = [p for j, p in enumerate(pieces) if j != i and p is not None]
        scaled = _times(beta, piece, None if spare else g, *kept, *others)
        if beta != 1 or not _aliases(scaled, [g]):
            scaled = tape._store(scaled, variable, "gradient")
        yield variable, scaled


def _is_report(variable: Variable) -> bool:
    return variable.node is not None and variable.node.op.reports


def _tape_of(op: Op, inputs: Sequence[object]) -> Tape:
    tapes = {id(x.tape): x.tape for x in inputs if isinstance(x, Tensor)}
    if len(tapes) != 1:
        raise TapeError(f"apply({op.name}): expected tensors of one tape, got {len(tapes)} tapes")
    return next(iter(tapes.values()))


def _aliases(x: Array, others: Sequence[object]) -> bool:
    return any(isinstance(o, np.ndarray) and np.may_share_memory(x, o) for o in others)


def _as_array(x: Any) -> Any:
    """NumPy makes a scalar of what has no dimensions; a product is no array yet."""
    return x if isinstance(x, Product) else np.asanyarray(x)


def _times(factor: float, x: Any, *others: object) -> Any:
    """``factor·x``, in place unless someone else may hold the memory."""
    if factor == 1:
        return x
    if isinstance(x, Product):
        return x * factor
    own = x.flags.writeable and not _aliases(x, others)
    return np.asarray(np.multiply(x, factor, out=x if own else None))


def _check(where: str, x: Array, shape: Shape, tape: Tape) -> None:
    dtype = tape.dtype if tape.precision.accumulate is None else x.dtype  # exactly computed, it is still wide
    if x.shape != shape or x.dtype != dtype:
        raise TapeError(f"{where} returned {x.dtype}{list(x.shape)}, expected {dtype}{list(shape)}")
