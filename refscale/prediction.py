"""Prediction of second moments: σ of every tensor and gradient of a recorded graph, from shapes and attributes.

Forward, every op's rule ``predict`` gives the moments of its output; then backward, ``predict_gradients`` those of its
gradients, each with the call's factors. ``analysis.predict`` states the assumptions, and takes programs.

Source: mean-field theory of signal propagation (Poole et al. 2016, arXiv 1606.05340; Schoenholz et al. 2017,
arXiv 1611.01232).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from refscale import ops
from refscale.engine import Node, Tensor, Variable, settle
from refscale.scales import Scales, Shape
from refscale.scales.second_moments import SecondMoments, constant, independent

__all__ = ["Prediction", "Terms", "predict_graph", "terms"]


@dataclass(frozen=True)
class Prediction:
    """Second moments of the tensors of a recorded graph.

    Attributes:
        values: moments of every tensor, except those that depend on an op without a rule.
        gradients: moments of the gradient of every tensor that the output depends on, with the same exception.
        without_rule: names of the ops without a rule, each once, in the order of their calls.
    """

    values: Mapping[Variable, SecondMoments]
    gradients: Mapping[Variable, SecondMoments]
    without_rule: tuple[str, ...] = ()


def predict_graph(
    output: Tensor, std: float | Mapping[str, float] = 1.0, agreement: Mapping[str, float] | None = None
) -> Prediction:
    """Predict the second moments of every tensor of a recorded graph, and of every gradient.

    Args:
        output: the last tensor of the graph: a scalar loss, or another tensor, whose gradient is assumed to be N(0, 1).
        std: σ of the leaves, one number or by name (default 1); gains are always 1 and biases 0.
        agreement: by name of an embedding table, the probability that two tokens have the same id; default: 1/rows.
    """
    if output.variable.requires_grad and output.variable.node:
        settle(output, check=False)
    values: dict[Variable, SecondMoments] = {}
    nodes = output.tape.nodes[: output.variable.node.index + 1] if output.variable.node else []
    for node in nodes:
        for i, variable in enumerate(node.inputs):
            if variable.node is None and variable not in values:
                values[variable] = _leaf(node, i, variable, std, agreement or {})
        inputs = _known(values, node.inputs)
        if inputs is not None and node.op.predict is not None:
            values[node.output] = node.op.predict(node.output.shape, *inputs).times(node.scales.alpha)
    gradients: dict[Variable, SecondMoments | None] = {output.variable: independent(output.shape, 1.0)}
    for node in reversed(nodes):
        if node.output in gradients:
            _send_back(node, gradients, _known(values, node.inputs))
    known = {variable: g for variable, g in gradients.items() if g is not None}
    missing = (n.op.name for n in nodes if n.op.predict is None or n.op.predict_gradients is None)
    return Prediction(values, known, tuple(dict.fromkeys(missing)))


# --- The terms of a sum over rows -------------------------------------------------------------------------------------


_NEGLIGIBLE = 1e-6
"""Growth of a variance below which rows count as independent: less than the rounding of a prediction."""


@dataclass(frozen=True)
class Terms:
    """Statistics of the terms that the gradient of a parameter sums, one term per row; for any number of rows.

    Attributes:
        rms: RMS of a term, over the RMS that the op's rule assumes (inputs and gradients N(0, 1)).
        likeness: pairs (axes of the output on which two rows differ, correlation of their terms, 0 … 1). Rows of one
            sequence may be correlated while those of two sequences are independent.
    """

    rms: float = 1.0
    likeness: tuple[tuple[tuple[int, ...], float], ...] = ()

    def scale(self, rows: Shape) -> float:
        """RMS of the sum, over the RMS that the op's rule assumes: rms·√(1 + Σ ρ·(number of rows with correlation ρ)).

        Args:
            rows: the number of rows along each axis of the output, see ``Op.rows``.
        """
        beside = (rho * math.prod(max(0, rows[axis] - 1) for axis in axes) for axes, rho in self.likeness)
        return self.rms * math.sqrt(1 + sum(beside))


def terms(node: Node, prediction: Prediction, free: Scales) -> tuple[Terms, ...]:
    """Predict the terms of each input's gradient in a recorded call.

    The vjp of the call is predicted once for independent rows, and once for each set of axes, for rows that are
    correlated only if they differ on these axes alone. A negative correlation counts as 0.

    Args:
        node: the call.
        prediction: the prediction of the graph.
        free: unconstrained factors of the call, by the op's rule.

    Returns:
        The terms of each input; ``Terms()``, as the rule assumes, if the gradient does not sum over rows, is 0, or is
        not predicted.
    """
    rows = node.op.rows(*(v.shape for v in node.inputs))
    g, inputs = prediction.gradients.get(node.output), _known(prediction.values, node.inputs)
    rule = node.op.predict_gradients
    if g is None or inputs is None or rule is None:
        return (Terms(),) * len(rows)

    def vjp(found: SecondMoments) -> Sequence[SecondMoments | None]:
        return rule(found, *inputs)

    return tuple(
        Terms() if beta is None or not along else _terms_of(i, along, beta, vjp, g)
        for i, (along, beta) in enumerate(zip(rows, free.beta, strict=True))
    )


def _terms_of(
    i: int, rows: Shape, beta: float, vjp: Callable[[SecondMoments], Sequence[SecondMoments | None]], g: SecondMoments
) -> Terms:
    summed = [axis for axis, n in enumerate(rows) if n > 1]

    def square(differ: Sequence[int]) -> float:
        """Moments of the gradient if two rows are correlated only if they differ on exactly these axes."""
        k = np.zeros_like(g.k)
        for zeros in ((), differ):
            place = tuple(int(axis not in zeros) if axis in summed else slice(None) for axis in range(k.ndim))
            k[place] = g.k[place]
        found = vjp(SecondMoments(g.shape, k))[i]
        return 0.0 if found is None else found.square

    alone = square(())
    if alone <= 0:
        return Terms()
    found = []
    for some in product((False, True), repeat=len(summed)):
        axes = tuple(axis for axis, chosen in zip(summed, some, strict=True) if chosen)
        growth = square(axes) / alone - 1
        if axes and growth > _NEGLIGIBLE:
            found.append((axes, min(growth / math.prod(rows[axis] - 1 for axis in axes), 1.0)))
    return Terms(beta * math.sqrt(alone), tuple(found))


# --- The walk ---------------------------------------------------------------------------------------------------------


def _known(values: Mapping[Variable, SecondMoments], variables: Sequence[Variable]) -> list[SecondMoments] | None:
    """Second moments of all of them; None if one is not predicted."""
    found = [values[v] for v in variables if v in values]
    return found if len(found) == len(variables) else None


def _send_back(
    node: Node, gradients: dict[Variable, SecondMoments | None], inputs: Sequence[SecondMoments] | None
) -> None:
    """Add the vjp of a call to the gradients of its inputs; None: not predicted."""
    g, rule = gradients[node.output], node.op.predict_gradients
    pieces: Sequence[SecondMoments | None] = (None,) * len(node.inputs)
    if g is not None and inputs is not None and rule is not None:
        pieces = rule(g, *inputs)
    for i, (variable, piece, beta) in enumerate(zip(node.inputs, pieces, node.scales.beta, strict=True)):
        if i in node.op.constants or beta is None or not variable.requires_grad:
            continue
        scaled = None if piece is None else piece.times(beta)
        if variable in gradients:
            total = gradients[variable]
            scaled = None if total is None or scaled is None else total.plus(scaled)
        gradients[variable] = scaled


def _leaf(
    node: Node,
    position: int,
    variable: Variable,
    std: float | Mapping[str, float],
    agreement: Mapping[str, float],
) -> SecondMoments:
    """A leaf, by its first use: by the name that the op gives this input, and by its own."""
    match node.op.inputs[min(position, len(node.op.inputs) - 1)]:
        case "gain":
            return constant(variable.shape, 1.0)
        case "bias":
            return constant(variable.shape, 0.0)
        case "cos" | "sin":
            return independent(variable.shape, 0.5**0.5)
        case "ids":  # of their one-hot vectors: whether two of them are the same row of the table
            table = node.inputs[0]
            same = agreement.get(table.name, 1 / table.shape[0])
            return independent(variable.shape, (1 - same) ** 0.5).plus(constant(variable.shape, same**0.5))
    if isinstance(node.op, ops.Bias) and not variable.requires_grad:  # a bias that stands for itself
        return constant(variable.shape, 0.0)
    sigma = std if isinstance(std, int | float) else std.get(variable.name, 1.0)
    return independent(variable.shape, sigma)
