"""The op table: every op with its forward, backward and factors, a page per family.

========================  ==============================================================================================
page                      ops
========================  ==============================================================================================
``arithmetic``            add, subtract, weighted_add, bias, multiply, silu_glu, highway, dropout; scaled, fork
``contraction``           matmul, attention_scores, attention_mix, readout
``convolution``           conv1d, conv2d, max_pool
``activations``           relu, leaky_relu, gelu, silu, tanh, sigmoid, softplus, exp, log, sqrt
``softmax``               softmax, masked_softmax, log_softmax
``positions``             rotary, relative_shift
``norms``                 layer_norm, rms_norm
``reduction``             sum, mean
``movement``              reshape, transpose, slice, concat, gather, embedding
``losses``                softmax_cross_entropy, mse_loss, loss_sum
========================  ==============================================================================================

``apply(op, *tensors)`` runs one; ``refscale ops`` prints their factors.  ``x + y``, ``x - y``, ``x * y`` and ``x @ y``
run ``Add``, ``Subtract``, ``Multiply`` and ``Matmul``.
"""

from functools import partial

from refscale.engine import Op, apply, operators
from refscale.ops.activations import Exp, Gelu, LeakyRelu, Log, Relu, Sigmoid, Silu, Softplus, Sqrt, Tanh
from refscale.ops.arithmetic import Add, Bias, Dropout, Fork, Highway, Multiply, Scaled, SiluGlu, Subtract, WeightedAdd
from refscale.ops.contraction import AttentionMix, AttentionScores, Matmul, Readout, ValuesRule
from refscale.ops.convolution import Conv1d, Conv2d, MaxPool
from refscale.ops.losses import LossSum, MseLoss, SoftmaxCrossEntropy
from refscale.ops.movement import Concat, Embedding, Gather, Reshape, Slice, Transpose, split_points
from refscale.ops.norms import LayerNorm, RmsNorm
from refscale.ops.positions import RelativeShift, Rotary
from refscale.ops.reduction import Mean, Sum
from refscale.ops.softmax import LogSoftmax, MaskedSoftmax, Softmax

ACTIVATIONS: dict[str, Op] = {
    "gelu": Gelu(),
    "gelu-tanh": Gelu("tanh"),
    "relu": Relu(),
    "silu": Silu(),
    "tanh": Tanh(),
    "sigmoid": Sigmoid(),
}
"""What a model's configuration can name."""

operators.install(
    {
        "+": partial(apply, Add()),
        "-": partial(apply, Subtract()),
        "*": partial(apply, Multiply()),
        "@": partial(apply, Matmul()),
    }
)

__all__ = [
    "ACTIVATIONS",
    "Add",
    "AttentionMix",
    "AttentionScores",
    "Bias",
    "Concat",
    "Conv1d",
    "Conv2d",
    "Dropout",
    "Embedding",
    "Exp",
    "Fork",
    "Gather",
    "Gelu",
    "Highway",
    "LayerNorm",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "LossSum",
    "MaskedSoftmax",
    "Matmul",
    "MaxPool",
    "Mean",
    "MseLoss",
    "Multiply",
    "Readout",
    "RelativeShift",
    "Relu",
    "Reshape",
    "RmsNorm",
    "Rotary",
    "Scaled",
    "Sigmoid",
    "Silu",
    "SiluGlu",
    "Slice",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Softplus",
    "Sqrt",
    "Subtract",
    "Sum",
    "Tanh",
    "Transpose",
    "ValuesRule",
    "WeightedAdd",
    "split_points",
]
