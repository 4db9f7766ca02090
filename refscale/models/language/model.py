"""A model that predicts the next token; the tape's scheme makes it regular or unit-scaled.

It has an embedding, layers on a residual stream, a norm and a readout. Every edge of the trunk is in a residual loop
and is constrained; the readout and later ops are on cut-edges. A tied embedding is forked, as in BERT, and ``backward``
chooses β of the forks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.arrays import plain
from refscale.data import IGNORE, TextBatch
from refscale.engine import Tensor, apply, tape_of
from refscale.errors import ShapeError
from refscale.layers import (
    Spec,
    Specs,
    Tensors,
    convolution_specs,
    feed_forward_specs,
    glorot,
    linear_specs,
    norm,
    norm_specs,
    recurrence_specs,
    self_attention_specs,
    transformer_layer,
)
from refscale.models.language.config import LanguageConfig

BIASED = ("query", "output")
"""Linear layers of attention with a bias: the key's would be a shift that the softmax ignores (the paper's models)."""

FIRST = "gradients of the first prediction, where no sequence starts a text"


def specs(config: LanguageConfig) -> Specs:
    """Return the specs of all parameters, in order."""
    d, depth = config.width, 2 * config.layers
    has_bias = not config.rms
    found: Specs = {"embedding": Spec("embedding", (config.vocabulary, d))}
    if config.embedding_norm:
        found |= norm_specs("embedding_norm", d, bias=has_bias)
    for i in range(config.layers):
        mixer, ffn = f"layers.{i}.{config.mixer}", f"layers.{i}.ffn"
        blocks = {
            mixer: _mixer_specs(mixer, config, depth),
            ffn: feed_forward_specs(ffn, d, config.hidden, depth, bias=config.biases, gated=config.gated),
        }
        for name, block in blocks.items():
            found |= block
            if config.norm != "none":
                found |= norm_specs(f"{name}.norm", d, depth, has_bias)
    found |= norm_specs("norm", d, bias=has_bias)
    readout = linear_specs("readout", d, config.vocabulary, role="readout", bias=config.biases)
    if config.tied:
        del readout["readout.weight"]
    if config.initial == "authors":
        found = {name: _authors(name, spec) for name, spec in found.items()}
    return found | readout | ({"pad": Spec("bias", (config.vocabulary,), unused=FIRST)} if config.pad else {})


def _mixer_specs(name: str, config: LanguageConfig, depth: int) -> Specs:
    if config.mixer == "convolution":
        return convolution_specs(name, config.width, config.kernel, config.groups, depth)
    if config.mixer == "recurrence":
        return recurrence_specs(name, config.width, depth)
    return self_attention_specs(
        name,
        config.width,
        depth,
        shared=config.shared,
        biased=BIASED if config.biases else (),
        frequencies=config.frequencies if config.positions == "relative" else 0,
        rotary=config.positions == "rotary",
    )


def _authors(name: str, spec: Spec) -> Spec:
    """A spec with the authors' σ, where it is not Glorot's. Source: their code, scmm/layers.py (qkv, gates)."""
    part = name.split(".")[-2:-1]
    if spec.role == "weight" and part in (["query"], ["key"], ["value"], ["distance"], ["input"], ["state"]):
        both = 2 if part in (["input"], ["state"]) else 1
        return replace(spec, std=(both * spec.shape[0]) ** -0.5)
    return spec


def initial_std(config: LanguageConfig, spec: Spec) -> float:
    """Return the initial σ of a weight under the regular scheme: Glorot's; width^-½ for a tied embedding."""
    if spec.std is not None:
        return spec.std
    return config.width**-0.5 if config.tied and spec.role == "embedding" else glorot(spec)


def hidden_states(
    p: Tensors,
    config: LanguageConfig,
    ids: NDArray[Any],
    rng: np.random.Generator | None = None,
    *,
    embedding: Tensor | None = None,
) -> Tensor:
    """Run the trunk: token ids (batch, seq) to vectors (batch, seq, width) that depend on a token and earlier ones.

    Args:
        p: parameters as tensors.
        config: the model.
        ids: integers below ``config.vocabulary``.
        rng: generator for dropout; None in evaluation.
        embedding: a fork of the embedding, if it has another use.

    Raises:
        ShapeError: ``ids`` does not have the shape (batch, seq).
    """
    ids = plain("language", "ids", ids)
    if ids.ndim != 2:
        raise ShapeError(f"language: ids of shape {ids.shape}, expected (batch, seq)")
    table = p["embedding"] if embedding is None else embedding
    tape = tape_of("language", table)
    x = F.embedding(table, ids)
    if config.embedding_norm:
        with tape.scope("embedding_norm"):
            x = norm(p, "embedding_norm", x, config.eps)
    x = F.dropout(x, config.dropout, rng)
    for i in range(config.layers):
        with tape.scope(f"layers.{i}"):
            x = transformer_layer(p, f"layers.{i}", x, None, block=config.block, number=i, rng=rng)
    with tape.scope("norm"):
        return norm(p, "norm", x, config.eps)


def logits(p: Tensors, config: LanguageConfig, ids: NDArray[Any], rng: np.random.Generator | None = None) -> Tensor:
    """Compute logits (batch, seq, vocabulary) of each token given the earlier ones; without ``pad``, of the next one.

    For the arguments see ``hidden_states``.
    """
    embedding = p["embedding"]
    tape = tape_of("language", embedding)
    if config.tied:
        with tape.scope("embedding"):
            embedding, readout = F.fork(embedding, 2)
            readout = apply(ops.Transpose((1, 0)), readout)
    else:
        readout = p["readout.weight"]
    h = hidden_states(p, config, ids, rng, embedding=embedding)
    with tape.scope("readout"):
        y = F.readout(h, readout, p.get("readout.bias"))
        if not config.pad:
            return y
        batch, seq, vocabulary = y.shape
        first = apply(ops.Bias(), np.zeros((batch, 1, vocabulary)), p["pad"])
        return apply(ops.Concat(1), first, *([apply(ops.Slice(1, 0, seq - 1), y)] if seq > 1 else []))


@dataclass(frozen=True)
class NextTokenLoss:
    """The loss and logits of a step, on one tape.

    Attributes:
        total: mean negative log likelihood of the counted tokens, in nats; a scalar.
        logits: logits at all positions, (batch, seq or seq − 1, vocabulary).
        labels: labels at the same positions; ``IGNORE`` for tokens that are not counted.
    """

    total: Tensor
    logits: Tensor
    labels: NDArray[Any]

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """An empty mapping: the total has no parts."""
        return {}


def next_token_loss(
    p: Tensors, batch: TextBatch, config: LanguageConfig, rng: np.random.Generator | None = None
) -> NextTokenLoss:
    """Compute the mean cross-entropy of the counted tokens, each given the earlier ones.

    Args:
        p: parameters as tensors, from ``models.parameters_on``.
        batch: a batch of text.
        config: the model.
        rng: generator for dropout; None in evaluation.

    Raises:
        ArgumentError: no token is counted.
        ShapeError: the batch does not fit the configuration.
    """
    y, labels = logits(p, config, batch.ids, rng), batch.labels
    if not config.pad:
        seq = batch.ids.shape[1]
        y, labels = apply(ops.Slice(1, 0, seq - 1), y), labels[:, 1:]
    total = F.cross_entropy(y, labels, IGNORE)
    return NextTokenLoss(total, y, labels)
