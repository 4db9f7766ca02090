"""A probe for a tape: measures each value and gradient as it is computed, and keeps the figures only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from refscale.engine import Array, CastRecord, Tensor, Variable
from refscale.graph import gradient_factors
from refscale.layers import Specs
from refscale.ops import Bias, Fork, Readout, Reshape, Transpose
from refscale.progress import Progress
from refscale.scales import Scheme, Statistic, Unit
from refscale.stats.measurement import KINDS, Kind, Measurement, TensorStats, measure
from refscale.stats.report import CastSummary, is_outside

SAME_VALUES = (Reshape, Transpose, Bias)
"""Ops whose output is left out: it holds the values of its input, and its gradient is that of its input.

A bias is zero at initialization, so what it is added to stands for both.
"""

ZERO_BIAS = "biases at the start"
KEY_BIAS = "gradients of key biases, as the softmax ignores a shift"
"""A bias added to every key adds one number to all scores of a query; what is left of its gradient is rounding."""


PAD = "gradients of the first prediction, where no sequence starts a text"
START = "products of a state that starts at zero"


@dataclass(frozen=True, eq=False)
class PredictedScales:
    """The predicted σ of the tensors of a graph, and of their gradients.

    Attributes:
        values, gradients: σ by variable; a variable without an entry has no prediction.
    """

    values: Mapping[Variable, float]
    gradients: Mapping[Variable, float]


class TensorProbe:
    """What a tape's probe saw in one forward and backward pass.

    Args:
        specs: of the model's parameters; other leaves are not measured.
        formats: full names of narrow formats; for each, overflow and underflow of every tensor are counted.
        progress: advanced by the parameters' elements in millions, forward and backward.
    """

    def __init__(self, specs: Specs, formats: Sequence[str] = (), progress: Progress | None = None) -> None:
        self.specs, self.formats, self.progress = specs, formats, progress
        self.found: list[tuple[Kind, Variable, Measurement]] = []
        self.losses: dict[str, float] = {}
        self.variables: dict[tuple[Kind, str], Variable] = {}

    def __call__(self, direction: str, variable: Variable, array: Array) -> None:
        """Measure one array; this is what makes it a ``Probe``."""
        if array.ndim == 0:
            if direction == "forward":
                self.losses[variable.name] = float(array)
            return
        kind = self._kind(direction == "backward", variable)
        if kind is not None:
            self.found.append((kind, variable, measure(array, self.formats)))
        if self.progress:
            self.progress.advance(array.size / 1e6 if variable.node is None else 0, f"{direction} {variable.name}")

    def _kind(self, is_gradient: bool, variable: Variable) -> Kind | None:
        """What the tensor is, or None if it has no row of its own."""
        node = variable.node
        if node is None:
            if variable.name not in self.specs:
                return None
            return "weight gradient" if is_gradient else "weight"
        if isinstance(node.op, SAME_VALUES):
            return None
        if not is_gradient:
            return None if node.op.carries_factors else "activation"
        # A fork of a parameter receives a part of that parameter's gradient.
        of_parameter = isinstance(node.op, Fork) and node.inputs[0].node is None
        return "weight gradient" if of_parameter else "activation gradient"

    def tensors(
        self, output: Tensor, scheme: Scheme, predicted: PredictedScales | None = None
    ) -> tuple[TensorStats, ...]:
        """Every tensor in figures, kind by kind in the order of the forward pass, after ``backward(output)``.

        Args:
            output: where backward started.
            scheme: of the run.
            predicted: of the same graph, at initialization.
        """
        factors = gradient_factors(output)
        statistic: Statistic = scheme.statistic if isinstance(scheme, Unit) else "std"
        position = {name: i for i, name in enumerate(self.specs)}

        def order(variable: Variable) -> tuple[int, int]:
            if variable.node is None:
                return position[variable.name], 0
            owner = variable.node.inputs[0]
            if isinstance(variable.node.op, Fork) and owner.node is None:
                return position[owner.name], 1 + variable.node.index
            return len(position), variable.node.index

        rows = []
        for kind in KINDS:
            of_kind = sorted(((v, m) for k, v, m in self.found if k == kind), key=lambda row: order(row[0]))
            names = _unique([v.name for v, _ in of_kind])
            is_gradient = kind.endswith("gradient")
            scales: Mapping[Variable, float] = {}
            if predicted:
                scales = predicted.gradients if is_gradient else predicted.values
            for name, (variable, m) in zip(names, of_kind, strict=True):
                self.variables[kind, name] = variable
                c = factors.get(variable) if is_gradient else None
                rows.append(
                    self._row(
                        name=name,
                        kind=kind,
                        variable=variable,
                        m=m,
                        c=c,
                        statistic=statistic,
                        predicted=scales.get(variable),
                    )
                )
        return tuple(rows)

    def _row(
        self,
        name: str,
        kind: Kind,
        variable: Variable,
        m: Measurement,
        c: float | None,
        statistic: Statistic,
        predicted: float | None,
    ) -> TensorStats:
        role = self.specs[name].role if variable.node is None else variable.node.op.name
        reason = ""
        if kind == "weight" and role == "bias" and m.zeros == m.elements:
            reason = ZERO_BIAS
        if kind == "weight gradient" and name.endswith("attention.key.bias"):
            reason = KEY_BIAS
        if m.zeros == m.elements and kind == "weight gradient" and name == "pad":
            reason = PAD
        if m.zeros == m.elements and kind == "activation" and ".recurrence." in name:
            reason = START
        return TensorStats(
            **{f.name: getattr(m, f.name) for f in fields(m)},
            name=name,
            kind=kind,
            layer=layer_of(name),
            role=role,
            shape=variable.shape,
            c=c,
            zero_because=reason,
            damped=kind == "activation" and _is_damped(variable),
            statistic=statistic,
            predicted=predicted,
        )

    def outside(self, tensors: Sequence[TensorStats]) -> list[tuple[str, Kind, Variable]]:
        """Those outside [1/4, 4] among the judged of the tensors that ``tensors`` returned, with their variables."""
        return [(t.name, t.kind, self.variables[t.kind, t.name]) for t in tensors if t.is_judged and is_outside(t)]


def _is_damped(variable: Variable) -> bool:
    node = variable.node
    return node is not None and isinstance(node.op, Readout) and node.op.rule == "1/m" and node.scales.alpha != 1


def layer_of(name: str) -> str:
    """``encoder.0.ffn.up.weight`` → ``encoder.0``; ``mlm.norm.gain`` → ``mlm``."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first


def _unique(names: Sequence[str]) -> list[str]:
    """Names that occur more than once are numbered: ``fork#1``, ``fork#2``."""
    total, seen = Counter(names), Counter[str]()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(f"{name}#{seen[name]}" if total[name] > 1 else name)
    return unique


def summarize_casts(records: Sequence[CastRecord]) -> tuple[CastSummary, ...]:
    """What the casts of a tape lost, by place and format; the tape must have counted."""
    groups: dict[tuple[str, str], list[CastRecord]] = defaultdict(list)
    for r in records:
        groups[r.place, r.cast.format.name].append(r)

    def lost(r: CastRecord) -> int:
        return (r.clipped or 0) + (r.flushed or 0)

    summaries = []
    for (place, format), group in groups.items():
        worst = max(group, key=lambda r: lost(r) / max(1, r.elements))
        summaries.append(
            CastSummary(
                place,
                format,
                casts=len(group),
                elements=sum(r.elements for r in group),
                clipped=sum(r.clipped or 0 for r in group),
                flushed=sum(r.flushed or 0 for r in group),
                worst=worst.variable.name if lost(worst) else "",
            )
        )
    return tuple(summaries)
