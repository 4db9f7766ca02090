"""The training loop: steps, metrics, validation, checkpoints; an interrupted run continues to the same bits.

A run's directory contains

======================  ==============================================================================================
``config.json``         the ``TrainConfig``, and the digest of the data
``metrics.jsonl``       a line for every step: losses, learning rate, the outcome of the scaling technique, the norm of
                        the gradients if they are clipped; ``validation``
``scales.jsonl``        a line every ``scales_every`` steps: the scale of every tensor, and clipped and flushed elements
``checkpoint-*.npz``    the last two checkpoints
``summary.json``        the result of the run, written at its end
``.lock``               locked by the training process
======================  ==============================================================================================

All bits except the seconds in ``summary.json`` are independent of the number of interruptions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from refscale.errors import ArgumentError, CheckpointError, DataError, DivergedError
from refscale.files import append_line, json_text, locked, read_json, read_json_lines, write_json, write_text
from refscale.programs import Scores
from refscale.progress import Progress
from refscale.records import reading
from refscale.rivals import Outcome
from refscale.tasks import Data
from refscale.train.checkpoint import checkpoint_path, checkpoints, drop_old, load_checkpoint, save_checkpoint
from refscale.train.config import TrainConfig
from refscale.train.run import Run
from refscale.train.state import TrainState
from refscale.train.step import StepResult, evaluate, training_step

METRICS, SCALES = "metrics.jsonl", "scales.jsonl"

Report = Callable[[str], None]


@dataclass(frozen=True)
class TrainSummary:
    """The result of a run.

    Attributes:
        config: configuration of the run.
        steps: number of completed steps; fewer than ``config.steps`` if a step diverged.
        validation: scores of the last validation, not finite if it diverged; None if the run diverged before any.
        diverged: message of a diverged run, else empty.
        seconds: seconds over all sessions.
        overhead: totals of the scaling technique's outcomes, see ``rivals.Outcome``.
    """

    config: TrainConfig
    steps: int
    validation: Scores | None
    diverged: str
    seconds: float
    overhead: dict[str, int]


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    data: Data = None,
    resume: bool = False,
    report: Report = print,
    progress: Progress | None = None,
) -> TrainSummary:
    """Train a run, or resume it.

    Args:
        config: configuration of the run.
        out: directory of the run, created if absent.
        data: path of a UTF-8 text file, or None for the text that comes with Python; ``SpanData`` for the task "squad";
            for the task "program" a ``Program``, or None for the one at the place ``config.model``.
        resume: whether to continue from the last valid checkpoint in ``out``, if there is one; the result has the same
            bits as without the interruption.
        report: function called with a line for every validation, and for every refused checkpoint.
        progress: progress bar, advanced by one per step.

    Returns:
        The result of the run.

    Raises:
        ArgumentError: ``out`` contains a run and ``resume`` is False, or contains another run, or another process uses
            it.
        DataError: the data are not usable.
        ProgramError: the program cannot be loaded, or its batches end.
        DivergedError: loss, gradients or validation scores are no longer finite; ``summary.json`` has the message.
        OSError: files cannot be read or written.
    """
    out = Path(out)
    run = Run.of(config, data)
    next(run.batches(0)), run.validation  # a text too short for either is refused before anything is written
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, "train"):
        return _train(run, out, resume, report, progress)


def _train(run: Run, out: Path, resume: bool, report: Report, progress: Progress | None) -> TrainSummary:
    """Train in a locked directory."""
    config = run.config
    _claim(out, config, run.digest, resume)
    state, before = _latest(out, run, report) if resume else (run.initial_state(), 0.0)
    validation, overhead = _replay(out / METRICS, state.step)
    for name in (METRICS, SCALES):
        _cut(out / name, state.step)
    started = time.monotonic()
    diverged: DivergedError | None = None
    if progress:
        progress.advance(state.step)
    try:
        steps = _steps(run, state)
        for state, result, found in steps:
            _add(overhead, result.outcome)
            if result.tensors:
                append_line(out / SCALES, json_text(_scales(state.step, result)))
            append_line(out / METRICS, json_text(_metrics(state.step, result, found)))
            if found is not None:
                validation = found or None
                scores = f"  validation: {run.task.line(found)}" if found else ""
                report(_validation_line(state.step, config.steps, result, scores))
                _check_scores(state.step, found)
            if _is_due(state.step, config.checkpoint_every, config):
                checkpoint = run.checkpoint(state, before + time.monotonic() - started)
                save_checkpoint(checkpoint_path(out, state.step), checkpoint)
                drop_old(out)
            if progress:
                progress.advance(1, f"loss {result.loss:.3f}")
    except DivergedError as error:
        diverged = error
    seconds = before + time.monotonic() - started
    summary = TrainSummary(config, state.step, validation, str(diverged or ""), seconds, overhead)
    write_json(out / "summary.json", asdict(summary))
    if diverged:
        raise diverged
    return summary


def _steps(run: Run, state: TrainState) -> Iterator[tuple[TrainState, StepResult, Scores | None]]:
    """Yield the remaining steps: the state after each, its result, and a validation at its interval."""
    every = run.config.scales_every
    for batch in run.batches(state.step):
        step = state.step + 1
        state, result = training_step(run, state, batch, trace=every > 0 and (step == 1 or step % every == 0))
        due = _is_due(step, run.config.evaluate_every, run.config)
        yield state, result, evaluate(run, state) if due else None


def _check_scores(step: int, scores: Scores) -> None:
    """Raise DivergedError if a validation score is not finite, as for the losses of steps."""
    for name, score in scores.items():
        if not math.isfinite(score):
            raise DivergedError(f"train: diverged at step {step}: {name} of the validation is {score}")


def _is_due(step: int, every: int, config: TrainConfig) -> bool:
    return step % every == 0 or step == config.steps


# --- the run's directory ----------------------------------------------------------------------------------------------


def _claim(out: Path, config: TrainConfig, data_digest: str, resume: bool) -> None:
    """Make the directory one of this run, or raise ArgumentError with the reason against it."""
    path = out / "config.json"
    if path.exists():
        if not resume:
            raise ArgumentError(f"train: {str(out)!r} already contains a run; --resume continues it")
        known, digest = read_config(out)
        differences = known.differences(config)
        if digest != data_digest:
            differences.append(f"the program {config.model} has changed" if config.task == "program" else "other data")
        if differences:
            raise ArgumentError(f"train: {str(out)!r} contains another run: {'; '.join(differences)}")
        return
    out.mkdir(parents=True, exist_ok=True)
    if any(out.glob("checkpoint-*.npz")) or (out / METRICS).exists():
        raise ArgumentError(f"train: {str(out)!r} contains files of a run but no config.json; choose another directory")
    write_json(path, {"config": asdict(config), "data": data_digest})


def read_config(out: str | Path) -> tuple[TrainConfig, str]:
    """Read the configuration of the run in a directory, and the digest of its data.

    Raises:
        DataError: there is no run, or its config.json is invalid.
    """
    path = Path(out) / "config.json"
    call = f"read_config({str(out)!r})"
    if not path.exists():
        raise DataError(f"{call}: contains no run, expected a directory with config.json")
    with reading(f"{call}: config.json", "train"):
        content = read_json(path, f"{call}: config.json")
        return TrainConfig.from_mapping(content["config"], call), str(content["data"])


def _latest(out: Path, run: Run, report: Report) -> tuple[TrainState, float]:
    """Return the state of the newest valid checkpoint, or the initial state."""
    lines = sum(1 for _ in _whole_lines(out / METRICS))
    for path in checkpoints(out):
        try:
            checkpoint = load_checkpoint(path)
            run.check(checkpoint, f"load_checkpoint({str(path)!r})")
            if checkpoint.state.step > lines:
                raise CheckpointError(
                    f"load_checkpoint({str(path)!r}): of step {checkpoint.state.step}, metrics.jsonl ends at {lines}"
                )
        except CheckpointError as error:
            report(f"refused: {error}")
            continue
        report(f"resumed from {path.name}")
        return checkpoint.state, checkpoint.seconds
    report("no checkpoint to resume from: starting at step 0")
    return run.initial_state(), 0.0


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a JSON-lines file up to the first incomplete one."""
    if not path.exists():
        return
    try:
        yield from read_json_lines(path, path.name)
    except DataError:
        return


def _cut(path: Path, step: int) -> None:
    """Remove the lines after ``step``."""
    if path.exists():
        kept = [json_text(line) + "\n" for line in _whole_lines(path) if line["step"] <= step]
        write_text(path, "".join(kept))


def _replay(metrics: Path, step: int) -> tuple[Scores | None, dict[str, int]]:
    """Return the last validation and the totals of overhead up to ``step``."""
    validation = None
    overhead = {f.name: 0 for f in fields(Outcome)}
    for line in _whole_lines(metrics):
        if line["step"] <= step:
            _add(overhead, Outcome(**line["scaling"]))
            if "validation" in line:
                validation = {name: float(score) for name, score in line["validation"].items()}
    return validation, overhead


# --- lines ------------------------------------------------------------------------------------------------------------


_PER_STEP = ("scales", "state")
"""Fields of an outcome that are levels, not amounts: the largest value is recorded, not the sum."""


def _add(overhead: dict[str, int], outcome: Outcome) -> None:
    for name, value in asdict(outcome).items():
        overhead[name] = max(overhead[name], int(value)) if name in _PER_STEP else overhead[name] + int(value)


def _metrics(step: int, result: StepResult, validation: Scores | None) -> dict[str, Any]:
    line = {
        "step": step,
        "loss": result.loss,
        **result.parts,
        "lr": result.lr,
        "loss_scale": result.loss_scale,
        "scaling": asdict(result.outcome),
        **({} if result.norm is None else {"norm": result.norm}),
    }
    return line | {"validation": validation} if validation else line


def _scales(step: int, result: StepResult) -> dict[str, Any]:
    tensors = [
        {"name": t.name, "kind": t.kind, "layer": t.layer, "role": t.role, "scale": t.scale, "judged": t.is_judged}
        for t in result.tensors
    ]
    return {"step": step, "tensors": tensors, "casts": [asdict(c) for c in result.casts]}


def _validation_line(step: int, steps: int, result: StepResult, scores: str) -> str:
    return f"step {step}/{steps}  loss {result.loss:.4f}  lr {result.lr:.3g}{scores}"
