"""BERT (Devlin et al. 2018): configurations, parameters, encoder, heads and losses.

In reading order:

1. ``config``: sizes and rules, as data.
2. ``model``: parameters, encoder, heads, losses; written once for every scheme and precision.

    >>> from refscale.models import bert
    >>> bert.get_config("bert-tiny").width
    128
"""

from refscale.models.bert.config import CONFIGS, OUTPUTS, BertConfig, Output, get_config
from refscale.models.bert.model import (
    Losses,
    SpanLosses,
    encode,
    initial_std,
    pooled,
    pretraining_loss,
    span_loss,
    specs,
)

__all__ = [
    "CONFIGS",
    "OUTPUTS",
    "BertConfig",
    "Losses",
    "Output",
    "SpanLosses",
    "encode",
    "get_config",
    "initial_std",
    "pooled",
    "pretraining_loss",
    "span_loss",
    "specs",
]
