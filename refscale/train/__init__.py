"""Training: a configuration in, metrics and checkpoints out.

In reading order:

1. ``config``: the settings of a run, as plain values.
2. ``state``: the variable state of a run; ``checkpoint``: a state in a file; ``trained``: a trained model from a
   directory.
3. ``run``: the constant parts of a run: task (``refscale.tasks``), optimizer, the randomness of every step.
4. ``step``: one training step and one evaluation, pure functions.
5. ``loop``: steps, metrics, validation, checkpoints; an interrupted run continues to the same bits.
6. ``report``: a checkpoint as a report.

``refscale.sweep`` trains many runs.
"""

from typing import TYPE_CHECKING

from refscale.names import lazily
from refscale.train.checkpoint import Checkpoint, load_checkpoint, newest, save_checkpoint
from refscale.train.config import FINE_TUNING, TrainConfig, default_config
from refscale.train.loop import TrainSummary, train
from refscale.train.report import checkpoint_report
from refscale.train.run import Run
from refscale.train.state import TrainState
from refscale.train.step import Pass, StepResult, clip_by_norm, evaluate, forward_backward, observe, training_step
from refscale.train.trained import load_trained

__all__ = [
    "FINE_TUNING",
    "Checkpoint",
    "Pass",
    "Run",
    "StepResult",
    "TrainConfig",
    "TrainState",
    "TrainSummary",
    "checkpoint_report",
    "clip_by_norm",
    "default_config",
    "evaluate",
    "forward_backward",
    "load_checkpoint",
    "load_trained",
    "newest",
    "observe",
    "save_checkpoint",
    "train",
    "training_step",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, {}, {"Summary": "TrainSummary"})
