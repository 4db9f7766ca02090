"""Check of the factors: the constant c of every gradient, and the forks that make the constants agree.

Let c = 1 at the output, and walk back: a call with output y requires c(x_i) = c(y)·β_i/α of its input i. The computed
gradient of x is c(x) times the true one if all consumers of x require the same c. A ``Fork`` is an identity whose β is
chosen so that they agree.

The graph has only edges that carry a gradient: masks and token ids are not part of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from refscale.engine.record import Node, Tensor, Variable, tape_of
from refscale.errors import FactorError, TapeError
from refscale.scales import Scales, close


class Edge(NamedTuple):
    """The use of a variable as input ``position`` of a recorded call."""

    node: Node
    position: int

    @property
    def variable(self) -> Variable:
        """The input variable of the edge."""
        return self.node.inputs[self.position]

    @property
    def ratio(self) -> float:
        """β/α: c of the input over c of the output."""
        beta = self.node.scales.beta[self.position]
        assert beta is not None  # an edge carries a gradient
        return beta / self.node.scales.alpha


def ancestors(output: Tensor) -> list[Node]:
    """Return the calls that the output depends on through edges with gradients, last first."""
    last = _last(output)
    needed = {output.variable}
    found = []
    for node in reversed(output.tape.nodes[: last.index + 1]):
        if node.output in needed:
            found.append(node)
            needed.update(edge.variable for edge in edges(node))
    return found


def _last(output: Tensor) -> Node:
    """The call that made the output."""
    tape_of("graph", output)
    last = output.variable.node
    if last is None or not output.variable.requires_grad:
        raise TapeError(f"{output} was not computed from a leaf that requires a gradient")
    return last


def edges(node: Node) -> Iterator[Edge]:
    """Yield the input edges of a call that carry a gradient."""
    for i, wanted in enumerate(node.wanted):
        if wanted:
            yield Edge(node, i)


def settle(output: Tensor, *, check: bool = True) -> dict[Variable, float]:
    """Choose β of every fork, and return the constant c of every tensor.

    Let c_i be the constant that fork i of a tensor would require with β_i = α_i = 1. If the tensor is also used
    directly, and this use requires c, then β_i = c/c_i. If all uses are forks, c is free: c = (Σ c_i^-2)^-½ gives
    Σ β_i² = 1, so that the sum of gradients of unit variance has unit variance. If all uses agree, as under the regular
    scheme, nothing changes.

    Args:
        output: the tensor where the gradient starts, usually the loss.
        check: raise an error if uses of a tensor disagree; False: c of a tensor is that of its first use.

    Returns:
        c of every variable that the output depends on, and of the output.

    Raises:
        FactorError: two uses of a tensor require different values of c; the message names the op that breaks the rule.
    """
    last = _last(output)
    found = {output.variable: 1.0}
    uses: dict[Variable, list[tuple[Node, int, float]]] = {}
    for node in reversed(output.tape.nodes[: last.index + 1]):
        if node.output not in found:
            continue
        if len(known := uses.get(node.output, ())) > 1:
            found[node.output] = _agreed(known, output, check)
        c, scales = found[node.output], node.scales
        for i, (variable, beta) in enumerate(zip(node.inputs, scales.beta, strict=True)):
            if node.wanted[i] and beta is not None:
                demanded = c * (beta / scales.alpha)
                uses.setdefault(variable, []).append((node, i, demanded))
                found.setdefault(variable, demanded)
    for variable, known in uses.items():
        if variable.node is None and len(known) > 1:
            found[variable] = _agreed(known, output, check)
    return found


def _agreed(uses: Sequence[tuple[Node, int, float]], output: Tensor, check: bool) -> float:
    """c of one tensor, given what its uses demand, with the β of those that are forks chosen."""
    first = uses[0][2]
    if all(close(c, first) for _, _, c in uses):
        return first
    direct = [(Edge(node, i), c) for node, i, c in uses if not node.op.settles]
    forks = [(node, c / Edge(node, i).ratio) for node, i, c in uses if node.op.settles]
    c = direct[0][1] if direct else 1 / math.hypot(*(1 / c_i for _, c_i in forks))
    for node, c_i in forks:
        node.scales = Scales(node.scales.alpha, (node.scales.alpha * c / c_i,))
    for edge, other in direct:
        if check and not close(c, other):
            raise FactorError(_disagreement(direct[0], (edge, other), ancestors(output)))
    return c


def _disagreement(one: tuple[Edge, float], other: tuple[Edge, float], nodes: list[Node]) -> str:
    """The two uses that demand different c, where their ways meet, and the op on the loop that breaks the rule."""
    first_use = {edge.variable: edge for node in nodes for edge in edges(node)}
    ways = []
    for edge, _ in (one, other):
        way = [edge]
        while (following := first_use.get(way[-1].node.output)) is not None:
            way.append(following)
        ways.append(way)
    joint = {edge.node for edge in ways[1]}
    meeting = next(edge.node for edge in ways[0] if edge.node in joint)
    loop = [(edge, 1) for edge in ways[0]] + [(edge, -1) for edge in ways[1]]
    unequal = [(e, side) for e, side in loop if e.node.index <= meeting.index and not close(e.ratio, 1)]
    quotient = one[1] / other[1]
    culprits = [edge for edge, side in unequal if close(edge.ratio**side, quotient)][:1] or [e for e, _ in unequal]
    names = ", ".join(dict.fromkeys(call_name(edge.node) for edge in culprits))
    variable = one[0].variable
    return (
        f"consumers of {variable} disagree: {call_name(one[0].node)} demands c = {one[1]:.9g}, "
        f"{call_name(other[0].node)} demands c = {other[1]:.9g}, so its gradient is not a multiple of the true one; "
        f"on the loop from {variable} to {call_name(meeting)}, α ≠ β at {names}: "
        "constrain it, or start the branch with `fork`"
    )


def call_name(node: Node) -> str:
    """Return scope, op name and number of a call, such as ``layer 0.ffn: gelu #55``."""
    scope = node.output.name.removesuffix(node.op.name).rstrip(".")
    return f"{scope}: {node.op.name} #{node.index}" if scope else f"{node.op.name} #{node.index}"
