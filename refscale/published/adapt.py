"""Adaptation of a trained regular BERT: a unit-scaled BERT that computes the same function.

``refscale.adapt`` computes the scale of every tensor, for one short sequence through encoder and heads. The adapted
model differs from a unit-scaled BERT in a few constants by place, which ``Scheme.trained`` stores:

* the factor of a linear layer whose output must have the regular model's scale, and of attention scores: the trained
  temperature, for any lengths;
* the weight of a residual branch over that of the stream, and the weights of the sum of embeddings;
* the factor of the eps of a norm.

Scales are computed from weights and shapes, not estimated from data. Activations are thus near unit scale if trained
weights act like random ones; ``refscale report --pretrained`` shows where they do not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refscale import ops
from refscale.adapt import Adapted, Recording, Solution, finite_sigma, solve
from refscale.data import Batch, SpanBatch
from refscale.engine import Node, Tape, Tensor, Variable
from refscale.errors import ArgumentError
from refscale.layers import Parameters, Tensors, on_tape
from refscale.models.bert import encode, pooled, pretraining_loss, span_loss, specs
from refscale.models.bert.config import BertConfig
from refscale.scales import Unit, unit


def adapt(config: BertConfig, regular: Parameters) -> Adapted:
    """Adapt a trained regular BERT: the unit-scaled model of the same function.

    Args:
        config: configuration of the model.
        regular: parameters of the model, under the scheme ``regular``.

    Returns:
        Scheme and divisors. On a tape of that scheme, with ``adapted.unit(regular)``, encoder output, logits and
        losses are those of the regular model, except for rounding; gradients are a constant times the true ones, see
        ``graph.gradient_factors``. (Two differences: the mean-pooled output is larger by √seq; dropout keeps the
        variance under unit scaling, the mean under the regular scheme.)

    Raises:
        ArgumentError: values="independent", for which the scale of a mixture depends on the number of values; or a
            matrix is not finite.

    Source: paper, Proposition 5.1 (every scaled op has an unscaled equivalent), in the reverse direction.
    """
    if config.values != "correlated":
        raise ArgumentError(f"adapt(values={config.values!r}): expected a model whose values are 'correlated'")
    sigmas = {
        name: finite_sigma(name, float(np.mean(np.square(regular[name], dtype=np.float64))))
        for name, spec in specs(config).items()
        if spec.role not in ("bias", "gain")
    }
    recording = Recording()
    tape = Tape(recording)
    p = on_tape(tape, regular, specs(config))
    solution = solve(_outputs(p, config), recording, sigmas, unit)
    constants = {name: sigmas[name] for name in p if name.startswith("embeddings.") and name in sigmas}
    constants |= dict(_constants(tape, solution))
    divisors = {name: solution.scales.get(t.variable, 1.0) for name, t in p.items()}
    return Adapted(Unit(trained=constants), divisors)


def _outputs(p: Tensors, config: BertConfig) -> list[Tensor]:
    """Encoder and heads, of one sequence of one token."""
    one = np.zeros((1, 1), np.int32)
    mask, first = np.ones((1, 1), np.bool_), np.zeros(1, np.int32)
    found = []
    if "mlm" in config.outputs:
        found.append(pretraining_loss(p, Batch(one, one, mask, one, one, first), config).total)
    if "span" in config.outputs:
        found.append(span_loss(p, SpanBatch(one, one, mask, first, first), config).total)
    if not found or config.pools:
        encoded = encode(p, config, one)
        found.append(pooled(p, encoded) if config.pools else encoded)
    return found


def _constants(tape: Tape, solution: Solution) -> Iterator[tuple[str, float]]:
    """The constants of the calls of a tape, by place."""
    for node, solved in zip(tape.nodes, solution.calls, strict=True):
        scope = node.output.name.rpartition(".")[0]
        match node.op:
            case ops.LayerNorm():
                yield _layer(node), solution.scales[node.inputs[0]] ** -2
            case ops.AttentionScores():
                yield f"{scope}.scores", solved.alpha
            case ops.Matmul() | ops.Readout() if solved.fixed:
                yield _layer(node), solved.alpha
            case ops.WeightedAdd() if isinstance(solved.op, ops.WeightedAdd):
                skip, *branch = solved.op.weights
                if len(branch) == 1:
                    yield scope, branch[0] / skip


def _layer(node: Node) -> str:
    """The place of a linear layer or norm: the name of its parameter without the last part."""
    leaf: Variable = node.inputs[1]
    tied = leaf.node is not None
    while leaf.node is not None:
        leaf = leaf.node.inputs[0]
    return "mlm.decoder" if tied else leaf.name.rpartition(".")[0]
