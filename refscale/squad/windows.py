"""Questions with their contexts as sequences of tokens; a long context is split into several windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refscale.data import Ids, SpanBatch, Tokenizer
from refscale.errors import ArgumentError, DataError, counted
from refscale.squad.questions import Question


@dataclass(frozen=True, eq=False)
class Windows:
    """All windows of a set of questions, in the order of the questions.

    Attributes:
        ids, segments, mask, starts, ends: fields as in a ``SpanBatch``, for n windows.
        question: (n,), index of the question.
        offsets: (n, seq, 2): start and stop of each token of the context, in characters; −1 at all others.
    """

    ids: Ids
    segments: Ids
    mask: NDArray[np.bool_]
    starts: Ids
    ends: Ids
    question: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, index: NDArray[np.integer]) -> SpanBatch:
        """Return the windows at the given indices, cut to the longest one."""
        seq = int(self.mask[index].sum(-1).max())
        return SpanBatch(
            self.ids[index, :seq],
            self.segments[index, :seq],
            self.mask[index, :seq],
            self.starts[index],
            self.ends[index],
        )

    def draw(self, rng: np.random.Generator, size: int) -> SpanBatch:
        """Return random windows, all different unless there are too few."""
        return self.batch(rng.choice(len(self), size, replace=size > len(self)))


def windows(
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    *,
    seq: int,
    stride: int | None = None,
    longest_question: int = 64,
) -> Windows:
    """Return ``[CLS] question [SEP] part of the context [SEP] [PAD] …`` for every part of every context.

    Args:
        questions: questions, at least one.
        tokenizer: tokenizer of the model.
        seq: tokens of a window.
        stride: tokens between the starts of consecutive parts, at most the length of a part; None: half of that length.
            The last window ends with the context.
        longest_question: largest number of tokens of a question; longer ones are cut.

    Returns:
        Windows. A window that contains all of the first answer has as labels the tokens that the answer overlaps; any
        other has 0, the [CLS], as do all windows of an unanswerable question.

    Raises:
        ArgumentError: a window leaves no space for a context, or the stride would skip tokens.
        DataError: there is no question, or the context of one has no token.

    Source: Devlin et al. 2018, SQuAD v1.1; its program's ``doc_stride``.
    """
    if not questions:
        raise DataError("windows: no question, expected at least one")
    pad, _, cls, sep, _ = tokenizer.specials
    contexts: dict[str, tuple[Ids, NDArray[np.int64]]] = {}
    rows: list[tuple[int, Ids, int, int, int]] = []
    for number, q in enumerate(questions):
        if q.context not in contexts:
            contexts[q.context] = tokenizer.spans(q.context)
        asked, (tokens, _) = tokenizer.encode(q.question)[:longest_question], contexts[q.context]
        if not len(tokens):
            raise DataError(f"windows: the context of question {q.id!r} has no token")
        room = seq - len(asked) - 3
        step = max(1, room // 2) if stride is None else stride
        if not 1 <= step <= room:
            raise ArgumentError(
                f"windows(seq={seq}, stride={stride}): a question of {counted(len(asked), 'token')} leaves "
                f"room for {room}, expected 1 ≤ stride ≤ room"
            )
        for first in _firsts(len(tokens), room, step):
            rows.append((number, asked, first, min(first + room, len(tokens)), len(asked) + 2))
    shape = (len(rows), seq)
    ids, segments = np.full(shape, pad, np.int32), np.zeros(shape, np.int32)
    mask, offsets = np.zeros(shape, np.bool_), np.full((*shape, 2), -1, np.int64)
    labels = np.zeros((len(rows), 2), np.int32)
    for row, (number, asked, first, last, at) in enumerate(rows):
        tokens, spans = contexts[questions[number].context]
        end = at + last - first
        ids[row, : end + 1] = np.concatenate([[cls], asked, [sep], tokens[first:last], [sep]])
        segments[row, at : end + 1] = 1
        mask[row, : end + 1] = True
        offsets[row, at:end] = spans[first:last]
        labels[row] = _label(questions[number], spans, first, last, at)
    return Windows(
        ids=ids,
        segments=segments,
        mask=mask,
        starts=labels[:, 0],
        ends=labels[:, 1],
        question=np.array([r[0] for r in rows]),
        offsets=offsets,
    )


def _firsts(tokens: int, room: int, step: int) -> list[int]:
    """Return the starts of windows: every ``step`` tokens, until one reaches the end."""
    return [0, *range(step, tokens - room + step, step)]


def _label(q: Question, spans: NDArray[np.int64], first: int, last: int, at: int) -> tuple[int, int]:
    """Return positions of the first and last token that the answer overlaps; 0, 0 if it is absent or not all inside."""
    if not q.answers:
        return 0, 0
    start, stop = q.answers[0].start, q.answers[0].start + len(q.answers[0].text)
    inside = np.flatnonzero((spans[:, 1] > start) & (spans[:, 0] < stop))
    if not inside.size or inside[0] < first or inside[-1] >= last:
        return 0, 0
    return at + int(inside[0]) - first, at + int(inside[-1]) - first
