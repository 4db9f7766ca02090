"""Training out of the box: a configuration in, metrics and checkpoints out.

In reading order:

1. ``config``: what a run is: plain values.
2. ``task``: what the loop asks of a model and its data; ``masked_lm`` and ``spans`` are the two there are.
3. ``run``: the configuration brought to life: task, optimizer, the randomness of every step.
4. ``step``: one training step and one evaluation, pure functions.
5. ``checkpoint``: a state in a file, and back, or a clear refusal; ``trained``: a model to go on from.
6. ``loop``: steps, metrics, validation, checkpoints; continues to the same bits after any interruption.
7. ``report``: a checkpoint as a report.
8. ``comparison``, ``tables``: every precision and technique on the same data; what comes out, as tables.
"""

from refscale.train.checkpoint import Checkpoint, TrainState, load_checkpoint, newest, save_checkpoint
from refscale.train.comparison import Comparison, RunResult, Variant, compare, load_comparison
from refscale.train.config import DEFAULT_LOG2_LR, FINE_TUNING, TrainConfig
from refscale.train.loop import Summary, train
from refscale.train.masked_lm import MaskedLM
from refscale.train.report import checkpoint_report
from refscale.train.run import Data, Run
from refscale.train.spans import SpanData, SpanExtraction
from refscale.train.step import Pass, StepResult, evaluate, forward_backward, observe, training_step
from refscale.train.tables import tables
from refscale.train.task import Loss, Scores, Task
from refscale.train.trained import load_trained

__all__ = [
    "DEFAULT_LOG2_LR",
    "FINE_TUNING",
    "Checkpoint",
    "Comparison",
    "Data",
    "Loss",
    "MaskedLM",
    "Pass",
    "Run",
    "RunResult",
    "Scores",
    "SpanData",
    "SpanExtraction",
    "StepResult",
    "Summary",
    "Task",
    "TrainConfig",
    "TrainState",
    "Variant",
    "checkpoint_report",
    "compare",
    "evaluate",
    "forward_backward",
    "load_checkpoint",
    "load_comparison",
    "load_trained",
    "newest",
    "observe",
    "save_checkpoint",
    "tables",
    "train",
    "training_step",
]
