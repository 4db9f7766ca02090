"""A trained regular BERT as a unit-scaled one that computes the same function.

The scale of every tensor is that of ``refscale.adapt``, of one short sequence through encoder and heads. What the
adapted model differs in from any unit-scaled BERT is then a few constants by place, which ``Scheme.trained`` holds:

* the factor of a linear layer whose output must have the regular model's scale, and of attention scores: the trained
  temperature, whatever the lengths;
* the weight of a residual branch over that of the stream, and the weights of the sum of embeddings;
* what the eps of a norm is multiplied by.

Nothing here is estimated from data: a scale is a property of weights and shapes. So activations are near unit scale as
far as trained weights act like random ones; ``refscale report --pretrained`` shows where they do not.
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
    """The unit-scaled model that computes what a regular one computes.

    Args:
        config: of the model.
        regular: its parameters, under the scheme ``regular``.

    Returns:
        Scheme and divisors. On a tape of that scheme, with ``adapted.unit(regular)``, encoder output, logits and
        losses are those of the regular model, rounding aside; gradients are a constant times the true ones, as
        ``graph.gradient_factors`` certifies. (The mean-pooled output is √seq times its own, and dropout, which keeps
        the variance under unit scaling and the mean under the regular scheme, is another one.)

    Raises:
        ArgumentError: values="independent", where the scale of a mixture depends on how many values there are; or a
            matrix that is not finite.

    Source: paper, Proposition 5.1 (every scaled op has an unscaled equivalent), read backwards.
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
