"""The sizes and rules of a built-in task."""

from __future__ import annotations

from dataclasses import dataclass

from refscale.models import Config
from refscale.scales import Constraint, Scheme, geometric, get_constraint, get_scheme


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The settings of a task.

    Attributes:
        model: configuration of the model; None if the data contain the model.
        scheme: scheme of the tensors.
        batch, seq: sequences in a batch, and tokens in each.
        dropout, constraint: settings of a model that comes with the data.
        evaluation_batches: batches in each validation, 0 for all.
        stride: tokens between the starts of windows of a long context, see ``squad.windows``.
        seed: random seed of the setup.
        held_out: share of a text, its last part, that is for validation only.
        fit: whether the model's number of tokens is reduced to that of the text.
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
