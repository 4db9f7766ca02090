"""Parameters as data, and the layers of models.

Parameters are a flat mapping from path name to array; a ``Spec`` describes each. A layer consists of two functions:
one returns its specs, the other takes the parameters as tensors and computes. Neither has state.

In reading order: ``parameters``, ``blocks``, ``recurrent``.
"""

from refscale.layers.blocks import (
    GATE_BIAS,
    MIXERS,
    Block,
    Mixer,
    convolution,
    convolution_specs,
    feed_forward,
    feed_forward_specs,
    linear,
    linear_specs,
    norm,
    norm_specs,
    recurrence,
    recurrence_specs,
    residual_block,
    self_attention,
    self_attention_specs,
    transformer_layer,
    transformer_layer_specs,
)
from refscale.layers.parameters import Parameters, Spec, Specs, Tensors, count, glorot, initialize, on_tape
from refscale.layers.recurrent import gru, gru_specs, lstm, lstm_specs

__all__ = [
    "GATE_BIAS",
    "MIXERS",
    "Block",
    "Mixer",
    "Parameters",
    "Spec",
    "Specs",
    "Tensors",
    "convolution",
    "convolution_specs",
    "count",
    "feed_forward",
    "feed_forward_specs",
    "glorot",
    "gru",
    "gru_specs",
    "initialize",
    "linear",
    "linear_specs",
    "lstm",
    "lstm_specs",
    "norm",
    "norm_specs",
    "on_tape",
    "recurrence",
    "recurrence_specs",
    "residual_block",
    "self_attention",
    "self_attention_specs",
    "transformer_layer",
    "transformer_layer_specs",
]
