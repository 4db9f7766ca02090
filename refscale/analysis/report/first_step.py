"""One training step of a model or program at initialization, with statistics of every tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from refscale.adapt import adapted_program
from refscale.analysis.predict import initial_stds, predict
from refscale.engine import Tape, backward
from refscale.errors import ArgumentError
from refscale.files import path_text
from refscale.formats import get_format
from refscale.layers import count
from refscale.models import Config, family, get_config
from refscale.models.bert import BertConfig
from refscale.models.language import LanguageConfig
from refscale.precision import Precision, fp32, get_precision
from refscale.prediction import Prediction
from refscale.programs import Program, check_program, first_loss, is_place, load_program, name_of
from refscale.progress import Progress
from refscale.scales import Constraint, Scheme, get_constraint, get_scheme, regular
from refscale.stats.causes import causes
from refscale.stats.measurement import REPORT_FORMATS
from refscale.stats.report import Report
from refscale.stats.trace import PredictedScales, TensorProbe, summarize_casts
from refscale.tasks import Setup, get_task, kind_of

ADAPTED = "adapted"
"""Name, in place of a scheme, of the adaptation by ``refscale.adapt``."""


def report(
    model: str | Config | Program,
    scheme: str | Scheme,
    precision: str | Precision = fp32,
    *,
    constraint: str | Constraint | None = None,
    batch: int | None = None,
    seq: int | None = None,
    seed: int = 0,
    text: str | Path | None = None,
    formats: Sequence[str] = REPORT_FORMATS,
    progress: Progress | None = None,
) -> Report:
    """Measure the tensors of one training step at initialization, on real data.

    Args:
        model: a name for ``models.get_config``, or a configuration; a program, or its place, such as "mine.py:model".
        scheme: a scheme or its name; "adapted" treats the initial parameters as trained ones, see ``refscale.adapt``.
        precision: a name, a mix (see ``get_precision``), or a policy; all but fp32 also count clipped and flushed
            elements of casts.
        constraint: one of ``scales.CONSTRAINTS`` or its name, instead of the configuration's.
        batch: sequences; default: 8.
        seq: tokens in each; default: 128.
        seed: random seed of initial weights, of the choice of data and of masked words.
        text: path of a UTF-8 text file; None: the text that comes with Python.
        formats: narrow formats in which overflow and underflow of every tensor are counted.
        progress: progress bar; it advances by the number of elements (in millions) of each parameter, once in the
            forward and once in the backward pass, up to the total ``work(model)``.

    Returns:
        The report.

    Raises:
        ArgumentError: a name is unknown, a size is below 1, or constraint, batch, seq or text is given for a program.
        ShapeError: seq is longer than the model's positions.
        DataError: the text is not usable.
        ProgramError: the program cannot be loaded, or does not return a scalar loss.
        OSError: the file cannot be read.
    """
    precision = get_precision(precision)
    sizes = _sizes(batch, seq)
    if min(*sizes, seed + 1) < 1:
        raise ArgumentError(f"report(batch={sizes[0]}, seq={sizes[1]}, seed={seed}): expected batch, seq ≥ 1, seed ≥ 0")
    formats = tuple(get_format(f).name for f in formats)
    first = first_step("report", model, scheme, constraint=constraint, batch=batch, seq=seq, text=text, seed=seed)
    program, scheme = first.program, first.scheme
    trace = TensorProbe(program.specs, formats, progress)
    rounding = np.random.default_rng([seed, 1])
    tape = Tape(scheme, precision, probe=trace, count_casts=precision != fp32, rng=rounding)
    losses = first_loss(program, tape, seed)
    backward(losses.total)
    prediction = predict(losses.total, initial_stds(program, scheme))
    tensors = trace.tensors(losses.total, scheme, _scales_of(prediction))
    return Report(
        model=first.name,
        scheme=scheme.name,
        precision=precision.name,
        constraint=first.constraint,
        batch=first.batch,
        seq=first.seq,
        seed=seed,
        text=first.text,
        formats=formats,
        losses=trace.losses,
        tensors=tensors,
        casts=summarize_casts(tape.casts),
        rules=dict(tape.rounder.calls_by_rule),
        causes=causes(losses.total, prediction, trace.outside(tensors)),
    )


def _scales_of(prediction: Prediction) -> PredictedScales:
    """Return σ of every tensor of a predicted graph."""
    return PredictedScales(
        values={variable: kernel.std for variable, kernel in prediction.values.items()},
        gradients={variable: kernel.std for variable, kernel in prediction.gradients.items()},
    )


def work(model: str | Program) -> float:
    """Return the total of ``progress`` in ``report``; raise ArgumentError or ProgramError for an unknown name."""
    if isinstance(model, str) and not is_place(model):
        config = get_config(model)
        return 2 * count(family(config).specs(config)) / 1e6
    program = load_program(model) if isinstance(model, str) else model
    return 2 * count(program.specs) / 1e6


@dataclass(frozen=True, eq=False)
class FirstStep:
    """A program to run once at initialization, with the fields that a report needs.

    Attributes:
        program: a built-in model with its text, or a user's program.
        scheme: the scheme, or the program's own.
        name: name of the model.
        constraint, batch, seq, text: those of a built-in model; empty or None for a user's program.
    """

    program: Program
    scheme: Scheme
    name: str
    constraint: str = ""
    batch: int | None = None
    seq: int | None = None
    text: str = ""


def _sizes(batch: int | None, seq: int | None) -> tuple[int, int]:
    """Return sequences, and tokens in each, with the defaults of a built-in model."""
    return 8 if batch is None else batch, 128 if seq is None else seq


def first_step(
    call: str,
    model: str | Config | Program,
    scheme: str | Scheme,
    *,
    constraint: str | Constraint | None = None,
    batch: int | None = None,
    seq: int | None = None,
    text: str | Path | None = None,
    seed: int = 0,
) -> FirstStep:
    """Set up a model at initialization; arguments and errors are those of ``report``."""
    if scheme == ADAPTED:
        first = first_step(call, model, regular, constraint=constraint, batch=batch, seq=seq, text=text)
        adapted = adapted_program(first.program, seed)
        return replace(first, program=adapted, scheme=adapted.scheme)
    scheme = get_scheme(scheme)
    if isinstance(model, str) and is_place(model):
        model = load_program(model)
    if isinstance(model, str | BertConfig | LanguageConfig):
        name = model if isinstance(model, str) else type(model).__name__
        config = get_config(model) if isinstance(model, str) else model
        if constraint is not None:
            config = replace(config, constraint=get_constraint(constraint))
        batch, seq = _sizes(batch, seq)
        setup = Setup(model=config, scheme=scheme, batch=batch, seq=seq, held_out=0.0, fit=False)
        program = get_task(kind_of(config).name, setup, text)
        shown = "built-in" if text is None else path_text(text)
        return FirstStep(program, scheme, name, config.constraint.__name__, batch, seq, shown)
    program = check_program(model, call)
    given = {"constraint": constraint, "batch": batch, "seq": seq, "text": text}
    if names := [name for name, value in given.items() if value is not None]:
        raise ArgumentError(f"{call}({names[0]}={given[names[0]]!r}): expected None, as a program defines it itself")
    return FirstStep(program, program.scheme or scheme, name_of(program))
