"""One training step, one evaluation: pure functions of a run, a state and a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.blocks import BlockCast
from refscale.engine import Array, CastRecord, Probe, Tape, Variable, backward
from refscale.errors import DivergedError
from refscale.programs import Loss, Scores, checked_loss, leaves
from refscale.rivals import OperandScales, Outcome, all_finite
from refscale.scales import close
from refscale.stats.measurement import TensorStats
from refscale.stats.report import CastSummary
from refscale.stats.trace import TensorProbe, summarize_casts
from refscale.train.run import Run
from refscale.train.state import TrainState


@dataclass(frozen=True)
class StepResult:
    """The result of one step.

    Attributes:
        loss, parts: objective and its terms, in nats, before the update.
        lr: learning rate, before the parameters' own scales.
        loss_scale: initial gradient of the backward pass.
        norm: norm of the true gradients before clipping; None if the run does not clip.
        outcome: outcome of the scaling technique, see ``rivals.Outcome``.
        tensors: statistics of every tensor, if requested.
        casts: counts of clipped and flushed elements, if requested.
    """

    loss: float
    parts: dict[str, float]
    lr: float
    loss_scale: float
    outcome: Outcome
    norm: float | None = None
    tensors: tuple[TensorStats, ...] = ()
    casts: tuple[CastSummary, ...] = ()


def training_step(run: Run, state: TrainState, batch: Any, *, trace: bool = False) -> tuple[TrainState, StepResult]:
    """Forward, backward, unscale, clip, update.

    Args:
        run: constant parts of the run.
        state: state before the step.
        batch: batch of this step, from ``run.batches``; a tuple of accumulated batches.
        trace: whether to measure every tensor and count clipped and flushed elements, in the first accumulated batch.

    Returns:
        The state after the step, and its result. A step that the scaling technique skips does not change parameters and
        optimizer.

    Raises:
        DivergedError: the loss is not finite, or a gradient is not and the scaling technique does not skip it (the
            message names the step and the first tensor outside its format's range); or the update overflows.
    """
    tracer = TensorProbe(run.specs) if trace else None
    batches = batch if run.config.accumulate > 1 else (batch,)
    result = forward_backward(run, state, batches[0], probe=tracer, count_casts=trace)
    casts, losses, parts = list(result.tape.casts), [result.loss], [_parts(result)]
    gradients = result.gradients
    for part, more in enumerate(batches[1:], 1):
        other = forward_backward(run, state, more, part=part)
        casts += other.tape.casts
        losses.append(other.loss)
        parts.append(_parts(other))
        gradients = add_gradients(gradients, result.factors, other)
    if len(batches) > 1:
        gradients = {name: g / g.dtype.type(len(batches)) for name, g in gradients.items()}
    loss = float(np.mean(losses))
    scaling, gradients, outcome = run.scaling.finish(state.scaling, gradients, result.scales)
    outcome = _with_blocks(outcome, casts)
    rate = run.rate(state.step)
    if not np.isfinite(loss) or not (outcome.skipped or all_finite(gradients.values())):
        what = "a gradient" if np.isfinite(loss) else "the loss"
        raise DivergedError(
            f"train: diverged at step {state.step + 1}: {what} is not finite; {_first(run, state, batches)}"
        )
    after = TrainState(state.step + 1, state.parameters, state.optimizer, scaling)
    norm = None
    if run.config.clip is not None and not outcome.skipped:
        gradients, norm = clip_by_norm(gradients, result.factors, run.config.clip)
    if not outcome.skipped:
        try:
            parameters, optimizer = run.optimizer.update(gradients, state.optimizer, state.parameters, rate, run.groups)
        except DivergedError as error:
            raise DivergedError(f"train: diverged at step {after.step}: {error}") from error
        rng = run.rng("update", after.step)
        parameters = run.precision.store_weights(parameters, rng)
        optimizer = run.precision.store_moments(optimizer, rng)
        after = replace(after, parameters=parameters, optimizer=optimizer)
    return after, StepResult(
        loss=loss,
        parts={name: float(np.mean([part[name] for part in parts])) for name in parts[0]},
        lr=rate.peak * rate.multiplier,
        loss_scale=run.scaling.loss_scale(state.scaling),
        outcome=outcome,
        norm=norm,
        tensors=tracer.tensors(result.losses.total, run.scheme) if tracer else (),
        casts=summarize_casts(result.tape.casts) if tracer else (),
    )


def _parts(result: Pass) -> dict[str, float]:
    return {name: float(part.value) for name, part in result.losses.parts.items()}


def add_gradients(gradients: Mapping[str, Array], factors: Mapping[str, float], other: Pass) -> dict[str, Array]:
    """Add gradients of two passes; the factors of the second differ if its batch has another size."""
    found = {}
    for name, g in gradients.items():
        more, ratio = other.gradients[name], factors[name] / other.factors[name]
        found[name] = g + (more if close(ratio, 1) else more * g.dtype.type(ratio))
    return found


def clip_by_norm(
    gradients: Mapping[str, Array], factors: Mapping[str, float], largest: float
) -> tuple[dict[str, Array], float]:
    """Scale all gradients down by one factor to a largest norm: min(1, largest/norm)·g.

    norm = √(Σ (g/c)²) over all elements of all gradients, in float64: that of the true gradients, which does not depend
    on a scheme's factors. Computed gradients of unit scale have a norm of about the root of the number of parameters
    for any true gradients, so clipping by that norm would act at every step, or never.

    Args:
        gradients: gradients by name, without loss scale.
        factors: constant c of each gradient relative to the true one, see ``graph.gradient_factors``.
        largest: largest allowed norm, positive.

    Returns:
        The gradients, all times the same number, and the norm before.

    Source: Pascanu et al. 2013 (arXiv 1211.5063), Algorithm 1.
    """
    squares = (float(np.sum(np.square(g, dtype=np.float64))) / factors[name] ** 2 for name, g in gradients.items())
    norm = math.sqrt(math.fsum(squares))
    if norm <= largest:
        return dict(gradients), norm
    return {name: g * g.dtype.type(largest / norm) for name, g in gradients.items()}, norm


def _with_blocks(outcome: Outcome, casts: Sequence[CastRecord]) -> Outcome:
    """Add the costs of block-scaled operands: a statistic and a scale for each block, and for each scaled tensor.

    The first conversion of an operand reads the same elements as a cast, and a block's statistic with them; a
    conversion along another axis, or a scale of the whole tensor, needs another pass.
    """
    converted = [c for c in casts if c.blocks]
    if not converted:
        return outcome
    tensors = [c for c in converted if isinstance(c.cast, BlockCast) and c.cast.tensor_scale]
    first = {(c.variable, c.place): c for c in reversed(converted)}
    again = [c for c in converted if first[c.variable, c.place] is not c]
    scales = sum(c.blocks for c in converted) + len(tensors)
    return replace(
        outcome,
        statistics=outcome.statistics + scales,
        extra_passes=outcome.extra_passes + len(again) + len(tensors),
        elements=outcome.elements + sum(c.elements for c in (*again, *tensors)),
        scales=outcome.scales + scales,
    )


@dataclass(frozen=True)
class Pass:
    """A forward and a backward pass: tape, losses, parameters' gradients, times the loss scale; scales of operands.

    ``factors`` has the constant c of each gradient, see ``graph.gradient_factors``.
    """

    tape: Tape
    losses: Loss
    gradients: dict[str, NDArray[Any]]
    factors: dict[str, float]
    scales: OperandScales | None = None

    @property
    def loss(self) -> float:
        """Value of the objective."""
        return float(self.losses.total.value)


def forward_backward(
    run: Run, state: TrainState, batch: Any, *, probe: Probe | None = None, count_casts: bool = False, part: int = 0
) -> Pass:
    """Run one forward and backward pass from a state; the caller must check for overflow.

    Args:
        run: constant parts of the run.
        state: parameters, and the state of the scaling technique.
        batch: batch from ``run.batches`` or ``run.validation``.
        probe, count_casts: arguments of ``engine.Tape``.
        part: index of the batch among those whose gradients are added up in one step.
    """
    scales = run.scaling.operand_scales(state.scaling)
    tape = Tape(
        run.scheme,
        run.precision,
        probe=probe,
        rng=run.rng("rounding", state.step, part),
        count_casts=count_casts,
        operand_scales=scales,
    )
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        p = leaves(tape, run.task, state.parameters)
        losses = checked_loss(run.task, p, batch, run.rng("dropout", state.step, part))
        backward(losses.total, run.scaling.loss_scale(state.scaling))
    gradients = {name: t.grad for name, t in p.items() if t.grad is not None}
    factors = {name: p[name].variable.factor or 1.0 for name in gradients}
    return Pass(tape, losses, gradients, factors, scales)


def _first(run: Run, state: TrainState, batches: Sequence[Any]) -> str:
    """Describe the first non-finite tensor of the step, found by running the step again."""
    found: list[str] = []

    def probe(direction: str, variable: Variable, array: Array) -> None:
        if not found and not np.isfinite(array).all():
            wrong = int(np.count_nonzero(~np.isfinite(array)))
            what = "gradient of " if direction == "backward" else ""
            found.append(f"{what}{variable.name} ({wrong} of {array.size} elements are not finite)")

    for part, batch in enumerate(batches):
        tape = forward_backward(run, state, batch, probe=probe, part=part).tape
        if found:
            break
    store = run.precision.store
    limit = f"{store.format.name}, whose largest value is {store.format.max:g}" if store else str(tape.dtype)
    if not found:
        return "no tensor of the step left the range of its format"
    return f"the first tensor to leave the range of {limit}, is {found[0]}"


def evaluate(run: Run, state: TrainState, batches: Sequence[Any] | None = None) -> Scores:
    """Return the task's scores without dropout, in the run's own scheme, precision and scaling.

    Args:
        run: the run.
        state: state with the parameters to evaluate.
        batches: batches; None: those of ``run.validation``.

    Returns:
        Scores by name; empty if the program has no validation.
    """
    batches = run.validation if batches is None else batches
    return run.task.score(observe(run, state, batches)) if len(batches) else {}


def observe(run: Run, state: TrainState, batches: Sequence[Any]) -> list[Any]:
    """Return the task's observations of each batch, from a forward pass without dropout."""
    observed = []
    for i, batch in enumerate(batches):
        scales = run.scaling.operand_scales(state.scaling)
        tape = Tape(run.scheme, run.precision, rng=run.rng("validation", i + 1), operand_scales=scales)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            loss = checked_loss(run.task, leaves(tape, run.task, state.parameters), batch)
        observed.append(run.task.observe(batch, loss))
    return observed
