"""The constant parts of a run: program, optimizer, and the randomness of every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from refscale.engine import Tape
from refscale.engine.factors import settle
from refscale.errors import ArgumentError, CheckpointError
from refscale.layers import Specs
from refscale.optim import Group, Optimizer, Rate, Schedule, at_regular_rates, get_optimizer, get_schedule, groups
from refscale.precision import Precision, get_precision
from refscale.programs import Program, checked_loss, digest, leaves, load_program, next_batch
from refscale.rivals import Scaling, get_scaling
from refscale.scales import Scheme, Unit, get_scheme
from refscale.tasks import Data, SpanExtraction, get_task
from refscale.train.checkpoint import Checkpoint
from refscale.train.config import TrainConfig
from refscale.train.state import TrainState
from refscale.train.trained import with_weights

Purpose = Literal["weights", "text", "dropout", "rounding", "update", "validation"]
_STREAMS: dict[Purpose, int] = {p: i for i, p in enumerate(get_args(Purpose))}


@dataclass(frozen=True, eq=False)
class Run:
    """The constant parts of a run, made from a ``TrainConfig`` and its data by ``Run.of``."""

    config: TrainConfig
    task: Program
    precision: Precision
    scaling: Scaling
    optimizer: Optimizer
    schedule: Schedule

    @classmethod
    def of(cls, config: TrainConfig, data: Data = None) -> Run:
        """Read the data and set up a run.

        A program that is not passed as data is loaded from the place that ``config.model`` names.

        Raises:
            ArgumentError: the data belong to another task.
            CheckpointError, DataError: the trained model or the data are not usable.
            ProgramError: the program cannot be loaded.
        """
        if config.task == "program" and data is None:
            data = load_program(config.model)
        decays = config.schedule in ("exponential", "halving")
        length = {"every": config.halve_every} if decays else {"steps": config.steps}
        return cls(
            config=config,
            task=get_task(config.task, config.setup, with_weights(data)),
            precision=get_precision(config.precision),
            scaling=get_scaling(config.scaling),
            optimizer=get_optimizer(config.optimizer, weight_decay=config.weight_decay),
            schedule=get_schedule(config.schedule, warmup=config.warmup_steps, **length),
        )

    @property
    def specs(self) -> Specs:
        """Specs of the model's parameters."""
        return self.task.specs

    @property
    def scheme(self) -> Scheme:
        """Scheme of the tensors; for an adapted model, with its constants."""
        return self.task.scheme or get_scheme(self.config.scheme)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the data, or of a program's file."""
        return digest(self.task)

    @cached_property
    def groups(self) -> dict[str, Group]:
        """Learning-rate scale and decay of every parameter.

        Raises:
            ArgumentError: the scheme has the rates of a regular model, but the model is not adapted from one.
        """
        found = groups(self.specs, self.scheme, self.config.decay)
        if not isinstance(self.scheme, Unit) or self.scheme.rates == "unit":
            return found
        if not isinstance(self.task, SpanExtraction) or self.task.adapted is None:
            raise ArgumentError(f"train(scheme={self.scheme.name!r}): expected a model adapted from a regular one")
        factors = self._gradient_factors() if self.optimizer.name == "sgd" else {}
        return at_regular_rates(found, self.task.adapted.divisors, self.optimizer.name, factors)

    def _gradient_factors(self) -> dict[str, float]:
        """Return c of the gradient of every parameter, in the first batch."""
        p = leaves(Tape(self.scheme), self.task, self.task.initial_parameters(self.scheme, self.rng("weights")))
        found = settle(checked_loss(self.task, p, next(self.batches(0))).total)
        return {name: found.get(t.variable, 1.0) for name, t in p.items()}

    def rate(self, step: int) -> Rate:
        """Return the learning rate of a step, numbered from 0."""
        return Rate(self.config.peak_lr, self.schedule(step))

    def rng(self, purpose: Purpose, step: int = 0, part: int = 0) -> np.random.Generator:
        """Return the generator of one purpose in one step, for one of its accumulated batches.

        It depends on seed, purpose and step only, so that a run can continue without stored randomness, and runs that
        differ in precision or scheme read the same text.
        """
        return np.random.default_rng([self.config.seed, _STREAMS[purpose], step, *([part] if part else [])])

    def initial_state(self) -> TrainState:
        """Return the state before the first step."""
        parameters = self.task.initial_parameters(self.scheme, self.rng("weights"))
        parameters = self.precision.store_weights(parameters, self.rng("update"))
        return TrainState(0, parameters, self.optimizer.init(parameters), self.scaling.init())

    def checkpoint(self, state: TrainState, seconds: float = 0.0) -> Checkpoint:
        """Return a checkpoint of this run.

        Args:
            state: state after a step.
            seconds: seconds of training so far.
        """
        return Checkpoint(self.config, self.digest, seconds, state)

    def check(self, checkpoint: Checkpoint, call: str) -> None:
        """Raise CheckpointError unless a checkpoint has this run's configuration, data, names and shapes."""
        differences = checkpoint.config.differences(self.config)
        if checkpoint.data_digest != self.digest:
            what = "program" if self.config.task == "program" else "data"
            differences.append(f"{what} {checkpoint.data_digest[:8]}…, not {self.digest[:8]}…")
        found = {name: array.shape for name, array in checkpoint.state.parameters.items()}
        expected = {name: spec.shape for name, spec in self.specs.items()}
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        differences += [f"{name} of shape {found.get(name)}, not {expected.get(name)}" for name in wrong]
        if differences:
            raise CheckpointError(f"{call}: a checkpoint of another run: {'; '.join(differences[:3])}")

    def batches(self, start: int) -> Iterator[Any]:
        """Yield the training batches of the steps from ``start``, as in an uninterrupted run.

        A step with several accumulated batches has a tuple.
        """
        rng = np.random.default_rng()
        drawn = self.task.batches(rng)
        for step in range(start if self.task.memoryless else 0, self.config.steps):
            rng.bit_generator.state = self.rng("text", step).bit_generator.state
            count = self.config.accumulate
            found = tuple(next_batch(self.task, drawn, step * count + part) for part in range(count))
            if step >= start:
                yield found if count > 1 else found[0]

    @cached_property
    def validation(self) -> Sequence[Any]:
        """Return the validation batches, the same at every evaluation and in every run of the same seed."""
        found = self.task.validation(self.rng("validation"))
        return found if isinstance(found, Sequence) else tuple(found)
