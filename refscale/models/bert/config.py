"""Configurations of BERT: sizes and rules, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from refscale import ops
from refscale.errors import ArgumentError
from refscale.layers import Block
from refscale.scales import (
    Constraint,
    NormPlacement,
    PlainAdd,
    ResidualRule,
    ScoresRule,
    default,
    fixed,
    geometric,
    get_constraint,
    get_residual,
)

Output = Literal["mlm", "nsp", "pooler", "span"]
OUTPUTS: tuple[Output, ...] = get_args(Output)


@dataclass(frozen=True)
class BertConfig:
    """The configuration of a BERT: sizes and rules. Rules default to the paper's.

    Attributes:
        layers, width, heads, hidden: sizes of the encoder; ``hidden`` is the feed-forward width.
        vocabulary: rows of the word embedding.
        positions: maximum sequence length.
        segments: rows of the segment embedding.
        outputs: heads on the encoder: "mlm" (masked LM), "nsp" (next sentence, with its pooler), "pooler" (the pooler
            only), "span" (logits of start and end of an answer).
        norm: placement of norms in the residual blocks, see ``layers.Block``: "post" as the original; "pre" and
            "branch" add a norm at the end of the encoder. A scheme that moves the norms of the blocks does not change
            the last one.
        tied: True: the decoder uses the word embedding (the original); False: it has its own weight.
        tau: residual rule. Regular BERT computes x + f(x) with branches that add about a tenth of the stream's
            variance (bert-base at initialization: 0.02 to 0.14, ``refscale report bert-base --all``). None: x + f(x);
            under unit scaling it is replaced by ``fixed(0.1)`` for post-norm, by the running mean for pre-norm.
        activation: activation of the feed-forward layers and the masked-LM head, a name in ``ops.ACTIVATIONS``.
        eps: eps of the norms.
        dropout, attention_dropout: probabilities of dropout: of embeddings and branches; of attention weights.
        scores: damping of the attention scores, "1/sqrt(d)" or "1/d"; None: that of the scheme.
        values: assumed correlation of the values of a sequence, see ``ops.AttentionMix``.
        constraint: constraint of factors inside residual branches: ``geometric`` is the paper's; with ``none`` every op
            keeps its own factors, and forks at the start of branches and uses correct the difference.
        std: standard deviation of initial weights under the regular scheme.

    ``tau`` and ``constraint`` may be given by name.
    """

    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int = 30400
    positions: int = 512
    segments: int = 2
    outputs: tuple[Output, ...] = ("mlm", "nsp")
    norm: NormPlacement = "post"
    tied: bool = True
    tau: ResidualRule | None = None
    activation: str = "gelu"
    eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    scores: ScoresRule | None = None
    values: ops.ValuesRule = "correlated"
    constraint: Constraint = geometric
    std: float = 0.02

    def __post_init__(self) -> None:
        object.__setattr__(self, "tau", self.tau and get_residual(self.tau))
        object.__setattr__(self, "constraint", get_constraint(self.constraint))
        sizes = (self.layers, self.width, self.heads, self.hidden, self.vocabulary, self.positions, self.segments)
        if min(sizes) < 1:
            raise ArgumentError(f"{self}: sizes must be at least 1")
        if self.width % self.heads:
            raise ArgumentError(f"{self}: width {self.width} is not a multiple of heads {self.heads}")
        if self.activation not in ops.ACTIVATIONS:
            raise ArgumentError(
                f"BertConfig(activation={self.activation!r}): expected one of {', '.join(ops.ACTIVATIONS)}"
            )
        wrong = [name for name in self.outputs if name not in OUTPUTS]
        if wrong or len(set(self.outputs)) < len(self.outputs):
            raise ArgumentError(f"BertConfig(outputs={self.outputs}): expected different ones of {', '.join(OUTPUTS)}")
        for name, end in (("dropout", 1), ("attention_dropout", 1), ("eps", math.inf), ("std", math.inf)):
            if not 0 <= getattr(self, name) < end:
                raise ArgumentError(f"BertConfig({name}={getattr(self, name)}): expected 0 ≤ {name} < {end}")

    @property
    def pools(self) -> bool:
        """Return whether the model has a pooler."""
        return "nsp" in self.outputs or "pooler" in self.outputs

    @property
    def block(self) -> Block:
        """Common settings of all layers."""
        plain = PlainAdd(fixed(0.1)) if self.norm == "post" else default
        return Block(
            heads=self.heads,
            depth=2 * self.layers,
            norm=self.norm,
            tau=self.tau or plain,
            activation=ops.ACTIVATIONS[self.activation],
            eps=self.eps,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            scores=self.scores,
            values=self.values,
            constraint=self.constraint,
        )


CONFIGS: dict[str, BertConfig] = {
    "bert-tiny": BertConfig(layers=2, width=128, heads=2, hidden=512, vocabulary=4096),
    "bert-mini": BertConfig(layers=4, width=256, heads=4, hidden=1024, vocabulary=4096),
    "bert-base": BertConfig(layers=12, width=768, heads=12, hidden=3072),
    "bert-large": BertConfig(layers=24, width=1024, heads=16, hidden=4096),
}
"""Sources: paper, BERT experiments (base, large, vocabulary 30400); Turc et al. 2019, arXiv 1908.08962 (tiny, mini)."""


def get_config(name: str, **changes: Any) -> BertConfig:
    """Return a named configuration with some fields replaced: ``get_config("bert-tiny", norm="pre")``."""
    if name not in CONFIGS:
        raise ArgumentError(f"get_config({name!r}): expected one of {', '.join(CONFIGS)}")
    return replace(CONFIGS[name], **changes)
