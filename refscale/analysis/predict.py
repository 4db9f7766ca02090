"""Every scale of a model before it is run: σ of activations and gradients, from factors and shapes alone.

``predict`` walks a recorded graph with second moments (``scales.second_moments``) in place of values: forward through
every op, by its rule ``predict``, then backward, by ``predict_gradients``.  Like the factors, it depends on shapes and
attributes alone.  Unlike them, it includes the effect of constraints ((m/n)^±¼ for a projection), of non-linear
functions of inputs other than N(0, 1), and of correlated rows of a gradient, for whose sum b^-½ is too large.

What it assumes, and where that fails:

* weights are independent normal numbers of the given σ, biases 0, gains 1: true before the first step only;
* ids and labels are uniform and independent, masks let everything through: real text repeats words (Zipf), so that
  embedding gradients are larger, and rows more alike, than predicted;
* an incoming gradient is independent of the values it meets, and two uses of a tensor send back independent gradients:
  true of random weights that differ, not of one weight used twice, of a norm's gain before a readout, whose softmax
  knows what it multiplies, or of a key's bias, a shift that the softmax ignores;
* a rotation by place leaves it as it is how alike two tokens are, and scores by distance are looked at where a causal
  mask lets them be seen: over all places, zeros included, their σ is √½ of that;
* a state of a recurrence is independent of its candidate and gate, which it made: true but for the gradients of its
  weight;
* any two tokens of a sequence are as alike as any other two: where they fall into blocks (two segments, repeated
  words), values, keys and queries are alike in the same pairs, and the gradients of queries and keys are larger;
* sums of many terms are normal: not for widths below about 8, nor for gradients behind a softmax.

Source: mean-field theory of signal propagation (Poole et al. 2016, arXiv 1606.05340; Schoenholz et al. 2017,
arXiv 1611.01232).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from refscale import ops
from refscale.engine import Node, Tape, Tensor, Variable, settle
from refscale.programs import Program, first_loss
from refscale.scales import Scheme, get_scheme, unit
from refscale.scales.second_moments import SecondMoments, constant, independent


@dataclass(frozen=True)
class Prediction:
    """What the tensors of a recorded graph will look like.

    Attributes:
        values: second moments of every tensor, but for those that depend on an op without a rule.
        gradients: of the gradient of every tensor that the output depends on, likewise.
        without_rule: names of the ops without a rule, each once, in the order of their calls.
    """

    values: Mapping[Variable, SecondMoments]
    gradients: Mapping[Variable, SecondMoments]
    without_rule: tuple[str, ...] = ()


def initial_stds(program: Program, scheme: Scheme) -> dict[str, float]:
    """σ of a program's leaves at initialization, by name: matrices by the scheme, buffers by their RMS."""
    matrices = {name: spec for name, spec in program.specs.items() if len(spec.shape) > 1}
    std = {name: scheme.initial_std(program.initial_std(spec)) for name, spec in matrices.items()}
    return std | {name: float(np.sqrt(np.mean(np.square(x)))) for name, x in program.buffers.items()}


def predict(
    output: Tensor | Program,
    std: float | Mapping[str, float] | None = None,
    agreement: Mapping[str, float] | None = None,
    *,
    scheme: str | Scheme = unit,
) -> Prediction:
    """Second moments of every tensor that a recorded graph computes, and of every gradient.

    Args:
        output: where the graph ends; a scalar loss, or anything else, whose gradient is then taken to be N(0, 1).  A
            program: the loss of its first batch, whose leaves have the initial σ.
        std: σ of the leaves, one for all or by name (1 for those not named); gains are 1 and biases 0 whatever it says.
            Default: 1, or a program's own.
        agreement: by name of an embedding's table, the chance that two tokens have the same id; 1 over its rows for
            those not named.
        scheme: of a program; a recorded graph has its own.

    Returns:
        Second moments by variable: ``prediction.values[t.variable].std``.  Where an op has no rule (conv2d, pooling,
        log, square root, exponential, log softmax), what depends on it is left out, and its name is listed.
    """
    if isinstance(output, Program):
        scheme = output.scheme or get_scheme(scheme)
        std = initial_stds(output, scheme) if std is None else std
        output = first_loss(output, Tape(scheme)).total
    std = 1.0 if std is None else std
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
