"""The recording of a computation: tensors, calls, and the tape.

The tape stores no values. An op returns the arrays that its backward pass uses as ``kept``; ``backward`` drops each
``kept`` once it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike

from refscale.arrays import freeze, kept, plain
from refscale.engine.op import Array, Op
from refscale.engine.operators import Operators
from refscale.errors import ArgumentError, CarrierError, FactorError, ShapeError, TapeError
from refscale.precision import CastRecord, OperandScaling, Precision, Remembering, Rounder, fp32, get_precision
from refscale.scales import Call, Constraint, Scales, Scheme, Shape, close, get_constraint, get_scheme, none, regular


class Variable:
    """The identity of a tensor without its value: name, shape, the call that made it, and the gradient of a leaf.

    ``reports``: it is the value of a loss. ``retained``: its gradient is kept, as for every leaf. ``factor`` is the
    constant c of that gradient, see ``graph.gradient_factors``; None if it was not checked.
    """

    __slots__ = ("factor", "gradient", "name", "node", "reports", "requires_grad", "retained", "shape")

    def __init__(self, name: str, shape: Shape, requires_grad: bool, node: Node | None) -> None:
        self.name, self.shape, self.requires_grad, self.node = name, shape, requires_grad, node
        self.reports = node is not None and node.op.reports
        self.retained = node is None
        self.gradient: Array | None = None
        self.factor: float | None = None

    def __repr__(self) -> str:
        return f"{self.name}{list(self.shape)}"


class Node:
    """One recorded call: op, variables in and out, factors, and ``kept`` for the backward pass (None once used).

    ``wanted`` is a tuple of booleans: whether each input receives a gradient. ``fast`` is True if the op's fast form
    was run, to which ``kept`` then belongs.
    """

    __slots__ = ("fast", "index", "inputs", "kept", "op", "output", "scales", "wanted")

    def __init__(self, index: int, op: Op, inputs: tuple[Variable, ...], scales: Scales) -> None:
        self.index, self.op, self.inputs, self.scales = index, op, inputs, scales
        self.output: Variable
        self.kept: tuple[Any, ...] | None = None
        self.fast = False
        self.wanted = tuple([v.requires_grad and i not in op.constants for i, v in enumerate(inputs)])

    def passes(self, index: int) -> bool:
        """Return whether the gradient of input ``index`` consists of unchanged elements of the output's gradient."""
        if self.scales.beta[index] != 1:
            return False
        return self.op.moves or (index in self.op.passes and self.inputs[index].shape == self.output.shape)

    def __repr__(self) -> str:
        return f"#{self.index} {self.op.name}"


class Tensor(Operators):
    """A read-only array, recorded on a tape.

    ``x + y``, ``x - y``, ``x * y`` and ``x @ y`` run ops, unconstrained; a plain array on either side is a constant.
    ``np.asarray(x)`` is the value, read-only; other NumPy functions of a tensor raise TapeError.

    Attributes:
        value: the array, of the tape's carrier dtype (or integer or boolean for constants); read-only.
        variable: the identity of the tensor, the source of ``grad``, ``shape`` and ``name``.
        tape: the tape of the tensor, with its scheme and precision.
    """

    __slots__ = ("tape", "value", "variable")

    def __init__(self, value: Array, variable: Variable, tape: Tape) -> None:
        self.value, self.variable, self.tape = value, variable, tape

    @property
    def shape(self) -> Shape:
        """Shape of the value."""
        return self.variable.shape

    @property
    def ndim(self) -> int:
        """Number of axes of the value."""
        return self.value.ndim

    @property
    def size(self) -> int:
        """Number of elements of the value."""
        return self.value.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the value: the tape's carrier, or integer or boolean for constants."""
        return self.value.dtype

    @property
    def name(self) -> str:
        """Name shown in reports and errors."""
        return self.variable.name

    @property
    def grad(self) -> Array | None:
        """Gradient of a leaf, accumulated by ``backward``; read-only. None before ``backward``, and for constants.

        Raises:
            TapeError: the tensor is not a leaf, and its gradient is not retained.
        """
        if not self.variable.retained:
            raise TapeError(f"{self}.grad: only leaves keep their gradient; call retain_grad() of it before backward")
        return self.variable.gradient

    def retain_grad(self) -> Self:
        """Keep the gradient of a tensor that is not a leaf, for ``grad``; call it before ``backward``.

        Returns:
            The tensor itself.

        Raises:
            TapeError: the tensor does not depend on a leaf that requires a gradient.
        """
        if not self.variable.requires_grad:
            raise TapeError(f"{self}.retain_grad(): it does not depend on a leaf that requires a gradient")
        self.variable.retained = True
        return self

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> Array:
        """The value for ``np.asarray``: itself, read-only, unless another dtype or a copy is asked for."""
        return np.array(self.value, dtype, copy=copy)

    def __float__(self) -> float:
        """The value of a tensor of one element, such as a loss."""
        if self.size != 1:
            raise ShapeError(f"float({self}): expected a tensor of one element")
        return float(self.value.item())

    def __repr__(self) -> str:
        return f"Tensor({self.name}, shape={self.shape}, {self.dtype})"


Probe = Callable[[str, Variable, Array], None]
"""``probe("forward" | "backward", variable, value or complete gradient)``, called for each as it is made; arrays
are read-only."""


class Tape:
    """A recorded computation: scheme, precision, carrier, and the calls made so far.

    Args:
        scheme: the scheme that chooses the factors, or its name; default regular: all factors 1.
        precision: the policy that chooses the rounding, or its name; default fp32: no rounding.
        dtype: the carrier, float32 (default) or float64 (for proofs and gradient checks).
        probe: called with every value and gradient as it is computed; see ``Probe``.
        rng: source of random bits, needed only if a cast rounds stochastically.
        count_casts: count the elements that each cast clips and flushes to zero.
        operand_scales: powers of two around the casts of operands (per-tensor scaling), for one tape only.
        fast: run the fast executor; False: the readable executor, which is the specification.
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
        operand_scales: OperandScaling | None = None,
        fast: bool = True,
    ) -> None:
        self.nodes: list[Node] = []
        if np.dtype(dtype) not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise CarrierError(f"Tape(dtype={dtype}): expected float32 or float64")
        self.scheme, self.precision, self.dtype = get_scheme(scheme), get_precision(precision), np.dtype(dtype)
        self.probe, self.fast = probe, fast
        self.rounder = (Remembering if fast else Rounder)(
            self.precision, self.dtype, rng=rng, count_casts=count_casts, operand_scales=operand_scales
        )
        self._scope: list[str] = []

    def __del__(self) -> None:
        # A call and its output refer to each other. No tensor is left when the tape is deleted: free the arrays now,
        # not when Python's collector runs.
        for node in self.nodes:
            node.kept = None
            for variable in (*node.inputs, node.output):
                variable.gradient = None

    @property
    def casts(self) -> list[CastRecord]:
        """The casts made so far, in order."""
        return self.rounder.casts

    def tensor(self, value: ArrayLike, name: str = "leaf", *, requires_grad: bool = True) -> Tensor:
        """Make a leaf, rounded once to the policy's ``store`` format; integers and booleans stay unchanged.

        A later write to ``value`` has no effect: an array that needs no rounding is copied, unless it is read-only
        down to its base, as parameters are.

        Args:
            value: real numbers, integers or booleans of any shape.
            name: name in reports and errors.
            requires_grad: compute the gradient of the leaf; always False for integers and booleans.

        Raises:
            CarrierError: a masked array, a matrix, or a dtype that is not real floating-point, integer or boolean.
            TapeError: ``value`` is a tensor already.
        """
        if isinstance(value, Tensor):
            raise TapeError(
                f"Tape.tensor({name!r}): value is {value}, and a new leaf would cut its gradient; use the tensor "
                "itself, or np.asarray(tensor) for a leaf of its value"
            )
        call = f"Tape.tensor({name!r})"
        array = plain(call, "value", value)
        variable = Variable(self.scoped(name), array.shape, requires_grad and array.dtype.kind not in "iub", None)
        if array.dtype.kind in "iub":
            return Tensor(kept(array), variable, self)
        stored = self.rounder.enter(call, array, variable, "leaf")
        if self.probe:
            self.probe("forward", variable, stored)
        return Tensor(stored, variable, self)

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix ``name.`` to the names of tensors recorded inside; for reports only."""
        self._scope.append(name)
        try:
            yield
        finally:
            self._scope.pop()

    def scoped(self, name: str) -> str:
        """Return a name with the prefixes of the current scopes."""
        return ".".join((*self._scope, name)) if self._scope else name


def call(
    op: Op, inputs: Sequence[Tensor | ArrayLike], constraint: str | Constraint | None, constrained: Sequence[int]
) -> tuple[Node, tuple[Tensor, ...]]:
    """Check a call of ``apply`` and get its factors from the scheme: return the node, not recorded yet, and inputs."""
    if not isinstance(op, Op):
        raise ArgumentError(f"apply({op!r}): expected an instance of an op, such as Gelu()")
    tape = tape_of(f"apply({op.name})", *inputs)
    tensors = tuple(
        [x if isinstance(x, Tensor) else tape.tensor(x, f"{op.name}.constant", requires_grad=False) for x in inputs]
    )
    if len(tensors) != len(op.inputs) and op.inputs[0][0] != "*":
        raise ShapeError(f"apply({op.name}): {len(tensors)} inputs given, expected {', '.join(op.inputs)}")
    for i in constrained:
        if not 0 <= i < len(tensors):
            raise ArgumentError(f"apply({op.name}): constrained={tuple(constrained)} but {len(tensors)} inputs given")
    rule = none if constraint is None else get_constraint(constraint)
    if constrained and constraint is None:
        raise ArgumentError(f"apply({op.name}): constrained={tuple(constrained)} without a constraint")
    if rule is not none and not constrained:
        raise ArgumentError(f"apply({op.name}): a constraint without constrained, the positions of constrained inputs")
    for i, t in enumerate(tensors):
        if i not in op.constants and t.value.dtype != tape.dtype:
            raise CarrierError(f"apply({op.name}): input {i} is {t.value.dtype}, expected numbers of {tape.dtype}")
    variables = tuple([t.variable for t in tensors])
    index = len(tape.nodes)
    shapes = tuple([v.shape for v in variables])
    request = Call(op, shapes, rule, tuple(constrained), index)
    scales = tape.scheme.scales(request)
    node = Node(index, cast(Op, tape.scheme.op(request)), variables, scales)
    node.output = Variable(tape.scoped(op.name), (), any(node.wanted), node)
    tape.rounder.place(index, node.output, variables)
    return node, tensors


def record(tape: Tape, node: Node, y: Any, kept: tuple[Any, ...]) -> Tensor:
    """Record a call on the tape, with its output and the arrays that its backward pass uses."""
    if y.dtype != tape.dtype:
        raise TapeError(
            f"{node.op.name}.forward returned {y.dtype}{list(y.shape)}, expected {tape.dtype}{list(y.shape)}"
        )
    if node.output.requires_grad:
        node.kept = kept
    tape.nodes.append(node)
    freeze(y)
    if tape.probe:
        tape.probe("forward", node.output, y)
    return Tensor(y, node.output, tape)


def seed(output: Tensor, gradient: ArrayLike | None) -> Array:
    """Check a call of ``backward``, and return dL/d(output), rounded like a leaf."""
    tape, start = tape_of("backward", output), output.variable
    if start.node is None or not start.requires_grad:
        raise TapeError(f"backward({output}): it does not depend on a leaf that requires a gradient")
    if gradient is None:
        if output.value.size != 1:
            raise TapeError(f"backward({output}): not a scalar, so dL/d(output) must be given")
        gradient = np.ones(start.shape)
    array = plain(f"backward({output})", "gradient", gradient)
    if array.shape != start.shape:
        raise ShapeError(f"backward({output}): gradient has shape {array.shape}, expected {start.shape}")
    return tape.rounder.enter(f"backward({output})", array, start, "gradient")


def take(node: Node) -> tuple[Any, ...]:
    """Return and drop the arrays that a call kept for its backward pass, which runs once."""
    kept, node.kept = node.kept, None
    if kept is None:
        raise TapeError(f"backward: {node} was consumed by an earlier backward; record it again")
    return kept


def calls_before(tape: Tape, output: Variable) -> Iterator[Node]:
    """Yield the calls up to the one that made ``output``, last first."""
    assert output.node is not None  # ``seed`` has checked it
    return reversed(tape.nodes[: output.node.index + 1])


def check_pieces(node: Node, pieces: Sequence[Any], tape: Tape) -> None:
    """Raise TapeError unless an op's backward pass returned a gradient of the right shape for every wanted input."""
    op = node.op
    if len(pieces) != len(node.inputs):
        raise TapeError(f"{op.name}.backward returned {len(pieces)} gradients for {len(node.inputs)} inputs")
    for i, (variable, piece, beta) in enumerate(zip(node.inputs, pieces, node.scales.beta, strict=True)):
        if not node.wanted[i]:
            continue
        if piece is None or beta is None:
            raise TapeError(f"{op.name}: input {i} requires a gradient, but backward or scale gave None")
        if piece.shape != variable.shape or (piece.dtype != tape.dtype and not tape.rounder.exact):
            raise TapeError(
                f"{op.name}.backward returned {piece.dtype}{list(piece.shape)}, "
                f"expected {tape.dtype}{list(variable.shape)}"
            )


def receive(leaf: Variable, g: Array, factor: float | None, rounder: Rounder) -> None:
    """Add a gradient, ``factor`` times the true one, to the gradient of a leaf from earlier backward passes."""
    if leaf.gradient is None:
        leaf.factor = factor
    else:
        if factor is not None and leaf.factor is not None and not close(factor, leaf.factor):
            raise FactorError(
                f"backward: {leaf} has a gradient of {leaf.factor:.9g} times the true one, this one is {factor:.9g} "
                "times: their sum is not a multiple of the true gradient; use a tape for each output"
            )
        g = rounder.sum(leaf.gradient, g, leaf)
    leaf.gradient = freeze(g)


def tape_of(call: str, *inputs: object) -> Tape:
    """Return the tape of the tensors among the inputs.

    Args:
        call: the function called, for messages.
        inputs: tensors of one tape, and other objects.

    Raises:
        TapeError: the inputs have no tensor, or tensors of two tapes.
    """
    tapes = [x.tape for x in inputs if isinstance(x, Tensor)]
    if not tapes:
        raise TapeError(f"{call}: no tensor among the inputs, expected at least one, from Tape.tensor")
    if tapes.count(tapes[0]) < len(tapes):
        raise TapeError(f"{call}: expected tensors of one tape, got {len(set(tapes))} tapes")
    return tapes[0]
