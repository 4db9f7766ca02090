"""Training out of the box: a configuration in, metrics and checkpoints out.

In reading order:

1. ``config``: what a run is: plain values.
2. ``run``: the configuration brought to life: task (``refscale.tasks``), optimizer, the randomness of every step.
3. ``step``: one training step and one evaluation, pure functions.
4. ``checkpoint``: a state in a file, and back, or a clear refusal; ``trained``: a model to go on from.
5. ``loop``: steps, metrics, validation, checkpoints; continues to the same bits after any interruption.
6. ``report``: a checkpoint as a report.

Many of them: ``refscale.sweep``.
"""

from typing import TYPE_CHECKING

from refscale.names import lazily
from refscale.train.checkpoint import Checkpoint, TrainState, load_checkpoint, newest, save_checkpoint
from refscale.train.config import FINE_TUNING, TrainConfig, default_config
from refscale.train.loop import TrainSummary, train
from refscale.train.report import checkpoint_report
from refscale.train.run import Run
from refscale.train.step import Pass, StepResult, evaluate, forward_backward, observe, training_step
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
