"""A checkpoint as a report: statistics of every tensor of its next step."""

from __future__ import annotations

from pathlib import Path

from refscale.errors import CheckpointError, counted
from refscale.files import path_text
from refscale.progress import Progress
from refscale.stats.measurement import REPORT_FORMATS
from refscale.stats.report import Report
from refscale.stats.trace import TensorProbe, summarize_casts
from refscale.train.checkpoint import Checkpoint
from refscale.train.run import Run
from refscale.train.step import forward_backward


def checkpoint_report(
    checkpoint: Checkpoint, *, text: str | Path | None = None, progress: Progress | None = None
) -> Report:
    """Measure one forward and backward pass from a checkpoint, on the first validation batch of its run.

    A program without a validation runs its first batch.

    Args:
        checkpoint: result of ``load_checkpoint`` or ``newest``.
        text: text of the run, if not the one that comes with Python.
        progress: progress bar, advanced by the parameters' elements in millions, forward and backward.

    Returns:
        The report.

    Raises:
        CheckpointError: the text differs from the run's, or the run is not on a text.
        DataError: the text is not usable.
    """
    config, state = checkpoint.config, checkpoint.state
    is_program = config.task == "program"
    if config.task == "squad":
        raise CheckpointError(f"checkpoint_report: of a run of {config.task!r}, expected one on a text")
    run = Run.of(config, text)
    run.check(checkpoint, "checkpoint_report")
    trace = TensorProbe(run.specs, REPORT_FORMATS, progress)
    batch = run.validation[0] if run.validation else next(run.batches(0))
    result = forward_backward(run, state, batch, probe=trace, count_casts=config.precision != "fp32")
    return Report(
        model=f"{config.model} after {counted(state.step, 'step')}",
        scheme=run.scheme.name,
        precision=config.precision if config.scaling == "none" else f"{config.precision} {config.scaling}",
        constraint="" if is_program else config.constraint,
        batch=None if is_program else config.batch,
        seq=None if is_program else config.seq,
        seed=config.seed,
        text="" if is_program else "built-in" if text is None else path_text(text),
        formats=REPORT_FORMATS,
        losses=trace.losses,
        tensors=trace.tensors(result.losses.total, run.scheme),
        casts=summarize_casts(result.tape.casts),
    )
