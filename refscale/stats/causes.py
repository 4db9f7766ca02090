"""The cause of a tensor's deviation from unit scale: the largest contribution of the calls on its path, and the remedy.

The prediction of a graph (``refscale.prediction``) is split into factors. The scale of a call's output is the product
of

* the scales of its inputs;
* *alike*: the scale for its actual inputs over that for independent N(0, 1), all at RMS 1. Correlated terms add up in
  proportion to their number, not to its root; terms that cancel do the reverse;
* *factor*: α times the scale for independent N(0, 1), which is 1 by the op's own rule.

The scale of a gradient is split in the same way, with β, starting from the gradient of the output; a tensor with
several uses sums their gradients. A tensor's contributions are followed back to the leaves, or forward to the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from refscale.engine import Node, Tensor, Variable, call_name
from refscale.prediction import Prediction
from refscale.scales import Call, Scales, Unit, close, unit
from refscale.scales.second_moments import SecondMoments, independent
from refscale.stats.measurement import HIGH, LOW, Kind

__all__ = ["CAUSES", "Cause", "Contribution", "causes"]

CAUSES = {
    "no factor": "use the scheme unit, or graph.plan",
    "initial scale": "set Spec(std=…) of the parameter; the scheme unit initializes matrices with σ = 1",
    "constraint": "insert functional.fork at the start of the branch; its factors are then not tied",
    "mean": "use RMS rules: plan(products='rms'), or the scheme unit-rms",
    "alike values": "use Mean(values='correlated'), AttentionMix('correlated'), or RMS rules: plan(products='rms')",
    "alike rows": "use plan(gradients='predicted'), or the scheme unit:rows=alike",
    "cancellation": "for a parameter: plan(gradients='predicted'); for an activation: none",
    "several uses": "insert functional.fork for each use",
    "another rule": "use an op or a scheme whose rule fits the input",
    "data": "try another seed or batch; the scale predicted for independent N(0, 1) is within [1/4, 4]",
}
"""Causes, and the remedy for each.

================  ====================================================================================================
no factor         the scheme has no factors
initial scale     the initial scale of a parameter
constraint        a constraint makes α or β differ from the op's rule
mean              the op's rule is that of σ, but its output has a mean, which a product or a sum includes
alike values      terms of a sum are correlated
alike rows        terms of the sum over rows that is a parameter's gradient are correlated
cancellation      terms of a sum cancel
several uses      a gradient is the sum of those of several uses
another rule      any other factor that does not give RMS 1
data              the predicted scale is within [1/4, 4], the measured one is not
================  ====================================================================================================
"""

_SMALL = 0.05
"""Contributions to log2 of a scale that are ignored: 3.5 %."""
_LEAST = 2.0**-1000


@dataclass(frozen=True)
class Contribution:
    """The contribution of one call to a scale.

    Attributes:
        cause: a key of ``CAUSES``.
        node: the call.
        log2: log2 of its factor on the scale.
    """

    cause: str
    node: Node
    log2: float


@dataclass(frozen=True)
class Cause:
    """The cause of one tensor's deviation from unit scale.

    Attributes:
        tensor, kind: name and kind of the tensor, as in ``TensorStats``.
        cause: a key of ``CAUSES``; "not predicted" if an op on the path has no rule.
        log2: log2 of the product of all contributions of this cause.
        calls: number of these contributions.
        at: call with the largest contribution: scope, op and number.
        remedy: remedy of the cause; empty if the cause is unknown.
    """

    tensor: str
    kind: Kind
    cause: str
    log2: float
    calls: int
    at: str
    remedy: str


def causes(output: Tensor, prediction: Prediction, outside: Sequence[tuple[str, Kind, Variable]]) -> tuple[Cause, ...]:
    """Return the cause of the scale of each tensor in ``outside``, in the same order.

    Args:
        output: end of the recorded graph.
        prediction: prediction of the graph.
        outside: tensors whose scale is outside [1/4, 4]: name, kind and variable of each.
    """
    anatomy = _Anatomy(output, prediction)
    found = []
    for name, kind, variable in outside:
        cause, contributions = anatomy.cause(variable, "gradient" in kind)
        total = sum(one.log2 for one in contributions)
        most = max(contributions, key=lambda one: abs(one.log2), default=None)
        at = call_name(most.node) if most else ""
        found.append(Cause(name, kind, cause, total, len(contributions), at, CAUSES.get(cause, "")))
    return tuple(found)


class _Anatomy:
    """The contributions in a graph.

    Args:
        output, prediction: as in ``causes``.
    """

    def __init__(self, output: Tensor, prediction: Prediction) -> None:
        self.values, self.gradients = prediction.values, prediction.gradients
        self.scheme = output.tape.scheme
        self._forward: dict[Node, list[Contribution]] = {}
        self._backward: dict[tuple[Node, int], tuple[float, list[Contribution]]] = {}
        self.uses: dict[Variable, list[tuple[Node, int]]] = {}
        last = output.variable.node
        for node in output.tape.nodes[: last.index + 1] if last else ():
            for i, variable in enumerate(node.inputs):
                if node.wanted[i]:
                    self.uses.setdefault(variable, []).append((node, i))

    def cause(self, variable: Variable, gradient: bool) -> tuple[str, list[Contribution]]:
        """Return the cause with the largest product of contributions in the direction of the scale, and these."""
        known = self.gradients if gradient else self.values
        if variable not in known:
            return "not predicted", []
        if variable.node is None and not gradient:
            return "initial scale", []
        if LOW <= known[variable].rms <= HIGH:
            return "data", []
        sign = 1 if _log2(known[variable].rms) > 0 else -1
        groups: dict[str, list[Contribution]] = {"another rule": []}
        for one in self.of_gradient(variable) if gradient else self.of_value(variable):
            groups.setdefault(one.cause, []).append(one)
        return max(groups.items(), key=lambda group: sign * sum(one.log2 for one in group[1]))

    def of_value(self, variable: Variable) -> Iterator[Contribution]:
        """Yield contributions to a value, back along the inputs with the largest scales."""
        while (node := variable.node) is not None and variable in self.values:
            if node not in self._forward:
                self._forward[node] = list(self._of_output(node))
            yield from self._forward[node]
            variable = max(node.inputs, key=self._deviation)

    def of_gradient(self, variable: Variable) -> Iterator[Contribution]:
        """Yield contributions to a gradient, along its largest pieces, and then along an input that they multiply."""
        while variable in self.gradients:
            uses = [use for use in self.uses.get(variable, ()) if self._is_known(use[0])]
            if not uses:
                return
            for use in uses:
                if use not in self._backward:
                    self._backward[use] = self._of_piece(*use)
            node, i = max(uses, key=lambda use: self._backward[use][0])
            most, contributions = self._backward[node, i]
            if len(uses) > 1 and most > 0:
                yield Contribution("several uses", node, _log2(self.gradients[variable].rms / most))
            yield from contributions
            others = [v for k, v in enumerate(node.inputs) if k != i and v.node is not None]
            larger = max(others, key=self._deviation, default=None)
            g = self.gradients[node.output]
            if larger is not None and self._deviation(larger) > abs(_log2(g.rms)):
                yield from self.of_value(larger)
                return
            variable = node.output

    def _of_output(self, node: Node) -> Iterator[Contribution]:
        inputs, rule = [self.values[v] for v in node.inputs], node.op.predict
        if rule is not None:
            shape = node.output.shape
            plain, same = rule(shape, *_plain(node, inputs)).rms, rule(shape, *_unit(node, inputs)).rms
            yield from self._split(node, node.scales.alpha, self._free(node).alpha, plain, same, rows=False)

    def _of_piece(self, node: Node, i: int) -> tuple[float, list[Contribution]]:
        """Return the RMS of the gradient that input i receives from a call, and the call's contributions to it."""
        g, inputs = self.gradients[node.output], [self.values[v] for v in node.inputs]
        beta, free = node.scales.beta[i] or 1.0, self._free(node).beta[i] or 1.0

        def rms(of: SecondMoments, others: Sequence[SecondMoments]) -> float:
            rule = node.op.predict_gradients
            found = rule(of, *others)[i] if rule is not None else None
            return 0.0 if found is None else found.rms

        plain = rms(independent(g.shape, 1.0), _plain(node, inputs))
        same = rms(_normalized(g), _unit(node, inputs))
        rows = math.prod((node.op.rows(*(v.shape for v in node.inputs)))[i]) > 1
        return beta * rms(g, inputs), list(self._split(node, beta, free, plain, same, rows))

    def _deviation(self, variable: Variable) -> float:
        """Return |log2| of a value's scale; 0 for zeros, such as biases, which contribute nothing to a sum."""
        rms = self.values[variable].rms
        return abs(_log2(rms)) if rms > 0 else 0.0

    def _is_known(self, node: Node) -> bool:
        inputs = all(v in self.values for v in node.inputs)
        return inputs and node.output in self.gradients and node.op.predict_gradients is not None

    def _free(self, node: Node) -> Scales:
        """Return the factors of the op's own rule."""
        base = self.scheme if isinstance(self.scheme, Unit) else unit
        return base.unconstrained(Call(node.op, tuple(v.shape for v in node.inputs)))

    def _split(
        self, node: Node, factor: float, free: float, plain: float, same: float, rows: bool
    ) -> Iterator[Contribution]:
        """Yield the contributions of one call: its factor, and inputs that are not independent.

        If they are opposite, as for a factor made for correlated values, the larger one gets the difference.
        """
        if plain <= 0:
            return
        by_factor, by_inputs = _log2(factor * plain), _log2(same / plain)
        if by_factor * by_inputs < 0:
            both = by_factor + by_inputs
            by_factor, by_inputs = (both, 0.0) if abs(by_factor) > abs(by_inputs) else (0.0, both)
        if abs(by_factor) > _SMALL:
            if not isinstance(self.scheme, Unit):
                cause = "no factor"
            elif not close(factor, free):
                cause = "constraint"
            else:
                cause = "mean" if node.op.has_mean and by_factor > 0 else "another rule"
            yield Contribution(cause, node, by_factor)
        if abs(by_inputs) > _SMALL:
            alike = "alike rows" if rows else "alike values"
            yield Contribution(alike if by_inputs > 0 else "cancellation", node, by_inputs)


def _plain(node: Node, inputs: Sequence[SecondMoments]) -> list[SecondMoments]:
    """Replace all inputs but leaves and constants by independent N(0, 1)."""
    return [x if _is_given(node, i) else independent(x.shape, 1.0) for i, x in enumerate(inputs)]


def _unit(node: Node, inputs: Sequence[SecondMoments]) -> list[SecondMoments]:
    """Scale all inputs but leaves and constants to RMS 1."""
    return [x if _is_given(node, i) else _normalized(x) for i, x in enumerate(inputs)]


def _is_given(node: Node, i: int) -> bool:
    return node.inputs[i].node is None or i in node.op.constants


def _normalized(x: SecondMoments) -> SecondMoments:
    return x.times(1 / x.rms) if x.rms > 0 else x


def _log2(x: float) -> float:
    return math.log2(max(x, _LEAST))
