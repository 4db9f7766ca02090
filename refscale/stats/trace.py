"""A probe for a tape: it measures each value and gradient when it is computed, and stores the statistics only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from refscale.engine import Array, CastRecord, Node, Tensor, Variable
from refscale.graph import gradient_factors
from refscale.layers import Specs
from refscale.ops import Bias, Fork, Readout, Reshape, Transpose
from refscale.progress import Progress
from refscale.scales import Scheme, Statistic, Unit
from refscale.stats.measurement import KINDS, Kind, Measurement, TensorStats, TensorUse, measure
from refscale.stats.report import CastSummary, is_outside

SAME_VALUES = (Reshape, Transpose, Bias)
"""Ops whose output is left out: it has the values of its input, and its gradient is that of its input.

A bias is zero at initialization, so the sum with it has the values of its input.
"""

ZERO_BIAS = "biases at the start"


@dataclass(frozen=True, eq=False)
class PredictedScales:
    """The predicted σ of the tensors of a graph, and of their gradients.

    Attributes:
        values, gradients: σ by variable; a variable without an entry has no prediction.
    """

    values: Mapping[Variable, float]
    gradients: Mapping[Variable, float]


class TensorProbe:
    """A tape's probe that measures one forward and backward pass.

    Args:
        specs: specs of the model's parameters; other leaves are not measured.
        formats: full names of narrow formats in which overflow and underflow of every tensor are counted.
        progress: progress bar, advanced by the parameters' elements in millions, forward and backward.
    """

    def __init__(self, specs: Specs, formats: Sequence[str] = (), progress: Progress | None = None) -> None:
        self.specs, self.formats, self.progress = specs, formats, progress
        self.found: list[tuple[Kind, Variable, Measurement]] = []
        self.losses: dict[str, float] = {}
        self.variables: dict[tuple[Kind, str], Variable] = {}

    def __call__(self, direction: str, variable: Variable, array: Array) -> None:
        """Measure one array, as a ``Probe`` does."""
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
        """Return the kind of a tensor, or None if it has no row of its own."""
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
        """Return the statistics of every tensor, by kind in the order of the forward pass, after ``backward(output)``.

        Args:
            output: tensor at which the backward pass started.
            scheme: scheme of the run.
            predicted: prediction of the same graph, at initialization.
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

        of_kinds, names = {}, {}
        shown: dict[bool, dict[Variable, str]] = {False: {}, True: {}}  # values, gradients
        for kind in KINDS:
            of_kinds[kind] = sorted(((v, m) for k, v, m in self.found if k == kind), key=lambda row: order(row[0]))
            names[kind] = _unique([v.name for v, _ in of_kinds[kind]])
            shown[kind.endswith("gradient")].update(zip((v for v, _ in of_kinds[kind]), names[kind], strict=True))
        uses = _uses(output)
        rows = []
        for kind, of_kind in of_kinds.items():
            is_gradient = kind.endswith("gradient")
            scales: Mapping[Variable, float] = {}
            if predicted:
                scales = predicted.gradients if is_gradient else predicted.values
            for name, (variable, m) in zip(names[kind], of_kind, strict=True):
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
                        uses=tuple(uses(variable, {**shown[not is_gradient], **shown[is_gradient]})),
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
        uses: tuple[TensorUse, ...],
    ) -> TensorStats:
        role = self.specs[name].role if variable.node is None else variable.node.op.name
        return TensorStats(
            **{f.name: getattr(m, f.name) for f in fields(m)},
            name=name,
            kind=kind,
            layer=layer_of(name),
            role=role,
            shape=variable.shape,
            c=c,
            zero_because=self._zero_because(kind, variable, m),
            damped=kind == "activation" and _is_damped(variable),
            statistic=statistic,
            predicted=predicted,
            alpha=variable.node.scales.alpha if variable.node else None,
            uses=uses,
        )

    def _zero_because(self, kind: Kind, variable: Variable, m: Measurement) -> str:
        """Return why a tensor is zero at any scale, by the specs of parameters; empty if it is not."""
        is_zero, spec = m.zeros == m.elements, self.specs.get(variable.name) if variable.node is None else None
        if spec and kind == "weight":
            return ZERO_BIAS if is_zero and spec.role == "bias" else ""
        if spec and kind == "weight gradient":
            return spec.zero_gradient or (spec.unused if is_zero else "")
        if is_zero and kind == "activation" and variable.node:
            operands = (leaf for v in variable.node.inputs for leaf in _with_the_values_of(v))
            return next((s.zero_products for v in operands if (s := self.specs.get(v.name)) and s.zero_products), "")
        return ""

    def outside(self, tensors: Sequence[TensorStats]) -> list[tuple[str, Kind, Variable]]:
        """Return the judged tensors of ``tensors`` outside [1/4, 4], with their variables."""
        return [(t.name, t.kind, self.variables[t.kind, t.name]) for t in tensors if t.is_judged and is_outside(t)]


def _with_the_values_of(variable: Variable) -> Iterator[Variable]:
    """Yield the leaves whose values a tensor has, perhaps moved or added to zeros."""
    if variable.node is None:
        yield variable
    elif isinstance(variable.node.op, SAME_VALUES):
        for v in variable.node.inputs:
            yield from _with_the_values_of(v)


def _is_damped(variable: Variable) -> bool:
    node = variable.node
    return node is not None and isinstance(node.op, Readout) and node.op.rule == "1/m" and node.scales.alpha != 1


_Uses = Callable[[Variable, Mapping[Variable, str]], Iterator[TensorUse]]


def _uses(output: Tensor) -> _Uses:
    """Return a function that yields the uses of a tensor, given the names of the rows.

    A tensor with the same values, which has no row of its own, is replaced by its uses.
    """
    consumers: dict[Variable, list[tuple[Node, int]]] = defaultdict(list)
    for node in output.tape.nodes:
        for i, variable in enumerate(node.inputs):
            consumers[variable].append((node, i))

    def uses(variable: Variable, names: Mapping[Variable, str]) -> Iterator[TensorUse]:
        for node, i in consumers[variable]:
            if isinstance(node.op, SAME_VALUES) and i == 0:
                yield from uses(node.output, names)
            else:
                beta = node.scales.beta[i] if node.wanted[i] else None
                yield TensorUse(node.op.name, names.get(node.output, node.output.name), beta)

    return uses


def layer_of(name: str) -> str:
    """Return the layer of a name: ``encoder.0`` of ``encoder.0.ffn.up.weight``; ``mlm`` of ``mlm.norm.gain``."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first


def _unique(names: Sequence[str]) -> list[str]:
    """Number names that occur more than once: ``fork#1``, ``fork#2``."""
    total, seen = Counter(names), Counter[str]()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(f"{name}#{seen[name]}" if total[name] > 1 else name)
    return unique


def summarize_casts(records: Sequence[CastRecord]) -> tuple[CastSummary, ...]:
    """Summarize the casts of a tape by place, format and rule; the tape must have counted clipped elements."""
    groups: dict[tuple[str, str, str], list[CastRecord]] = defaultdict(list)
    for r in records:
        groups[r.place, r.cast.format.name, r.rule].append(r)

    def lost(r: CastRecord) -> int:
        return (r.clipped or 0) + (r.flushed or 0)

    summaries = []
    for (place, format, rule), group in groups.items():
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
                rule=rule,
            )
        )
    return tuple(summaries)
