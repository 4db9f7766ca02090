"""The heads of BERT: masked words, next sentence, spans; each returns logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import Op, Tensor, apply, tape_of
from refscale.scales import Constraint, none

_GELU = ops.Gelu()


def masked_lm_head(
    h: Tensor,
    positions: NDArray[np.integer[Any]],
    *,
    transform: tuple[Tensor, Tensor],
    norm: tuple[Tensor, Tensor],
    decoder: tuple[Tensor, Tensor],
    activation: Op = _GELU,
    eps: float = 1e-12,
    constraints: tuple[str | Constraint, str | Constraint] = (none, none),
) -> Tensor:
    """Compute the masked-LM head at given positions: gather, dense, activation, norm, readout (Devlin et al. 2018).

    By default its ops are unconstrained: the head is on a cut-edge, or starts with a fork, which corrects the gradient.

    Args:
        h: encoder output (batch, seq, d).
        positions: positions to predict, (batch, k).
        transform: weight (d, d) and bias (d,) of the dense layer.
        norm: gain (d,) and bias (d,) of the norm.
        decoder: weight (d, words), which may be the transposed word embedding, and bias (words,).
        activation: op of the activation, default gelu as in the original.
        eps: eps of the norm.
        constraints: constraints of the dense layer and of the readout.

    Returns:
        Logits (batch, k, words).
    """
    x = apply(ops.Gather(), h, positions)
    with tape_of("masked_lm_head", h).scope("transform"):
        x = F.linear(x, *transform, constraint=constraints[0])
    x = F.layer_norm(apply(activation, x), *norm, eps)
    return F.readout(x, *decoder, constraint=constraints[1])


def first_pooled(h: Tensor, weight: Tensor, bias: Tensor, *, constraint: str | Constraint = none) -> Tensor:
    """Compute tanh(dense(first token)), BERT's pooling of a sequence (Devlin et al. 2018).

    Args:
        h: encoder output (batch, seq, d).
        weight: (d, d).
        bias: (d,).
        constraint: constraint of the dense layer.

    Returns:
        (batch, d).
    """
    first = apply(ops.Slice(1, 0, 1), h)
    x = apply(ops.Reshape((h.shape[0], h.shape[2])), first)
    with tape_of("first_pooled", h).scope("pooler"):
        x = F.linear(x, weight, bias, constraint=constraint)
    return F.tanh(x, constraint=none)


def next_sentence_head(
    h: Tensor,
    *,
    pooler: tuple[Tensor, Tensor],
    classifier: tuple[Tensor, Tensor],
    constraints: tuple[str | Constraint, str | Constraint] = (none, none),
) -> Tensor:
    """Compute the next-sentence head on the first token: dense, tanh, readout (Devlin et al. 2018).

    By default its ops are unconstrained; see ``masked_lm_head``.

    Args:
        h: encoder output (batch, seq, d).
        pooler: weight (d, d) and bias (d,).
        classifier: weight (d, 2) and bias (2,).
        constraints: constraints of the dense layer and of the readout.

    Returns:
        Logits (batch, 2). Class 1: the second part of the input follows the first in the text.
    """
    return F.readout(first_pooled(h, *pooler, constraint=constraints[0]), *classifier, constraint=constraints[1])


def span_head(h: Tensor, weight: Tensor, bias: Tensor, *, constraint: str | Constraint = none) -> list[Tensor]:
    """Compute logits of the start and the end of an answer for each token (Devlin et al. 2018, SQuAD).

    Args:
        h: encoder output (batch, seq, d).
        weight: (d, 2).
        bias: (2,).
        constraint: constraint of the readout.

    Returns:
        Logits of start and end, (batch, seq) each, including padding, as in the original.
    """
    logits = F.readout(h, weight, bias, constraint=constraint)
    return [apply(ops.Reshape(h.shape[:2]), part) for part in F.split(logits, 2)]
