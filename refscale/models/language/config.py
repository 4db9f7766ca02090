"""Configurations of language models: sizes and rules, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from refscale import ops
from refscale.errors import ArgumentError
from refscale.layers import Block, Mixer
from refscale.scales import (
    Constraint,
    NormPlacement,
    ResidualRule,
    ScoresRule,
    default,
    geometric,
    get_constraint,
    get_residual,
    running_mean,
)

Positions = Literal["relative", "rotary", "none"]
Initial = Literal["normal", "authors"]


@dataclass(frozen=True)
class LanguageConfig:
    """The configuration of a model that predicts the next token: sizes and rules.

    Attributes:
        layers, width: sizes of the trunk.
        head_size: width of an attention head; the number of heads is width/head_size.
        shared: number of heads of queries that share a key and a value; divides the number of heads.
        multiple: feed-forward width over ``width``.
        vocabulary: rows of the embedding.
        mixer: the op that mixes the tokens of a sequence, see ``layers.Block``.
        positions: representation of positions in attention: "relative" (learned projections of sinusoids of the
            distance) or "rotary".
        norm: placement of norms in the residual blocks: "pre", "post", "branch" or "none".
        rms: use RMS norms instead of layer norms.
        biases: use biases in linear layers and convolutions.
        gated: True: the feed-forward layer is x·silu(gate); False: it has ``activation`` between two linear layers.
        activation: a name in ``ops.ACTIVATIONS``.
        embedding_norm: apply a norm to the embeddings.
        tied: the readout uses the embedding.
        pad: True: predictions are shifted to the right after a trained first one, so that the first token is also
            predicted (the paper's models); False: it is not (usual for decoders).
        tau: residual rule; ``default`` is x + f(x), replaced by the running mean under unit scaling.
        kernel, groups: kernel size and number of groups of convolutions.
        frequencies, amplitude: number and amplitude of the sinusoids.
        initial: distribution of initial weights. "normal": N(0, σ²), with Glorot's σ under the regular scheme.
            "authors": uniform, with σ = fan_in^-½ under the regular scheme for queries, keys, values and distances, and
            for gates, whose fan-in is that of input and state together.
        base: base of rotary positions.
        eps: eps of the norms.
        dropout: probability of dropout of embeddings and branches; attention weights have no dropout.
        scores, values, constraint: see ``layers.Block``.

    ``tau`` and ``constraint`` may be given by name.
    """

    layers: int
    width: int
    head_size: int = 64
    shared: int = 1
    multiple: float = 4.0
    vocabulary: int = 256
    mixer: Mixer = "attention"
    positions: Positions = "relative"
    norm: NormPlacement = "pre"
    rms: bool = False
    biases: bool = True
    gated: bool = False
    activation: str = "relu"
    embedding_norm: bool = True
    tied: bool = False
    pad: bool = True
    tau: ResidualRule = default
    kernel: int = 7
    groups: int = 8
    frequencies: int = 128
    amplitude: float = math.sqrt(2)
    initial: Initial = "normal"
    base: float = 10000.0
    eps: float = 1e-6
    dropout: float = 0.0
    scores: ScoresRule | None = None
    values: ops.ValuesRule = "correlated"
    constraint: Constraint = geometric

    def __post_init__(self) -> None:
        object.__setattr__(self, "tau", get_residual(self.tau))
        object.__setattr__(self, "constraint", get_constraint(self.constraint))
        least = {"vocabulary": 2, "frequencies": 4}
        for name in ("layers", "width", "head_size", "shared", "vocabulary", "kernel", "groups", "frequencies"):
            if getattr(self, name) < least.get(name, 1):
                raise self._error(name, f"at least {least.get(name, 1)}")
        for name, choices in (
            ("mixer", get_args(Mixer)),
            ("positions", get_args(Positions)),
            ("norm", get_args(NormPlacement)),
            ("activation", tuple(ops.ACTIVATIONS)),
            ("initial", get_args(Initial)),
        ):
            if getattr(self, name) not in choices:
                raise self._error(name, f"one of {', '.join(choices)}")
        if self.mixer == "attention" and self.width % (self.head_size * self.shared):
            raise self._error("width", f"a multiple of {self.head_size * self.shared}, head_size times shared")
        if self.mixer == "attention" and self.positions == "rotary" and self.head_size % 2:
            raise self._error("head_size", "an even number, for rotary positions")
        if self.mixer == "convolution" and self.width % self.groups:
            raise self._error("width", f"a multiple of {self.groups}, the groups")
        for name in ("base", "amplitude"):
            if not 0 < getattr(self, name) < math.inf:
                raise self._error(name, f"0 < {name} < inf")
        for name, end in (("dropout", 1), ("eps", math.inf)):
            if not 0 <= getattr(self, name) < end:
                raise self._error(name, f"0 ≤ {name} < {end}")
        if not 0 < self.multiple < math.inf or self.hidden < 1:
            raise self._error("multiple", "one that leaves a feed-forward width")

    def _error(self, field: str, expected: str) -> ArgumentError:
        return ArgumentError(f"LanguageConfig({field}={getattr(self, field)!r}): expected {expected}")

    @property
    def hidden(self) -> int:
        """The feed-forward width."""
        return round(self.multiple * self.width)

    @property
    def block(self) -> Block:
        """Common settings of all layers."""
        heads = max(1, self.width // self.head_size)
        return Block(
            heads=heads,
            depth=2 * self.layers,
            norm=self.norm,
            tau=self.tau,
            activation=ops.ACTIVATIONS[self.activation],
            eps=self.eps,
            dropout=self.dropout,
            attention_dropout=0.0,
            scores=self.scores,
            values=self.values,
            constraint=self.constraint,
            mixer=self.mixer,
            causal=True,
            amplitude=self.amplitude,
            kv_heads=heads // self.shared,
            rotary=self.base if self.positions == "rotary" else None,
        )


_CHARACTERS = LanguageConfig(layers=8, width=128, eps=1e-3, tau=running_mean)
_DECODER = LanguageConfig(
    layers=4,
    width=128,
    head_size=32,
    shared=2,
    multiple=3.0,
    positions="rotary",
    rms=True,
    biases=False,
    gated=True,
    embedding_norm=False,
    pad=False,
)

CONFIGS: dict[str, LanguageConfig] = {
    "charlm-attention": _CHARACTERS,
    "charlm-conv": replace(_CHARACTERS, mixer="convolution"),
    "charlm-rnn": replace(_CHARACTERS, mixer="recurrence", layers=2),
    "decoder-tiny": replace(_DECODER, layers=2, width=64, head_size=16),
    "decoder-mini": _DECODER,
    "decoder-small": replace(_DECODER, layers=8, width=512, head_size=64, shared=4, tied=True),
}
"""Sources: paper, settings of the character models (running mean, pre-norm as its wider runs); the decoders are as
published ones are (Touvron et al. 2023, arXiv 2302.13971; grouped queries: arXiv 2305.13245), small."""
