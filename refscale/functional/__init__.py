"""Functions of tensors: linear layers, activations, norms, attention, residual branches, embeddings, losses.

Every function takes tensors of one tape, and the tape's scheme defines the factors: the same call builds a regular or a
unit-scaled model. Functions that ``torch.nn.functional`` also has have its names. In formulas α is the forward factor,
1 under the regular scheme, and β the factor of a gradient.

Constraints follow the paper's recipe: the default is the geometric mean, which is legal inside a residual branch.
``constraint="none"`` is for cut-edges, and for branches that start with ``fork``.
"""

from refscale.functional.activations import (
    clip,
    elementwise,
    gelu,
    glu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    relu,
    relu6,
    sigmoid,
    silu,
    silu_glu,
    softcap,
    softplus,
    tanh,
)
from refscale.functional.branches import fork, residual, split
from refscale.functional.choices import maximum, minimum, where
from refscale.functional.embeddings import embedding, embedding_sum
from refscale.functional.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    mse_loss,
    smooth_l1_loss,
    total_loss,
)
from refscale.functional.multihead import attention, scaled_dot_product_attention
from refscale.functional.noise import dropout
from refscale.functional.norms import batch_norm, group_norm, layer_norm, rms_norm
from refscale.functional.pooling import avg_pool, max_pool, mean_pooled
from refscale.functional.positions import rotary_angles, sinusoids
from refscale.functional.probabilities import Mask, log_softmax, softmax
from refscale.functional.products import conv1d, conv2d, conv3d, conv_transpose, linear, matmul, readout
from refscale.functional.recurrent import gru, gru_cell, lstm, lstm_cell
from refscale.functional.resampling import interpolate, pad

__all__ = [
    "Mask",
    "attention",
    "avg_pool",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "clip",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose",
    "cross_entropy",
    "dropout",
    "elementwise",
    "embedding",
    "embedding_sum",
    "fork",
    "gelu",
    "glu",
    "group_norm",
    "gru",
    "gru_cell",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "huber_loss",
    "interpolate",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "lstm",
    "lstm_cell",
    "matmul",
    "max_pool",
    "maximum",
    "mean_pooled",
    "minimum",
    "mse_loss",
    "pad",
    "readout",
    "relu",
    "relu6",
    "residual",
    "rms_norm",
    "rotary_angles",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "silu_glu",
    "sinusoids",
    "smooth_l1_loss",
    "softcap",
    "softmax",
    "softplus",
    "split",
    "tanh",
    "total_loss",
    "where",
]
