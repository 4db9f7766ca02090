"""What training, reports and sweeps ask of a model and its data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refscale.engine import Tensor
from refscale.layers import Specs, Tensors
from refscale.models import Config
from refscale.scales import Constraint, Scheme, geometric, get_constraint, get_scheme

Scores = dict[str, float]
"""What a validation came to, by name."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a task is set up with.

    Attributes:
        model: None where the data say which.
        scheme: how tensors are scaled.
        batch, seq: sequences in a batch, tokens in each.
        dropout, constraint: of a model that the data bring.
        evaluation_batches: batches of a validation, 0 for all there are.
        stride: tokens from one window of a long context to the next, see ``squad.windows``.
        seed: of what is drawn when it is set up.
        held_out: share of a text, its last part, that is for validation only.
        fit: give the model as many tokens as the text has, up to its own number; if not, it keeps that.
    """

    model: Config | None
    scheme: Scheme
    batch: int
    seq: int
    dropout: float = 0.0
    constraint: Constraint = geometric
    evaluation_batches: int = 16
    stride: int | None = None
    seed: int = 0
    held_out: float = 0.1
    fit: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scheme", get_scheme(self.scheme))
        object.__setattr__(self, "constraint", get_constraint(self.constraint))


class Loss(Protocol):
    """A loss on a tape, every factor settled."""

    @property
    def total(self) -> Tensor:
        """The objective: a scalar."""

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """What it is the sum of, by name."""


class Task(Protocol):
    """A model, its data and what counts: all that one kind of training differs from another in.

    Batches are the task's own affair; they come from it and go back to it.
    """

    @property
    def specs(self) -> Specs:
        """Of the parameters."""

    @property
    def scheme(self) -> Scheme:
        """How tensors are scaled; of a trained model, with its constants."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything that was read, in hexadecimal."""

    def initial_parameters(self, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Before the first step; float32."""

    def batches(self, rng: np.random.Generator) -> Iterator[Any]:
        """Training batches without end; each depends on the state that ``rng`` has when it is asked for."""

    def validation(self, rng: np.random.Generator) -> Sequence[Any]:
        """The batches of every validation."""

    def loss(self, p: Tensors, batch: Any, rng: np.random.Generator | None = None) -> Loss:
        """The loss of a batch, with dropout if there is a generator."""

    def observe(self, batch: Any, loss: Any) -> Any:
        """What of a validation batch is kept for the score."""

    def score(self, observed: Sequence[Any]) -> Scores:
        """What a validation comes to, given what was kept of each batch."""

    def line(self, scores: Scores) -> str:
        """Scores in a line."""
