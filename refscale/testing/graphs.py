"""Graphs as data: the structure that a random graph test needs, independent of the ops."""

from dataclasses import dataclass

from refscale.errors import ArgumentError


@dataclass(frozen=True)
class Dag:
    """A directed acyclic graph of ops, in an order in which it can run.

    Nodes are numbered: first the leaves 0 ... n_leaves - 1, then one node per op, in order. Every op reads earlier
    nodes, so the graph is acyclic by construction; an op may read a node twice (x * x), which is a multi-edge. The last
    op is the output. Some nodes may not lead to it.

    Args:
        n_leaves: number of leaves, >= 1.
        ops: one pair (kind, inputs) per op, at least one; inputs are the numbers of earlier nodes, at least one.

    Raises:
        ArgumentError: there is no leaf or no op, or an op has no input or reads a node that is not before it.

    Example:
        >>> square_plus_leaf = Dag(2, (("multiply", (0, 0)), ("add", (2, 1))))
        >>> square_plus_leaf.output, undirected_edges(square_plus_leaf)
        (3, ((0, 2), (0, 2), (1, 3), (2, 3)))
    """

    n_leaves: int
    ops: tuple[tuple[str, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        """Check that the nodes can be run in order."""
        if self.n_leaves < 1 or not self.ops:
            raise ArgumentError(f"Dag: {self.n_leaves} leaves and {len(self.ops)} ops, expected at least one of each")
        for node, (kind, inputs) in enumerate(self.ops, start=self.n_leaves):
            if not inputs or not all(0 <= i < node for i in inputs):
                raise ArgumentError(f"Dag: node {node} ({kind}) has inputs {inputs}, expected numbers below {node}")

    @property
    def n_nodes(self) -> int:
        """Number of leaves and ops together."""
        return self.n_leaves + len(self.ops)

    @property
    def output(self) -> int:
        """Number of the output node: that of the last op."""
        return self.n_nodes - 1


def undirected_edges(dag: Dag) -> tuple[tuple[int, int], ...]:
    """Return the edges of a graph without their direction, as a sorted multiset.

        {(u, v) : u is an input of op v}, once per mention; u < v

    Args:
        dag: the graph.

    Returns:
        Pairs (smaller node, larger node), sorted; a node that an op reads twice gives its pair twice. A multi-edge is
        never a cut-edge, so both pairs are needed to find the cut-edges.
    """
    pairs = ((u, v) for v, (_, inputs) in enumerate(dag.ops, start=dag.n_leaves) for u in inputs)
    return tuple(sorted(pairs))
