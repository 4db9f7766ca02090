"""The nodes of each op in ONNX.

A function takes the graph, the op and the names of its inputs, and returns the name of the op's output before its
factor α.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import ops
from refscale.bridge.onnx.elementwise import ComposedNodes
from refscale.bridge.steps import Ref
from refscale.engine import Op
from refscale.errors import ProgramError

__all__ = ["NODES", "GraphWriter", "nodes_of"]

_LOWEST = -3e38
"""A finite score whose softmax is 0."""


class GraphWriter:
    """A graph in the making.

    Attributes:
        nodes: the nodes so far.
        initializers: constants by name.
        shapes: the shapes of the values by name.
        taken: names of the program's own values; nodes and constants have other names.
    """

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.nodes: list[Any] = []
        self.initializers: dict[str, NDArray[Any]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def free(self, name: str) -> str:
        """The name, with underscores appended until the program has no value of that name."""
        while name in self.taken:
            name += "_"
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node of one output; return the output's name."""
        from onnx import helper

        name = self.free(output or f"{kind.lower()}_{len(self.nodes)}")
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, x: Any, dtype: Any = np.float32) -> str:
        """The name of a constant."""
        array = np.asarray(x, dtype)
        key = str(array.dtype), array.shape, array.tobytes()
        if key not in self._constants:
            self._constants[key] = name = self.free(f"constant_{len(self._constants)}")
            self.initializers[name] = array
        return self._constants[key]

    def integers(self, *x: int) -> str:
        """The name of a constant vector of integers."""
        return self.constant(x, np.int64)

    def parts(self, x: str, n: int) -> list[str]:
        """Equal parts of the last axis."""
        side = self.shapes[x][-1] // n
        last = self.integers(-1)
        return [self.node("Slice", x, self.integers(i * side), self.integers((i + 1) * side), last) for i in range(n)]


Nodes = Callable[..., str]


def nodes_of(op: Op) -> Nodes:
    """The function that adds the nodes of an op.

    Raises:
        ProgramError: there is none.
    """
    found = NODES.get(type(op))
    if found is None:
        raise ProgramError(
            f"to_onnx: {op} has no nodes, expected one of {', '.join(sorted(k.__name__ for k in NODES))}"
        )
    return found


def _simple(kind: str, **attributes: Any) -> Nodes:
    return lambda g, op, *xs: g.node(kind, *xs, **attributes)


def _scores(g: GraphWriter, op: ops.AttentionScores, q: str, k: str) -> str:
    n = len(g.shapes[k])
    keys = g.node("Transpose", k, perm=[*range(n - 2), n - 1, n - 2])
    return g.node("Mul", g.node("MatMul", q, keys), g.constant(op.damping(g.shapes[q])))


def _masked_softmax(g: GraphWriter, op: ops.MaskedSoftmax, x: str, mask: str) -> str:
    if op.hides_by_place:
        mask = g.node("And", mask, g.constant(op.places(*g.shapes[x][-2:]), np.bool_))
    y = g.node("Softmax", g.node("Where", mask, x, g.constant(_LOWEST)), axis=-1)
    return g.node("Where", mask, y, g.constant(0.0))


def _centered(g: GraphWriter, x: str, axes: Sequence[int], eps: float) -> str:
    """(x − mean)/√(variance + eps) over some axes."""
    over = g.integers(*axes)
    d = g.node("Sub", x, g.node("ReduceMean", x, over))
    return g.node("Div", d, _root(g, g.node("ReduceMean", g.node("Mul", d, d), over), eps))


def _root(g: GraphWriter, square: str, eps: float) -> str:
    return g.node("Sqrt", g.node("Add", square, g.constant(eps)))


def _affine(g: GraphWriter, x: str, gain: str, bias: str) -> str:
    return g.node("Add", g.node("Mul", x, gain), bias)


def _rms_norm(g: GraphWriter, op: ops.RmsNorm, x: str, gain: str) -> str:
    root = _root(g, g.node("ReduceMean", g.node("Mul", x, x), g.integers(-1)), op.eps)
    return g.node("Mul", g.node("Div", x, root), gain)


def _batch_norm(g: GraphWriter, op: ops.BatchNorm, x: str, gain: str, bias: str) -> str:
    return _affine(g, _centered(g, x, range(len(g.shapes[x]) - 1), op.eps), gain, bias)


def _frozen(g: GraphWriter, op: ops.FrozenBatchNorm, x: str, gain: str, bias: str, mean: str, variance: str) -> str:
    y = g.node("Div", g.node("Sub", x, mean), _root(g, variance, op.eps))
    return _affine(g, y, gain, bias)


def _group_norm(g: GraphWriter, op: ops.GroupNorm, x: str, gain: str, bias: str) -> str:
    *rest, channels = g.shapes[x]
    split = g.node("Reshape", x, g.integers(*rest, op.groups, channels // op.groups))
    axes = [*range(1, len(rest)), len(rest) + 1]
    return _affine(g, g.node("Reshape", _centered(g, split, axes, op.eps), g.integers(*g.shapes[x])), gain, bias)


def _each(value: Any, n: int) -> list[Any]:
    return list(value) if isinstance(value, tuple) and len(value) == n else [value] * n


def _sides(padding: Any, n: int, one: bool = False) -> list[int]:
    """Padding as ONNX lists it, all starts and then all ends; ``one``: a pair is that of the only axis."""
    each = [padding] if one else _each(0 if padding is None else padding, n)
    pairs = [p if isinstance(p, tuple) else (p, p) for p in each]
    return [p[0] for p in pairs] + [p[1] for p in pairs]


def _channels_second(g: GraphWriter, x: str) -> str:
    n = len(g.shapes[x])
    return g.node("Transpose", x, perm=[0, n - 1, *range(1, n - 1)])


def _channels_last(g: GraphWriter, x: str, n: int) -> str:
    return g.node("Transpose", x, perm=[0, *range(2, n + 2), 1])


def _convolution(g: GraphWriter, op: Any, x: str, weight: str) -> str:
    n = len(g.shapes[weight]) - 2
    kernel = g.node("Transpose", weight, perm=[n + 1, n, *range(n)])
    y = g.node(
        "Conv",
        _channels_second(g, x),
        kernel,
        strides=_each(op.stride, n),
        pads=_sides(op.padding, n, n == 1),
        dilations=_each(op.dilation, n),
        group=op.groups,
    )
    return _channels_last(g, y, n)


def _conv_transpose(g: GraphWriter, op: ops.ConvTranspose, x: str, weight: str) -> str:
    n = len(g.shapes[weight]) - 2
    y = g.node(
        "ConvTranspose",
        _channels_second(g, x),
        g.node("Transpose", weight, perm=[n, n + 1, *range(n)]),
        strides=_each(op.stride, n),
        pads=_sides(op.padding, n),
        dilations=_each(op.dilation, n),
        output_padding=_each(op.output_padding, n),
        group=op.groups,
    )
    return _channels_last(g, y, n)


def _pool(kind: str) -> Nodes:
    def pool(g: GraphWriter, op: Any, x: str) -> str:
        n = len(g.shapes[x]) - 2
        kernel = _each(op.kernel, n)
        counted: dict[str, Any] = {"count_include_pad": int(op.count_include_pad)} if kind == "AveragePool" else {}
        y = g.node(
            kind,
            _channels_second(g, x),
            kernel_shape=kernel,
            strides=kernel if op.stride is None else _each(op.stride, n),
            pads=_sides(op.padding, n),
            dilations=_each(op.dilation, n),
            **counted,
        )
        return _channels_last(g, y, n)

    return pool


def _nearest_resize(g: GraphWriter, op: ops.NearestResize, x: str) -> str:
    n = len(g.shapes[x]) - 2
    scales = g.constant([1.0, *map(float, _each(op.factor, n)), 1.0])
    return g.node(
        "Resize",
        x,
        "",
        scales,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _linear_resize(g: GraphWriter, op: ops.LinearResize, x: str) -> str:
    n = len(g.shapes[x]) - 2
    y = g.node(
        "Resize",
        _channels_second(g, x),
        "",
        "",
        g.integers(*_each(op.size, n)),
        axes=list(range(2, n + 2)),
        mode="linear",
        coordinate_transformation_mode="align_corners" if op.align_corners else "half_pixel",
    )
    return _channels_last(g, y, n)


def _custom(g: GraphWriter, op: ops.CustomElementwise, x: str) -> str:
    if not isinstance(op.f, ComposedNodes):
        steps = ", ".join(step.target for step in getattr(op.f, "steps", ()))
        raise ProgramError(f"to_onnx: a function composed of {steps or 'NumPy'} has no ONNX nodes")
    names = {op.f.source: x}

    def name(argument: Any) -> str:
        return names[argument.name] if isinstance(argument, Ref) else g.constant(argument)

    for step in op.f.steps:
        kind = step.target.removeprefix("onnx.")
        inputs: list[str] = []
        settings = {}
        for key, argument in step.arguments.items():
            if key == "data_0":
                inputs += map(name, argument)
            elif isinstance(argument, Ref) or key in ("A", "B", "Y", "X", "input", "min", "max"):
                if key == "max" and "min" not in step.arguments:
                    inputs.append("")  # the place of the lower bound
                inputs.append(name(argument))
            else:
                settings[key] = argument
        names[step.name] = g.node(kind, *inputs, **settings)
    return names[op.f.steps[-1].name]


def _silu(g: GraphWriter, op: ops.Silu, x: str) -> str:
    return g.node("Mul", x, g.node("Sigmoid", x))


def _swish(g: GraphWriter, op: ops.Swish, x: str) -> str:
    return g.node("Mul", x, g.node("Sigmoid", g.node("Mul", x, g.constant(op.beta))))


def _weighted_add(g: GraphWriter, op: ops.WeightedAdd, *xs: str) -> str:
    terms = [x if w == 1 else g.node("Mul", x, g.constant(w)) for w, x in zip(op.weights, xs, strict=True)]
    return g.node("Sum", *terms)


def _lstm_state(g: GraphWriter, op: ops.LstmState, c: str, gates: str) -> str:
    i, f, new, _ = g.parts(gates, 4)
    kept = g.node("Mul", g.node("Sigmoid", f), c)
    return g.node("Add", kept, g.node("Mul", g.node("Sigmoid", i), g.node("Tanh", new)))


def _lstm_output(g: GraphWriter, op: ops.LstmOutput, c: str, gates: str) -> str:
    return g.node("Mul", g.node("Sigmoid", g.parts(gates, 4)[3]), g.node("Tanh", c))


def _gru_state(g: GraphWriter, op: ops.GruState, h: str, gates: str, candidate: str, recurrent: str) -> str:
    r, z = (g.node("Sigmoid", gate) for gate in g.parts(gates, 2))
    new = g.node("Tanh", g.node("Add", candidate, g.node("Mul", r, recurrent)))
    return g.node("Add", new, g.node("Mul", z, g.node("Sub", h, new)))


def _pad(g: GraphWriter, op: ops.Pad, x: str) -> str:
    ends = [p[0] for p in op.widths] + [p[1] for p in op.widths]
    fill = [g.constant(op.value)] if op.mode == "constant" else []
    return g.node("Pad", x, g.integers(*ends), *fill, mode=op.mode)


def _reduction(kind: str) -> Nodes:
    def reduction(g: GraphWriter, op: Any, x: str) -> str:
        axes = range(len(g.shapes[x])) if op.axes is None else op.axes
        return g.node(kind, x, g.integers(*axes), keepdims=int(op.keepdims))

    return reduction


NODES: dict[type[Op], Nodes] = {
    ops.Matmul: _simple("MatMul"),
    ops.Bias: _simple("Add"),
    ops.Add: _simple("Add"),
    ops.Subtract: _simple("Sub"),
    ops.Multiply: _simple("Mul"),
    ops.Maximum: _simple("Max"),
    ops.Minimum: _simple("Min"),
    ops.ScalarMultiply: lambda g, op, x: g.node("Mul", x, g.constant(op.factor)),
    ops.ScalarDivide: lambda g, op, x: g.node("Div", x, g.constant(op.divisor)),
    ops.AttentionScores: _scores,
    ops.AttentionMix: _simple("MatMul"),
    ops.Conv1d: _convolution,
    ops.Conv2d: _convolution,
    ops.Conv3d: _convolution,
    ops.ConvTranspose: _conv_transpose,
    ops.NearestResize: _nearest_resize,
    ops.LinearResize: _linear_resize,
    ops.MaxPool: _pool("MaxPool"),
    ops.AvgPool: _pool("AveragePool"),
    ops.Relu: _simple("Relu"),
    ops.LeakyRelu: lambda g, op, x: g.node("LeakyRelu", x, alpha=op.slope),
    ops.Gelu: lambda g, op, x: g.node("Gelu", x, approximate="none" if op.form == "erf" else "tanh"),
    ops.Silu: _silu,
    ops.Swish: _swish,
    ops.Tanh: _simple("Tanh"),
    ops.Sigmoid: _simple("Sigmoid"),
    ops.Softplus: _simple("Softplus"),
    ops.HardSigmoid: _simple("HardSigmoid", alpha=1 / 6, beta=0.5),
    ops.HardSwish: _simple("HardSwish"),
    ops.Square: lambda g, op, x: g.node("Mul", x, x),
    ops.Abs: _simple("Abs"),
    ops.Exp: _simple("Exp"),
    ops.Log: _simple("Log"),
    ops.Sqrt: _simple("Sqrt"),
    ops.Clip: lambda g, op, x: g.node("Clip", x, g.constant(op.low), g.constant(op.high)),
    ops.CustomElementwise: _custom,
    ops.Softmax: _simple("Softmax", axis=-1),
    ops.MaskedSoftmax: _masked_softmax,
    ops.LogSoftmax: _simple("LogSoftmax", axis=-1),
    ops.LayerNorm: lambda g, op, *xs: g.node("LayerNormalization", *xs, axis=-1, epsilon=op.eps),
    ops.RmsNorm: _rms_norm,
    ops.BatchNorm: _batch_norm,
    ops.FrozenBatchNorm: _frozen,
    ops.GroupNorm: _group_norm,
    ops.Embedding: _simple("Gather", axis=0),
    ops.Where: _simple("Where"),
    ops.WeightedAdd: _weighted_add,
    ops.LstmState: _lstm_state,
    ops.LstmOutput: _lstm_output,
    ops.GruState: _gru_state,
    ops.Reshape: lambda g, op, x: g.node("Reshape", x, g.integers(*op.shape)),
    ops.Transpose: lambda g, op, x: g.node("Transpose", x, perm=list(op.axes)),
    ops.Slice: lambda g, op, x: g.node("Slice", x, g.integers(op.start), g.integers(op.stop), g.integers(op.axis)),
    ops.Concat: lambda g, op, *xs: g.node("Concat", *xs, axis=op.axis),
    ops.Pad: _pad,
    ops.Expand: lambda g, op, x: g.node("Expand", x, g.integers(*op.shape)),
    ops.Mean: _reduction("ReduceMean"),
    ops.Sum: _reduction("ReduceSum"),
}
"""By class of op."""
