"""How it runs: ``apply`` and ``backward``, and who may write to an array.

``apply`` rounds an op's inputs, runs it, multiplies by α, rounds the result, and records the call on the tape.
``backward`` walks the records in reverse: it rounds the incoming gradient, runs the op's backward, multiplies by each
β, rounds, and adds up what the consumers of a tensor send back.  Nothing else in the package multiplies by a factor or
rounds.  An op that has a kernel is handed its factors, to be multiplied where that takes no pass of its own: of a
product, on the smallest of its arrays.  In exact arithmetic the readable form runs, and its result is multiplied.

Who owns an array: the engine, if it has made it, by a factor, a sum or a cast, or had it made by a kernel, which
returns new arrays, but for one that it keeps and for g itself; and whatever an op that ``moves`` makes of a gradient
that the engine owns.  It overwrites these until they are handed out, and nothing else.  What is handed out (values,
gradients, arrays that a probe sees) is read-only; what comes in is copied unless nobody can write to it (``arrays``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refscale.arrays import freeze, plain
from refscale.engine.op import Array, Op, kernel_of
from refscale.engine.record import Node, Tape, Tensor, Variable, is_report, tape_of
from refscale.engine.rows import Rows
from refscale.errors import ArgumentError, CarrierError, ShapeError, TapeError
from refscale.scales import Call, Constraint, get_constraint, none


def apply(
    op: Op,
    *inputs: Tensor | ArrayLike,
    constraint: str | Constraint | None = None,
    constrained: Sequence[int] = (),
) -> Tensor:
    """Run a scaled op: round operands, forward, times α, round the output, record.

    Args:
        op: what to compute.
        inputs: tensors of one tape; plain arrays enter as constants without gradient.
        constraint: ties α and the β of the inputs in ``constrained``; asked of the tape's scheme.  A constraint or its
            name; given together with ``constrained``, or as ``none`` alone.
        constrained: positions of inputs whose edges are not cut-edges.

    Returns:
        The output, on the same tape.

    Raises:
        TapeError: no tensor among the inputs, or tensors of two tapes.
        ShapeError: shapes that do not fit the op, or another number of inputs than it has.
        CarrierError: integers or booleans where the op computes with numbers.
        ArgumentError: ``op`` is a class, ``constrained`` names no input, or ``constraint`` and ``constrained`` are not
            given together.
    """
    if not isinstance(op, Op):
        raise ArgumentError(f"apply({op!r}): expected an instance of an op, such as Gelu()")
    tape = tape_of(f"apply({op.name})", *inputs)
    tensors = [
        x if isinstance(x, Tensor) else tape.tensor(x, f"{op.name}.constant", requires_grad=False) for x in inputs
    ]
    if len(tensors) != len(op.inputs) and op.inputs[0][0] != "*":
        raise ShapeError(f"apply({op.name}): {len(tensors)} inputs given, expected {', '.join(op.inputs)}")
    for i in constrained:
        if not 0 <= i < len(tensors):
            raise ArgumentError(f"apply({op.name}): constrained={tuple(constrained)} but {len(tensors)} inputs given")
    rule = none if constraint is None else get_constraint(constraint)
    if constrained and constraint is None:
        raise ArgumentError(f"apply({op.name}): constrained={tuple(constrained)} without a constraint")
    if rule is not none and not constrained:
        raise ArgumentError(f"apply({op.name}): a constraint without constrained, the positions of inputs that it ties")
    variables = tuple([t.variable for t in tensors])
    shapes = tuple([v.shape for v in variables])
    index = len(tape.nodes)
    scales = tape.scheme.scales(Call(op, shapes, rule, tuple(constrained), index))
    node = Node(index, op, variables, scales)
    narrow = op.contraction and tape.precision.narrows(op.name)
    arrays, requires_grad = [], False
    for i, t in enumerate(tensors):
        x, variable = t.value, t.variable
        if i not in op.constants:
            if x.dtype != tape.dtype:
                raise CarrierError(f"apply({op.name}): input {i} is {x.dtype}, expected numbers of {tape.dtype}")
            requires_grad = requires_grad or variable.requires_grad
        if is_report(variable) and not op.reports:  # a loss is not rounded until an op computes with it
            x = tape._round(tape.precision.store, x, variable, "operand")
        if narrow:
            x = tape._operand(x, variable, f"{index}.{op.name}.{i}")
        arrays.append(x)
    y, kept, own = _forward(tape, node, arrays)
    output = node.output = Variable(tape._name(op.name), y.shape, requires_grad, node)
    if tape.rounds and (scales.alpha != 1 or not op.moves):  # what was moved is rounded already
        y = tape._store(y, output, "output", own)
    if y.dtype != tape.dtype:
        raise TapeError(f"{op.name}.forward returned {y.dtype}{list(y.shape)}, expected {tape.dtype}{list(y.shape)}")
    if requires_grad:
        node.kept = kept
    tape.nodes.append(node)
    freeze(y)
    if tape.probe:
        tape.probe("forward", output, y)
    return Tensor(y, output, tape)


def _forward(tape: Tape, node: Node, arrays: list[Array]) -> tuple[Any, tuple[Any, ...], bool]:
    """α·y, what backward will need, and whether the engine owns the former."""
    op, alpha = node.op, node.scales.alpha
    node.kernel = None if tape.has_arithmetic(op) else kernel_of(op)
    if node.kernel is not None:
        y, kept = node.kernel.forward(op, alpha, *arrays)
        return _as_array(y), kept, not any(y is k for k in kept)
    y, kept = op.forward(*(arrays if op.moves else [tape._arithmetic(x, node, i) for i, x in enumerate(arrays)]))
    return _times(alpha, tape._arithmetic(_as_array(y)), False) if alpha != 1 else _as_array(y), kept, alpha != 1


def backward(output: Tensor, gradient: ArrayLike | None = None) -> None:
    """Propagate a gradient from ``output`` to the leaves, adding to their ``grad``.

    Args:
        output: where to start.
        gradient: dL/d(output), of its shape; may be left out for a scalar, where it is 1.

    Raises:
        CarrierError: ``gradient`` is a masked array, a matrix, or not of real numbers.
        TapeError: ``output`` is not scalar and no gradient is given, or it does not depend on a leaf with
            gradient, or a buffer it needs was consumed by an earlier backward.
        ShapeError: ``gradient`` has another shape than ``output``.
    """
    tape, start = tape_of("backward", output), output.variable
    if start.node is None or not start.requires_grad:
        raise TapeError(f"backward({output}): it depends on no leaf that requires a gradient")
    if gradient is None:
        if output.value.size != 1:
            raise TapeError(f"backward({output}): not a scalar, so dL/d(output) must be given")
        gradient = np.ones(start.shape)
    seed = plain(f"backward({output})", "gradient", gradient)
    if seed.shape != start.shape:
        raise ShapeError(f"backward({output}): gradient has shape {seed.shape}, expected {start.shape}")
    nodes = tape.nodes[: start.node.index + 1]
    pending = _Pending(tape, _paid_ahead(tape, nodes))
    pending.add(start, tape._enter(f"backward({output})", seed, start, "gradient"), False)
    for node in reversed(nodes):
        if node.output not in pending.gradients:
            continue
        if node.kept is None:
            raise TapeError(f"backward: {node} was consumed by an earlier backward; record it again")
        _send_back(pending, node)
        node.kept = None
    for leaf in list(pending.gradients):
        g, own = pending.take(leaf)
        if leaf.gradient is not None:  # of an earlier backward, from another output
            g = pending.sum(leaf.gradient, False, g, own, leaf)
        leaf.gradient = freeze(g)


def _paid_ahead(tape: Tape, nodes: Sequence[Node]) -> dict[Variable, float]:
    """By variable, the factor that what its consumers send back holds already, where that is not 1.

    β of an identity, such as a fork, would be a pass over the gradient.  If all that use its output are products, whose
    kernels multiply for nothing, or moves of it, they multiply by it, too; unless the gradient is rounded in between.
    """
    paid: dict[Variable, float] = {}
    if tape.exact or tape.precision.store is not None:
        return paid
    if not any(n.op.moves and n.scales.beta[0] != 1 for n in nodes):
        return paid
    takes: dict[Variable, bool] = {}
    for node in nodes:
        able = (node.op.contraction and node.kernel is not None) or (node.op.moves and len(node.inputs) == 1)
        for variable in node.inputs:
            takes[variable] = able and takes.get(variable, True)
    for node in nodes:
        if node.op.moves and len(node.inputs) == 1 and takes.get(node.output, False):
            factor = (node.scales.beta[0] or 1.0) * paid.get(node.inputs[0], 1.0)
            if factor != 1:
                paid[node.output] = factor
    return paid


class _Pending:
    """Gradients that are not complete yet, by variable; and whether the engine owns each."""

    def __init__(self, tape: Tape, paid: dict[Variable, float]) -> None:
        self.tape, self.paid = tape, paid
        self.gradients: dict[Variable, tuple[Any, bool]] = {}

    def add(self, variable: Variable, g: Any, own: bool) -> None:
        """What one consumer of a tensor sends back."""
        if variable in self.gradients:
            g, own = self.sum(*self.gradients[variable], g, own, variable), True
        self.gradients[variable] = g, own

    def sum(self, a: Any, a_own: bool, b: Any, b_own: bool, variable: Variable) -> Array:
        """a + b, stored; in the place of one that the engine owns."""
        if isinstance(a, Rows):
            a, a_own, b, b_own = b, b_own, a, a_own
        if isinstance(a, Rows):
            a, a_own = a.dense(), True
        if isinstance(b, Rows):
            total: Array = a if a_own else a.copy("K")
            some = total[b.indices] + b.values
            total[b.indices] = self.tape._store(some, variable, "gradient", True)
            return total
        if self.tape.exact:
            return self.tape._store(self.tape._arithmetic(a) + b, variable, "gradient")
        total = np.asarray(np.add(a, b, out=a if a_own else b if b_own else None))
        return self.tape._store(total, variable, "gradient", True)

    def take(self, variable: Variable, sparse: bool = False) -> tuple[Any, bool]:
        """A complete gradient; as ``Rows``, if it is such, only where those will do."""
        g, own = self.gradients.pop(variable)
        if isinstance(g, Rows) and (self.tape.probe or not sparse):
            g, own = g.dense(), True
        if self.tape.probe:
            seen = g / self.paid[variable] if variable in self.paid else g
            self.tape.probe("backward", variable, freeze(seen))
            own = False  # who has seen it may keep it
        return g, own


def _send_back(pending: _Pending, node: Node) -> None:
    """The gradient that one node sends to each of its inputs: vjp, times β, rounded."""
    tape, op, inputs, kept = pending.tape, node.op, node.inputs, node.kept or ()
    g, own = pending.take(node.output, sparse=op.carries_factors)
    if op.contraction and tape.precision.narrows(op.name):
        key = f"{node.index}.{op.name}.gradient"
        g = tape._round(tape.precision.operand_gradient, g, node.output, "operand_gradient", key)
    wanted = [v.requires_grad and i not in op.constants for i, v in enumerate(inputs)]
    all_betas = node.scales.beta
    if pending.paid:
        paid = pending.paid.get(node.output, 1.0)
        all_betas = tuple([b and b * pending.paid.get(v, 1.0) / paid for b, v in zip(all_betas, inputs, strict=True)])
    kernel = node.kernel
    if kernel is None:
        pieces = op.backward(g if op.moves else tape._arithmetic(g, node), *kept)
    else:
        betas = [beta if w else None for beta, w in zip(all_betas, wanted, strict=True)]
        pieces = kernel.backward(op, betas, g, *kept)
    if len(pieces) != len(inputs):
        raise TapeError(f"{op.name}.backward returned {len(pieces)} gradients for {len(inputs)} inputs")
    for i, (variable, piece, beta) in enumerate(zip(inputs, pieces, all_betas, strict=True)):
        if not wanted[i]:
            continue
        if piece is None or beta is None:
            raise TapeError(f"{op.name}: input {i} requires a gradient, but backward or scale gave None")
        piece = _as_array(piece)
        if piece.shape != variable.shape or (piece.dtype != tape.dtype and not tape.exact):
            raise TapeError(
                f"{op.name}.backward returned {piece.dtype}{list(piece.shape)}, "
                f"expected {tape.dtype}{list(variable.shape)}"
            )
        if kernel is not None:
            owned, moved = piece is not g, piece is g or (op.moves and beta == 1)
        else:
            owned = own and op.moves and len(pieces) == 1
            moved = beta == 1 and (op.moves or piece is g)
            if beta != 1:
                piece, owned = _times(beta, tape._arithmetic(piece), owned), True
        if tape.rounds and not moved:  # what was moved is rounded already
            stored = _stored(tape, piece, variable, owned)
            piece, owned = stored, owned or stored is not piece
        pending.add(variable, piece, owned and not tape.exact)


def _stored(tape: Tape, g: Any, variable: Variable, own: bool) -> Any:
    """A gradient as the tape stores it."""
    if isinstance(g, Rows):
        return Rows(g.indices, tape._store(g.values, variable, "gradient", own), g.shape)
    return tape._store(g, variable, "gradient", own)


def _times(factor: float, x: Any, own: bool) -> Any:
    """factor·x, in its place if the engine owns x."""
    if factor == 1:
        return x
    if isinstance(x, Rows):
        return Rows(x.indices, _times(factor, x.values, own), x.shape)
    if own:
        return np.multiply(x, factor, out=x)
    return _as_array(x * factor)


def _as_array(x: Any) -> Any:
    """NumPy makes a scalar of what has no dimensions."""
    return np.asarray(x) if isinstance(x, np.generic) else x
