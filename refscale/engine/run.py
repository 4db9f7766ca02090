"""How it runs: ``apply`` and ``backward``, on a page.

This page is the specification. The engine alone multiplies by factors, and its rounder alone rounds; ops do neither.
``refscale.engine.fast`` does the same in fewer passes, and is the default: ``Tape(..., fast=False)`` runs this page.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from refscale.arrays import freeze
from refscale.engine import fast
from refscale.engine.factors import settle
from refscale.engine.op import Array, Op
from refscale.engine.record import Tape, Tensor, Variable, call, calls_before, check_pieces, receive, record, seed, take
from refscale.scales import Constraint


def apply(
    op: Op,
    *inputs: Tensor | ArrayLike,
    constraint: str | Constraint | None = None,
    constrained: Sequence[int] = (),
) -> Tensor:
    """Run a scaled op: cast the operands, forward, times α, cast the output, record.

    Args:
        op: what to compute.
        inputs: tensors of one tape; plain arrays enter as constants without gradient.
        constraint: ties α and the β of the inputs in ``constrained``; asked of the tape's scheme. A constraint or its
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
    node, tensors = call(op, inputs, constraint, constrained)
    op = node.op  # that of the scheme
    tape, rounder, alpha = tensors[0].tape, tensors[0].tape.rounder, node.scales.alpha
    if tape.fast:
        return record(tape, node, *fast.forward(tape, node, tensors))
    y, kept = op.forward(*[rounder.operand(op, t.value, t.variable, node.index, i) for i, t in enumerate(tensors)])
    y = alpha * rounder.wide(y)
    node.output.shape = y.shape
    if op.moves and alpha == 1:  # the elements of an input, rounded already
        return record(tape, node, rounder.carrier(y), kept)
    return record(tape, node, rounder.store(y, node.output, "output"), kept)


def backward(output: Tensor, gradient: ArrayLike | None = None, *, check: bool = True) -> None:
    """Propagate a gradient from ``output`` to the leaves, adding to their ``grad``, and to those that are retained.

    Args:
        output: where to start.
        gradient: dL/d(output), of its shape; may be left out for a scalar, where it is 1.
        check: settle the forks, and refuse factors whose gradients are not multiples of the true ones; False: run with
            the factors as they are.

    Raises:
        CarrierError: ``gradient`` is a masked array, a matrix, or not of real numbers.
        TapeError: ``output`` is not scalar and no gradient is given, or it does not depend on a leaf with
            gradient, or a buffer it needs was consumed by an earlier backward.
        ShapeError: ``gradient`` has another shape than ``output``.
        FactorError: the factors are not legal, or not those of an earlier backward to the same leaf; see
            ``graph.gradient_factors``.
    """
    start = seed(output, gradient)
    tape = output.tape
    factors = settle(output) if check else {}
    gradients = (fast.walk if tape.fast else walk)(tape, output.variable, start)
    for variable, g in gradients.items():
        if tape.probe and variable.node is None:
            tape.probe("backward", variable, freeze(g))
        receive(variable, g, factors.get(variable), tape.rounder)


def walk(tape: Tape, output: Variable, start: Array) -> dict[Variable, Array]:
    """Visit the calls in reverse, so that the gradient of each tensor is complete before it is used.

    Args:
        tape: what was recorded.
        output: where to start.
        start: the gradient there.

    Returns:
        The gradients of the leaves, and of the tensors that retain theirs.
    """
    rounder, gradients = tape.rounder, {output: start}
    for node in calls_before(tape, output):
        if node.output not in gradients:
            continue
        g = gradients[node.output] if node.output.retained else gradients.pop(node.output)
        if tape.probe:
            tape.probe("backward", node.output, freeze(g))
        kept = take(node)
        pieces = node.op.backward(rounder.incoming(node.op, g, node.output, node.index), *kept)
        check_pieces(node, pieces, tape)
        for i, (variable, beta) in enumerate(zip(node.inputs, node.scales.beta, strict=True)):
            if not node.wanted[i]:
                continue
            piece = beta * rounder.wide(pieces[i])
            rounded = node.passes(i)  # elements of g
            piece = rounder.carrier(piece) if rounded else rounder.store(piece, variable, "gradient")
            gradients[variable] = rounder.sum(gradients[variable], piece, variable) if variable in gradients else piece
    return gradients
