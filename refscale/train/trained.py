"""Loading a trained model from a directory: a published model, or a run of ``train``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from refscale import published
from refscale.errors import CheckpointError
from refscale.tasks import Data, MaskedLM, SpanData, get_task
from refscale.train.checkpoint import checkpoints, newest


def load_trained(directory: str | Path, text: str | Path | None = None) -> published.Pretrained:
    """Load a trained model.

    Args:
        directory: directory of a published BERT, see ``published.load_pretrained``; or of a run of ``train``, whose
            newest checkpoint is used.
        text: text of that run, for its vocabulary; None: the text that comes with Python.

    Returns:
        The model; ``scheme`` is the name of the scheme of its training.

    Raises:
        ArgumentError, CheckpointError, DataError: the model cannot be read, see ``published.load_pretrained``; or the
            run is of another task, or on another text.
    """
    if not checkpoints(Path(directory)):
        return published.load_pretrained(directory)
    call = f"load_trained({str(directory)!r})"
    checkpoint = newest(directory)
    config = checkpoint.config
    if config.task != "masked-lm":
        raise CheckpointError(f"{call}: a run of {config.task!r}, expected one of 'masked-lm'")
    task = get_task(config.task, config.setup, text)
    assert isinstance(task, MaskedLM)
    if task.digest != checkpoint.data_digest:
        raise CheckpointError(f"{call}: trained on another text, with another vocabulary")
    return published.Pretrained(
        task.model, checkpoint.state.parameters, task.vocabulary, checkpoint.digest, checkpoint.config.scheme
    )


def with_weights(data: Data) -> Data:
    """Return the data of a task, with the trained model itself instead of its directory.

    Raises:
        ArgumentError, CheckpointError, DataError: as in ``load_trained``.
    """
    if isinstance(data, SpanData) and not isinstance(data.pretrained, published.Pretrained):
        return replace(data, pretrained=load_trained(data.pretrained, data.text))
    return data
