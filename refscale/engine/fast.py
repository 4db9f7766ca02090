"""The default executor: the computation of ``run`` in fewer passes over memory.

It differs from ``run`` in speed only:

* **fast forms**: an op's fast form fuses its factors, so that they take no separate pass over memory. It is not used
  in exact arithmetic, nor where operands are converted to blocks.
* **factors applied ahead**: β of an identity is applied by the products that use its output.
* **buffers in place**: arrays that the executor owns are rounded, multiplied and accumulated in place.
* **sparse rows**: a gradient with few nonzero rows stays sparse (``Rows``) until it is added or passed to a probe.
* **operands cast once**: ``precision.Remembering`` casts an array that several products use at its first use only.

Call by call, on the same arrays, results have the same bits as those of ``run`` or are within the op's bound
(``tests/core/test_executors.py``).

The executor owns an array that it made by a factor, a sum or a cast; a new array that a fast form returned, which is
neither kept nor g itself; and the output of an op that ``moves`` a gradient it owns. It overwrites owned arrays only,
and only before they are returned. Returned arrays (values, gradients, arrays passed to a probe) are read-only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refscale.arrays import freeze
from refscale.engine.op import Array
from refscale.engine.record import Node, Tape, Tensor, Variable, calls_before, check_pieces, take
from refscale.engine.rows import Rows


def forward(tape: Tape, node: Node, tensors: Sequence[Tensor]) -> tuple[Array, tuple[Any, ...]]:
    """Compute α·y, rounded, and the arrays that the backward pass uses."""
    op, rounder, alpha = node.op, tape.rounder, node.scales.alpha
    arrays = [rounder.operand(op, t.value, t.variable, node.index, i) for i, t in enumerate(tensors)]
    if op.fast_forward is not None and not rounder.has_arithmetic(op, node.index):
        node.fast = True
        y, kept = op.fast_forward(alpha, *arrays)
        y, own = _array(y), not any(y is k for k in kept)
    else:
        y, kept = op.forward(*arrays)
        y, own = (_array(y), False) if alpha == 1 else (_array(alpha * rounder.wide(y)), True)
    node.output.shape = y.shape
    if rounder.rounds and not (op.moves and alpha == 1):
        y = rounder.store(y, node.output, "output", y if own else None)
    return y, kept


def walk(tape: Tape, output: Variable, start: Array) -> dict[Variable, Array]:
    """Compute the gradients of the leaves and of retained tensors; see ``run.walk``."""
    pending = _Pending(tape, _paid_ahead(tape, output))
    pending.add(output, start, False)
    for node in calls_before(tape, output):
        if node.output in pending.gradients:
            _send_back(pending, node)
    return {leaf: pending.take(leaf)[0] for leaf in list(pending.gradients)}


def _paid_ahead(tape: Tape, output: Variable) -> dict[Variable, float]:
    """By variable, the factor that the gradients from its consumers contain already, if it is not 1.

    β of an identity, such as a fork, would take a pass over the gradient. If all consumers of its output are products,
    whose fast forms fuse factors, or moves of it, they apply it; unless the gradient is rounded in between.
    """
    paid: dict[Variable, float] = {}
    nodes = list(calls_before(tape, output))[::-1]
    if tape.rounder.rounds or not any(n.op.moves and n.scales.beta[0] != 1 for n in nodes):
        return paid
    takes: dict[Variable, bool] = {}
    for node in nodes:
        able = (node.op.contraction and node.fast) or (node.op.moves and len(node.inputs) == 1)
        for variable in node.inputs:
            takes[variable] = able and takes.get(variable, True)
    for node in nodes:
        if node.op.moves and len(node.inputs) == 1 and takes.get(node.output, False):
            factor = (node.scales.beta[0] or 1.0) * paid.get(node.inputs[0], 1.0)
            if factor != 1:
                paid[node.output] = factor
    return paid


class _Pending:
    """Gradients that are not complete yet, by variable; and whether the executor owns each."""

    def __init__(self, tape: Tape, paid: dict[Variable, float]) -> None:
        self.tape, self.rounder, self.paid = tape, tape.rounder, paid
        self.gradients: dict[Variable, tuple[Any, bool]] = {}

    def add(self, variable: Variable, g: Any, own: bool) -> None:
        """The gradient that one consumer of a tensor sends back."""
        if variable in self.gradients:
            g, own = self.sum(*self.gradients[variable], g, own, variable), True
        self.gradients[variable] = g, own

    def sum(self, a: Any, a_own: bool, b: Any, b_own: bool, variable: Variable) -> Array:
        """a + b, stored; in the place of one that is owned."""
        if isinstance(a, Rows):
            a, a_own, b, b_own = b, b_own, a, a_own
        if isinstance(a, Rows):
            a, a_own = a.dense(), True
        if isinstance(b, Rows):
            total: Array = a if a_own else a.copy("K")
            some = total[b.indices] + b.values
            total[b.indices] = self.rounder.store(some, variable, "gradient", some)
            return total
        if self.rounder.exact:
            return self.rounder.sum(a, b, variable)
        total = np.asarray(np.add(a, b, out=a if a_own else b if b_own else None))
        return self.rounder.store(total, variable, "gradient", total)

    def take(self, variable: Variable, sparse: bool = False) -> tuple[Any, bool]:
        """A complete gradient; ``Rows`` only if ``sparse``."""
        g, own = self.gradients.pop(variable)
        if isinstance(g, Rows) and not sparse:
            g, own = g.dense(), True
        return g, own


def _send_back(pending: _Pending, node: Node) -> None:
    """Send a gradient to each input of a call: vjp, times β, rounded."""
    tape, rounder, op, inputs = pending.tape, pending.rounder, node.op, node.inputs
    shown = tape.probe is not None or node.output.retained
    g, own = pending.take(node.output, sparse=op.carries_factors and not shown)
    if shown:
        seen = freeze(g / pending.paid[node.output] if node.output in pending.paid else g)
        if tape.probe:
            tape.probe("backward", node.output, seen)
        if node.output.retained:
            pending.add(node.output, seen, False)
        own = False  # the probe or the tensor keeps it
    kept = take(node)
    betas = node.scales.beta
    if pending.paid:
        paid = pending.paid.get(node.output, 1.0)
        betas = tuple([b and b * pending.paid.get(v, 1.0) / paid for b, v in zip(betas, inputs, strict=True)])
    given = rounder.incoming(op, g, node.output, node.index)
    if node.fast:
        assert op.fast_backward is not None
        wanted = [beta if w else None for beta, w in zip(betas, node.wanted, strict=True)]
        pieces = op.fast_backward(wanted, given, *kept)
    else:
        pieces = op.backward(given, *kept)
    check_pieces(node, pieces, tape)
    for i, (variable, beta) in enumerate(zip(inputs, betas, strict=True)):
        if not node.wanted[i]:
            continue
        piece, owned = _array(pieces[i]), own and op.moves and len(pieces) == 1
        if node.fast:
            owned = piece is not g and piece is not given
        elif beta is not None and beta != 1:
            piece, owned = _times(beta, rounder.wide(piece), owned), True
        if rounder.rounds and not node.passes(i):
            stored = _stored(pending, piece, variable, owned)
            piece, owned = stored, owned or stored is not piece
        elif rounder.exact:
            piece = rounder.carrier(piece)
        pending.add(variable, piece, owned and not rounder.exact)


def _stored(pending: _Pending, g: Any, variable: Variable, own: bool) -> Any:
    """A gradient in the ``store`` format."""
    store = pending.rounder.store
    if isinstance(g, Rows):
        return Rows(g.indices, store(g.values, variable, "gradient", g.values if own else None), g.shape)
    return store(g, variable, "gradient", g if own else None)


def _times(factor: float, x: Any, own: bool) -> Any:
    """factor·x, in its place if x is owned."""
    if isinstance(x, Rows):
        return Rows(x.indices, _times(factor, x.values, own), x.shape)
    return np.multiply(x, factor, out=x) if own else _array(x * factor)


def _array(x: Any) -> Any:
    """A NumPy scalar as an array; arrays unchanged."""
    return np.asarray(x) if isinstance(x, np.generic) else x
