"""BERT (Devlin et al. 2018): what it is, what it computes, where published ones come from, how one is adapted.

In reading order:

1. ``config``: sizes and rules, as data.
2. ``model``: parameters, encoder, heads, losses; written once for every scheme and precision.
3. ``adapt``: a trained regular BERT as a unit-scaled one that computes the same function.
4. ``published``: a published one from its directory, and into one.

    >>> from refscale.models import bert
    >>> bert.get_config("bert-tiny").width
    128
"""

from refscale.models.bert.adapt import Adapted, adapt
from refscale.models.bert.config import CONFIGS, OUTPUTS, BertConfig, Output, get_config
from refscale.models.bert.model import (
    Losses,
    SpanLosses,
    encode,
    initial_parameters,
    parameters_on,
    pooled,
    pretraining_loss,
    span_loss,
    specs,
)
from refscale.models.bert.published import Pretrained, from_published, load_pretrained, save_pretrained

__all__ = [
    "CONFIGS",
    "OUTPUTS",
    "Adapted",
    "BertConfig",
    "Losses",
    "Output",
    "Pretrained",
    "SpanLosses",
    "adapt",
    "encode",
    "from_published",
    "get_config",
    "initial_parameters",
    "load_pretrained",
    "parameters_on",
    "pooled",
    "pretraining_loss",
    "save_pretrained",
    "span_loss",
    "specs",
]
