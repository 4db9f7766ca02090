"""The cost of unit scaling: the multiplications of one training step, and those that its factors add.

The counts follow from a recorded tape, that is, from shapes alone: for each contraction the products of its forward
pass, and of one product for each input that has a gradient; for each factor other than 1 the elements that it
multiplies. Norms, activations and the optimizer are not counted, so the share of the factors is an upper bound.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from refscale.analysis.report.first_step import first_step
from refscale.engine import Node, Tape, Tensor, settle
from refscale.errors import ArgumentError
from refscale.files import write_text
from refscale.models import Config
from refscale.programs import Program, first_loss
from refscale.records import record_text
from refscale.scales import Constraint, Scheme

SCHEMA = "refscale.flops/1"


@dataclass(frozen=True)
class OpFlops:
    """Multiplications of all calls of one op.

    Attributes:
        op: name of the op.
        calls: number of calls.
        products: multiplications inside its contractions, forward and backward.
        alpha, beta: elements multiplied by factors other than 1, forward and backward.
        of_parameters: part of ``beta`` for gradients of parameters; an optimizer could include it in its learning rate.
    """

    op: str
    calls: int = 0
    products: int = 0
    alpha: int = 0
    beta: int = 0
    of_parameters: int = 0


@dataclass(frozen=True)
class Flops:
    """The multiplications of one training step.

    Attributes:
        model, scheme, constraint: names.
        batch, seq: sequences, and tokens in each; None for a program.
        ops: counts by op, largest first.
    """

    model: str
    scheme: str
    constraint: str
    batch: int | None
    seq: int | None
    ops: tuple[OpFlops, ...]

    @property
    def products(self) -> int:
        """Number of multiplications inside contractions."""
        return sum(op.products for op in self.ops)

    @property
    def factors(self) -> int:
        """Number of multiplications by factors."""
        return sum(op.alpha + op.beta for op in self.ops)

    @property
    def of_parameters(self) -> int:
        """Number of multiplications by factors of gradients of parameters."""
        return sum(op.of_parameters for op in self.ops)

    @property
    def share(self) -> float:
        """Share of the factors in all counted multiplications."""
        return self.factors / max(1, self.products + self.factors)


def tape_flops(output: Tensor) -> tuple[OpFlops, ...]:
    """Count the multiplications of the calls recorded up to ``output`` and of their backward pass, by op.

    Args:
        output: tensor at which the backward pass starts.
    """
    if output.variable.requires_grad and output.variable.node:
        settle(output, check=False)
    last = output.variable.node
    found: dict[str, OpFlops] = defaultdict(lambda: OpFlops(""))
    for node in output.tape.nodes[: last.index + 1] if last else ():
        known, counted = found[node.op.name], _count(node)
        found[node.op.name] = OpFlops(
            node.op.name,
            known.calls + 1,
            known.products + counted.products,
            known.alpha + counted.alpha,
            known.beta + counted.beta,
            known.of_parameters + counted.of_parameters,
        )
    return tuple(sorted(found.values(), key=lambda op: (-op.products, -op.alpha - op.beta, op.op)))


def _count(node: Node) -> OpFlops:
    edges = [
        (variable, beta)
        for i, (variable, beta) in enumerate(zip(node.inputs, node.scales.beta, strict=True))
        if variable.requires_grad and i not in node.op.constants
    ]
    scaled = [(math.prod(v.shape), v.node is None) for v, beta in edges if beta != 1]
    return OpFlops(
        node.op.name,
        1,
        _contraction(node) * (1 + len(edges)) if node.op.contraction else 0,
        math.prod(node.output.shape) if node.scales.alpha != 1 else 0,
        sum(elements for elements, _ in scaled),
        sum(elements for elements, is_leaf in scaled if is_leaf),
    )


def _contraction(node: Node) -> int:
    """Count the multiplications of a contraction's forward pass; each product of its backward pass has as many."""
    products = node.op.products
    if products is None:
        raise ArgumentError(f"tape_flops: no count for the contraction {node.op.name!r}, expected it to have products")
    return int(products(*(v.shape for v in node.inputs)))


def count_flops(
    model: str | Config | Program,
    scheme: str | Scheme,
    *,
    batch: int | None = None,
    seq: int | None = None,
    constraint: str | Constraint | None = None,
    text: str | Path | None = None,
) -> Flops:
    """Count the multiplications of one training step.

    Args:
        model: a name for ``models.get_config``, or a configuration; a program, or its place.
        scheme: a scheme or its name.
        batch: sequences; default: 8.
        seq: tokens in each; default: 128.
        constraint: one of ``scales.CONSTRAINTS`` or its name, instead of the configuration's.
        text: path of a UTF-8 text file; None: the text that comes with Python.

    Returns:
        The counts. One forward pass runs, to record it.

    Raises:
        ArgumentError: a name is unknown, a size is out of range, or constraint, batch, seq or text is given for a
            program.
        DataError: the text is not usable.
        ProgramError: the program cannot be loaded, or does not return a scalar loss.
    """
    first = first_step("count_flops", model, scheme, constraint=constraint, batch=batch, seq=seq, text=text)
    losses = first_loss(first.program, Tape(first.scheme))
    return Flops(first.name, first.scheme.name, first.constraint, first.batch, first.seq, tape_flops(losses.total))


# --- as text, as JSON -------------------------------------------------------------------------------------------------


def render_flops(counts: Sequence[Flops]) -> list[str]:
    """Return a table for each count, by op: contraction multiplications, factors; and the share of the factors."""
    lines = ["Multiplications of one training step, in millions: inside contractions, and by factors other than"]
    lines += ["1 (α forward, β backward; ∂w: part of β for gradients of parameters). Other ops are not counted."]
    for flops in counts:
        sizes = "" if flops.batch is None else f", batch {flops.batch} × {flops.seq}, {flops.constraint}"
        lines += ["", f"━━ {flops.scheme}: {flops.model}{sizes}"]
        lines.append(f"{'op':<24}{'calls':>6}{'contraction':>14}{'α':>12}{'β':>12}{'∂w':>12}")
        lines += _rows(flops)
        lines.append(
            f"{flops.factors / 1e6:.4g} of {(flops.products + flops.factors) / 1e6:.6g} million multiplications are by "
            f"factors: {flops.share:.3%}"
        )
    return lines


def _rows(flops: Flops) -> Iterator[str]:
    total = OpFlops(
        "all",
        sum(op.calls for op in flops.ops),
        flops.products,
        sum(op.alpha for op in flops.ops),
        sum(op.beta for op in flops.ops),
        flops.of_parameters,
    )
    for op in (*(op for op in flops.ops if op.products or op.alpha or op.beta), total):
        cells = "".join(f"{_millions(n):>12}" for n in (op.alpha, op.beta, op.of_parameters))
        yield f"{op.op:<24}{op.calls:>6}{_millions(op.products):>14}{cells}"


def _millions(n: int) -> str:
    return f"{n / 1e6:.3f}" if n else "·"


def save_flops(path: str | Path, counts: Sequence[Flops]) -> None:
    """Write counts as JSON, atomically; raise OSError on failure."""
    runs = [asdict(f) | {"products": f.products, "factors": f.factors, "share": f.share} for f in counts]
    write_text(path, record_text(SCHEMA, {"runs": runs}))
