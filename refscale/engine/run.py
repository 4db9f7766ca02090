"""The readable executor: ``apply`` and ``backward`` on one page.

This page is the specification. Only the engine applies factors, and only its rounder rounds; ops do neither.
``refscale.engine.fast`` computes the same in fewer passes over memory, and is the default; ``Tape(..., fast=False)``
runs this page.
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
    """Run a scaled op: cast the operands, compute forward, multiply by α, cast the output, record the call.

    Args:
        op: the op, with its attributes.
        inputs: tensors of one tape; plain arrays are constants without gradient.
        constraint: the constraint of α and the β of the inputs in ``constrained``, or its name. Pass it together with
            ``constrained``, or ``none`` alone.
        constrained: positions of inputs with non-cut edges.

    Returns:
        The output, on the same tape.

    Raises:
        TapeError: the inputs have no tensor, or tensors of two tapes.
        ShapeError: the shapes or the number of inputs do not fit the op.
        CarrierError: an input has integers or booleans where the op expects real numbers.
        ArgumentError: ``op`` is a class; ``constrained`` has a position without input; or only one of ``constraint``
            and ``constrained`` is given.
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
    """Compute the gradients of ``output``, and add them to ``grad`` of the leaves and of retained tensors.

    Args:
        output: the tensor to start from, usually the loss.
        gradient: dL/d(output), of the shape of ``output``; default for a scalar: 1.
        check: choose β of the forks, and raise an error if a gradient is not a multiple of the true one; False: use the
            factors unchanged.

    Raises:
        CarrierError: ``gradient`` is a masked array, a matrix, or not of real numbers.
        TapeError: ``output`` is not scalar and no gradient is given; it does not depend on a leaf that requires a
            gradient; or an earlier ``backward`` has used a call it depends on.
        ShapeError: ``gradient`` has another shape than ``output``.
        FactorError: a gradient would not be a multiple of the true one, or a leaf has a gradient with another constant
            from an earlier ``backward``; see ``graph.gradient_factors``.
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
    """Visit the calls in reverse order, so that the gradient of each tensor is complete before it is used.

    Args:
        tape: the recorded calls.
        output: the variable to start from.
        start: the gradient of ``output``.

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
