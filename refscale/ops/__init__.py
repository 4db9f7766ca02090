"""The op table: every op with its forward pass, backward pass and factors, one module per family.

========================  ==============================================================================================
module                    ops
========================  ==============================================================================================
``arithmetic``            add, subtract, weighted_add, bias, multiply, maximum, minimum
``scalars``               scalar_multiply, scalar_divide
``gates``                 silu_glu, glu, highway
``identities``            scaled, fork
``noise``                 dropout
``contraction``           matmul, attention_scores, attention_mix, readout
``convolution``           conv1d, conv2d, conv3d, conv_transpose
``pooling``               max_pool, avg_pool
``activations``           relu, leaky_relu, gelu, silu, swish, tanh, soft_cap, sigmoid, softplus, thresholded_softplus,
                          abs, square, clip, hard_sigmoid, hard_swish, exp, log, sqrt
``softmax``               softmax, masked_softmax, log_softmax, masked_log_softmax
``positions``             rotary, relative_shift
``norms``                 layer_norm, rms_norm, batch_norm, frozen_batch_norm, group_norm
``recurrent``             lstm_state, lstm_output, gru_state
``reduction``             sum, mean
``movement``              reshape, transpose, slice, concat, expand, where, gather, embedding
``resampling``            pad, nearest_resize, linear_resize
``custom``                custom_elementwise: a function given with its derivative (not in ``OPS``)
``losses``                softmax_cross_entropy, soft_target_cross_entropy, binary_cross_entropy, loss_sum
``regression``            mse_loss, huber_loss, smooth_l1_loss
========================  ==============================================================================================

``apply(op, *tensors)`` runs an op; ``refscale ops`` prints the factors. ``OPS`` maps names to classes: tables, golden
vectors, claims and checks enumerate it. ``x + y``, ``x - y``, ``x * y`` and ``x @ y`` run ``Add``, ``Subtract``,
``Multiply`` and ``Matmul``; ``-x``, ``c * x`` and ``x / c``, for a number c, run ``ScalarMultiply(-1)``,
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
    gates,
    identities,
    losses,
    movement,
    noise,
    norms,
    pooling,
    positions,
    recurrent,
    reduction,
    regression,
    resampling,
    scalars,
    softmax,
)
from refscale.ops.activations import (
    ACTIVATIONS,
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
    ThresholdedSoftplus,
)
from refscale.ops.arithmetic import Add, Bias, Maximum, Minimum, Multiply, Subtract, WeightedAdd
from refscale.ops.contraction import AttentionMix, AttentionScores, Matmul, Readout, ValuesRule
from refscale.ops.convolution import Conv1d, Conv2d, Conv3d, ConvTranspose
from refscale.ops.custom import CustomElementwise
from refscale.ops.gates import Glu, Highway, SiluGlu
from refscale.ops.identities import Fork, Scaled
from refscale.ops.losses import BinaryCrossEntropy, LossSum, Reduction, SoftmaxCrossEntropy, SoftTargetCrossEntropy
from refscale.ops.movement import Concat, Embedding, Expand, Gather, Reshape, Slice, Transpose, Where, split_points
from refscale.ops.noise import Dropout
from refscale.ops.norms import BatchNorm, FrozenBatchNorm, GroupNorm, LayerNorm, RmsNorm
from refscale.ops.pooling import AvgPool, MaxPool
from refscale.ops.positions import RelativeShift, Rotary
from refscale.ops.recurrent import GruState, LstmOutput, LstmState
from refscale.ops.reduction import Mean, Sum
from refscale.ops.regression import HuberLoss, MseLoss, SmoothL1Loss
from refscale.ops.resampling import LinearResize, NearestResize, Pad, PadMode
from refscale.ops.scalars import ScalarDivide, ScalarMultiply
from refscale.ops.softmax import LogSoftmax, MaskedLogSoftmax, MaskedSoftmax, Softmax
from refscale.ops.windows import PaddingPerAxis, PerAxis

_PAGES = (
    arithmetic,
    scalars,
    gates,
    identities,
    noise,
    contraction,
    convolution,
    pooling,
    activations,
    softmax,
    positions,
    norms,
    recurrent,
    reduction,
    movement,
    resampling,
    losses,
    regression,
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
"""Op classes by op name, in the order of the modules."""


def examples(at: Sizes) -> list[Example]:
    """Return the examples of all ops at these sizes, in the order of ``OPS``."""
    return [example for kind in OPS.values() for example in kind.examples(at)]


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
    "BinaryCrossEntropy",
    "Clip",
    "Concat",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose",
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
    "Glu",
    "GroupNorm",
    "GruState",
    "HardSigmoid",
    "HardSwish",
    "Highway",
    "HuberLoss",
    "LayerNorm",
    "LeakyRelu",
    "LinearResize",
    "Log",
    "LogSoftmax",
    "LossSum",
    "LstmOutput",
    "LstmState",
    "MaskedLogSoftmax",
    "MaskedSoftmax",
    "Matmul",
    "MaxPool",
    "Maximum",
    "Mean",
    "Minimum",
    "MseLoss",
    "Multiply",
    "NearestResize",
    "Pad",
    "PadMode",
    "PaddingPerAxis",
    "PerAxis",
    "Readout",
    "Reduction",
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
    "SmoothL1Loss",
    "SoftCap",
    "SoftTargetCrossEntropy",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Softplus",
    "Sqrt",
    "Square",
    "Subtract",
    "Sum",
    "Swish",
    "Tanh",
    "ThresholdedSoftplus",
    "Transpose",
    "ValuesRule",
    "WeightedAdd",
    "Where",
    "examples",
    "split_points",
]
