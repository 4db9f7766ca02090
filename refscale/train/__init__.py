"""Training out of the box: a configuration in, metrics and checkpoints out.

In reading order:

1. ``config``: what a run is: plain values.
2. ``run``: the configuration brought to life: model, text, optimizer, the randomness of every step.
3. ``step``: one training step and one evaluation, pure functions.
4. ``checkpoint``: a state in a file, and back, or a clear refusal.
5. ``loop``: steps, metrics, validation, checkpoints; continues to the same bits after any interruption.
6. ``report``: a checkpoint as a report.
7. ``comparison``, ``tables``: every precision and technique on the same text; what comes out, as tables.
"""

from refscale.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from refscale.train.comparison import Comparison, RunResult, Variant, compare, load_comparison
from refscale.train.config import DEFAULT_LOG2_LR, TrainConfig
from refscale.train.loop import Summary, train
from refscale.train.report import checkpoint_report, newest
from refscale.train.run import Run, TrainState
from refscale.train.step import Pass, StepResult, Validation, evaluate, forward_backward, training_step
from refscale.train.tables import tables

__all__ = [
    "DEFAULT_LOG2_LR",
    "Checkpoint",
    "Comparison",
    "Pass",
    "Run",
    "RunResult",
    "StepResult",
    "Summary",
    "TrainConfig",
    "TrainState",
    "Validation",
    "Variant",
    "checkpoint_report",
    "compare",
    "evaluate",
    "forward_backward",
    "load_checkpoint",
    "load_comparison",
    "newest",
    "save_checkpoint",
    "tables",
    "train",
    "training_step",
]
