"""BERT (Devlin et al. 2018), its encoder and its heads; the tape's scheme makes it regular or unit-scaled.

For unit scaling residual additions are weighted (``functional.residual``), embeddings are added by a weighted add, and
a tensor is forked if the gradients of its uses have different constants: the encoder's output for the two heads, and
the word embedding for input and decoder if they are tied. ``backward`` chooses β of the forks so that every computed
gradient is a constant times the true one; ``graph.gradient_factors`` checks this and returns the constants.

Under the regular scheme these are the plain operations of the original.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.arrays import plain
from refscale.data import IGNORE, Batch, SpanBatch
from refscale.engine import Tensor, apply, tape_of
from refscale.errors import ArgumentError, ShapeError
from refscale.layers import (
    Spec,
    Specs,
    Tensors,
    linear_specs,
    norm,
    norm_specs,
    transformer_layer,
    transformer_layer_specs,
)
from refscale.models.bert import heads
from refscale.models.bert.config import BertConfig
from refscale.scales import Constraint, constraint_at, none


def specs(config: BertConfig) -> Specs:
    """Return the specs of all parameters, in order."""
    d = config.width
    found: Specs = {
        "embeddings.word": Spec("embedding", (config.vocabulary, d)),
        "embeddings.position": Spec("embedding", (config.positions, d)),
        "embeddings.segment": Spec("embedding", (config.segments, d)),
        **norm_specs("embeddings.norm", d),
    }
    for i in range(config.layers):
        found |= transformer_layer_specs(f"encoder.{i}", d, config.hidden, 2 * config.layers)
    if config.norm != "post":
        found |= norm_specs("encoder.norm", d)
    if "mlm" in config.outputs:
        found |= linear_specs("mlm.transform", d, d) | norm_specs("mlm.norm", d)
        if not config.tied:
            found["mlm.decoder.weight"] = Spec("readout", (d, config.vocabulary))
        found["mlm.decoder.bias"] = Spec("bias", (config.vocabulary,))
    if config.pools:
        found |= linear_specs("nsp.pooler", d, d)
    if "nsp" in config.outputs:
        found |= linear_specs("nsp.classifier", d, 2, role="readout")
    return found | linear_specs("span", d, 2, role="readout") if "span" in config.outputs else found


def initial_std(config: BertConfig, spec: Spec) -> float:
    """Return the initial σ of a weight under the regular scheme, the same for all (Devlin et al. 2018)."""
    return config.std


def encode(
    p: Tensors,
    config: BertConfig,
    ids: NDArray[Any],
    mask: NDArray[np.bool_] | None = None,
    segments: NDArray[Any] | None = None,
    rng: np.random.Generator | None = None,
    *,
    word: Tensor | None = None,
) -> Tensor:
    """Run the encoder: token ids to contextual vectors.

    Args:
        p: parameters as tensors, from ``models.parameters_on``.
        config: the model.
        ids: (batch, seq) integers below ``config.vocabulary``.
        mask: (batch, seq), False for padding; None: no padding.
        segments: (batch, seq) integers below ``config.segments``; None: all 0.
        rng: generator for dropout; None in evaluation.
        word: a fork of the word embedding, if it has another use.

    Returns:
        (batch, seq, width), of unit variance under unit scaling.

    Raises:
        ShapeError: ids, mask and segments have different shapes, or are longer than ``config.positions``.
    """
    ids = plain("bert", "ids", ids)
    segments = np.zeros_like(ids) if segments is None else segments
    if ids.ndim != 2 or segments.shape != ids.shape or (mask is not None and mask.shape != ids.shape):
        shapes = (ids.shape, None if mask is None else mask.shape, segments.shape)
        raise ShapeError(f"bert: ids, mask, segments of shapes {shapes}, expected three times (batch, seq)")
    seq = ids.shape[1]
    if seq > config.positions:
        raise ShapeError(f"bert: sequence length {seq}, expected at most {config.positions}")
    word = p["embeddings.word"] if word is None else word
    tape = tape_of("bert", word)
    places = ("embeddings.word", "embeddings.position", "embeddings.segment")
    with tape.scope("embeddings"):
        x = F.embedding_sum(
            (word, ids),
            (p["embeddings.position"], np.arange(seq)),
            (p["embeddings.segment"], segments),
            weights=tuple(tape.scheme.trained.get(place, 1.0) for place in places),
        )
        x = norm(p, "embeddings.norm", x, config.eps)
        x = F.dropout(x, config.dropout, rng)
    for i in range(config.layers):
        with tape.scope(f"encoder.{i}"):
            x = transformer_layer(p, f"encoder.{i}", x, mask, block=config.block, number=i, rng=rng)
    if config.norm == "post":
        return x
    with tape.scope("encoder"):
        return norm(p, "encoder.norm", x, config.eps)


def pooled(p: Tensors, encoded: Tensor) -> Tensor:
    """Compute tanh(dense(first token)) by a trained pooler: (batch, seq, width) → (batch, width).

    ``functional.mean_pooled`` is the other usual pooling of a sequence.
    """
    weight, bias = p["nsp.pooler.weight"], p["nsp.pooler.bias"]
    scheme = tape_of("bert", encoded, weight).scheme
    return heads.first_pooled(encoded, weight, bias, constraint=constraint_at(scheme, "nsp.pooler", none))


@dataclass(frozen=True)
class Losses:
    """The losses and logits of a pre-training step, on one tape.

    Attributes:
        total, masked_lm, next_sentence: losses, scalars.
        encoded: the encoder's output (batch, seq, width).
        masked_lm_logits, next_sentence_logits: (batch, p, words) and (batch, 2).

    Without a next-sentence head ``next_sentence`` and ``next_sentence_logits`` are None.
    """

    total: Tensor
    masked_lm: Tensor
    next_sentence: Tensor | None
    encoded: Tensor
    masked_lm_logits: Tensor
    next_sentence_logits: Tensor | None

    @property
    def parts(self) -> dict[str, Tensor]:
        """The losses whose sum is ``total``, by name."""
        second = {"next_sentence": self.next_sentence} if self.next_sentence else {}
        return {"masked_lm": self.masked_lm, **second}


def pretraining_loss(p: Tensors, batch: Batch, config: BertConfig, rng: np.random.Generator | None = None) -> Losses:
    """Compute masked-LM plus next-sentence loss; continue with ``backward(losses.total)``.

    Args:
        p: parameters as tensors, from ``models.parameters_on``.
        batch: a batch of masked text.
        config: the model, with a masked-LM head; without a next-sentence head the total is the masked-LM loss.
        rng: generator for dropout; None in evaluation.

    Returns:
        The losses.

    Raises:
        ArgumentError: the model has no masked-LM head.
        ShapeError: the batch does not fit the configuration.
    """
    if "mlm" not in config.outputs:
        raise ArgumentError(f"pretraining_loss(outputs={config.outputs}): expected a model with the output 'mlm'")
    word = p["embeddings.word"]
    tape = tape_of("bert", word)
    if config.tied:
        with tape.scope("embeddings.word"):
            word, decoder = F.fork(word, 2)
            decoder = apply(ops.Transpose((1, 0)), decoder)
    else:
        decoder = p["mlm.decoder.weight"]
    encoded = encode(p, config, batch.ids, batch.mask, batch.segments, rng, word=word)
    to_mlm = to_nsp = encoded
    if "nsp" in config.outputs:
        with tape.scope("encoder"):
            to_mlm, to_nsp = F.fork(encoded, 2)

    def tied(*places: str) -> tuple[Constraint, Constraint]:
        first, second = (constraint_at(tape.scheme, place, none) for place in places)
        return first, second

    with tape.scope("mlm"):
        words = heads.masked_lm_head(
            to_mlm,
            batch.positions,
            transform=(p["mlm.transform.weight"], p["mlm.transform.bias"]),
            norm=(p["mlm.norm.gain"], p["mlm.norm.bias"]),
            decoder=(decoder, p["mlm.decoder.bias"]),
            activation=ops.ACTIVATIONS[config.activation],
            eps=config.eps * tape.scheme.trained.get("mlm.norm", 1.0),
            constraints=tied("mlm.transform", "mlm.decoder"),
        )
        masked_lm = F.cross_entropy(words, batch.labels, IGNORE)
    if "nsp" not in config.outputs:
        return Losses(masked_lm, masked_lm, None, encoded, words, None)
    with tape.scope("nsp"):
        follows = heads.next_sentence_head(
            to_nsp,
            pooler=(p["nsp.pooler.weight"], p["nsp.pooler.bias"]),
            classifier=(p["nsp.classifier.weight"], p["nsp.classifier.bias"]),
            constraints=tied("nsp.pooler", "nsp.classifier"),
        )
        next_sentence = F.cross_entropy(follows, batch.is_next)
    total = F.total_loss(masked_lm, next_sentence)
    return Losses(total, masked_lm, next_sentence, encoded, words, follows)


@dataclass(frozen=True)
class SpanLosses:
    """The losses and logits of a step of span extraction, on one tape.

    Attributes:
        total, start, end: losses, scalars; the total is the sum of the others.
        encoded: the encoder's output (batch, seq, width).
        start_logits, end_logits: (batch, seq).
    """

    total: Tensor
    start: Tensor
    end: Tensor
    encoded: Tensor
    start_logits: Tensor
    end_logits: Tensor

    @property
    def parts(self) -> dict[str, Tensor]:
        """The losses whose sum is ``total``, by name."""
        return {"start": self.start, "end": self.end}


def span_loss(p: Tensors, batch: SpanBatch, config: BertConfig, rng: np.random.Generator | None = None) -> SpanLosses:
    """Compute the cross-entropy of the answer's start plus that of its end.

    Args:
        p: parameters as tensors, from ``models.parameters_on``.
        batch: questions, contexts, answers.
        config: the model, with the output "span".
        rng: generator for dropout; None in evaluation.

    Returns:
        The losses. The total is their sum, twice the mean that the original uses.

    Raises:
        ArgumentError: the model has no span head.
        ShapeError: the batch does not fit the configuration.
    """
    if "span" not in config.outputs:
        raise ArgumentError(f"span_loss(outputs={config.outputs}): expected a model with the output 'span'")
    encoded = encode(p, config, batch.ids, batch.mask, batch.segments, rng)
    tape = encoded.tape
    with tape.scope("span"):
        constraint = constraint_at(tape.scheme, "span", none)
        logits = heads.span_head(encoded, p["span.weight"], p["span.bias"], constraint=constraint)
        start, end = (F.cross_entropy(x, places) for x, places in zip(logits, (batch.starts, batch.ends), strict=True))
    total = F.total_loss(start, end)
    return SpanLosses(total, start, end, encoded, *logits)
