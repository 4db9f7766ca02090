"""The variable state of a training run, which checkpoints store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from refscale.optim import State as OptimizerState
from refscale.rivals import State as ScalingState


@dataclass(frozen=True, eq=False)
class TrainState:
    """Parameters, and the states of the optimizer and of the scaling technique, after a number of steps.

    Attributes:
        step: number of completed steps.
        parameters: float32 by name; FP32 masters, or values of the format in which ``Precision.weights`` stores them.
        optimizer: state of the optimizer.
        scaling: state of the scaling technique.

    A step does not copy read-only parameters, as initialization, optimizers and checkpoints return them.
    """

    step: int
    parameters: dict[str, NDArray[Any]]
    optimizer: OptimizerState
    scaling: ScalingState
