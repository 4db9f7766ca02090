"""Fine-tuning: a trained BERT learns to extract answers, as in the paper's experiments on SQuAD 1.1 and 2.0."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import published, squad
from refscale.data import SpanBatch
from refscale.errors import ArgumentError, DataError
from refscale.layers import Specs, Tensors, initialize
from refscale.models import bert
from refscale.programs import Program, Scores
from refscale.scales import Scheme, Unit, get_scheme, regular, unit
from refscale.tasks.setup import Setup

LONGEST_QUESTION = 64
"""Largest number of tokens of a question, or half of a window if that is less; Devlin et al. 2018, run_squad."""


@dataclass(frozen=True)
class SpanData:
    """The data of fine-tuning.

    Attributes:
        pretrained: trained model; or its directory, which ``train`` reads by ``train.load_trained``.
        train, dev: files in the format of SQuAD 1.1 or 2.0; both None: ``squad.made_questions``.
        text: training text of the model, if its directory is a run of ``train`` on a text of its own.
    """

    pretrained: published.Pretrained | str | Path
    train: str | Path | None = None
    dev: str | Path | None = None
    text: str | Path | None = None

    def questions(self) -> tuple[tuple[squad.Question, ...], tuple[squad.Question, ...]]:
        """Return training and validation questions; raise ArgumentError or DataError for unusable data."""
        if (self.train is None) != (self.dev is None):
            raise ArgumentError(f"SpanData(train={self.train!r}, dev={self.dev!r}): expected both files or neither")
        if self.train is None or self.dev is None:
            return squad.made_questions()
        return squad.read_squad(self.train), squad.read_squad(self.dev)


@dataclass(frozen=True, eq=False, kw_only=True)  # ``Program`` has a default for scheme
class SpanExtraction(Program):
    """The task "squad"; see ``programs.Program``.

    Under the regular scheme the model's parameters are used unchanged. Under unit scaling, those of a regular model are
    adapted (``published.adapt``), including the head, so that both start from the same function.

    Attributes:
        setup: sizes and rules.
        model: the encoder with a span head instead of its former heads.
        scheme: configured scheme, with the constants of an adapted model.
        adapted: result of the adaptation, if there was one.
        start: parameters before the first step.
        questions, held_out: training and validation questions.
        unanswerable: whether some question has no answer; answers may then be empty, and scores are those of SQuAD 2.0.
        training, windows: windows of the training and of the validation questions. If ``evaluation_batches`` is set,
            validation uses only the first questions, those of that many batches.
        tokenizer: tokenizer of the model.
        digest: hash of model and questions.
    """

    setup: Setup
    model: bert.BertConfig
    scheme: Scheme
    adapted: published.Adapted | None
    start: dict[str, NDArray[Any]]
    questions: tuple[squad.Question, ...]
    held_out: tuple[squad.Question, ...]
    unanswerable: bool
    training: squad.Windows
    windows: squad.Windows
    tokenizer: Any
    digest: str

    @classmethod
    def of(cls, setup: Setup, data: SpanData) -> SpanExtraction:
        """Read model and questions.

        Raises:
            ArgumentError: a directory is given instead of the model, the scheme does not fit the model's, or windows
                are too short or too long.
            CheckpointError, DataError: model or questions are not usable.
        """
        pretrained = data.pretrained
        if not isinstance(pretrained, published.Pretrained):
            raise ArgumentError(
                f"SpanExtraction.of(pretrained={pretrained!r}): expected a trained model, as load_trained returns it"
            )
        tokenizer = pretrained.tokenizer
        if tokenizer is None:
            raise DataError("finetune: the trained model has no tokenizer, expected tokenizer.json or vocab.txt")
        if setup.seq > pretrained.config.positions:
            raise ArgumentError(
                f"finetune(seq={setup.seq}): expected at most {pretrained.config.positions}, the model's positions"
            )
        model = replace(
            pretrained.config,
            outputs=("span",),
            dropout=setup.dropout,
            attention_dropout=setup.dropout,
            constraint=setup.constraint,
        )
        scheme, adapted, start = _start(setup, model, pretrained)
        questions, held_out = data.questions()
        unanswerable = squad.has_unanswerable((*questions, *held_out))  # before some of them are left out

        def windows(of: Sequence[squad.Question]) -> squad.Windows:
            return squad.windows(
                of,
                tokenizer,
                seq=setup.seq,
                stride=setup.stride,
                longest_question=min(LONGEST_QUESTION, setup.seq // 2),
            )

        held_windows = windows(held_out)
        if setup.evaluation_batches:
            last = min(len(held_windows), setup.evaluation_batches * setup.batch) - 1
            held_out = held_out[: int(held_windows.question[last]) + 1]
            held_windows = windows(held_out)
        digest = hashlib.sha256(pretrained.digest.encode())
        for question in (*questions, *held_out):
            digest.update(repr(question).encode())
        return cls(
            setup=setup,
            model=model,
            scheme=scheme,
            adapted=adapted,
            start=start,
            questions=questions,
            held_out=held_out,
            unanswerable=unanswerable,
            training=windows(questions),
            windows=held_windows,
            tokenizer=tokenizer,
            digest=digest.hexdigest(),
        )

    memoryless = True

    @cached_property
    def specs(self) -> Specs:
        """Specs of the model's parameters."""
        return bert.specs(self.model)

    def initial_parameters(self, scheme: Scheme, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Return the parameters of the trained model; those of the head are drawn once, by the run's seed."""
        return dict(self.start)

    def regular(self, parameters: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return parameters as those of a regular model, which can be saved as a published one.

        Raises:
            ArgumentError: the model was trained under unit scaling from the start.
        """
        if self.adapted is None and self.scheme.name != regular.name:
            raise ArgumentError(
                f"finetune: a model trained under {self.scheme.name!r} from the start has no regular form to save"
            )
        return self.adapted.regular(parameters) if self.adapted else parameters

    def batches(self, rng: np.random.Generator) -> Iterator[SpanBatch]:
        """Yield random windows."""
        while True:
            yield self.training.draw(rng, self.setup.batch)

    def validation(self, rng: np.random.Generator) -> Sequence[SpanBatch]:
        """Return all windows of the validation questions, in order."""
        return _Batches(self.windows, self.setup.batch)

    def loss(self, p: Tensors, batch: SpanBatch, rng: np.random.Generator | None = None) -> bert.SpanLosses:
        """Compute the sum of start and end loss."""
        return bert.span_loss(p, batch, self.model, rng)

    def observe(self, batch: SpanBatch, loss: bert.SpanLosses) -> tuple[float, int, NDArray[Any], NDArray[Any]]:
        """Return the sum of the losses over windows, their number, and their logits."""
        n, seq = batch.ids.shape
        wide = [np.full((n, self.setup.seq), -np.inf, np.float32) for _ in range(2)]  # a batch is cut to its longest
        for x, logits in zip(wide, (loss.start_logits, loss.end_logits), strict=True):
            x[:, :seq] = logits.value
        return float(loss.total.value) * n, n, wide[0], wide[1]

    def answers(self, observed: Sequence[tuple[float, int, NDArray[Any], NDArray[Any]]]) -> dict[str, str]:
        """Return the answer to each validation question, by its id; "" for no answer."""
        return squad.decide(self.candidates(observed), 0.0 if self.unanswerable else math.inf)

    def candidates(
        self, observed: Sequence[tuple[float, int, NDArray[Any], NDArray[Any]]]
    ) -> dict[str, squad.Candidate]:
        """Return the best run for each validation question, with the log-odds of no answer, by its id."""
        start, end = (np.concatenate([part[k] for part in observed]) for k in (2, 3))
        return squad.predict(self.held_out, self.windows, start, end)

    def score(self, observed: Sequence[tuple[float, int, NDArray[Any], NDArray[Any]]]) -> Scores:
        """Return the mean loss over windows in nats; exact match and F1 over questions, as shares.

        With unanswerable questions also the best of both over all thresholds, see ``squad.score_unanswerable``.
        """
        loss, count = sum(part[0] for part in observed), sum(part[1] for part in observed)
        best: Scores = {}
        if self.unanswerable:
            scores = squad.score_unanswerable(self.held_out, self.candidates(observed))
            found = scores.overall
            best = {"best_exact_match": scores.best_exact_match / 100, "best_f1": scores.best_f1 / 100}
        else:
            found = squad.score(self.held_out, self.answers(observed))
        return {"loss": loss / count, "exact_match": found.exact_match / 100, "f1": found.f1 / 100} | best

    def line(self, scores: Scores) -> str:
        """Format loss, exact match, F1, and the best of both over thresholds."""
        line = f"loss {scores['loss']:.4f}, exact match {scores['exact_match']:.1%}, F1 {scores['f1']:.1%}"
        if "best_f1" not in scores:
            return line
        return f"{line}, best {scores['best_exact_match']:.1%} and {scores['best_f1']:.1%}"


def _start(
    setup: Setup, model: bert.BertConfig, pretrained: published.Pretrained
) -> tuple[Scheme, published.Adapted | None, dict[str, NDArray[Any]]]:
    """Return scheme, adaptation and first parameters: the encoder's, and a new head."""
    specs, trained = bert.specs(model), get_scheme(pretrained.scheme)
    head = {name: spec for name, spec in specs.items() if name.startswith("span.")}
    rng = np.random.default_rng([setup.seed, 0])
    parameters = {name: pretrained.parameters[name] for name in specs if name not in head}
    parameters |= initialize(head, trained, rng, partial(bert.initial_std, model))
    if setup.scheme.name == pretrained.scheme:
        return trained, None, parameters
    wanted = setup.scheme
    if (
        pretrained.scheme != regular.name
        or not isinstance(wanted, Unit)
        or replace(wanted, rates=unit.rates, name=unit.name) != unit
    ):
        raise ArgumentError(
            f"finetune(scheme={setup.scheme.name!r}): the model was trained under {pretrained.scheme!r}; "
            "expected the same, or 'unit' or 'unit:rates=regular' for a regular one"
        )
    adapted = published.adapt(model, parameters)
    scheme = replace(adapted.scheme, rates=wanted.rates, name=wanted.name)
    return scheme, adapted, adapted.unit(parameters)


@dataclass(frozen=True)
class _Batches(Sequence[SpanBatch]):
    """Windows in order, in batches of a fixed size; the last batch may have fewer."""

    windows: squad.Windows
    size: int

    def __len__(self) -> int:
        return -(-len(self.windows) // self.size)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self.windows.batch(np.arange(i * self.size, min((i + 1) * self.size, len(self.windows))))
