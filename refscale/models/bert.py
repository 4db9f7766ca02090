"""BERT (Devlin et al. 2018) with its masked-LM and next-sentence heads, regular or unit-scaled by the tape's scheme.

Where unit scaling shows: residual additions are weighted (``functional.residual``), embeddings are summed by a weighted
add, and a tensor used by parts whose gradients carry different factors is forked: the encoder's output by the two
heads, and the word embedding by input and decoder if they are tied.  ``graph.balance`` settles the forks at the end, so
that every gradient computed is one constant times the true one; ``graph.gradient_factors`` certifies it.

Under the regular scheme all of these are the plain operations of the original.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.data import IGNORE, Batch
from refscale.engine import Tape, Tensor, apply
from refscale.errors import ArgumentError, ShapeError
from refscale.graph import balance
from refscale.layers import (
    Block,
    Parameters,
    Spec,
    Specs,
    Tensors,
    initialize,
    linear_specs,
    norm,
    norm_specs,
    on_tape,
    transformer_layer,
    transformer_layer_specs,
)
from refscale.scales import (
    Constraint,
    NormPlacement,
    PlainAdd,
    ResidualRule,
    Scheme,
    ScoresRule,
    default,
    fixed,
    geometric,
)


@dataclass(frozen=True)
class BertConfig:
    """Shape and rules of a BERT.  Sizes are the published ones; the rules default to the paper's.

    Attributes:
        layers, width, heads, hidden: of the encoder; ``hidden`` is the feed-forward width.
        vocabulary: rows of the word embedding.
        positions: longest sequence.
        norm: of the residual blocks, see ``layers.Block``: "post" as the original; "pre" and "branch" have another at
            the end of the encoder.  A scheme that moves the norms of the blocks neither adds nor removes that one.
        tied: the decoder uses the word embedding (the original) or a weight of its own.
        tau: residual rule.  Regular BERT computes x + f(x) with branches that add about a tenth of the stream's
            variance (bert-base at initialization: 0.02 to 0.14, ``refscale report bert-base --all``).  None: that, with
            ``fixed(0.1)`` as its stand-in under unit scaling if post-norm, the running mean if pre-norm.
        gelu, eps, dropout: as the original.
        scores: damping of the attention scores, "1/sqrt(d)" or "1/d"; None: the scheme's.
        values: correlated or independent, see ``ops.AttentionMix``.
        constraint: ties factors inside residual branches: ``geometric`` is the paper's; with ``none`` every op keeps
            its own factors, and forks repay the difference where branches and uses start.
        std: of initial weights under the regular scheme.
    """

    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int = 30400
    positions: int = 512
    norm: NormPlacement = "post"
    tied: bool = True
    tau: ResidualRule | None = None
    gelu: Literal["erf", "tanh"] = "erf"
    eps: float = 1e-12
    dropout: float = 0.1
    scores: ScoresRule | None = None
    values: ops.ValuesRule = "correlated"
    constraint: Constraint = geometric
    std: float = 0.02

    def __post_init__(self) -> None:
        if min(self.layers, self.width, self.heads, self.hidden, self.vocabulary, self.positions) < 1:
            raise ArgumentError(f"{self}: sizes must be at least 1")
        if self.width % self.heads:
            raise ArgumentError(f"{self}: width {self.width} is no multiple of heads {self.heads}")

    @property
    def block(self) -> Block:
        """What all layers share."""
        plain = PlainAdd(fixed(0.1)) if self.norm == "post" else default
        return Block(
            self.heads,
            2 * self.layers,
            self.norm,
            self.tau or plain,
            self.gelu,
            self.eps,
            self.dropout,
            self.scores,
            self.values,
            self.constraint,
        )


CONFIGS: dict[str, BertConfig] = {
    "bert-tiny": BertConfig(layers=2, width=128, heads=2, hidden=512, vocabulary=4096),
    "bert-mini": BertConfig(layers=4, width=256, heads=4, hidden=1024, vocabulary=4096),
    "bert-base": BertConfig(layers=12, width=768, heads=12, hidden=3072),
    "bert-large": BertConfig(layers=24, width=1024, heads=16, hidden=4096),
}
"""Sources: paper, BERT experiments (base, large, vocabulary 30400); Turc et al. 2019, arXiv 1908.08962 (tiny, mini)."""


def get_config(name: str, **changes: Any) -> BertConfig:
    """A named configuration, with fields replaced: ``get_config("bert-tiny", norm="pre")``."""
    if name not in CONFIGS:
        raise ArgumentError(f"get_config({name!r}): expected one of {', '.join(CONFIGS)}")
    return replace(CONFIGS[name], **changes)


def specs(config: BertConfig) -> Specs:
    """Every parameter, in order."""
    d = config.width
    found: Specs = {
        "embeddings.word": Spec("embedding", (config.vocabulary, d)),
        "embeddings.position": Spec("embedding", (config.positions, d)),
        "embeddings.segment": Spec("embedding", (2, d)),
        **norm_specs("embeddings.norm", d),
    }
    for i in range(config.layers):
        found |= transformer_layer_specs(f"encoder.{i}", d, config.hidden, 2 * config.layers)
    if config.norm != "post":
        found |= norm_specs("encoder.norm", d)
    found |= linear_specs("mlm.transform", d, d) | norm_specs("mlm.norm", d)
    if not config.tied:
        found["mlm.decoder.weight"] = Spec("readout", (d, config.vocabulary))
    found["mlm.decoder.bias"] = Spec("bias", (config.vocabulary,))
    return found | linear_specs("nsp.pooler", d, d) | linear_specs("nsp.classifier", d, 2, role="readout")


def initial_parameters(config: BertConfig, scheme: Scheme, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Initial parameters by name; see ``layers.initialize``."""
    return initialize(specs(config), scheme, rng, config.std)


def parameters_on(tape: Tape, parameters: Parameters, config: BertConfig) -> dict[str, Tensor]:
    """Parameters as leaves of a tape; see ``layers.on_tape``."""
    return on_tape(tape, parameters, specs(config))


def encode(
    p: Tensors, word: Tensor, batch: Batch, config: BertConfig, rng: np.random.Generator | None = None
) -> Tensor:
    """Encoder: token ids to contextual vectors.

    Args:
        p: parameters as tensors.
        word: the word embedding (or one fork of it).
        batch: ids, segments, mask of shape (batch, seq).
        config: the model.
        rng: for dropout; None in evaluation.

    Returns:
        (batch, seq, width), of unit variance under unit scaling.
    """
    seq = batch.ids.shape[1]
    if seq > config.positions:
        raise ShapeError(f"bert: sequence length {seq}, expected at most {config.positions}")
    tape = word.tape
    with tape.scope("embeddings"):
        x = F.embedding_sum(
            (word, batch.ids),
            (p["embeddings.position"], np.arange(seq)),
            (p["embeddings.segment"], batch.segments),
        )
        x = norm(p, "embeddings.norm", x, config.eps)
        x = F.dropout(x, config.dropout, rng)
    for i in range(config.layers):
        with tape.scope(f"encoder.{i}"):
            x = transformer_layer(p, f"encoder.{i}", x, batch.mask, config.block, i, rng)
    if config.norm == "post":
        return x
    with tape.scope("encoder"):
        return norm(p, "encoder.norm", x, config.eps)


@dataclass(frozen=True)
class Losses:
    """What a pre-training step computes, on one tape.

    Attributes:
        total, masked_lm, next_sentence: scalars.
        encoded: the encoder's output (batch, seq, width).
        masked_lm_logits, next_sentence_logits: (batch, p, words) and (batch, 2).
    """

    total: Tensor
    masked_lm: Tensor
    next_sentence: Tensor
    encoded: Tensor
    masked_lm_logits: Tensor
    next_sentence_logits: Tensor


def pretraining_loss(p: Tensors, batch: Batch, config: BertConfig, rng: np.random.Generator | None = None) -> Losses:
    """Masked-LM plus next-sentence loss, with every factor settled; ready for ``backward(losses.total)``.

    Args:
        p: parameters as tensors, from ``parameters_on``.
        batch: real text.
        config: the model.
        rng: for dropout; None in evaluation.

    Returns:
        The losses.

    Raises:
        ShapeError: the batch does not fit the configuration.
    """
    word = p["embeddings.word"]
    if config.tied:
        with word.tape.scope("embeddings.word"):
            word, decoder = F.fork(word, 2)
            decoder = apply(ops.Transpose((1, 0)), decoder)
    else:
        decoder = p["mlm.decoder.weight"]
    tape = word.tape
    encoded = encode(p, word, batch, config, rng)
    with tape.scope("encoder"):
        to_mlm, to_nsp = F.fork(encoded, 2)
    with tape.scope("mlm"):
        words = F.masked_lm_head(
            to_mlm,
            batch.positions,
            transform=(p["mlm.transform.weight"], p["mlm.transform.bias"]),
            norm=(p["mlm.norm.gain"], p["mlm.norm.bias"]),
            decoder=(decoder, p["mlm.decoder.bias"]),
            gelu=config.gelu,
            eps=config.eps,
        )
        masked_lm = F.cross_entropy(words, batch.labels, IGNORE)
    with tape.scope("nsp"):
        follows = F.next_sentence_head(
            to_nsp,
            pooler=(p["nsp.pooler.weight"], p["nsp.pooler.bias"]),
            classifier=(p["nsp.classifier.weight"], p["nsp.classifier.bias"]),
        )
        next_sentence = F.cross_entropy(follows, batch.is_next)
    total = F.total_loss(masked_lm, next_sentence)
    balance(total)
    return Losses(total, masked_lm, next_sentence, encoded, words, follows)
