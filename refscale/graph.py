"""Conditions for legal factors: cut-edges, gradient factors, balanced forks, the automatic recipe.

Any factors may scale a graph, but the computed gradient is a multiple of the true one only under a condition. The
paper's condition (Theorem 5.2): α = β on every non-cut edge. The weaker condition used here: let c = 1 at the output,
and walk back; a call with output y requires c(x_i) = c(y)·β_i/α of its input i, and all consumers of a tensor must
require the same c. Then the computed gradient of x is c(x) times the true one.

The graph has only edges that carry a gradient: masks and token ids are not part of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from numpy.typing import ArrayLike

from refscale.engine import Edge, Node, Op, Tape, Tensor, Variable, ancestors, edges, settle
from refscale.errors import ArgumentError, FactorError
from refscale.prediction import Terms, predict_graph, terms
from refscale.scales import (
    Call,
    Constraint,
    ResidualRule,
    Scales,
    Scheme,
    Shape,
    Statistic,
    Unit,
    close,
    constrain,
    geometric,
    get_constraint,
    get_scheme,
    none,
    to_output_scale,
    unit,
)

__all__ = [
    "Plan",
    "Step",
    "balance",
    "cut_edges",
    "gradient_factors",
    "plan",
]


def cut_edges(output: Tensor) -> set[Edge]:
    """Find the edges whose removal disconnects the graph: the bridges of the recorded undirected multigraph.

    A vertex is a leaf, or a call with its output. A call that uses a variable twice is joined to it by two edges,
    neither of them a bridge. Linear time: one depth-first search with low-links (Tarjan 1974), without recursion.

    Args:
        output: the last tensor of the graph.

    Returns:
        The cut-edges. Source: paper, definition of a cut-edge.
    """
    neighbors: dict[Variable, list[tuple[Edge, Variable]]] = defaultdict(list)
    for node in ancestors(output):
        for edge in edges(node):
            neighbors[edge.variable].append((edge, node.output))
            neighbors[node.output].append((edge, edge.variable))
    order = {output.variable: 0}
    low = {output.variable: 0}
    bridges: set[Edge] = set()
    stack: list[tuple[Variable, Edge | None, Iterator[tuple[Edge, Variable]]]] = [
        (output.variable, None, iter(neighbors[output.variable]))
    ]
    while stack:
        vertex, entered, rest = stack[-1]
        for edge, other in rest:
            if edge == entered:
                continue
            if other in order:
                low[vertex] = min(low[vertex], order[other])
            else:
                order[other] = low[other] = len(order)
                stack.append((other, edge, iter(neighbors[other])))
                break
        else:
            stack.pop()
            if entered is not None:
                parent = stack[-1][0]
                low[parent] = min(low[parent], low[vertex])
                if low[vertex] > order[parent]:
                    bridges.add(entered)
    return bridges


def gradient_factors(output: Tensor) -> dict[Variable, float]:
    """Return the constant c of every tensor: its computed gradient is c times the true one.

    c(output) = 1 and c(x_i) = c(y)·β_i/α for every edge; the gradient that ``backward`` computes for x is exactly c(x)
    times that of the function that the forward pass computes, rounding aside. Forks are settled first, as ``backward``
    does.

    Args:
        output: the tensor where the gradient starts.

    Returns:
        c of every variable that the output depends on, and of the output.

    Raises:
        FactorError: two consumers of a tensor require different values of c, so that the computed gradient would add
            terms with different weights. The message names the tensor, the consumers and the values.
    """
    return settle(output)


def balance(output: Tensor) -> None:
    """Choose β of every ``Fork`` so that all uses of a tensor agree, as ``backward`` does itself.

    Args:
        output: the tensor where the gradient starts, usually the loss.

    Raises:
        FactorError: two consumers of a tensor require different values of c; see ``gradient_factors``.
    """
    settle(output)


# --- The recipe, automatic --------------------------------------------------------------------------------------------


@runtime_checkable
class Recordable(Protocol):
    """An object that ``plan`` takes in place of a function and its inputs, such as every ``programs.Program``."""

    def as_function(self) -> tuple[Callable[[Any], Tensor], Mapping[str, ArrayLike]]:
        """Return a function of parameters, and the parameters."""


class Step(NamedTuple):
    """One call of a plan: its op and shapes, its factors before and after constraining, and the constrained inputs.

    ``parameters`` are the positions of the inputs that are parameters, whose shapes are the same for every batch;
    ``terms`` are the predicted terms that each input's gradient sums; ``statistic`` is the statistic of the output that
    α sets to 1 (None: the statistic of the plan's base).
    """

    name: str
    op: Op
    shapes: tuple[tuple[int, ...], ...]
    unconstrained: Scales
    resolved: Scales
    constrained: tuple[int, ...]
    parameters: tuple[int, ...] = ()
    terms: tuple[Terms, ...] = ()
    statistic: Statistic | None = None

    def matches(self, call: Call) -> bool:
        """Return whether a call can be this step for some batch: the same op, parameter shapes and numbers of axes."""
        if type(call.op) is not type(self.op) or len(self.shapes) != len(call.shapes):
            return False
        op: Any = call.op  # a dataclass, if it has attributes
        sizes = {name: getattr(self.op, name) for name in self.op.of_batch}
        if any(len(planned) != len(getattr(op, name)) for name, planned in sizes.items()):
            return False
        if self.op != (replace(op, **sizes) if sizes else op):
            return False
        pairs = enumerate(zip(self.shapes, call.shapes, strict=True))
        return all(a == b if i in self.parameters else len(a) == len(b) for i, (a, b) in pairs)


@dataclass(frozen=True)
class Plan(Unit):
    """A scheme with the factors that ``plan`` found, call by call; ``str(plan)`` is the table of the recorded batch.

    The recording determines which edges are constrained. Each factor is computed from the shapes of the call, so the
    plan applies to any batch: of another size, a smaller last one, or one with other ignored rows.

    Attributes:
        base: the scheme of the unconstrained factors.
        mean: the constraint of all calls but additions.
        add: the constraint of additions.
        steps: the recorded calls.
    """

    name: str = "plan"
    base: Unit = unit
    mean: Constraint = geometric
    add: Constraint = to_output_scale
    steps: tuple[Step, ...] = ()

    def scales(self, call: Call) -> Scales:
        """Return the factors of a call: the base's factors for its shapes, constrained as the step of its number.

        Raises:
            FactorError: the program differs from the recorded one in an op, an attribute, a number of axes or the shape
                of a parameter.
        """
        step = self.steps[call.index] if call.index < len(self.steps) else None
        if step is None or not step.matches(call):
            expected = "the end of the program" if step is None else f"{step.op} of {step.shapes}"
            raise FactorError(f"plan: call {call.index} is {call.op} of {call.shapes}, the plan has {expected}")
        if step.op.carries_factors:
            return step.resolved
        return self.constrained(call, step)

    def constrained(self, call: Call, step: Step) -> Scales:
        """Return the factors of a call, with the constrained inputs and terms of a step."""
        free = _of_terms(_with(self.base, step.statistic).unconstrained(call), call.op.rows(*call.shapes), step.terms)
        return constrain(free, step.constrained, self.add if step.op.adds else self.mean)

    def residual_weights(self, rule: ResidualRule, layer: int, depth: int) -> tuple[float, float]:
        """Return the weights of the residual rule, as in the recorded program."""
        return rule(layer)

    def differences(self, tape: Tape) -> list[tuple[Step, Scales]]:
        """Return the steps whose factors on ``tape`` differ from the plan's, with the factors on ``tape``.

        ``tape`` must have recorded the same program, under another scheme.
        """
        if [type(n.op) for n in tape.nodes] != [type(s.op) for s in self.steps]:
            raise FactorError("Plan.differences: the tape records another program than the plan")
        return [
            (step, node.scales)
            for step, node in zip(self.steps, tape.nodes, strict=True)
            if not _close(step.resolved, node.scales)
        ]

    def __str__(self) -> str:
        rows = [("call", "op", "unconstrained", "resolved", "constrained by")]
        for i, step in enumerate(self.steps):
            inputs = step.op.inputs
            names = [inputs[k] if k < len(inputs) and inputs[0][0] != "*" else f"x{k}" for k in step.constrained]
            rows.append(
                (f"{i} {step.name}", step.op.name, str(step.unconstrained), str(step.resolved), " ".join(names))
            )
        widths = [max(len(row[k]) for row in rows) for k in range(5)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _of_terms(scales: Scales, rows: Sequence[Shape], known: Sequence[Terms]) -> Scales:
    """Factors for sums of the predicted terms, in place of those that the ops' rules assume."""
    if not known:
        return scales
    sums = zip(scales.beta, known, rows, strict=True)
    return Scales(scales.alpha, tuple(None if b is None else b / one.scale(along) for b, one, along in sums))


def _close(a: Scales, b: Scales) -> bool:
    pairs = zip((a.alpha, *a.beta), (b.alpha, *b.beta), strict=True)
    return all((p is None) == (q is None) and (p is None or close(p, q or 0)) for p, q in pairs)


def plan(
    fn: Callable[..., Tensor] | Recordable,
    *inputs: ArrayLike | Mapping[str, ArrayLike],
    mean: str | Constraint = geometric,
    base: str | Scheme = unit,
    add: str | Constraint = to_output_scale,
    gradients: Literal["rule", "predicted"] = "rule",
    products: Statistic | None = None,
) -> Plan:
    """Apply the paper's recipe automatically: record once, find the cut-edges, resolve every op's factors.

    1. Run ``fn`` on leaves made of ``inputs``, unscaled.
    2. Give each op its unconstrained factors (scaling for unit variance).
    3. For every op with non-cut input edges, replace α and the β of these edges by one value: their ``mean``.
    4. An addition becomes a weighted addition: its constrained edges take α, so that the gradients of
       Σ γ_i x_i / √Σ γ_i² have the weights of the forward pass. (By the geometric mean the residual stream would grow
       by 2^(1/3) at every addition.)
    5. With ``gradients="predicted"``, β of a parameter that is used once is computed from the predicted terms of its
       gradient. The terms may be correlated (after pooling, or if the positions of a sequence share a gradient), and
       their RMS may differ from 1; see ``prediction.terms``. The gradient then has RMS 1, for any other factors.
    6. With ``products="rms"``, an output that has a mean and is only multiplied (by weights, by another tensor, as a
       gate) has RMS 1 instead of standard deviation 1. The scale of a product depends on the mean square: a stack of
       relu and matmul without norms keeps its scale by RMS, and by standard deviation grows by (1 − 1/π)^-½ = 1.21
       per layer.

    Identities that exist only to carry factors (``Scaled``, ``Fork``) keep factors of 1: the recipe has no such op.
    A loss in a loop (two losses on one trunk) is treated as any op: its α then multiplies its value.

    Args:
        fn: a function that takes a Tensor for each array and a dict of Tensors for each mapping, and returns the
            output; or a program, without inputs: the output is the loss of its first batch.
        inputs: arrays, or mappings from name to array (parameters).
        mean: the constraint of all ops but additions, or its name.
        base: the scheme that defines the unconstrained factors, their statistic (std or RMS) and the initial standard
            deviation of weights; a ``Unit`` or its name.
        add: the constraint of additions, or its name.
        gradients: source of β of parameters: "rule", the ops' rules, with the correlation of rows that ``base``
            assumes, such as ``unit:rows=alike``; or "predicted".
        products: statistic of outputs that are only multiplied, "std" or "rms"; None: that of ``base``.

    Returns:
        A scheme for ``Tape`` that gives ``fn`` the planned factors, on any batch. Source: paper, recipe.
    """
    mean, add, base = get_constraint(mean), get_constraint(add), get_scheme(base)
    if gradients not in ("rule", "predicted"):
        raise ArgumentError(f"plan(gradients={gradients!r}): expected 'rule' or 'predicted'")
    if products not in (None, "std", "rms"):
        raise ArgumentError(f"plan(products={products!r}): expected 'std' or 'rms'")
    if not isinstance(base, Unit):
        raise ArgumentError(f"plan(base={base.name}): expected a scheme with unconstrained factors, such as unit")
    if isinstance(fn, Recordable):
        fn, initial = fn.as_function()
        inputs = (initial, *inputs)
    tape = Tape()
    given = [_leaves(tape, x, f"input{i}") for i, x in enumerate(inputs)]
    of_mappings = {t.variable for x in given if isinstance(x, dict) for t in x.values()}
    output = fn(*given)
    cut = cut_edges(output)
    relevant = set(ancestors(output))
    multiplied = _only_multiplied(relevant) if products else set()
    steps = []
    for node in tape.nodes:
        statistic = products if node in multiplied else None
        shapes = tuple(v.shape for v in node.inputs)
        free = _with(base, statistic).unconstrained(Call(node.op, shapes))
        tied: tuple[int, ...] = ()
        if node.op.carries_factors:
            free = node.scales
        elif node in relevant:
            tied = tuple(edge.position for edge in edges(node) if edge not in cut)
        rule = add if node.op.adds else mean
        resolved = constrain(free, tied, rule)
        parameters = tuple(i for i, v in enumerate(node.inputs) if v in of_mappings)
        steps.append(
            Step(
                node.output.name,
                node.op,
                shapes,
                free,
                resolved,
                tied if rule is not none else (),
                parameters,
                statistic=statistic,
            )
        )
    if gradients == "predicted":
        steps = _with_terms(steps, output, mean, add)
    options = mean.__name__ + (",gradients=predicted" if gradients == "predicted" else "")
    options += f",products={products}" if products else ""
    return Plan(name=f"plan({options})", statistic=base.statistic, base=base, mean=mean, add=add, steps=tuple(steps))


def _with(base: Unit, statistic: Statistic | None) -> Unit:
    """The base, with another statistic if there is one."""
    return base if statistic is None else replace(base, statistic=statistic)


def _only_multiplied(nodes: set[Node]) -> set[Node]:
    """The calls whose output has a mean, and every use of which, in another shape or not, multiplies it."""
    uses: dict[Variable, list[tuple[Node, int]]] = defaultdict(list)
    for node in nodes:
        for i, variable in enumerate(node.inputs):
            uses[variable].append((node, i))

    def multiplied(variable: Variable) -> bool:
        found = uses[variable]
        return bool(found) and all(
            multiplied(user.output) if user.op.moves else i in user.op.multiplies for user, i in found
        )

    return {node for node in nodes if node.op.has_mean and multiplied(node.output)}


def _with_terms(steps: list[Step], output: Tensor, mean: Constraint, add: Constraint) -> list[Step]:
    """Steps with the terms that are predicted for their factors; the recorded graph takes these factors."""
    nodes = output.tape.nodes
    for node, step in zip(nodes, steps, strict=True):
        node.scales = step.resolved
    prediction = predict_graph(output)
    found = []
    for node, step in zip(nodes, steps, strict=True):
        if step.op.carries_factors:
            found.append(step)
            continue
        known = terms(node, prediction, step.unconstrained)
        free_leaf = (v.node is None and i not in step.constrained for i, v in enumerate(node.inputs))
        known = tuple(one if free else Terms() for one, free in zip(known, free_leaf, strict=True))
        free = _of_terms(step.unconstrained, step.op.rows(*step.shapes), known)
        resolved = constrain(free, step.constrained, add if step.op.adds else mean)
        found.append(step._replace(unconstrained=free, resolved=resolved, terms=known))
    return found


def _leaves(tape: Tape, value: Any, name: str) -> Tensor | dict[str, Tensor]:
    if isinstance(value, Mapping):
        return {key: tape.tensor(array, key) for key, array in value.items()}
    return tape.tensor(value, name)
