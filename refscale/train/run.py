"""A configuration brought to life: model, text, scheme, optimizer, and the randomness of every step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from refscale.data import Batch, Vocabulary, load_text, masked_lm_batches, sentences
from refscale.errors import DataError
from refscale.layers import Specs
from refscale.models import bert
from refscale.optim import Group, Optimizer, Rate, Schedule, get_optimizer, get_schedule, groups
from refscale.optim import State as OptimizerState
from refscale.precision import Precision, Scaling, get_precision, get_scaling
from refscale.precision import State as ScalingState
from refscale.scales import Scheme, get_constraint, get_scheme
from refscale.train.config import TrainConfig

Purpose = Literal["weights", "text", "dropout", "rounding", "update", "validation"]
_STREAMS: dict[Purpose, int] = {p: i for i, p in enumerate(get_args(Purpose))}

HELD_OUT = 0.1
"""The last part of the text's sentences, for validation only."""


@dataclass(frozen=True, eq=False)
class TrainState:
    """All that changes from step to step; what a checkpoint holds.

    Attributes:
        step: how many are done.
        parameters: float32 by name; FP32 masters, or values of the format in which ``Precision.weights`` stores them.
        optimizer: of the optimizer.
        scaling: of the scaling technique.
    """

    step: int
    parameters: dict[str, NDArray[Any]]
    optimizer: OptimizerState
    scaling: ScalingState


@dataclass(frozen=True, eq=False)
class Run:
    """What stays the same from step to step, made from a ``TrainConfig`` and a text by ``Run.of``."""

    config: TrainConfig
    model: bert.BertConfig
    scheme: Scheme
    precision: Precision
    scaling: Scaling
    optimizer: Optimizer
    schedule: Schedule
    vocabulary: Vocabulary
    training: tuple[str, ...]
    held_out: tuple[str, ...]
    text_digest: str

    @classmethod
    def of(cls, config: TrainConfig, text: str | Path | None = None) -> Run:
        """Read the text, set up everything.

        Args:
            config: the run.
            text: path of a UTF-8 text file; None for the text that comes along.

        Returns:
            A run whose vocabulary is that of the text's first nine tenths, on which it trains.

        Raises:
            DataError: the text cannot be used.
        """
        content = load_text(text)
        parts = sentences(content)
        if len(parts) < 2:
            raise DataError(f"train: a text of {len(parts)} sentences, expected some to train on and some to validate")
        held = max(1, round(HELD_OUT * len(parts)))
        training, held_out = tuple(parts[:-held]), tuple(parts[-held:])
        model = bert.get_config(config.model, dropout=config.dropout, constraint=get_constraint(config.constraint))
        vocabulary = Vocabulary.from_text(" ".join(training), model.vocabulary)
        every = {"every": config.halve_every} if config.schedule == "halving" else {"steps": config.steps}
        return cls(
            config=config,
            model=replace(model, vocabulary=len(vocabulary)),
            scheme=get_scheme(config.scheme),
            precision=get_precision(config.precision),
            scaling=get_scaling(config.scaling),
            optimizer=get_optimizer(config.optimizer, weight_decay=config.weight_decay),
            schedule=get_schedule(config.schedule, warmup=config.warmup_steps, **every),
            vocabulary=vocabulary,
            training=training,
            held_out=held_out,
            text_digest=hashlib.sha256(content.encode()).hexdigest(),
        )

    @cached_property
    def specs(self) -> Specs:
        """Of the model's parameters."""
        return bert.specs(self.model)

    @cached_property
    def groups(self) -> dict[str, Group]:
        """Learning-rate scale and decay of every parameter."""
        return groups(self.specs, self.scheme)

    def rate(self, step: int) -> Rate:
        """Learning rate of a step, from 0."""
        return Rate(self.config.peak_lr, self.schedule(step))

    def rng(self, purpose: Purpose, step: int = 0) -> np.random.Generator:
        """The randomness of one purpose in one step.

        It is a function of seed, purpose and step, so that nothing random need be stored to continue a run, and two
        runs that differ in precision or scheme see the same text.
        """
        return np.random.default_rng([self.config.seed, _STREAMS[purpose], step])

    def initial_state(self) -> TrainState:
        """The state before the first step."""
        parameters = bert.initial_parameters(self.model, self.scheme, self.rng("weights"))
        parameters = self.precision.store_weights(parameters, self.rng("update"))
        return TrainState(0, parameters, self.optimizer.init(parameters), self.scaling.init())

    def batches(self, start: int) -> Iterator[Batch]:
        """Training batches of the steps from ``start``."""
        rng = np.random.default_rng()
        drawn = self._draw(self.training, rng)
        for step in range(start, self.config.steps):
            rng.bit_generator.state = self.rng("text", step).bit_generator.state
            yield next(drawn)

    @cached_property
    def validation(self) -> tuple[Batch, ...]:
        """Validation batches, the same at every evaluation, and in every run of the same seed."""
        drawn = self._draw(self.held_out, self.rng("validation"))
        return tuple(next(drawn) for _ in range(self.config.evaluation_batches))

    def _draw(self, text: tuple[str, ...], rng: np.random.Generator) -> Iterator[Batch]:
        return masked_lm_batches(text, self.vocabulary, batch=self.config.batch, seq=self.config.seq, rng=rng)
