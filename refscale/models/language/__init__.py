"""Language models that predict the next token: the paper's character models, and a decoder as they are built today.

In reading order:

1. ``config``: sizes and rules, as data; one model is what all of them are configurations of.
2. ``model``: parameters, trunk, prediction, loss; written once for every scheme and precision.

    >>> from refscale.models import language
    >>> language.CONFIGS["charlm-attention"].layers
    8
"""

from refscale.models.language.config import CONFIGS, LanguageConfig
from refscale.models.language.model import (
    Loss,
    hidden_states,
    initial_std,
    logits,
    next_token_loss,
    specs,
)

__all__ = [
    "CONFIGS",
    "LanguageConfig",
    "Loss",
    "hidden_states",
    "initial_std",
    "logits",
    "next_token_loss",
    "specs",
]
