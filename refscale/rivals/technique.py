"""What unit scaling replaces: loss scaling, automatic loss scaling and per-tensor scaling, as records.

==================  ==============================  ==============================  ===========================
technique           what it scales                  when                            state
==================  ==============================  ==============================  ===========================
``none``            nothing
``static:512``      the loss, so every gradient     backward's seed; divided out    none; the scale was chosen
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

Against unit scaling (paper, Table 1): loss scaling is one number for all tensors and has to be tuned; automatic loss
scaling is one number, found while training at the price of skipped steps; per-tensor scaling is as fine as unit
scaling and adapts, at the price of statistics at run time. ``Outcome`` counts those prices.

A step of training, whatever the technique:

    scales = scaling.operand_scales(state)
    tape = Tape(scheme, precision, operand_scales=scales)
    ...
    backward(loss, scaling.loss_scale(state))
    state, gradients, outcome = scaling.finish(state, gradients, scales)
    if not outcome.skipped:
        ...

A state is a flat mapping of arrays, never written to: a checkpoint is an npz file, and nothing else is remembered.

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
    """What one step took.

    Attributes:
        skipped: the update is not to be made.
        statistics: reductions over a tensor that were made at run time.
        extra_passes: tensors that had to be read once more than without the technique. A factor or a statistic that
            fits into a pass over the tensor made anyway (its cast, its update) is no extra one.
        elements: in those tensors, together.
        scales: scale factors in force.
        changes: those kept between steps that are other ones in the next.
        state: numbers kept between steps.
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
    """A technique: pure functions of a state."""

    @property
    def name(self) -> str:
        """What ``get_scaling`` reads."""

    @property
    def tuned(self) -> tuple[str, ...]:
        """Names of the hyper-parameters that someone has to choose, as no value serves every model."""

    def init(self) -> State:
        """The state before the first step."""

    def loss_scale(self, state: State) -> float:
        """dL/d(loss), which backward is seeded with."""

    def operand_scales(self, state: State) -> OperandScales | None:
        """The factors of one step's operands, for ``Tape(operand_scales=...)``; made anew for each tape."""

    def finish(self, state: State, gradients: Mapping[str, Array], scales: OperandScales | None = None) -> Finished:
        """After backward: (next state, gradients without the loss scale, what the step took).

        Args:
            state: that of this step.
            gradients: of the parameters, as backward left them.
            scales: what ``operand_scales`` gave and the tape has used.
        """


def all_finite(arrays: Iterable[Array]) -> bool:
    """Return whether no element of any array is infinite or NaN."""
    return all(bool(np.isfinite(x).all()) for x in arrays)
