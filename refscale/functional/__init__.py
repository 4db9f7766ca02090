"""What users call: linear layers, activations, norms, attention, residual branches, embeddings, losses.

Every function takes tensors of one tape and asks that tape's scheme for factors, so the same call builds a regular or a
unit-scaled model.  Names are those of ``torch.nn.functional``, where it has the function.

Constraints follow the paper's recipe: ops inside a residual branch are constrained by the geometric mean unless the
caller names another, a constraint or its name; ``constraint="none"`` is for cut-edges, and for branches that start with
``fork``.
"""

from refscale.functional.activations import (
    elementwise,
    gelu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    relu,
    relu6,
    sigmoid,
    silu,
    silu_glu,
    softplus,
    tanh,
)
from refscale.functional.branches import fork, residual, split
from refscale.functional.embeddings import embedding, embedding_sum
from refscale.functional.losses import cross_entropy, mse_loss, total_loss
from refscale.functional.multihead import attention
from refscale.functional.noise import dropout
from refscale.functional.norms import batch_norm, group_norm, layer_norm, rms_norm
from refscale.functional.pooling import mean_pooled
from refscale.functional.positions import rotary_angles, sinusoids
from refscale.functional.probabilities import Mask, log_softmax, softmax
from refscale.functional.products import conv1d, linear, matmul, readout

__all__ = [
    "Mask",
    "attention",
    "batch_norm",
    "conv1d",
    "cross_entropy",
    "dropout",
    "elementwise",
    "embedding",
    "embedding_sum",
    "fork",
    "gelu",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "matmul",
    "mean_pooled",
    "mse_loss",
    "readout",
    "relu",
    "relu6",
    "residual",
    "rms_norm",
    "rotary_angles",
    "sigmoid",
    "silu",
    "silu_glu",
    "sinusoids",
    "softmax",
    "softplus",
    "split",
    "tanh",
    "total_loss",
]
