"""Pre-training: BERT's masked words and next sentences, on a text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refscale.data import IGNORE, Batch, Ids, Vocabulary, load_text, sentences
from refscale.errors import ArgumentError, DataError, counted
from refscale.layers import Spec, Specs, Tensors
from refscale.models import bert
from refscale.programs import Program, Scores
from refscale.scales import Scheme
from refscale.tasks.batches import masked_lm_batches
from refscale.tasks.setup import Setup


@lru_cache(maxsize=1)  # many runs have one text
def _read(content: str, share: float, words: int) -> tuple[Vocabulary, tuple[str, ...], tuple[str, ...], str]:
    """Return vocabulary, training sentences, held-out sentences, and digest."""
    parts = sentences(content)
    if len(parts) < 2 and share:
        raise DataError(
            f"train: a text of {counted(len(parts), 'sentence')}, expected some to train on and some to validate"
        )
    cut = len(parts) - (max(1, round(share * len(parts))) if share else 0)
    training, held_out = tuple(parts[:cut]), tuple(parts[cut:])
    vocabulary = Vocabulary.from_text(" ".join(training), words)
    return vocabulary, training, held_out, hashlib.sha256(content.encode()).hexdigest()


@lru_cache(maxsize=2)
def _encoded(text: tuple[str, ...], vocabulary: Vocabulary) -> tuple[Ids, ...]:
    return tuple(map(vocabulary.encode, text))


@dataclass(frozen=True, eq=False)
class MaskedLM(Program):
    """The task "masked-lm"; see ``programs.Program``.

    Attributes:
        setup: sizes and rules.
        model: configuration with as many words as the vocabulary has.
        vocabulary: vocabulary of the training part of the text.
        training, held_out: sentences.
        digest: hash of the text.
    """

    setup: Setup
    model: bert.BertConfig
    vocabulary: Vocabulary
    training: tuple[str, ...]
    held_out: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, setup: Setup, text: str | Path | None = None) -> MaskedLM:
        """Read the text at a path; None: the text that comes with Python.

        Raises:
            ArgumentError: the model is not a BERT.
            DataError: the text is not usable.
        """
        if not isinstance(setup.model, bert.BertConfig):
            raise ArgumentError(f"masked-lm: got {setup.model!r}, expected a BERT")
        vocabulary, training, held_out, digest = _read(load_text(text), setup.held_out, setup.model.vocabulary)
        model = replace(setup.model, vocabulary=len(vocabulary)) if setup.fit else setup.model
        return cls(setup, model, vocabulary, training, held_out, digest)

    memoryless = True

    @cached_property
    def specs(self) -> Specs:
        """Specs of the model's parameters."""
        return bert.specs(self.model)

    @cached_property
    def scheme(self) -> Scheme:
        """Scheme of the setup."""
        return self.setup.scheme

    def initial_std(self, spec: Spec) -> float:
        """Return the initial σ of a parameter in the model family."""
        return bert.initial_std(self.model, spec)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Return batches of the training text."""
        return self._draw(self.training, rng)

    def validation(self, rng: np.random.Generator) -> tuple[Batch, ...]:
        """Return batches of the held-out text."""
        drawn = self._draw(self.held_out, rng)
        return tuple(next(drawn) for _ in range(self.setup.evaluation_batches))

    def _draw(self, text: tuple[str, ...], rng: np.random.Generator) -> Iterator[Batch]:
        ids = _encoded(text, self.vocabulary)
        return masked_lm_batches(ids, self.vocabulary, batch=self.setup.batch, seq=self.setup.seq, rng=rng)

    def loss(self, p: Tensors, batch: Batch, rng: np.random.Generator | None = None) -> bert.Losses:
        """Compute the sum of masked-LM and next-sentence loss."""
        return bert.pretraining_loss(p, batch, self.model, rng)

    def observe(self, batch: Batch, loss: bert.Losses) -> NDArray[np.float64]:
        """Return sums of losses, of correct predictions and of counts, over words and over sequences."""
        assert loss.next_sentence is not None  # the model has both heads
        assert loss.next_sentence_logits is not None
        right = (loss.masked_lm_logits.value.argmax(-1) == batch.labels)[batch.labels != IGNORE]
        follows = loss.next_sentence_logits.value.argmax(-1) == batch.is_next
        n, s = right.size, follows.size
        losses = float(loss.masked_lm.value) * n, float(loss.next_sentence.value) * s
        return np.array([*losses, right.sum(), follows.sum(), n, s], np.float64)

    def score(self, observed: Sequence[NDArray[np.float64]]) -> Scores:
        """Return means over words (masked LM) and sequences (next sentence): losses in nats, shares of correct ones."""
        masked_lm, next_sentence, right, follows, words, sequences = np.sum(observed, 0).tolist()
        return {
            "masked_lm": masked_lm / words,
            "next_sentence": next_sentence / sequences,
            "masked_lm_accuracy": right / words,
            "next_sentence_accuracy": follows / sequences,
        }

    def line(self, scores: Scores) -> str:
        """Format losses of masked words (MLM) and next sentences (NSP), and the shares of correct predictions."""
        return (
            f"MLM {scores['masked_lm']:.4f} ({scores['masked_lm_accuracy']:.1%}), "
            f"NSP {scores['next_sentence']:.4f} ({scores['next_sentence_accuracy']:.1%})"
        )
