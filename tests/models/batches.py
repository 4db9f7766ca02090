"""Batches for BERT: random tokens of any shape, and real text."""

from __future__ import annotations

from functools import cache

import numpy as np

from refscale.data import IGNORE, PAD, Batch, Vocabulary, load_text, sentences
from refscale.models.bert import BertConfig
from refscale.tasks import masked_lm_batches


def random_batch(
    config: BertConfig,
    rng: np.random.Generator,
    size: int = 4,
    seq: int = 32,
    predictions: int = 5,
    *,
    pad: bool = True,
) -> Batch:
    """Uniform tokens in two segments; every second sequence is padded, and has a prediction that does not count."""
    ids = rng.integers(5, config.vocabulary, (size, seq))
    mask = np.ones((size, seq), np.bool_)
    short = seq - seq // 4 if pad else seq
    mask[1::2, short:] = False
    ids[~mask] = 0
    segments = (np.arange(seq) >= seq // 2) & mask
    positions = np.sort(rng.permuted(np.tile(np.arange(1, short), (size, 1)), axis=1)[:, :predictions], axis=1)
    labels = np.take_along_axis(ids, positions, 1)
    if pad:
        labels[1::2, -1] = IGNORE
    return Batch(
        ids=ids,
        segments=segments.astype(np.int64),
        mask=mask,
        positions=positions,
        labels=labels,
        is_next=rng.integers(0, 2, size),
    )


@cache
def text_batch(vocabulary: int, size: int = 4, seq: int = 32) -> Batch:
    """The first batch of real text (Python's own help), the same for every caller.

    Text of this length fills its sequences; the last one is cut to half here, so that padding and labels that do not
    count take part.
    """
    text = load_text()
    words = Vocabulary.from_text(text, vocabulary)
    whole = next(masked_lm_batches(sentences(text), words, batch=size, seq=seq, rng=np.random.default_rng(0)))
    kept = np.ones((size, seq), np.bool_)
    kept[-1, seq // 2 :] = False
    beyond = ~np.take_along_axis(kept, whole.positions, 1)
    return Batch(
        ids=np.where(kept, whole.ids, PAD),
        segments=np.where(kept, whole.segments, 0),
        mask=whole.mask & kept,
        positions=np.where(beyond, 0, whole.positions),
        labels=np.where(beyond, IGNORE, whole.labels),
        is_next=whole.is_next,
    )
