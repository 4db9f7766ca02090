"""What the loop asks of a model and its data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refscale.engine import Tensor
from refscale.layers import Specs, Tensors
from refscale.scales import Scheme

Scores = dict[str, float]
"""What a validation came to, by name."""


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
