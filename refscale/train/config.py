"""The settings of a training run: one record of plain values, which its directory stores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from refscale.errors import ArgumentError, DataError
from refscale.models import get_config, with_rules
from refscale.optim import SCHEDULES, get_optimizer, read_decay
from refscale.precision import get_precision
from refscale.programs import is_place
from refscale.rivals import TensorScaling, get_scaling
from refscale.scales import base_name, get_constraint, get_scheme
from refscale.tasks import KINDS, Kind, Setup, get_kind, kind_of


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run. With its data they determine every bit of the result, on one machine.

    Attributes:
        model: name for ``models.get_config``; for a program its place, see ``programs.load_program``; for a trained
            model or a program that is passed as data, its name.
        scheme, precision, scaling, constraint: names, see ``get_scheme``, ``get_precision``, ``get_scaling``,
            ``get_constraint``.
        steps: number of optimizer steps.
        batch, seq: sequences in a batch, and tokens in each.
        lr: peak learning rate; None, for Adam and AdamW only: the customary rate of task and scheme.
        optimizer: "sgd", "adam", "adamw" or "lamb", with hyperparameters as in "sgd:momentum=0.9"; see
            ``get_optimizer``.
        weight_decay: weight decay λ of the optimizer.
        decay: λ by role or name pattern, instead of ``weight_decay``: ``embedding=0,bias=0.01``, see ``optim.groups``.
        accumulate: number of batches in a step; their gradients are averaged.
        clip: largest norm of all true gradients together, without loss scale and factors; larger ones are scaled down,
            see ``train.clip_by_norm``. None: no limit.
        schedule: "constant", "linear", "cosine", "exponential" or "halving".
        warmup: steps of warm-up; None: a tenth of ``steps``.
        halve_every: half-life of the learning rate in steps, for "exponential" and "halving".
        dropout: dropout probability. BERT's own is 0.1.
        seed: random seed of initial parameters, text, dropout and stochastic rounding.
        evaluate_every: steps between validations; there is always one at the end.
        evaluation_batches: batches in each validation; for questions, a number of windows, and 0 for all.
        scales_every: steps between records of every tensor's scale; 0: no records.
        checkpoint_every: steps between checkpoints; there is always one at the end.
        stride: tokens between the starts of windows of a long context, for questions only; None: half of the context
            part of a window.
        task: "masked-lm" or "next-token", training on a text; "squad", fine-tuning a trained model to extract answers;
            "program", a program of your own, which defines its batches, dropout and constraints itself; empty: the
            task of the model.
    """

    model: str = "bert-mini"
    scheme: str = "unit"
    precision: str = "fp32"
    scaling: str = "none"
    constraint: str = "geometric"
    steps: int = 500
    batch: int = 16
    seq: int = 32
    lr: float | None = None
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    decay: str = ""
    accumulate: int = 1
    clip: float | None = None
    schedule: str = "linear"
    warmup: int | None = None
    halve_every: int = 1000
    dropout: float = 0.0
    seed: int = 0
    evaluate_every: int = 100
    evaluation_batches: int = 16
    scales_every: int = 0
    checkpoint_every: int = 100
    stride: int | None = None
    task: str = ""

    def __post_init__(self) -> None:
        if self.task not in ("", *KINDS):
            raise self._error("task", f"one of {', '.join(KINDS)}")
        for field in ("scheme", "precision", "constraint"):
            if not isinstance(getattr(self, field), str):
                raise self._error(field, "a name")
        get_scheme(self.scheme), get_precision(self.precision), get_scaling(self.scaling)
        get_constraint(self.constraint)
        get_optimizer(self.optimizer)
        if self.schedule not in SCHEDULES:
            raise self._error("schedule", f"one of {', '.join(SCHEDULES)}")
        for field, least in _LEAST.items():
            if getattr(self, field) < least:
                raise self._error(field, f"at least {least}")
        if self.task == "" and is_place(self.model):
            object.__setattr__(self, "task", "program")
        if self.task == "program":
            self._check_program()
        elif self.task != "squad":
            self._check_model()
        if self.task == "masked-lm" and self.evaluation_batches < 1:
            raise self._error("evaluation_batches", "at least 1")
        if base_name(self.scheme) not in self.kind.log2_lr:
            raise self._error("scheme", f"for the task {self.task!r}, one of {', '.join(self.kind.log2_lr)}")
        if self.stride is not None and self.stride < 1:
            raise self._error("stride", "at least 1")
        if self.lr is None and not self.optimizer.startswith("adam"):
            raise self._error("lr", f"a learning rate, as there is no default with {self.optimizer}")
        if self.lr is not None and not (0 < self.lr < math.inf):
            raise self._error("lr", "a positive number")
        if self.warmup is not None and not 0 <= self.warmup <= self.steps:
            raise self._error("warmup", f"0 … {self.steps}, the steps")
        if not 0 <= self.dropout < 1:
            raise self._error("dropout", "0 ≤ dropout < 1")
        if not 0 <= self.weight_decay < math.inf:
            raise self._error("weight_decay", "at least 0")
        read_decay(self.decay)
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise self._error("clip", "a positive number")
        if self.accumulate > 1 and isinstance(get_scaling(self.scaling), TensorScaling):
            raise self._error("accumulate", f"1, as {self.scaling} scales the tensors of one pass")

    def _check_model(self) -> None:
        """Raise ArgumentError unless the model fits the task; set the task of the model if none is given."""
        model = get_config(self.model)
        given = [field for field in ("dropout", "constraint") if f"{field}=" in self.model]
        if given:
            raise self._error("model", f"{given[0]} as an argument of its own")
        kind = kind_of(model)
        if self.task == "":
            object.__setattr__(self, "task", kind.name)
        if self.task != kind.name:
            raise self._error("task", f"{kind.name!r}, that of {self.model}")
        longest = kind.longest(model)
        if longest is not None and self.seq > longest:
            raise self._error("seq", f"at most {longest}, the positions of {self.model}")

    def _check_program(self) -> None:
        """Raise ArgumentError if a field is set that a program defines itself."""
        for field in fields(self):
            if field.name in OF_A_TEXT and getattr(self, field.name) != field.default:
                raise self._error(field.name, f"{field.default!r}, the default, as a program defines it itself")

    def _error(self, field: str, expected: str) -> ArgumentError:
        return ArgumentError(f"TrainConfig({field}={getattr(self, field)!r}): expected {expected}")

    @property
    def kind(self) -> Kind:
        """The task, with its customary settings."""
        return get_kind(self.task)

    @property
    def setup(self) -> Setup:
        """Settings of the task."""
        constraint = get_constraint(self.constraint)
        model = None if self.task in ("squad", "program") else get_config(self.model)
        return Setup(
            model=model and with_rules(model, dropout=self.dropout, constraint=constraint),
            scheme=get_scheme(self.scheme),
            batch=self.batch,
            seq=self.seq,
            dropout=self.dropout,
            constraint=constraint,
            evaluation_batches=self.evaluation_batches,
            stride=self.stride,
            seed=self.seed,
        )

    @property
    def peak_lr(self) -> float:
        """Peak learning rate: ``lr``, or the customary one if it is None."""
        return self.lr if self.lr is not None else 2.0 ** self.kind.log2_lr[base_name(self.scheme)]

    @property
    def warmup_steps(self) -> int:
        """Steps of warm-up: ``warmup``, or a tenth of ``steps`` if it is None."""
        return self.steps // 10 if self.warmup is None else self.warmup

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any], call: str) -> TrainConfig:
        """Return the configuration that ``asdict`` stored; raise DataError for missing or unknown fields."""
        names = {f.name for f in fields(cls)}
        if not isinstance(content, Mapping) or not names - ADDED <= content.keys() <= names:
            wrong = sorted((names ^ set(content)) - ADDED) if isinstance(content, Mapping) else [repr(content)]
            raise DataError(f"{call}: not a TrainConfig; missing or unknown: {', '.join(map(str, wrong))}")
        return cls(**content)

    def differences(self, other: TrainConfig) -> list[str]:
        """Return the fields in which two configurations differ, as ``steps=500, not 1000``: first this one's value."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return [f"{name}={ours!r}, not {theirs!r}" for name, ours, theirs in pairs if ours != theirs]


def default_config(model: str) -> TrainConfig:
    """Return a run of a model with the customary settings of its task; raise ArgumentError for an unknown model."""
    if is_place(model):
        return TrainConfig(model=model, task="program")
    return TrainConfig(model=model, **kind_of(get_config(model)).settings)


OF_A_TEXT = ("batch", "seq", "dropout", "constraint", "stride", "evaluation_batches")
"""Fields of a run that a program defines itself."""

ADDED = {"decay", "accumulate", "clip"}
"""Fields that runs of version 0.1 lack; they get the defaults."""

_LEAST: dict[str, int] = {
    "steps": 1,
    "batch": 1,
    "accumulate": 1,
    "seq": 8,
    "halve_every": 1,
    "seed": 0,
    "evaluate_every": 1,
    "evaluation_batches": 0,
    "scales_every": 0,
    "checkpoint_every": 1,
}

FINE_TUNING = TrainConfig(
    model="trained",
    steps=300,
    batch=8,
    seq=128,
    evaluate_every=300,
    evaluation_batches=0,
    checkpoint_every=50,
    task="squad",
)
"""Default configuration of ``refscale finetune``; on all of SQuAD, two epochs of 32 × 384 are about 5500 steps."""
