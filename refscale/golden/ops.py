"""Family ``ops``: each row of the op table, forward and vector-Jacobian products, with its factors.

An ``op`` vector specifies the whole call: inputs and incoming gradient as stored, the casts of operands, α and each β
(rounded to float32, as backends store them), and the storage format of the output and every gradient, rounded once:

    y = store(α·f(…)),    grad_i = store(β_i·vjp_i)

f and vjp are evaluated exactly: products as real numbers, the rest by the rules of ``exact.array``.

The vectors of ``NUMBERED`` are those of sets up to 1.3: their ids and seeds contain the position in that list, which
does not grow. Any other op has vectors of the examples that its class declares, named by op and attributes, such as
``ops/loss_sum/unit/fp16``; their seeds are derived from the names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import engine, ops
from refscale.engine import Op, Sizes
from refscale.golden.inputs import Words
from refscale.golden.replay import replay
from refscale.golden.schema import Codes, Vector
from refscale.precision import Precision, get_precision
from refscale.scales import Call, Scales, Scheme, Unit, geometric, regular

Array = NDArray[Any]

PRECISIONS = ("fp32", "fp16", "fp8")
AT = Sizes(b=3, m=16, n=5, s=9)
"""Sizes of the examples of the classes; frozen, as the vectors depend on them."""


def float32_factors(scales: Scales) -> Scales:
    """Return factors rounded to float32, as backends store them."""
    return Scales(float(np.float32(scales.alpha)), tuple(b if b is None else float(np.float32(b)) for b in scales.beta))


@dataclass(frozen=True)
class UnitInFloat32(Unit):
    """Unit scaling with factors rounded to float32, so that their last bits do not depend on the machine's powers."""

    def scales(self, call: Call) -> Scales:
        """Return the factors of one call, constrained, rounded."""
        return float32_factors(super().scales(call))


SCHEMES: dict[str, Scheme] = {"regular": regular, "unit": UnitInFloat32()}


@dataclass(frozen=True)
class Numbered:
    """An op and its inputs: shapes for nearly normal numbers, or arrays; flags; the constrained inputs."""

    op: Op
    inputs: tuple[tuple[int, ...] | Array, ...]
    flags: tuple[str, ...] = ()
    constrained: tuple[int, ...] = ()


def _mask(*rows: str) -> Array:
    return np.array([[c == "1" for c in row] for row in rows])


_IDS = np.array([[0, 3, 3], [4, 0, 3]])
_COS, _SIN = np.array([[[1.0, 1.0], [0.6, 0.96], [-0.28, 0.8432]], [[0.0, 0.0], [0.8, 0.28], [0.96, 0.5376]]])
_TARGETS = np.array([[0, 2, -100], [3, -100, 1]])

NUMBERED: tuple[Numbered, ...] = (
    Numbered(ops.Add(), ((3, 4), (4,)), ("broadcast",)),
    Numbered(ops.Subtract(), ((4,), (2, 3, 4)), ("broadcast", "vjp-sign")),
    Numbered(ops.WeightedAdd((0.75, 0.5)), ((3, 4), (3, 4)), ("vjp",)),
    Numbered(ops.Bias(), ((2, 3, 4), (4,)), ("broadcast",)),
    Numbered(ops.Multiply(), ((3, 4), (1, 4)), ("broadcast", "vjp")),
    Numbered(ops.SiluGlu(), ((3, 4), (3, 4)), ("vjp",)),
    Numbered(ops.Scaled(0.5, 3.0), ((3, 4),)),
    Numbered(ops.Fork(0.25), ((3, 4),)),
    Numbered(ops.Dropout(0.25), ((2, 8), _mask("11011101", "01110111")), ("masked",)),
    Numbered(ops.Matmul(), ((2, 3, 16), (16, 5)), ("non-square", "gradient-operands")),
    Numbered(ops.Matmul(), ((2, 3, 16), (2, 16, 5)), ("non-square", "gradient-operands"), (0,)),
    Numbered(ops.AttentionScores(), ((2, 3, 4), (2, 5, 4)), ("non-square",), (0, 1)),
    Numbered(ops.AttentionScores("1/d"), ((3, 4), (5, 4)), ("non-square",)),
    Numbered(ops.AttentionMix(), ((2, 3, 5), (2, 5, 4)), ("non-square",)),
    Numbered(ops.AttentionMix("independent"), ((3, 5), (5, 4)), ("non-square",)),
    Numbered(ops.Readout(), ((2, 3, 16), (16, 5)), ("non-square",)),
    Numbered(ops.Readout("1/m"), ((3, 16), (16, 5)), ("non-square",)),
    Numbered(ops.Conv1d(), ((2, 7, 3), (3, 3, 4)), ("vjp",)),
    Numbered(ops.Conv1d(stride=2, padding=(2, 1), dilation=2, groups=2), ((2, 8, 4), (3, 2, 6)), ("vjp",)),
    Numbered(ops.Conv2d(), ((2, 4, 5, 3), (3, 2, 3, 2)), ("vjp",)),
    Numbered(ops.MaxPool((2,)), ((2, 6, 3),), ("vjp",)),
    Numbered(ops.MaxPool((2, 3), (1, 2), (1, 1)), ((2, 4, 5, 2),), ("vjp",)),
    Numbered(ops.Relu(), (np.array([[1.5, -2.0, 0.0, -0.0], [0.25, -0.5, 3.0, -1.0]]),), ("vjp", "vjp-sign")),
    Numbered(ops.LeakyRelu(0.25), ((3, 8),), ("vjp",)),
    Numbered(ops.Gelu(), ((3, 16),), ("vjp", "function-form"), (0,)),
    Numbered(ops.Gelu("tanh"), ((3, 16),), ("vjp", "function-form")),
    Numbered(ops.Silu(), ((3, 16),), ("vjp",)),
    Numbered(ops.Tanh(), ((3, 16),), ("vjp", "derivative")),
    Numbered(ops.Sigmoid(), ((3, 16),), ("vjp", "derivative")),
    Numbered(ops.Softplus(), ((3, 16),), ("vjp",)),
    Numbered(ops.Exp(), ((3, 8),), ("vjp",)),
    Numbered(ops.Log(), (np.array([[0.125, 1.0, 3.0, 100.0], [0.5, 2.0, 7.0, 0.75]]),), ("vjp",)),
    Numbered(ops.Sqrt(), (np.array([[0.125, 1.0, 3.0, 100.0], [0.5, 2.0, 7.0, 0.75]]),), ("vjp",)),
    Numbered(ops.Softmax(), ((3, 9),), ("vjp",), (0,)),
    Numbered(ops.MaskedSoftmax(), ((2, 2, 3, 5), _mask("11111", "11010").reshape(2, 1, 1, 5)), ("masked",), (0,)),
    Numbered(ops.MaskedSoftmax(causal=True), ((2, 3, 5), np.ones((1, 1, 5), np.bool_)), ("causal", "masked")),
    Numbered(ops.MaskedSoftmax(), ((1, 2, 3), np.zeros((1, 1, 3), np.bool_)), ("masked",)),
    Numbered(ops.LogSoftmax(), ((3, 9),), ("vjp",)),
    Numbered(ops.LayerNorm(), ((3, 8), (8,), (8,)), ("variance",)),
    Numbered(ops.LayerNorm(0.5), ((2, 3, 5), (5,), (5,)), ("variance",)),
    Numbered(ops.RmsNorm(), ((3, 8), (8,)), ("variance",)),
    Numbered(ops.Sum(), ((3, 8),), ("vjp",)),
    Numbered(ops.Sum((-1, 0)), ((2, 3, 4),), ("vjp",)),
    Numbered(ops.Mean((1,)), ((2, 3, 4),), ("vjp",)),
    Numbered(ops.Reshape((2, -1)), ((3, 4),)),
    Numbered(ops.Transpose((1, 2, 0)), ((2, 3, 4),), ("vjp",)),
    Numbered(ops.Slice(-1, 1, 3), ((2, 5),), ("vjp",)),
    Numbered(ops.Concat(-1), ((2, 3), (2, 1), (2, 4)), ("vjp",)),
    Numbered(ops.Gather(), ((2, 5, 3), np.array([[0, 2, 2, 4], [1, 1, 1, 0]])), ("duplicates",)),
    Numbered(ops.Embedding(), ((5, 3), _IDS), ("duplicates",)),
    Numbered(ops.SoftmaxCrossEntropy(), ((4, 6), np.array([0, 5, 2, 2])), ("loss-unrounded", "vjp-sign")),
    Numbered(ops.SoftmaxCrossEntropy("sum", -100, 4), ((2, 3, 4), _TARGETS), ("loss-unrounded", "counted-rows")),
    Numbered(ops.SoftmaxCrossEntropy("mean", -100, 4), ((2, 3, 4), _TARGETS), ("loss-unrounded", "counted-rows")),
    Numbered(ops.MseLoss(), ((3, 4), (3, 4)), ("loss-unrounded", "vjp-sign")),
    Numbered(ops.Highway(-1.0), ((3, 4), (3, 4), (3, 4)), ("vjp", "derivative"), (0, 1, 2)),
    Numbered(ops.Rotary(), ((2, 3, 4), _COS, _SIN), ("vjp", "vjp-sign")),
    Numbered(ops.RelativeShift(), ((2, 3, 3),), ("vjp", "causal")),
    Numbered(ops.AttentionScores(), ((2, 3, 4), (1, 5, 4)), ("broadcast",)),
    Numbered(ops.Conv1d(padding=(3, 0), groups=2), ((2, 5, 4), (4, 2, 6)), ("vjp", "causal"), (0,)),
)


def generate() -> Iterator[Vector]:
    """Yield every example under both schemes, in each precision that changes the result."""
    for number, example in enumerate(NUMBERED):
        words = Words(20_000 + number)
        arrays = [x if isinstance(x, np.ndarray) else words.normal(*x) for x in example.inputs]
        yield from _vectors(f"ops/{number:02d}.{example.op.name}", example, arrays, words)
    for declared in ops.examples(AT):
        if type(declared.op) not in {type(e.op) for e in NUMBERED}:
            yield from of_example(declared)


def of_example(example: engine.Example) -> Iterator[Vector]:
    """Yield the vectors of an op without numbered ones: ids by its attributes, seeds by ids."""
    attributes = ",".join(f"{k}={v}".replace(" ", "") for k, v in example.op.attributes().items())
    name = f"ops/{example.op.name}" + (f"({attributes})" if attributes else "")
    words = Words.named(name)
    arrays = [_drawn(x, words) for x in example.inputs]
    flags = [] if example.op.moves else ["vjp"]
    flags += ["loss-unrounded"] * example.op.reports + ["masked"] * any(x.kind == "mask" for x in example.inputs)
    yield from _vectors(name, Numbered(example.op, tuple(arrays), tuple(flags)), arrays)


def _drawn(x: engine.Input, words: Words) -> Array:
    """Return an input from integers alone: positive numbers are 1/8 to 8, an eighth of a mask is False."""
    match x.kind:
        case "mask":
            return words.below(8, *x.shape) > 0
        case "index":
            return words.below(x.below, *x.shape)
        case "positive":
            return (1 + words.below(64, *x.shape)) / 8
    return words.normal(*x.shape)


def _vectors(name: str, example: Numbered, arrays: Sequence[Array], words: Words | None = None) -> Iterator[Vector]:
    """Yield vectors under both schemes and the relevant precisions; gradients from ``words``, or from the id's own."""
    for scheme_name, scheme in SCHEMES.items():
        shapes = tuple(a.shape for a in arrays)
        scales = scheme.scales(Call(example.op, shapes, geometric, example.constrained))
        for precision in PRECISIONS if example.op.contraction else PRECISIONS[:2]:
            where = f"{name}/{scheme_name}/{precision}"
            gradient = (words or Words.named(where)).normal(*_output_shape(example.op, arrays))
            flags = (*example.flags, *(("alpha", "beta") if scheme_name == "unit" else ()))
            yield op_vector(where, example.op, arrays, gradient, scales, get_precision(precision), flags)


def _output_shape(op: Op, arrays: Sequence[Array]) -> tuple[int, ...]:
    y, _ = op.forward(*(a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays))
    return np.shape(y)


def op_vector(
    where: str,
    op: Op,
    arrays: Sequence[Array],
    gradient: Array,
    scales: Scales,
    precision: Precision,
    flags: tuple[str, ...],
    needed: Sequence[bool] | None = None,
    comment: str = "",
) -> Vector:
    """Return the vector of one call of an op, run exactly on a tape of its own.

    Args:
        where: id of the vector.
        op: the op.
        arrays: inputs; floats are rounded to the store format of the policy.
        gradient: gradient of the output.
        scales: factors of the op.
        precision: policy of the casts; products are exact under every policy.
        flags: flags of the vector.
        needed: whether each input has a gradient; None: all that can.
        comment: comment of the vector.
    """
    exact = get_precision(precision.name, accumulate="exact")
    done = replay(op, arrays, gradient, float32_factors(scales), exact, needed)
    store = precision.store.format.name if precision.store else "float32"
    kept = "float32" if op.reports else store
    inputs = {n: _codes(x, store) for n, x in done.inputs.items()}
    if done.gradient is not None:
        inputs["gradient"] = Codes.of(done.gradient, kept)
    outputs = {n: Codes.of(x, kept if n == "y" else store) for n, x in done.outputs.items()}
    narrow = op.contraction and precision.operand is not None
    attributes = {
        "name": op.name,
        "attributes": op.attributes(),
        "alpha": done.scales.alpha,
        "beta": list(done.scales.beta),
        "store": store,
        "operand": precision.operand.format.name if narrow and precision.operand else None,
        "operand_gradient": precision.operand_gradient.format.name if narrow and precision.operand_gradient else None,
    }
    more = ("operand-cast", "gradient-cast") if narrow else ()
    return Vector(where, "op", attributes, inputs, outputs, (*flags, *more), comment)


def _codes(x: Array, store: str) -> Codes:
    kind = {"i": "int64", "b": "bool"}.get(x.dtype.kind, store)
    return Codes.of(x, kind)
