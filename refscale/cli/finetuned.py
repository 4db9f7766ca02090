"""Results of a fine-tuned model: its answers, and the model in published form."""

from __future__ import annotations

from pathlib import Path

from refscale import published
from refscale.errors import ArgumentError
from refscale.files import write_json
from refscale.published import SubWords
from refscale.tasks import SpanData, SpanExtraction
from refscale.train import Run, TrainConfig, newest, observe


def write(
    config: TrainConfig,
    data: SpanData,
    out: str | Path,
    predictions: str | None,
    null_odds: str | None,
    save: str | None,
) -> None:
    """Write the answers, the log-odds of no answer and the model of a run's newest checkpoint, each to its path."""
    run, state = Run.of(config, data), newest(out).state
    task = run.task
    if not isinstance(task, SpanExtraction):
        raise ArgumentError(f"finetuned.write(task={config.task!r}): expected 'squad'")
    if save:
        published.save_pretrained(save, task.model, task.regular(state.parameters), _published(task))
    observed = observe(run, state, run.validation) if predictions or null_odds else []
    if predictions:
        write_json(predictions, task.answers(observed))
    if null_odds:
        write_json(null_odds, {key: c.null_odds for key, c in task.candidates(observed).items()})


def _published(task: SpanExtraction) -> SubWords | None:
    return task.tokenizer if isinstance(task.tokenizer, SubWords) else None
