"""Language modeling: the next character of a text."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refscale.data import IGNORE, Characters, Ids, TextBatch, load_text
from refscale.errors import ArgumentError
from refscale.layers import Spec, Specs, Tensors
from refscale.models import language
from refscale.programs import Program, Scores
from refscale.scales import Scheme
from refscale.tasks.batches import text_batches, text_windows
from refscale.tasks.setup import Setup

CONTEXT = 8
"""One of this many tokens of a sequence is context only. Source: paper, character models (32 of 256)."""


@dataclass(frozen=True, eq=False)
class NextToken(Program):
    """The task "next-token"; see ``programs.Program``.

    Attributes:
        setup: sizes and rules.
        model: configuration; under ``setup.fit`` its vocabulary has the size of ``vocabulary``.
        vocabulary: characters in the training part of the text, at most the vocabulary size of ``setup.model``.
        training, held_out: tokens.
        digest: hash of the text.
    """

    setup: Setup
    model: language.LanguageConfig
    vocabulary: Characters
    training: Ids
    held_out: Ids
    digest: str

    @classmethod
    def of(cls, setup: Setup, text: str | Path | None = None) -> NextToken:
        """Read the text at a path; None: the text that comes with Python.

        Raises:
            ArgumentError: the model is not a language model.
            DataError: the text is not usable.
        """
        if not isinstance(setup.model, language.LanguageConfig):
            raise ArgumentError(f"next-token: got {setup.model!r}, expected a language model")
        content = load_text(text)
        cut = len(content) - round(setup.held_out * len(content))
        vocabulary = Characters.from_text(content[:cut], setup.model.vocabulary)
        tokens = vocabulary.encode(content)
        model = replace(setup.model, vocabulary=len(vocabulary)) if setup.fit else setup.model
        digest = hashlib.sha256(content.encode()).hexdigest()
        return cls(setup, model, vocabulary, tokens[:cut], tokens[cut:], digest)

    @property
    def _sizes(self) -> dict[str, int]:
        return {"batch": self.setup.batch, "seq": self.setup.seq, "overlap": max(1, self.setup.seq // CONTEXT)}

    memoryless = True

    @cached_property
    def specs(self) -> Specs:
        """Specs of the model's parameters."""
        return language.specs(self.model)

    @cached_property
    def scheme(self) -> Scheme:
        """Scheme of the setup."""
        return self.setup.scheme

    def initial_std(self, spec: Spec) -> float:
        """Return the initial σ of a parameter in the model family."""
        return language.initial_std(self.model, spec)

    def batches(self, rng: np.random.Generator) -> Iterator[TextBatch]:
        """Return batches of the training text."""
        return text_batches(self.training, rng=rng, **self._sizes)

    def validation(self, rng: np.random.Generator) -> list[TextBatch]:
        """Return the held-out text from its beginning; all of it with ``evaluation_batches`` = 0."""
        return text_windows(self.held_out, most=self.setup.evaluation_batches or None, **self._sizes)

    def loss(self, p: Tensors, batch: TextBatch, rng: np.random.Generator | None = None) -> language.NextTokenLoss:
        """Compute the cross-entropy of the next token."""
        return language.next_token_loss(p, batch, self.model, rng)

    def observe(self, batch: TextBatch, loss: language.NextTokenLoss) -> NDArray[np.float64]:
        """Return the sum of the losses, the number of correct predictions, and the number of tokens."""
        counted = loss.labels != IGNORE
        right = (loss.logits.value.argmax(-1) == loss.labels)[counted]
        return np.array([float(loss.total.value) * right.size, right.sum(), right.size], np.float64)

    def score(self, observed: Sequence[NDArray[np.float64]]) -> Scores:
        """Return bits per character, and the share of correctly predicted characters."""
        nats, right, tokens = np.sum(observed, 0).tolist()
        return {"bits": nats / tokens / math.log(2), "accuracy": right / tokens}

    def line(self, scores: Scores) -> str:
        """Format bits and accuracy."""
        return f"{scores['bits']:.4f} bits per character ({scores['accuracy']:.1%} right)"
