"""The tasks by name, with their customary settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refscale.errors import ArgumentError
from refscale.models import Config
from refscale.models.bert import BertConfig
from refscale.models.language import LanguageConfig
from refscale.programs import Program, check_program
from refscale.tasks.masked_lm import MaskedLM
from refscale.tasks.next_token import NextToken
from refscale.tasks.setup import Setup
from refscale.tasks.spans import SpanData, SpanExtraction

Data = str | Path | SpanData | Program | None
"""Data of a task: a text file, or None for the text that comes with Python; a ``SpanData`` for the task "squad", the
program itself for the task "program"."""


@dataclass(frozen=True)
class Kind:
    """A task, before it has a model or data.

    Attributes:
        name: name of the task.
        make: function that sets it up.
        loss, share: names of the two scores by which runs are compared: a loss, and a share of correct predictions.
        unit: unit of the loss.
        log2_lr: customary peak learning rate of AdamW by scheme, as ``refscale compare`` and ``sweep`` find them.
        settings: fields of a run with other defaults than for other tasks.
        longest: function from a model to its longest sequence in tokens; None: no limit.
    """

    name: str
    make: Callable[[Setup, Any], Program]
    loss: str
    share: str
    unit: str
    log2_lr: Mapping[str, float]
    settings: Mapping[str, Any] = field(default_factory=dict)
    longest: Callable[[Any], int | None] = lambda model: None


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "masked-lm",
            MaskedLM.of,
            "masked_lm",
            "masked_lm_accuracy",
            "nats",
            {"regular": -10, "unit": -6, "unit-rms": -6, "authors": -6, "u-mup": -1, "munit": -6},
            longest=lambda model: model.positions,
        ),
        Kind("squad", SpanExtraction.of, "loss", "f1", "nats", {"regular": -12, "unit": -8}),
        Kind(
            name="next-token",
            make=NextToken.of,
            loss="bits",
            share="accuracy",
            unit="bits per character",
            log2_lr={"regular": -9, "unit": -6, "unit-rms": -6, "authors": -6, "u-mup": -1, "munit": -6},
            settings={"batch": 8, "seq": 128},
        ),
        Kind(
            "program",
            lambda setup, program: check_program(program, 'get_task("program")'),
            loss="loss",
            share="",
            unit="",
            log2_lr={
                "regular": -9,
                "unit": -6,
                "unit-rms": -6,
                "authors": -6,
                "u-mup": -1,
                "munit": -6,
            },  # same as next-token
        ),
    )
}

_OF_MODELS: dict[type[Config], str] = {BertConfig: "masked-lm", LanguageConfig: "next-token"}


def get_kind(name: str) -> Kind:
    """Return the task of that name; raise ArgumentError for any other name."""
    if name not in KINDS:
        raise ArgumentError(f"get_kind({name!r}): expected one of {', '.join(KINDS)}")
    return KINDS[name]


def kind_of(model: Config) -> Kind:
    """Return the task of a model."""
    return KINDS[_OF_MODELS[type(model)]]


def get_task(name: str, setup: Setup, data: Data) -> Program:
    """Set up a task.

    Args:
        name: name of the task.
        setup: model, scheme and sizes.
        data: data of the task; for "squad" with the trained model itself, not its directory; for "program" the program,
            which is returned unchanged.

    Raises:
        ArgumentError: the name is unknown, or the data belong to another task.
        DataError: the data are not usable.
    """
    if isinstance(data, SpanData) != (name == "squad") or isinstance(data, Program) != (name == "program"):
        raise ArgumentError(f"get_task({name!r}): got {data!r}, expected the data of that task")
    return get_kind(name).make(setup, data)
