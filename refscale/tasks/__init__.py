"""Training tasks: a model with its data, its loss and its scores.

In reading order:

1. ``setup``: sizes and rules of a task; each task is a ``programs.Program``.
2. ``masked_lm``: BERT's masked words and next sentences; ``spans``: answers to questions; ``next_token``: characters.
3. ``batches``: random batches of a text.
4. ``kinds``: the three by name, with their customary settings; and "program", for a program of your own.
"""

from typing import TYPE_CHECKING

from refscale.names import lazily
from refscale.tasks.batches import masked_lm_batches, text_batches, text_windows
from refscale.tasks.kinds import KINDS, Data, Kind, get_kind, get_task, kind_of
from refscale.tasks.masked_lm import MaskedLM
from refscale.tasks.next_token import NextToken
from refscale.tasks.setup import Setup
from refscale.tasks.spans import SpanData, SpanExtraction

__all__ = [
    "KINDS",
    "Data",
    "Kind",
    "MaskedLM",
    "NextToken",
    "Setup",
    "SpanData",
    "SpanExtraction",
    "get_kind",
    "get_task",
    "kind_of",
    "masked_lm_batches",
    "text_batches",
    "text_windows",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(
        __name__,
        {},
        {
            "Loss": "refscale.programs.Loss",
            "Scores": "refscale.programs.Scores",
            "Task": "refscale.programs.Program",
        },
    )
