"""One training step, one evaluation: pure functions of a run, a state and a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.analysis.report import CastSummary
from refscale.analysis.stats import TensorStats
from refscale.analysis.trace import Trace, summarize_casts
from refscale.data import IGNORE, Batch
from refscale.engine import Array, Probe, Tape, Variable, backward
from refscale.errors import DivergedError
from refscale.models import bert
from refscale.precision import Outcome, all_finite
from refscale.train.run import Run, TrainState


@dataclass(frozen=True)
class StepResult:
    """What one step came to.

    Attributes:
        loss, masked_lm, next_sentence: the objective and its parts, in nats, before the update.
        lr: the learning rate, before parameters' own scales.
        loss_scale: what the gradient was seeded with.
        outcome: what the scaling technique took; see ``precision.Outcome``.
        tensors: every tensor in figures, if asked for.
        casts: what rounding lost, if asked for.
    """

    loss: float
    masked_lm: float
    next_sentence: float
    lr: float
    loss_scale: float
    outcome: Outcome
    tensors: tuple[TensorStats, ...] = ()
    casts: tuple[CastSummary, ...] = ()


def training_step(run: Run, state: TrainState, batch: Batch, *, trace: bool = False) -> tuple[TrainState, StepResult]:
    """Forward, backward, unscale, update.

    Args:
        run: what stays the same.
        state: before the step.
        batch: of this step, from ``run.batches``.
        trace: also measure every tensor, and count what casts lose.

    Returns:
        The state after the step, and what it came to.  A step that the scaling technique skips leaves parameters and
        optimizer as they were.

    Raises:
        DivergedError: the loss is not finite, or a gradient that the scaling technique does not skip; the message
            names the step and the first tensor that left its format's range.
    """
    tracer = Trace(run.specs) if trace else None
    result = forward_backward(run, state, batch, probe=tracer, count_casts=trace)
    scaling, gradients, outcome = run.scaling.finish(state.scaling, result.gradients, result.tape.operand_scales)
    rate = run.rate(state.step)
    if not np.isfinite(result.loss) or not (outcome.skipped or all_finite(gradients.values())):
        what = "a gradient" if np.isfinite(result.loss) else "the loss"
        raise DivergedError(
            f"train: diverged at step {state.step + 1}: {what} is not finite; {_first(run, state, batch)}"
        )
    after = TrainState(state.step + 1, state.parameters, state.optimizer, scaling)
    if not outcome.skipped:
        parameters, optimizer = run.optimizer.update(gradients, state.optimizer, state.parameters, rate, run.groups)
        parameters = run.precision.store_weights(parameters, run.rng("update", after.step))
        after = replace(after, parameters=parameters, optimizer=optimizer)
    return after, StepResult(
        result.loss,
        float(result.losses.masked_lm.value),
        float(result.losses.parts["next_sentence"].value),
        rate.peak * rate.multiplier,
        run.scaling.loss_scale(state.scaling),
        outcome,
        tracer.tensors(result.losses.total, run.scheme) if tracer else (),
        summarize_casts(result.tape.casts) if tracer else (),
    )


@dataclass(frozen=True)
class Pass:
    """A forward and a backward pass: tape, losses, and the parameters' gradients, times the loss scale."""

    tape: Tape
    losses: bert.Losses
    gradients: dict[str, NDArray[Any]]

    @property
    def loss(self) -> float:
        """The objective."""
        return float(self.losses.total.value)


def forward_backward(
    run: Run, state: TrainState, batch: Batch, *, probe: Probe | None = None, count_casts: bool = False
) -> Pass:
    """One forward and backward pass from a state.  What overflows is for the caller to find.

    Args:
        run: what stays the same.
        state: parameters, and the state of the scaling technique.
        batch: real text.
        probe, count_casts: see ``engine.Tape``.
    """
    tape = Tape(
        run.scheme,
        run.precision,
        probe=probe,
        rng=run.rng("rounding", state.step),
        count_casts=count_casts,
        operand_scales=run.scaling.operand_scales(state.scaling),
    )
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        p = bert.parameters_on(tape, state.parameters, run.model)
        losses = bert.pretraining_loss(p, batch, run.model, run.rng("dropout", state.step))
        backward(losses.total, run.scaling.loss_scale(state.scaling))
    gradients = {name: t.grad for name, t in p.items() if t.grad is not None}
    return Pass(tape, losses, gradients)


def _first(run: Run, state: TrainState, batch: Batch) -> str:
    """The first tensor of the step that is not finite, found by running the step again."""
    found: list[str] = []

    def probe(direction: str, variable: Variable, array: Array) -> None:
        if not found and not np.isfinite(array).all():
            wrong = int(np.count_nonzero(~np.isfinite(array)))
            what = "gradient of " if direction == "backward" else ""
            found.append(f"{what}{variable.name} ({wrong} of {array.size} elements are not finite)")

    tape = forward_backward(run, state, batch, probe=probe).tape
    store = run.precision.store
    limit = f"{store.format.name}, whose largest value is {store.format.max:g}" if store else str(tape.dtype)
    if not found:
        return "no tensor of the step left the range of its format"
    return f"the first tensor to leave the range of {limit}, is {found[0]}"


@dataclass(frozen=True)
class Validation:
    """Means over the held-out text.

    Attributes:
        masked_lm, next_sentence: losses in nats.
        masked_lm_accuracy, next_sentence_accuracy: shares predicted right.
    """

    masked_lm: float
    next_sentence: float
    masked_lm_accuracy: float
    next_sentence_accuracy: float


def evaluate(run: Run, state: TrainState, batches: Sequence[Batch] | None = None) -> Validation:
    """Losses and accuracies without dropout, in the run's own scheme, precision and scaling.

    Args:
        run: the run.
        state: whose parameters are to be evaluated.
        batches: those of ``run.validation`` if None.

    Returns:
        Means over words (masked LM) and sequences (next sentence).
    """
    totals = np.zeros(4)
    words = sequences = 0
    for i, batch in enumerate(run.validation if batches is None else batches):
        scales = run.scaling.operand_scales(state.scaling)
        tape = Tape(run.scheme, run.precision, rng=run.rng("validation", i + 1), operand_scales=scales)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            losses = bert.pretraining_loss(bert.parameters_on(tape, state.parameters, run.model), batch, run.model)
        counted = batch.labels != IGNORE
        right = (losses.masked_lm_logits.value.argmax(-1) == batch.labels)[counted]
        assert losses.next_sentence is not None  # the models that are trained have both heads
        assert losses.next_sentence_logits is not None
        right_next = losses.next_sentence_logits.value.argmax(-1) == batch.is_next
        n, s = right.size, right_next.size
        totals += (
            float(losses.masked_lm.value) * n,
            float(losses.next_sentence.value) * s,
            right.sum(),
            right_next.sum(),
        )
        words, sequences = words + n, sequences + s
    masked_lm, next_sentence, right_words, right_sequences = (float(x) for x in totals)
    return Validation(masked_lm / words, next_sentence / sequences, right_words / words, right_sequences / sequences)
