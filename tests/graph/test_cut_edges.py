"""Cut-edges against their definition: remove an edge, and see whether the graph falls apart."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refscale import ops
from refscale.engine import Tape, Tensor, apply
from refscale.errors import TapeError
from refscale.graph import Edge, cut_edges, gradient_factors
from refscale.testing.graphs import Dag
from refscale.testing.strategies import dags
from tests.graph.recorded import KEEP, KINDS, leaves, record

CutEdges = Callable[[Tensor], set[Edge]]


def bridges_by_removal(dag: Dag, constant: frozenset[int]) -> set[tuple[int, int]]:
    """Return (op, input position) of every edge whose removal disconnects the graph of the output's ancestors.

    Works on the ``Dag`` alone, and knows nothing of tapes.
    """
    differentiable = set(range(dag.n_leaves)) - constant
    for node, (_, inputs) in enumerate(dag.ops, start=dag.n_leaves):
        if differentiable & set(inputs):
            differentiable.add(node)
    relevant = {dag.output}
    for node in range(dag.output, dag.n_leaves - 1, -1):
        if node in relevant:
            relevant |= differentiable & set(dag.ops[node - dag.n_leaves][1])
    edges = [
        (node - dag.n_leaves, position, source, node)
        for node in sorted(relevant)
        if node >= dag.n_leaves
        for position, source in enumerate(dag.ops[node - dag.n_leaves][1])
        if source in differentiable
    ]

    def connected(kept: list[tuple[int, int, int, int]]) -> bool:
        reached, frontier = {dag.output}, [dag.output]
        while frontier:
            v = frontier.pop()
            for _, _, a, b in kept:
                for there in ({a, b} - {v}) if v in (a, b) else ():
                    if there not in reached:
                        reached.add(there)
                        frontier.append(there)
        return reached == relevant

    assert connected(edges)
    return {(op, position) for k, (op, position, _, _) in enumerate(edges) if not connected(edges[:k] + edges[k + 1 :])}


def check(implementation: CutEdges, dag: Dag, constant: frozenset[int] = frozenset()) -> None:
    """Raise AssertionError unless the implementation finds the bridges of this graph."""
    tensors = record(dag, Tape(dtype=np.float64), leaves(dag, np.random.default_rng(0)), constant=constant)
    found = {(edge.node.index, edge.position) for edge in implementation(tensors[-1])}
    assert found == bridges_by_removal(dag, constant)


@settings(max_examples=300)
@given(dags(KINDS, max_leaves=4, max_ops=12), st.frozensets(st.integers(0, 3)))
@example(Dag(1, (("multiply", (0, 0)),)), frozenset())  # a multi-edge
@example(Dag(2, (("add", (0, 1)), ("tanh", (2,)), ("add", (2, 3)))), frozenset())  # a residual loop
def test_cut_edges_are_the_edges_that_disconnect(dag, constant):
    try:
        check(cut_edges, dag, constant)
    except TapeError:  # the output depends on constants only
        assert not record(dag, Tape(), leaves(dag, np.random.default_rng(0)), constant=constant)[
            -1
        ].variable.requires_grad


def test_an_output_without_gradient_has_no_graph():
    x = Tape().tensor(1.0, "x", requires_grad=False)
    with pytest.raises(TapeError, match=r"^Tensor\(tanh, .*\) was not computed from a leaf that requires a gradient$"):
        cut_edges(apply(ops.Tanh(), x))
    with pytest.raises(TapeError, match="was not computed from a leaf"):
        cut_edges(Tape().tensor(1.0))


def test_the_paper_s_examples():
    """A weight used once hangs on a cut-edge; the edges of a residual loop and of a weight used twice do not."""
    tape = Tape(dtype=np.float64)
    x, w, tied = (tape.tensor(np.eye(3), name) for name in ("x", "w", "tied"))
    h = apply(ops.Matmul(), x, tied)
    h = apply(ops.Add(), h, apply(ops.Matmul(), h, w))
    y = apply(ops.Matmul(), h, tied)
    assert {(e.node.index, e.variable.name) for e in cut_edges(y)} == {(0, "x"), (1, "w")}


def test_constants_are_no_edges():
    """A mask made of the same array everywhere joins nothing, and a leaf without gradient neither."""
    tape = Tape(dtype=np.float64)
    x, frozen = tape.tensor(np.eye(3), "x"), tape.tensor(np.eye(3), "frozen", requires_grad=False)
    mask = tape.tensor(KEEP, "mask")
    h = apply(ops.Dropout(0.25), x, mask)
    h = apply(ops.Matmul(), h, frozen)
    h = apply(ops.Dropout(0.25), apply(ops.Matmul(), h, frozen), mask)
    assert cut_edges(h) == {Edge(node, 0) for node in tape.nodes}


LONG = 20_000  # twenty times the depth at which Python stops to recurse


def test_a_long_chain():
    x = y = Tape().tensor(1.0, "x")
    for _ in range(LONG):
        y = apply(ops.Scaled(), y)
    assert len(cut_edges(y)) == LONG
    assert gradient_factors(y)[x.variable] == 1


def test_a_long_ladder():
    """Loop after loop, each of three edges, with a cut-edge before each."""
    y = Tape().tensor(0.0, "x")
    for _ in range(LONG // 3):
        y = apply(ops.Scaled(), y)
        y = apply(ops.Add(), y, apply(ops.Scaled(), y))
    cut = cut_edges(y)
    assert {edge.node.index % 3 for edge in cut} == {0}
    assert len(cut) == LONG // 3


# Wrong implementations, which the check must reject.


def without_multi_edges(output: Tensor) -> set[Edge]:
    """Forgets that two edges may join the same pair: the second is taken for the way back."""
    cut = cut_edges(output)
    for node in output.tape.nodes:
        if len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]:
            alone = all(node.inputs[0] not in other.inputs for other in output.tape.nodes if other is not node)
            cut |= {Edge(node, 0), Edge(node, 1)} if alone else set()
    return cut


def by_single_use(output: Tensor) -> set[Edge]:
    """Takes for a cut-edge what leads to a tensor used once: misses the branch of a residual loop."""
    uses = [v for node in output.tape.nodes for v in node.inputs]
    return {Edge(n, i) for n in output.tape.nodes for i, v in enumerate(n.inputs) if uses.count(v) == 1}


@pytest.mark.parametrize(
    ("wrong", "dag"),
    [
        (without_multi_edges, Dag(1, (("multiply", (0, 0)),))),
        (by_single_use, Dag(1, (("tanh", (0,)), ("tanh", (1,)), ("add", (2, 0))))),
        (lambda output: set(), Dag(1, (("tanh", (0,)),))),
    ],
)
def test_a_wrong_implementation_is_rejected(wrong, dag):
    check(cut_edges, dag)
    with pytest.raises(AssertionError):
        check(wrong, dag)
