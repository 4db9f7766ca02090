"""When factors are legal, and why: cut-edges, gradient factors, balanced forks, the automatic recipe.

Any factors may scale a graph, but the gradient that results is a multiple of the true one only under a condition.
The paper's (Theorem 5.2): α = β on every edge that is not a cut-edge. The sharper one used here: walk back from the
output with c = 1; an op with output y demands of its input i that c(x_i) = c(y)·β_i/α; all consumers of a tensor must
demand the same c. Then the gradient computed for x is c(x) times the true one.

Only edges that carry a gradient count: masks and token ids are no part of the graph here.
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
    """The edges whose removal disconnects the graph: bridges of the recorded undirected multigraph.

    A vertex is a leaf or a call with its output; a call that uses a variable twice is joined to it by two edges,
    neither of them a bridge. Linear time: one depth-first search with low-links (Tarjan 1974), without recursion.

    Args:
        output: where the graph ends.

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
    """For every tensor the constant c by which its computed gradient differs from the true one.

    c(output) = 1 and c(x_i) = c(y)·β_i/α for every edge; the gradient that ``backward`` computes for x is exactly c(x)
    times that of the function that the forward pass computes, rounding aside. Forks are settled first, as ``backward``
    does.

    Args:
        output: where the gradient starts.

    Returns:
        c of every variable that the output depends on, the output's included.

    Raises:
        FactorError: two consumers of a tensor demand different values; the computed gradient would mix terms with
            different weights. The message names tensor, consumers and values.
    """
    return settle(output)


def balance(output: Tensor) -> None:
    """Choose β of every ``Fork`` so that all uses of a tensor agree, as ``backward`` does itself.

    Args:
        output: where the gradient starts, usually the loss.

    Raises:
        FactorError: as for ``gradient_factors``.
    """
    settle(output)


# --- The recipe, automatic --------------------------------------------------------------------------------------------


@runtime_checkable
class Recordable(Protocol):
    """What ``plan`` takes in place of a function and its inputs; every ``programs.Program`` is one."""

    def as_function(self) -> tuple[Callable[[Any], Tensor], Mapping[str, ArrayLike]]:
        """A function of parameters, and the parameters."""


class Step(NamedTuple):
    """One call of a plan: what it is, its factors before and after, and the inputs that constrained it.

    ``parameters`` are the positions of the inputs that are parameters, whose shapes are the same for every batch;
    ``terms`` are those that each input's gradient sums, as predicted; ``statistic`` is that of the output, None: of the
    plan's base.
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
        """Return whether a call is this one, for some batch."""
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
    """A scheme that repeats what ``plan`` found, call by call; ``str(plan)`` is the table of the recorded batch.

    What is constrained comes from the recording; each factor is computed from the shapes of the call, and so holds for
    any batch: of another size, a smaller last one, or one with other rows to ignore.

    Attributes:
        base: whose factors are constrained.
        mean, add: the constraint of calls, and of additions.
        steps: the recorded calls.
    """

    name: str = "plan"
    base: Unit = unit
    mean: Constraint = geometric
    add: Constraint = to_output_scale
    steps: tuple[Step, ...] = ()

    def scales(self, call: Call) -> Scales:
        """Factors of the call with this number: the base's for its shapes, constrained as recorded.

        Raises:
            FactorError: the program being run is not the one that was recorded: another op, attribute or number of
                axes, or another shape of a parameter.
        """
        step = self.steps[call.index] if call.index < len(self.steps) else None
        if step is None or not step.matches(call):
            expected = "the end of the program" if step is None else f"{step.op} of {step.shapes}"
            raise FactorError(f"plan: call {call.index} is {call.op} of {call.shapes}, the plan has {expected}")
        if step.op.carries_factors:
            return step.resolved
        return self.constrained(call, step)

    def constrained(self, call: Call, step: Step) -> Scales:
        """Factors of a call, constrained as a step is."""
        free = _of_terms(_with(self.base, step.statistic).unconstrained(call), call.op.rows(*call.shapes), step.terms)
        return constrain(free, step.constrained, self.add if step.op.adds else self.mean)

    def residual_weights(self, rule: ResidualRule, layer: int, depth: int) -> tuple[float, float]:
        """Weights by the rule, as recorded."""
        return rule(layer)

    def differences(self, tape: Tape) -> list[tuple[Step, Scales]]:
        """The calls of ``tape`` whose factors are not those planned, with the factors they have there.

        ``tape`` must record the same program, under a scheme of its own.
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
    """The paper's recipe, automatic: record once, find the cut-edges, resolve every op's factors.

    1. Run ``fn`` on leaves made of ``inputs``, unscaled.
    2. Each op gets its own factors (scaling for unit variance).
    3. Every op consuming edges that are not cut-edges gets one value for α and the β of those edges: their ``mean``.
    4. An add of tensors of unlike origin becomes a weighted add: its constrained edges take α, so that
       Σ γ_i x_i / √Σ γ_i² passes back what it took. (The geometric mean would let the stream grow by 2^(1/3)
       at every addition.)
    5. With ``gradients="predicted"``, β of a parameter that is used once is that of the terms which its gradient is
       predicted to sum. They may be alike (after pooling, or where a sequence shares its gradient), and smaller or
       larger than 1, see ``prediction.terms``. Its gradient then has RMS 1, whatever the rest of the graph does.
    6. With ``products="rms"``, an output that has a mean and is only multiplied (by weights, by another tensor, as a
       gate) has RMS 1 instead of standard deviation 1. A product sees the mean square, so that a stack of relu and
       matmul without norms keeps its scale: by standard deviation, it grows by (1 − 1/π)^-½ = 1.21 at every layer.

    Identities that exist only to carry factors (``Scaled``, ``Fork``) are left at 1: the recipe knows no such op.
    A loss in a loop (two losses on one trunk) is an op like others: its α then multiplies its value.

    Args:
        fn: takes a Tensor for each array, a dict of Tensors for each mapping, and returns the output. Or a program,
            without inputs: the loss of its first batch.
        inputs: arrays, or mappings from name to array (parameters).
        mean: resolves the constrained factors; a constraint or its name, as ``add``.
        base: whose unconstrained factors, initial standard deviation to use (its ``statistic``: std or RMS); a ``Unit``
            or its name.
        add: resolves the constrained factors of additions.
        gradients: of parameters: "rule", by the ops' rules, with the likeness of rows that ``base`` has, such as
            ``unit:rows=alike``; or "predicted".
        products: statistic of outputs that are only multiplied, "std" or "rms"; None: that of ``base``.

    Returns:
        A scheme for ``Tape``; running ``fn`` under it, on any batch, has the planned factors. Source: paper, recipe.
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
