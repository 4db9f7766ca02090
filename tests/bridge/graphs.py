"""Small ONNX models, built node by node."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

TYPES = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL, "u": TensorProto.UINT8}


def model(nodes, inputs, constants=(), opset=20, outputs=("y",)):
    """A model of nodes (kind, inputs, outputs, attributes); names are separated by blanks, "-" is an omitted one.

    Args:
        inputs: example arrays by name.
        constants: arrays by name.
    """
    made = [
        helper.make_node(kind, *([n.strip("-") for n in names.split()] for names in (taken, given)), **settings)
        for kind, taken, given, settings in nodes
    ]
    graph = helper.make_graph(
        made,
        "graph",
        [helper.make_tensor_value_info(n, TYPES[x.dtype.kind], x.shape) for n, x in inputs.items()],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
        [numpy_helper.from_array(np.asarray(x), n) for n, x in dict(constants).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def numbers(*values):
    """Constants of one element each, named "c0", "c1", …"""
    return {f"c{i}": np.float32(v) for i, v in enumerate(values)}


X = normal(2, 3, 8, 8)
ROWS = normal(4, 6)
SEQUENCE = normal(5, 2, 3)
W = normal(6, 6, seed=1)
WIDE = {"w": normal(4, 3, 3, 3, seed=1), "b": normal(4, seed=2)}
CHANNELS = {"g": normal(3, seed=1), "b": normal(3, seed=2), "m": normal(3, seed=3), "v": np.abs(normal(3, seed=4))}
ONE = [("Mul", "x w", "h", {})]
ONES = {"w": normal(3, 1, 1, seed=5)}
"""A product with a parameter, so that what follows depends on one."""


def _case(nodes, x, constants, opset=20):
    return model(nodes, {"x": x}, constants, opset), [x]


def _after(kind, taken="h", constants=(), opset=20, **settings):
    """A node after the product of x (2, 3, 8, 8) with a parameter."""
    return _case([*ONE, (kind, taken, "y", settings)], X, {**ONES, **dict(constants)}, opset)


def i(*values):
    return np.array(values, np.int64)


CELL = {"W": normal(2, 16, 3, seed=1), "R": normal(2, 16, 4, seed=2), "B": normal(2, 32, seed=3)}
GATED = {"W": normal(1, 12, 3, seed=1), "R": normal(1, 12, 4, seed=2), "B": normal(1, 24, seed=3)}

NODES = {
    "MatMul and Add": _case(
        [("MatMul", "x w", "h", {}), ("Add", "h b", "y", {})], ROWS, {"w": W, "b": normal(6, seed=2)}
    ),
    "Gemm": _case(
        [("Gemm", "x w b", "y", {"alpha": 0.5, "beta": 2.0, "transB": 1})], ROWS, {"w": W, "b": normal(6, seed=2)}
    ),
    "Sub, Div, Neg, Sum": _case(
        [
            ("Sub", "x w", "h", {}),
            ("Div", "h d", "k", {}),
            ("Neg", "k", "l", {}),
            ("Sum", "l h k", "y", {}),
        ],
        ROWS,
        {"w": normal(6, seed=1), "d": np.float32(3)},
    ),
    "a bias of channels": _case([*ONE, ("Add", "h b", "y", {})], X, {**ONES, "b": normal(1, 3, 1, 1, seed=3)}),
    "Max and Min": _case([("Max", "x w", "h", {}), ("Min", "h v", "y", {})], ROWS, {"w": W[:1], "v": W[1:2]}),
    "Conv": _case([("Conv", "x w b", "y", {"pads": [0, 1, 2, 1], "strides": [2, 1]})], X, WIDE),
    "Conv, SAME_UPPER": _case([("Conv", "x w", "y", {"auto_pad": "SAME_UPPER", "strides": [2, 3]})], X, WIDE),
    "Conv, SAME_LOWER and groups": _case(
        [("Conv", "x w", "y", {"auto_pad": "SAME_LOWER", "strides": [2, 2], "group": 3})],
        X,
        {"w": normal(6, 1, 2, 2, seed=1)},
    ),
    "ConvTranspose": _case(
        [("ConvTranspose", "x w b", "y", {"pads": [1, 0, 1, 0], "strides": [2, 1], "output_padding": [1, 0]})],
        X,
        {"w": normal(3, 4, 3, 3, seed=1), "b": normal(4, seed=2)},
    ),
    "Conv and ConvTranspose of sequences": _case(
        [
            ("Conv", "x w", "h", {"pads": [2, 0], "dilations": [2]}),
            ("ConvTranspose", "h v", "y", {"strides": [2], "output_padding": [1]}),
        ],
        normal(2, 3, 8),
        {"w": normal(4, 3, 2, seed=1), "v": normal(4, 2, 3, seed=2)},
    ),
    "BatchNormalization": _case([("BatchNormalization", "x g b m v", "y", {"epsilon": 1e-3})], X, CHANNELS),
    "BatchNormalization, version 9": _case([("BatchNormalization", "x g b m v", "y", {})], X, CHANNELS, opset=9),
    "InstanceNormalization": _case([("InstanceNormalization", "x g b", "y", {})], X, CHANNELS),
    "LayerNormalization": _case(
        [("LayerNormalization", "x g b", "y", {"epsilon": 1e-2})],
        ROWS,
        {"g": normal(6, seed=1), "b": normal(6, seed=2)},
    ),
    "LayerNormalization of the input": _case([("LayerNormalization", "x g", "y", {})], ROWS, {"g": normal(6, seed=1)}),
    "RMSNormalization": _case(
        [("RMSNormalization", "x g", "y", {"epsilon": 1e-2})], ROWS, {"g": normal(6, seed=1)}, opset=23
    ),
    "Softmax": _after("Softmax", axis=1),
    "Softmax, version 11": _after("Softmax", axis=2, opset=11),
    "LogSoftmax": _after("LogSoftmax"),
    "LogSoftmax, version 11": _after("LogSoftmax", axis=1, opset=11),
    "Relu": _after("Relu"),
    "HardSwish": _after("HardSwish"),
    "HardSigmoid": _after("HardSigmoid", alpha=0.3),
    "HardSigmoid of torch": _after("HardSigmoid", alpha=1 / 6),
    "Tanh and Sigmoid": _case([*ONE, ("Tanh", "h", "k", {}), ("Sigmoid", "k", "y", {})], X, ONES),
    "Exp, Softplus, Log": _case(
        [*ONE, ("Exp", "h", "k", {}), ("Softplus", "k", "l", {}), ("Log", "l", "y", {})], X, ONES
    ),
    "LeakyRelu": _after("LeakyRelu", alpha=0.2),
    "Elu": _after("Elu", alpha=0.5),
    "Celu": _after("Celu", alpha=0.5),
    "Mish and Softsign": _case([*ONE, ("Mish", "h", "k", {}), ("Softsign", "k", "y", {})], X, ONES),
    "Gelu": _after("Gelu", approximate="tanh"),
    "Erf": _after("Erf"),
    "Clip": _after("Clip", "h c0 c1", numbers(-0.5, 1)),
    "Clip from below": _after("Clip", "h c0", numbers(0)),
    "Clip from above, within a function": _case(
        [*ONE, ("Clip", "h - c0", "k", {}), ("Erf", "k", "y", {})], X, {**ONES, **numbers(0.5)}
    ),
    "Clip without bounds": _after("Clip"),
    "Clip, version 6": _after("Clip", opset=7, min=-0.5, max=1.0),
    "Pow": _after("Pow", "h c0", numbers(3)),
    "Pow of 2": _after("Pow", "h c0", numbers(2)),
    "sin, cos": _case([*ONE, ("Sin", "h", "k", {}), ("Cos", "k", "y", {})], X, ONES),
    "Reciprocal of Exp": _case([*ONE, ("Exp", "h", "k", {}), ("Reciprocal", "k", "y", {})], X, ONES),
    "Sqrt of Abs": _case([*ONE, ("Abs", "h", "k", {}), ("Sqrt", "k", "y", {})], X, ONES),
    "Dropout, Identity, Cast": _case(
        [*ONE, ("Dropout", "h", "k", {}), ("Identity", "k", "l", {}), ("Cast", "l", "y", {"to": 1})], X, ONES
    ),
    "ReduceMean": _after("ReduceMean", "h a", {"a": i(2, -1)}, keepdims=0),
    "ReduceMean, version 13": _after("ReduceMean", opset=13, axes=[1], keepdims=1),
    "ReduceSum of all": _after("ReduceSum"),
    "ReduceSum of none": _after("ReduceSum", noop_with_empty_axes=1),
    "GlobalAveragePool": _after("GlobalAveragePool"),
    "GlobalMaxPool": _after("GlobalMaxPool"),
    "MaxPool": _after("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "MaxPool, strides of 1": _after("MaxPool", kernel_shape=[2, 3], dilations=[2, 1]),
    "AveragePool without padding in the count": _after("AveragePool", kernel_shape=[3, 3], pads=[1, 0, 1, 0]),
    "AveragePool with it": _after("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    "Resize": _after(
        "Resize",
        "h - s",
        {"s": np.array([1, 1, 2, 3], np.float32)},
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "Resize to sizes": _after("Resize", "h - - s", {"s": i(2, 3, 16, 8)}, mode="nearest"),
    "Resize by lines": _after("Resize", "h - s", {"s": np.array([1, 1, 0.5, 1.5], np.float32)}, mode="linear"),
    "Resize by lines, as torch": _after(
        "Resize", "h - - s", {"s": i(2, 3, 4, 9)}, mode="linear", coordinate_transformation_mode="pytorch_half_pixel"
    ),
    "Resize by lines to one": _after("Resize", "h - - s", {"s": i(2, 3, 1, 9)}, mode="linear"),
    "Resize with aligned corners": _after(
        "Resize", "h - - s", {"s": i(2, 3, 1, 5)}, mode="linear", coordinate_transformation_mode="align_corners"
    ),
    "Upsample": _after("Upsample", "h s", {"s": np.array([1, 1, 2, 2], np.float32)}, opset=9),
    "Reshape with 0 and −1": _after("Reshape", "h s", {"s": i(0, -1, 4)}),
    "Flatten": _after("Flatten", axis=-2),
    "Transpose": _after("Transpose", perm=[1, 3, 0, 2]),
    "Transpose of all": _after("Transpose"),
    "Squeeze and Unsqueeze": _case(
        [*ONE, ("Unsqueeze", "h a", "k", {}), ("Squeeze", "k z", "y", {})], X, {**ONES, "a": i(0, -1), "z": i(0)}
    ),
    "Unsqueeze, version 11": _after("Unsqueeze", opset=11, axes=[1]),
    "Expand": _after("Expand", "h s", {"s": i(4, 1, 1, 1, 8)}),
    "Concat and Split": _case(
        [*ONE, ("Split", "h", "p q", {"axis": 2, "num_outputs": 2}), ("Concat", "q p x", "y", {"axis": -2})], X, ONES
    ),
    "Split to sizes": _case([*ONE, ("Split", "h s", "p y", {"axis": -1})], X, {**ONES, "s": i(3, 5)}),
    "Slice": _after("Slice", "h s e a", {"s": i(1, -4), "e": i(99, -1), "a": i(-2, 3)}),
    "Slice, version 9": _after("Slice", opset=9, starts=[0, 2], ends=[1, 9], axes=[0, 3]),
    "Gather of a table": _case([("Gather", "w x", "y", {})], i(3, 0, 5), {"w": W}),
    "Gather of one": _after("Gather", "h p", {"p": np.array(-1)}, axis=1),
    "Gather of a part": _after("Gather", "h p", {"p": i(1, 2)}, axis=1),
    "Pad": _after("Pad", "h p c", {"p": i(0, 0, 1, 2, 0, 0, 3, 0), "c": np.float32(0.5)}),
    "Pad of axes, reflected": _after("Pad", "h p - a", {"p": i(1, 2), "a": i(-1)}, mode="reflect"),
    "Where": _case([*ONE, ("Greater", "x c0", "m", {}), ("Where", "m h c0", "y", {})], X, {**ONES, **numbers(0.25)}),
    "Shape": _case(
        [
            *ONE,
            ("Shape", "h", "s", {"start": 0, "end": 2}),
            ("Concat", "s n", "t", {"axis": 0}),
            ("Reshape", "h t", "y", {}),
        ],
        X,
        {**ONES, "n": i(-1)},
    ),
    "LSTM": _case([("LSTM", "x W R B", "y", {"hidden_size": 4, "direction": "bidirectional"})], SEQUENCE, CELL),
    "LSTM with a state": _case(
        [("LSTM", "x W R B - h c", "o y z", {"hidden_size": 4})],
        SEQUENCE,
        {n: x[:1] for n, x in CELL.items()} | {"h": normal(1, 2, 4, seed=4), "c": normal(1, 2, 4, seed=5)},
    ),
    "LSTM, its last state alone": _case(
        [("LSTM", "x W R B", "- y", {"hidden_size": 4})], SEQUENCE, {n: x[:1] for n, x in CELL.items()}
    ),
    "GRU": _case([("GRU", "x W R B", "y", {"hidden_size": 4, "linear_before_reset": 1})], SEQUENCE, GATED),
}
"""A model of one kind of node each, and its inputs."""

TANH = [
    ("Pow", "h c0", "p", {}),
    ("Mul", "p c1", "q", {}),
    ("Add", "h q", "r", {}),
    ("Mul", "r c2", "s", {}),
    ("Tanh", "s", "t", {}),
    ("Add", "t c3", "u", {}),
    ("Mul", "h u", "v", {}),
    ("Mul", "v c4", "y", {}),
]
NORM = [
    ("ReduceMean", "h a", "m", {}),
    ("Sub", "h m", "d", {}),
    ("Pow", "d c0", "q", {}),
    ("ReduceMean", "q a", "v", {}),
    ("Add", "v c1", "e", {}),
    ("Sqrt", "e", "r", {}),
    ("Div", "d r", "n", {}),
    ("Mul", "n g", "k", {}),
    ("Add", "k b", "y", {}),
]
ROOT = [
    ("Mul", "h h", "q", {}),
    ("ReduceMean", "q a", "v", {}),
    ("Add", "v c1", "e", {}),
    ("Sqrt", "e", "r", {}),
    ("Div", "h r", "n", {}),
    ("Mul", "n g", "y", {}),
]
SOFTMAX = [
    ("ReduceMax", "h a", "m", {}),
    ("Sub", "h m", "d", {}),
    ("Exp", "d", "e", {}),
    ("ReduceSum", "e a", "t", {}),
    ("Div", "e t", "y", {}),
]
ERF = [
    ("Div", "h c0", "k", {}),
    ("Erf", "k", "l", {}),
    ("Add", "l c1", "m", {}),
    ("Mul", "h m", "n", {}),
    ("Mul", "n c2", "y", {}),
]
AFFINE = {"g": normal(1, 3, 1, 1, seed=6), "b": normal(1, 3, 1, 1, seed=7), "a": i(1)}
ATTENTION = [
    ("MatMul", "x w", "q", {}),
    ("MatMul", "x v", "k", {}),
    ("Transpose", "k", "kt", {"perm": [0, 2, 1]}),
    ("Mul", "q c0", "qs", {}),
    ("MatMul", "qs kt", "s", {}),
    ("Add", "s mask", "sm", {}),
    ("Softmax", "sm", "p", {}),
    ("MatMul", "p k", "y", {}),
]
MASK = np.where(np.tri(5, dtype=bool), 0, -np.inf).astype(np.float32)
COMPOSED = {
    "gelu": (*_case([*ONE, *ERF], X, {**ONES, **numbers(2**0.5, 1, 0.5)}), ["gelu"]),
    "gelu by tanh": (*_case([*ONE, *TANH], X, {**ONES, **numbers(3, 0.044715, (2 / np.pi) ** 0.5, 1, 0.5)}), ["gelu"]),
    "silu": (*_case([*ONE, ("Sigmoid", "h", "s", {}), ("Mul", "s h", "y", {})], X, ONES), ["silu"]),
    "gelu by sigmoid": (
        *_case(
            [*ONE, ("Mul", "h c0", "k", {}), ("Sigmoid", "k", "l", {}), ("Mul", "h l", "y", {})],
            X,
            {**ONES, **numbers(1.702)},
        ),
        ["swish"],
    ),
    "layer norm of channels": (
        *_case([*ONE, *NORM], X, {**ONES, **AFFINE, **numbers(2, 1e-3)}),
        ["layer_norm"],
    ),
    "rms norm": (*_case([*ONE, *ROOT], X, {**ONES, **AFFINE, **numbers(2, 1e-3)}), ["rms_norm"]),
    "softmax": (*_case([*ONE, *SOFTMAX], X, {**ONES, **AFFINE}), ["softmax"]),
    "attention": (
        *_case(
            ATTENTION,
            normal(2, 5, 6),
            {"w": W, "v": normal(6, 6, seed=8), "mask": MASK, **numbers(0.3)},
        ),
        ["attention_scores", "masked_softmax", "attention_mix"],
    ),
}
"""A model with a composed function each, its inputs, and what is recognized."""
