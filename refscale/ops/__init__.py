"""The op table: every op with its forward, backward and factors, a page per family.

========================  ==============================================================================================
page                      ops
========================  ==============================================================================================
``arithmetic``            add, subtract, weighted_add, bias, multiply, scalar_multiply, scalar_divide, maximum,
                          minimum, silu_glu, highway, dropout; scaled, fork
``contraction``           matmul, attention_scores, attention_mix, readout
``convolution``           conv1d, conv2d, max_pool, avg_pool
``activations``           relu, leaky_relu, gelu, silu, swish, tanh, soft_cap, sigmoid, softplus, abs, square, clip,
                          hard_sigmoid, hard_swish, exp, log, sqrt
``softmax``               softmax, masked_softmax, log_softmax
``positions``             rotary, relative_shift
``norms``                 layer_norm, rms_norm, batch_norm, frozen_batch_norm, group_norm
``recurrent``             lstm_state, lstm_output, gru_state
``reduction``             sum, mean
``movement``              reshape, transpose, slice, concat, expand, where, gather,
                          embedding
``custom``                any element-wise function, given with its derivative (not in ``OPS``)
``losses``                softmax_cross_entropy, mse_loss, loss_sum
========================  ==============================================================================================

``apply(op, *tensors)`` runs one; ``refscale ops`` prints their factors.  ``OPS`` has every class by name: tables,
golden vectors, claims and checks enumerate it.  ``x + y``, ``x - y``, ``x * y`` and ``x @ y`` run ``Add``,
``Subtract``, ``Multiply`` and ``Matmul``; ``-x``, ``c * x`` and ``x / c``, for a number c, ``ScalarMultiply(-1)``,
``ScalarMultiply(c)`` and ``ScalarDivide(c)``.
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from refscale.engine import Example, Op, Sizes, Tensor, apply, operators
from refscale.ops import (
    activations,
    arithmetic,
    contraction,
    convolution,
    losses,
    movement,
    norms,
    positions,
    recurrent,
    reduction,
    softmax,
)
from refscale.ops.activations import (
    Abs,
    Clip,
    Elementwise,
    Exp,
    Gelu,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    Log,
    Relu,
    Sigmoid,
    Silu,
    SoftCap,
    Softplus,
    Sqrt,
    Square,
    Swish,
    Tanh,
)
from refscale.ops.arithmetic import (
    Add,
    Bias,
    Dropout,
    Fork,
    Highway,
    Maximum,
    Minimum,
    Multiply,
    ScalarDivide,
    ScalarMultiply,
    Scaled,
    SiluGlu,
    Subtract,
    WeightedAdd,
)
from refscale.ops.contraction import AttentionMix, AttentionScores, Matmul, Readout, ValuesRule
from refscale.ops.convolution import AvgPool, Conv1d, Conv2d, MaxPool
from refscale.ops.custom import CustomElementwise
from refscale.ops.losses import LossSum, MseLoss, SoftmaxCrossEntropy
from refscale.ops.movement import Concat, Embedding, Expand, Gather, Reshape, Slice, Transpose, Where, split_points
from refscale.ops.norms import BatchNorm, FrozenBatchNorm, GroupNorm, LayerNorm, RmsNorm
from refscale.ops.positions import RelativeShift, Rotary
from refscale.ops.recurrent import GruState, LstmOutput, LstmState
from refscale.ops.reduction import Mean, Sum
from refscale.ops.softmax import LogSoftmax, MaskedSoftmax, Softmax

_PAGES = (
    arithmetic,
    contraction,
    convolution,
    activations,
    softmax,
    positions,
    norms,
    recurrent,
    reduction,
    movement,
    losses,
)

OPS: Mapping[str, type[Op]] = MappingProxyType(
    {
        kind.name: kind
        for page in _PAGES
        for name, kind in vars(page).items()
        if isinstance(kind, type) and issubclass(kind, Op) and kind.__module__ == page.__name__
        if hasattr(kind, "forward") and not name.startswith("_")
    }
)
"""Every op class by its name, in the order of the pages."""


def examples(at: Sizes) -> list[Example]:
    """The examples that the classes declare, at these sizes, in the order of ``OPS``."""
    return [example for kind in OPS.values() for example in kind.examples(at)]


ACTIVATIONS: dict[str, Op] = {
    "gelu": Gelu(),
    "gelu-tanh": Gelu("tanh"),
    "relu": Relu(),
    "silu": Silu(),
    "tanh": Tanh(),
    "sigmoid": Sigmoid(),
}
"""What a model's configuration can name."""


def _product(x: Any, y: Any) -> Tensor:
    """A tensor times a number, or the product of two tensors."""
    if isinstance(y, float):
        return apply(ScalarMultiply(y), x)
    return apply(ScalarMultiply(x), y) if isinstance(x, float) else apply(Multiply(), x, y)


operators.install(
    {
        "+": partial(apply, Add()),
        "-": partial(apply, Subtract()),
        "*": _product,
        "@": partial(apply, Matmul()),
        "/": lambda x, divisor: apply(ScalarDivide(divisor), x),
        "neg": lambda x, factor: apply(ScalarMultiply(factor), x),
    }
)

__all__ = [
    "ACTIVATIONS",
    "OPS",
    "Abs",
    "Add",
    "AttentionMix",
    "AttentionScores",
    "AvgPool",
    "BatchNorm",
    "Bias",
    "Clip",
    "Concat",
    "Conv1d",
    "Conv2d",
    "CustomElementwise",
    "Dropout",
    "Elementwise",
    "Embedding",
    "Exp",
    "Expand",
    "Fork",
    "FrozenBatchNorm",
    "Gather",
    "Gelu",
    "GroupNorm",
    "GruState",
    "HardSigmoid",
    "HardSwish",
    "Highway",
    "LayerNorm",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "LossSum",
    "LstmOutput",
    "LstmState",
    "MaskedSoftmax",
    "Matmul",
    "MaxPool",
    "Maximum",
    "Mean",
    "Minimum",
    "MseLoss",
    "Multiply",
    "Readout",
    "RelativeShift",
    "Relu",
    "Reshape",
    "RmsNorm",
    "Rotary",
    "ScalarDivide",
    "ScalarMultiply",
    "Scaled",
    "Sigmoid",
    "Silu",
    "SiluGlu",
    "Slice",
    "SoftCap",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Softplus",
    "Sqrt",
    "Square",
    "Subtract",
    "Sum",
    "Swish",
    "Tanh",
    "Transpose",
    "ValuesRule",
    "WeightedAdd",
    "Where",
    "examples",
    "split_points",
]
