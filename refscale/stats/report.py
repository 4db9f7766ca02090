"""A report: every tensor of one training step in figures, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from refscale.errors import ArgumentError
from refscale.stats.causes import Cause
from refscale.stats.measurement import HIGH, KINDS, LOW, Kind, TensorStats


@dataclass(frozen=True)
class CastSummary:
    """All casts of one place to one format.

    Attributes:
        place: "leaf", "output", "operand", "operand_gradient" or "gradient"; see ``engine.CastRecord``.
        format: full name.
        casts: how many arrays were cast.
        elements: in them.
        clipped: finite elements beyond the largest value.
        flushed: non-zero elements that became zero.
        worst: name of the array that lost the largest share of its elements; empty if none lost any.
        rule: pattern of the precision's rule for these places; empty without one.
    """

    place: str
    format: str
    casts: int
    elements: int
    clipped: int
    flushed: int
    worst: str
    rule: str = ""


@dataclass(frozen=True)
class Summary:
    """What a report comes to.

    Attributes:
        judged: tensors judged, by kind; those zero by construction or damped on purpose are not.
        outside: those whose scale is not within [1/4, 4], by kind.
        worst: the judged tensor whose scale is farthest from 1, on a log scale; one that is all zero or not finite is
            farther than any other.
        zero: tensors zero by construction: names by reason.
        damped: names of tensors made small on purpose.
    """

    judged: Mapping[Kind, int]
    outside: Mapping[Kind, int]
    worst: TensorStats
    zero: Mapping[str, tuple[str, ...]]
    damped: tuple[str, ...]

    @property
    def judged_count(self) -> int:
        """Tensors judged, of all kinds."""
        return sum(self.judged.values())

    @property
    def outside_count(self) -> int:
        """Tensors outside [1/4, 4], of all kinds."""
        return sum(self.outside.values())


def distance(tensor: TensorStats) -> float:
    """|log2 scale|: how many binades a tensor is from unit scale; infinite if it is all zero, or not finite."""
    if tensor.infinite or tensor.nan or tensor.scale == 0:
        return math.inf
    return abs(math.log2(tensor.scale))


def is_outside(tensor: TensorStats) -> bool:
    """Whether a tensor's scale is not within [LOW, HIGH]."""
    return distance(tensor) > 0 and (tensor.infinite + tensor.nan > 0 or not LOW <= tensor.scale <= HIGH)


def summarize(tensors: Sequence[TensorStats]) -> Summary:
    """Count the tensors that are far from unit scale, and find the farthest.

    Args:
        tensors: of any kinds.

    Returns:
        Counts by kind; see ``Summary``.

    Raises:
        ArgumentError: no tensor is left to judge.
    """
    judged = [t for t in tensors if t.is_judged]
    if not judged:
        raise ArgumentError("summarize: no tensor to judge")
    zero: dict[str, tuple[str, ...]] = {}
    for t in tensors:
        if t.zero_because:
            zero[t.zero_because] = (*zero.get(t.zero_because, ()), t.name)
    return Summary(
        judged={k: sum(t.kind == k for t in judged) for k in KINDS},
        outside={k: sum(t.kind == k and is_outside(t) for t in judged) for k in KINDS},
        worst=max(judged, key=distance),
        zero=zero,
        damped=tuple(t.name for t in tensors if t.damped),
    )


@dataclass(frozen=True)
class Report:
    """One forward and backward pass, in figures.

    Attributes:
        model, scheme, precision, constraint: their names; no constraint of a program, which has its own.
        batch, seq: sequences, tokens in each; None for a program.
        seed: of all random numbers.
        text: where the text came from; empty for a program.
        formats: those that losses are counted for, full names.
        losses: scalars by name.
        tensors: kind by kind, each in the order of the forward pass.
        casts: what rounding lost; none in fp32.
        rules: how many calls each rule of the precision holds for, by pattern.
        causes: why a tensor is outside [1/4, 4], for those of the summary's count; none where weights are not initial.
    """

    model: str
    scheme: str
    precision: str
    constraint: str
    batch: int | None
    seq: int | None
    seed: int
    text: str
    formats: tuple[str, ...]
    losses: Mapping[str, float]
    tensors: tuple[TensorStats, ...]
    casts: tuple[CastSummary, ...]
    rules: Mapping[str, int] = field(default_factory=dict)
    causes: tuple[Cause, ...] = ()

    def of_kind(self, kind: Kind) -> tuple[TensorStats, ...]:
        """The tensors of one kind, in the order of the forward pass."""
        return tuple(t for t in self.tensors if t.kind == kind)

    def summary(self) -> Summary:
        """What the report comes to."""
        return summarize(self.tensors)


def by_layer(tensors: Sequence[TensorStats]) -> Iterator[tuple[str, list[TensorStats]]]:
    """Layers in order of first appearance, with their tensors."""
    layers: dict[str, list[TensorStats]] = {}
    for t in tensors:
        layers.setdefault(t.layer, []).append(t)
    yield from layers.items()
