"""One training step of a BERT at initialization, every tensor in figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from refscale.analysis.predict import predict
from refscale.analysis.report import Report
from refscale.analysis.stats import REPORT_FORMATS
from refscale.analysis.trace import Trace, summarize_casts
from refscale.data import Batch, Vocabulary, load_text, masked_lm_batches
from refscale.engine import Tape, backward
from refscale.errors import ArgumentError
from refscale.formats import get_format
from refscale.layers import count
from refscale.models import bert
from refscale.precision import Precision, fp32, get_precision
from refscale.progress import Progress
from refscale.scales import Scheme, get_constraint, get_scheme


def record(
    model: str | bert.BertConfig,
    scheme: str | Scheme,
    precision: str | Precision = fp32,
    *,
    constraint: str | None = None,
    batch: int = 8,
    seq: int = 128,
    seed: int = 0,
    text: str | Path | None = None,
    formats: Sequence[str] = REPORT_FORMATS,
    progress: Progress | None = None,
) -> Report:
    """One pre-training step's tensors at initialization, on real text.

    Args:
        model: a name in ``bert.CONFIGS``, or a configuration.
        scheme: a name, or a scheme.
        precision: a name, a mix (see ``get_precision``), or a policy; all but fp32 also count what casts lost.
        constraint: name of one in ``scales.CONSTRAINTS``, in place of the configuration's.
        batch: sequences.
        seq: tokens in each.
        seed: of initial weights and of the choice of text and masked words.
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
    config = bert.get_config(model) if isinstance(model, str) else model
    if constraint is not None:
        config = replace(config, constraint=get_constraint(constraint))
    scheme = get_scheme(scheme) if isinstance(scheme, str) else scheme
    precision = get_precision(precision) if isinstance(precision, str) else precision
    if batch < 1 or seq < 1 or seed < 0:
        raise ArgumentError(f"record(batch={batch}, seq={seq}, seed={seed}): expected batch, seq ≥ 1, seed ≥ 0")
    formats = tuple(get_format(f).name for f in formats)
    data = first_batch(config, text, batch, seq, seed)
    trace = Trace(bert.specs(config), formats, progress)
    rounding = np.random.default_rng([seed, 1])
    tape = Tape(scheme, precision, probe=trace, count_casts=precision != fp32, rng=rounding)
    parameters = bert.initial_parameters(config, scheme, np.random.default_rng(seed))
    losses = bert.pretraining_loss(bert.parameters_on(tape, parameters, config), data, config)
    backward(losses.total)
    return Report(
        model=model if isinstance(model, str) else "bert",
        scheme=scheme.name,
        precision=precision.name,
        constraint=config.constraint.__name__,
        batch=batch,
        seq=seq,
        seed=seed,
        text="built-in" if text is None else str(text),
        formats=formats,
        losses=trace.losses,
        tensors=trace.tensors(losses.total, scheme, predict(losses.total, scheme.initial_std(config.std))),
        casts=summarize_casts(tape.casts),
    )


def work(model: str) -> float:
    """What ``record`` adds up to in its ``progress``.  Raises ArgumentError for an unknown name."""
    return 2 * count(bert.specs(bert.get_config(model))) / 1e6


def first_batch(config: bert.BertConfig, path: str | Path | None, batch: int, seq: int, seed: int) -> Batch:
    """The first batch of a text, with the model's vocabulary.  Raises ArgumentError, DataError, OSError."""
    text = load_text(path)
    vocabulary = Vocabulary.from_text(text, config.vocabulary)
    rng = np.random.default_rng(seed)
    return next(iter(masked_lm_batches(text, vocabulary, batch=batch, seq=seq, rng=rng)))
