"""What can be learned: a model with its data, its loss and what counts.

In reading order:

1. ``task``: what training, reports and sweeps ask of a model and its data, whatever they are.
2. ``masked_lm``: BERT's masked words and next sentences; ``spans``: answers to questions; ``next_token``: characters.
3. ``batches``: how batches are drawn from a text.
4. ``kinds``: the three by name, with what is customary for each.
"""

from refscale.tasks.batches import masked_lm_batches, text_batches, text_windows
from refscale.tasks.kinds import KINDS, Data, Kind, get_kind, get_task, kind_of
from refscale.tasks.masked_lm import MaskedLM
from refscale.tasks.next_token import NextToken
from refscale.tasks.spans import SpanData, SpanExtraction
from refscale.tasks.task import Loss, Scores, Setup, Task

__all__ = [
    "KINDS",
    "Data",
    "Kind",
    "Loss",
    "MaskedLM",
    "NextToken",
    "Scores",
    "Setup",
    "SpanData",
    "SpanExtraction",
    "Task",
    "get_kind",
    "get_task",
    "kind_of",
    "masked_lm_batches",
    "text_batches",
    "text_windows",
]
