"""The techniques that unit scaling replaces: loss scaling, automatic loss scaling and per-tensor scaling, as records.

==================  ==============================  ==============================  ===========================
technique           scaled tensors                  place and rule of the scale     state
==================  ==============================  ==============================  ===========================
``none``            none
``static:512``      the loss, so every gradient     backward's seed; divided out    none; the scale is given
                                                    before the update
``automatic``       the loss                        as static; halved, and the      the scale, and the good
                                                    step skipped, if a gradient     steps since it changed
                                                    is not finite; doubled after
                                                    2000 good steps
``current``         each operand of a contraction   around its cast, by its own     none
                                                    largest magnitude
``delayed``         each operand of a contraction   around its cast, by the         each operand's largest
                                                    largest magnitude of earlier    magnitude in the last
                                                    steps                           16 steps
==================  ==============================  ==============================  ===========================

Compared with unit scaling (paper, Table 1): loss scaling is one number for all tensors, and must be tuned; automatic
loss scaling is one number, found during training, at the price of skipped steps; per-tensor scaling has a scale per
tensor, as unit scaling, and adapts, at the price of statistics at run time. ``Outcome`` counts these costs.

A step of training with any technique:

    scales = scaling.operand_scales(state)
    tape = Tape(scheme, precision, operand_scales=scales)
    ...
    backward(loss, scaling.loss_scale(state))
    state, gradients, outcome = scaling.finish(state, gradients, scales)
    if not outcome.skipped:
        ...

A state is a flat mapping of read-only arrays, which a checkpoint stores as an npz file; techniques have no other state.

Sources: Micikevicius et al. 2017 (arXiv 1710.03740), section 3.2: loss scaling, static and automatic;
``torch.amp.GradScaler``, whose defaults are those here; Micikevicius et al. 2022 (arXiv 2209.05433) and NVIDIA
Transformer Engine: per-tensor scaling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refscale.rivals.operands import OperandScales

Array = NDArray[Any]
State = dict[str, Array]


@dataclass(frozen=True)
class Outcome:
    """The costs of one step.

    Attributes:
        skipped: True: skip the update.
        statistics: number of reductions over a tensor at run time.
        extra_passes: number of tensors that were read once more than without the technique. A factor or a statistic
            that fits into another pass over the tensor (its cast, its update) is not counted.
        elements: total number of elements of these tensors.
        scales: number of scale factors used.
        changes: number of stored scale factors that change for the next step.
        state: number of values stored between steps.
    """

    skipped: bool = False
    statistics: int = 0
    extra_passes: int = 0
    elements: int = 0
    scales: int = 0
    changes: int = 0
    state: int = 0


Finished = tuple[State, dict[str, Array], Outcome]


class Scaling(Protocol):
    """The interface of a technique: pure functions of a state."""

    @property
    def name(self) -> str:
        """Name of the technique with its options, an argument of ``get_scaling``."""

    @property
    def tuned(self) -> tuple[str, ...]:
        """Names of the hyperparameters that must be chosen for each model."""

    def init(self) -> State:
        """Return the state before the first step."""

    def loss_scale(self, state: State) -> float:
        """Return dL/d(loss), the gradient at which ``backward`` starts."""

    def operand_scales(self, state: State) -> OperandScales | None:
        """Return new factors of one step's operands, for one ``Tape(operand_scales=...)``."""

    def finish(self, state: State, gradients: Mapping[str, Array], scales: OperandScales | None = None) -> Finished:
        """Finish a step after ``backward``: return (next state, gradients without the loss scale, costs of the step).

        Args:
            state: state of this step.
            gradients: gradients of the parameters, from ``backward``.
            scales: the result of ``operand_scales`` that the tape has used.
        """


def all_finite(arrays: Iterable[Array]) -> bool:
    """Return whether all elements of all arrays are finite."""
    return all(bool(np.isfinite(x).all()) for x in arrays)
