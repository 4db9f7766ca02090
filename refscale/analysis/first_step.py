"""One training step of a model at initialization, every tensor in figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from refscale.analysis.predict import predict
from refscale.engine import Tape, Tensor, backward
from refscale.errors import ArgumentError
from refscale.files import path_text
from refscale.formats import get_format
from refscale.layers import count, on_tape
from refscale.models import Config, family, get_config
from refscale.precision import Precision, fp32, get_precision
from refscale.progress import Progress
from refscale.scales import Constraint, Scheme, get_constraint, get_scheme
from refscale.stats.measurement import REPORT_FORMATS
from refscale.stats.report import Report
from refscale.stats.trace import PredictedScales, TensorProbe, summarize_casts
from refscale.tasks import Setup, Task, get_task, kind_of


def report(
    model: str | Config,
    scheme: str | Scheme,
    precision: str | Precision = fp32,
    *,
    constraint: str | Constraint | None = None,
    batch: int = 8,
    seq: int = 128,
    seed: int = 0,
    text: str | Path | None = None,
    formats: Sequence[str] = REPORT_FORMATS,
    progress: Progress | None = None,
) -> Report:
    """One training step's tensors at initialization, on real text.

    Args:
        model: as ``models.get_config`` reads it, or a configuration.
        scheme: a name, or a scheme.
        precision: a name, a mix (see ``get_precision``), or a policy; all but fp32 also count what casts lost.
        constraint: one of ``scales.CONSTRAINTS`` or its name, in place of the configuration's.
        batch: sequences.
        seq: tokens in each.
        seed: of initial weights and of the choice of text (and of masked words).
        text: path of a UTF-8 text file; None for the text that comes along.
        formats: count what a cast of each tensor to these would lose.
        progress: advanced by the parameters' elements in millions, forward and backward; ``work`` is the total.

    Returns:
        The report.

    Raises:
        ArgumentError: an unknown name, or sizes below 1.
        ShapeError: seq is longer than the model's positions.
        DataError: the text cannot be used.
        OSError: the file cannot be read.
    """
    config = get_config(model) if isinstance(model, str) else model
    if constraint is not None:
        config = replace(config, constraint=get_constraint(constraint))
    scheme, precision = get_scheme(scheme), get_precision(precision)
    if batch < 1 or seq < 1 or seed < 0:
        raise ArgumentError(f"report(batch={batch}, seq={seq}, seed={seed}): expected batch, seq ≥ 1, seed ≥ 0")
    formats = tuple(get_format(f).name for f in formats)
    task = first_task(config, scheme, text, batch, seq)
    data = next(task.batches(np.random.default_rng(seed)))
    trace = TensorProbe(task.specs, formats, progress)
    rounding = np.random.default_rng([seed, 1])
    tape = Tape(scheme, precision, probe=trace, count_casts=precision != fp32, rng=rounding)
    parameters = task.initial_parameters(np.random.default_rng(seed))
    losses = task.loss(on_tape(tape, parameters, task.specs), data)
    backward(losses.total)
    initial_std = family(config).initial_std
    matrices = {name: spec for name, spec in task.specs.items() if len(spec.shape) > 1}
    std = {name: scheme.initial_std(initial_std(config, spec)) for name, spec in matrices.items()}
    return Report(
        model=model if isinstance(model, str) else type(model).__name__,
        scheme=scheme.name,
        precision=precision.name,
        constraint=config.constraint.__name__,
        batch=batch,
        seq=seq,
        seed=seed,
        text="built-in" if text is None else path_text(text),
        formats=formats,
        losses=trace.losses,
        tensors=trace.tensors(losses.total, scheme, _predicted(losses.total, std)),
        casts=summarize_casts(tape.casts),
    )


def _predicted(output: Tensor, std: Mapping[str, float]) -> PredictedScales:
    """σ of every tensor of a graph whose leaves have the given ones."""
    prediction = predict(output, std)
    return PredictedScales(
        values={variable: kernel.std for variable, kernel in prediction.values.items()},
        gradients={variable: kernel.std for variable, kernel in prediction.gradients.items()},
    )


def work(model: str) -> float:
    """What ``report`` adds up to in its ``progress``.  Raises ArgumentError for an unknown name."""
    config = get_config(model)
    return 2 * count(family(config).specs(config)) / 1e6


def first_task(config: Config, scheme: Scheme, text: str | Path | None, batch: int, seq: int) -> Task:
    """What a model is made for, on all of a text.  Raises ArgumentError, DataError, OSError."""
    setup = Setup(model=config, scheme=scheme, batch=batch, seq=seq, held_out=0.0, fit=False)
    return get_task(kind_of(config).name, setup, text)
