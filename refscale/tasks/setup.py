"""The sizes and rules that a built-in task is set up with."""

from __future__ import annotations

from dataclasses import dataclass

from refscale.models import Config
from refscale.scales import Constraint, Scheme, geometric, get_constraint, get_scheme


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
