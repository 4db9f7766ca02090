"""What is left of a fine-tuned model: its answers, and itself in published form."""

from __future__ import annotations

from pathlib import Path

from refscale import published
from refscale.errors import ArgumentError
from refscale.files import write_json
from refscale.published import SubWords
from refscale.tasks import SpanData, SpanExtraction
from refscale.train import Run, TrainConfig, newest, observe


def write(config: TrainConfig, data: SpanData, out: str | Path, predictions: str | None, save: str | None) -> None:
    """Write the answers of a run's newest checkpoint, and the model, each where a path is given."""
    run, state = Run.of(config, data), newest(out).state
    task = run.task
    if not isinstance(task, SpanExtraction):
        raise ArgumentError(f"finetuned.write(task={config.task!r}): expected 'squad'")
    if save:
        published.save_pretrained(save, task.model, task.regular(state.parameters), _published(task))
    if predictions:
        write_json(predictions, task.answers(observe(run, state, run.validation)))


def _published(task: SpanExtraction) -> SubWords | None:
    return task.tokenizer if isinstance(task.tokenizer, SubWords) else None
