"""A report: statistics of every tensor of one training step, and a summary."""

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
        format: full name of the format.
        casts: number of cast arrays.
        elements: number of their elements.
        clipped: number of finite elements beyond the largest value.
        flushed: number of non-zero elements that became zero.
        worst: name of the array with the largest share of clipped and flushed elements; empty if there is none.
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
    """The summary of a report.

    Attributes:
        judged: number of judged tensors, by kind; without tensors zero by construction or damped by design.
        outside: number of judged tensors with a scale outside [1/4, 4], by kind.
        worst: judged tensor whose scale is farthest from 1, on a log scale; a tensor that is all zero or not finite
            is farther than any other.
        zero: names of tensors zero by construction, by reason.
        damped: names of tensors small by design.
    """

    judged: Mapping[Kind, int]
    outside: Mapping[Kind, int]
    worst: TensorStats
    zero: Mapping[str, tuple[str, ...]]
    damped: tuple[str, ...]

    @property
    def judged_count(self) -> int:
        """Number of judged tensors, of all kinds."""
        return sum(self.judged.values())

    @property
    def outside_count(self) -> int:
        """Number of tensors outside [1/4, 4], of all kinds."""
        return sum(self.outside.values())


def distance(tensor: TensorStats) -> float:
    """Return |log2 scale|: binades between a tensor and unit scale; infinite if it is all zero, or not finite."""
    if tensor.infinite or tensor.nan or tensor.scale == 0:
        return math.inf
    return abs(math.log2(tensor.scale))


def is_outside(tensor: TensorStats) -> bool:
    """Return whether a tensor's scale is not within [LOW, HIGH]."""
    return distance(tensor) > 0 and (tensor.infinite + tensor.nan > 0 or not LOW <= tensor.scale <= HIGH)


def summarize(tensors: Sequence[TensorStats]) -> Summary:
    """Count the tensors that are far from unit scale, and find the farthest.

    Args:
        tensors: tensors of any kinds.

    Returns:
        Counts by kind; see ``Summary``.

    Raises:
        ArgumentError: there is no tensor to judge.
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
    """One forward and backward pass, with statistics.

    Attributes:
        model, scheme, precision, constraint: names; constraint is empty for a program, which has its own.
        batch, seq: sequences, and tokens in each; None for a program.
        seed: random seed.
        text: source of the text; empty for a program.
        formats: full names of the formats whose clipped and flushed elements are counted.
        losses: scalars by name.
        tensors: tensors by kind, each in the order of the forward pass.
        casts: clipped and flushed elements by cast; empty in fp32.
        rules: number of calls to which each rule of the precision applies, by pattern.
        causes: cause of each tensor outside [1/4, 4]; empty unless weights are initial.
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
        """Return the tensors of one kind, in the order of the forward pass."""
        return tuple(t for t in self.tensors if t.kind == kind)

    def summary(self) -> Summary:
        """Return the summary of the report."""
        return summarize(self.tensors)


def by_layer(tensors: Sequence[TensorStats]) -> Iterator[tuple[str, list[TensorStats]]]:
    """Yield layers in order of first appearance, with their tensors."""
    layers: dict[str, list[TensorStats]] = {}
    for t in tensors:
        layers.setdefault(t.layer, []).append(t)
    yield from layers.items()
