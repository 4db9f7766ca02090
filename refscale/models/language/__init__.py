"""Language models that predict the next token: the paper's character models, and a decoder of current design.

In reading order:

1. ``config``: sizes and rules, as data; all models are configurations of one.
2. ``model``: parameters, trunk, prediction, loss; written once for every scheme and precision.

    >>> from refscale.models import language
    >>> language.CONFIGS["charlm-attention"].layers
    8
"""

from typing import TYPE_CHECKING

from refscale.models.language.config import CONFIGS, LanguageConfig
from refscale.models.language.model import (
    NextTokenLoss,
    hidden_states,
    initial_std,
    logits,
    next_token_loss,
    specs,
)
from refscale.names import lazily

__all__ = [
    "CONFIGS",
    "LanguageConfig",
    "NextTokenLoss",
    "hidden_states",
    "initial_std",
    "logits",
    "next_token_loss",
    "specs",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, {}, {"Loss": "NextTokenLoss"})
