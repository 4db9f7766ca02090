"""The scale of every tensor of a recorded graph, and α of every call.

The graph is recorded under the regular scheme. s(x) is the scale of a tensor: x = s(x)·x′, with x′ the tensor of the
adapted program.

* A matrix has s = σ, its RMS: W = σ·W′. Gains, biases of norms, constants and data have s = 1.
* *Fixed* tensors have s = 1: inputs of ops that are not homogeneous ("own": gelu, softmax, a loss), and inputs that
  an op combines without weights ("together": concat, where, the cell of a recurrence), if two or more of them have
  scales of their own.
* The factor f of an op is the product of the scales of its inputs, each to the power of its degree. If the output is
  not fixed, α is that of unit scaling, and s(y) = f/α. If it is fixed, α = f, and s(y) = 1.
* A weighted sum absorbs s in its weights: Σ γ_i·x_i has weights γ_i·s(x_i)/h, with h = √Σ (γ_i·s(x_i))².
* A norm cancels s; its eps is divided by s².
* A bias takes the scale of the other operand of its sum.

Scales depend on weights (σ) and shapes, not on data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from refscale.engine import Node, Op, Tensor, Variable
from refscale.errors import ProgramError
from refscale.graph import Plan
from refscale.scales import Call, Constraint, Regular, Scales, Unit, close, none


class Recording(Regular):
    """The regular scheme; it also records every call, with its constraint."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "calls", [])

    calls: list[Call]

    def scales(self, call: Call) -> Scales:
        """Return factors of 1."""
        self.calls.append(call)
        return super().scales(call)


class Solved(NamedTuple):
    """One call of the adapted program.

    Attributes:
        op: the op in place of the recorded one; None: the recorded one.
        alpha: α.
        tied: positions of the inputs whose β is α.
        fixed: whether the output has the scale of the regular program.
        factor: f, the product of the scales of the inputs by their degrees.
    """

    op: Op | None
    alpha: float
    tied: tuple[int, ...]
    fixed: bool
    factor: float


@dataclass(frozen=True, eq=False)
class Solution:
    """The scales of a graph.

    Attributes:
        scales: s of every tensor, the ratio x/x′, by variable.
        calls: op and factors of each call of the tape, in order.
    """

    scales: Mapping[Variable, float]
    calls: tuple[Solved, ...]


def solve(outputs: Sequence[Tensor], recording: Recording, sigmas: Mapping[str, float], base: Unit) -> Solution:
    """Solve for the scales of a graph that was recorded under ``recording``.

    Args:
        outputs: ends of the graph; they are fixed.
        recording: the scheme of their tape.
        sigmas: divisors of matrices, by name. A parameter without an entry takes the scale of the other operand of
            its sum.
        base: scheme of the free factors: ``unit``, or a ``graph.Plan`` of the same program.

    Returns:
        The solution.

    Raises:
        ProgramError: an op has no rule, two uses of a parameter require different scales, or the plan is of another
            program.
    """
    tape = outputs[0].tape
    if isinstance(base, Plan) and len(base.steps) != len(tape.nodes):
        raise ProgramError(f"adapt: a plan of {len(base.steps)} calls for a program of {len(tape.nodes)}")
    return _Walk(outputs, recording.calls, sigmas, base).done()


class _Walk:
    """One walk back, which finds the fixed tensors, and one forward, which finds the scales."""

    def __init__(
        self, outputs: Sequence[Tensor], calls: Sequence[Call], sigmas: Mapping[str, float], base: Unit
    ) -> None:
        self.calls, self.sigmas, self.base = calls, sigmas, base
        self.nodes = outputs[0].tape.nodes
        self.scales: dict[Variable, float] = {}
        self.fixed = {output.variable for output in outputs}

    def done(self) -> Solution:
        for node in reversed(self.nodes):
            if len(node.op.degrees(len(node.inputs))) != len(node.inputs):
                raise ProgramError(f"adapt: {_place(node)} has no rule, expected an op that declares its homogeneity")
            self.fix_inputs(node)
        return Solution(self.scales, tuple([self.solved(node) for node in self.nodes]))

    # --- Backward: fixed tensors ------------------------------------------------------------------------------------

    def fix_inputs(self, node: Node) -> None:
        """Fix the inputs that need the scale of the regular program."""
        degrees = node.op.degrees(len(node.inputs))
        given = [v for v, d in zip(node.inputs, degrees, strict=True) if d == "together" and not self.adopts(v)]
        for variable, degree in zip(node.inputs, degrees, strict=True):
            needs = degree == "own" or (degree == "together" and variable in given and len(given) > 1)
            if needs or (node.output in self.fixed and self.passes(node) and variable.node is not None):
                self.fixed.add(variable)

    def passes(self, node: Node) -> bool:
        """Return whether an op passes the scale on, so that its input is fixed: moves, biases and forks with α = 1."""
        degrees = [d for d in node.op.degrees(len(node.inputs)) if d is not None]
        alone = len(degrees) == 1 or (len(degrees) == 2 and degrees[0] == "together" and self.adopts(node.inputs[1]))
        return alone and degrees[0] in (1, "together") and not node.op.contraction and self.unit(node).alpha == 1

    def adopts(self, variable: Variable) -> bool:
        """Return whether a tensor is a parameter that takes the scale of the other operand of its sum."""
        return variable.node is None and variable.requires_grad and variable.name not in self.sigmas

    # --- Forward: scales and factors --------------------------------------------------------------------------------

    def solved(self, node: Node) -> Solved:
        """Solve one call; set the scale of its output, and of parameters first used here."""
        degrees = node.op.degrees(len(node.inputs))
        together = self.together(node)
        for variable, degree in zip(node.inputs, degrees, strict=True):
            if variable.node is None and variable not in self.scales:
                own = 1.0 if variable in self.fixed else self.sigmas.get(variable.name, 1.0)
                is_sigma = variable.requires_grad and variable.name in self.sigmas
                self.scales[variable] = own if is_sigma else together if degree == "together" else 1.0
            expected = {"own": 1.0, "together": together}.get(degree if isinstance(degree, str) else "")
            if expected is not None and not close(self.scales[variable], expected):
                raise ProgramError(
                    f"adapt: {_place(node)} needs {variable.name} at the scale {expected:.6g}, which another use gives "
                    f"{self.scales[variable]:.6g}"
                )
        op, factor = node.op.at_scales(*(self.scales[v] for v in node.inputs))
        is_fixed = node.output in self.fixed
        tied = self.tied(node)
        alpha = factor if is_fixed else self.unit(node, op).alpha
        self.scales[node.output] = 1.0 if is_fixed else factor / alpha
        return Solved(None if op is node.op else op, alpha, tied, is_fixed, factor)

    def together(self, node: Node) -> float:
        """The scale of the inputs that are added without weights; 1 if all of them are parameters that adopt it."""
        degrees = node.op.degrees(len(node.inputs))
        for variable, degree in zip(node.inputs, degrees, strict=True):
            if degree == "together" and not self.adopts(variable):
                known = self.scales.get(variable)
                return (1.0 if variable in self.fixed else self.sigma(variable)) if known is None else known
        return 1.0

    def sigma(self, variable: Variable) -> float:
        """The scale of a leaf that does not adopt one."""
        return self.sigmas.get(variable.name, 1.0) if variable.requires_grad else 1.0

    def tied(self, node: Node) -> tuple[int, ...]:
        """Positions of the inputs whose β is α: those that the plan or the program constrains."""
        if isinstance(self.base, Plan):
            return self.base.steps[node.index].constrained
        call = self.calls[node.index]
        rule: Constraint = call.constraint
        return () if rule is none else call.constrained

    def unit(self, node: Node, op: Op | None = None) -> Scales:
        """The factors of the base scheme in a call, of another op if one is given."""
        call = replace(self.calls[node.index], op=op or node.op)
        if not isinstance(self.base, Plan):
            return self.base.scales(call)
        if node.op.carries_factors:
            return self.base.steps[node.index].resolved
        return self.base.constrained(call, self.base.steps[node.index])


def _place(node: Node) -> str:
    """``encoder.0.ffn.gelu (call 7)``."""
    return f"{node.output.name} (call {node.index})"


def finite_sigma(name: str, mean_square: float) -> float:
    """Return the RMS of a matrix; 1 if it is all zero. Raise ProgramError if it is not finite."""
    sigma = math.sqrt(mean_square) if mean_square >= 0 else math.nan
    if not math.isfinite(sigma):
        raise ProgramError(f"adapt: {name} has an RMS of {sigma}, expected a finite one")
    return sigma or 1.0
