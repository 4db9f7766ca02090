"""Batches of a text: sequences with BERT's two tasks, masked words and next sentence; pieces with the next token.

All randomness comes from the passed generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.data import IGNORE, Batch, Ids, TextBatch, Tokenizer, sentences
from refscale.errors import ArgumentError, DataError, counted


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Places where pairs of runs of sentences can be cut from a text.

    Attributes:
        tokens: the text, (words,).
        starts: start of each of n sentences, and end of the last one: (n + 1,).
        half: intended number of tokens of A.
        first, after: for each possible A, the index of its first sentence and of the one after its last.
    """

    tokens: Ids
    starts: NDArray[Any]
    half: int
    first: NDArray[Any]
    after: NDArray[Any]

    @classmethod
    def cut(cls, encoded: list[Ids], half: int) -> _Pairs:
        """Return the pairs: A takes whole sentences up to ``half`` tokens, leaving one after it and one elsewhere."""
        n = len(encoded)
        starts = np.cumsum([0, *(len(ids) for ids in encoded)])
        first = np.arange(max(n - 1, 0))
        after = np.minimum(np.searchsorted(starts, starts[first] + half), n - 1)
        fits = after - first + 1 < n
        tokens = np.concatenate([np.empty(0, np.int32), *encoded])
        return cls(tokens, starts, half, first[fits], after[fits])

    def draw(self, rng: np.random.Generator, room: int) -> tuple[Ids, Ids, bool]:
        """Return A, B and whether B follows A; together at most ``room`` tokens."""
        choice = rng.integers(len(self.first))
        first, after = self.first[choice], self.after[choice]
        follows = bool(rng.random() < 0.5)
        b = after
        if not follows:
            taken = after - first + 1  # neither in A nor right after it
            b = rng.integers(len(self.starts) - 1 - taken)
            b += taken if b >= first else 0
        # A loses its beginning, B its end, so their contact is kept. A random B from before A stops where A starts.
        end = self.starts[after]
        part_a = self.tokens[max(self.starts[first], end - self.half) : end]
        stop = self.starts[first] if b < first else len(self.tokens)
        part_b = self.tokens[self.starts[b] : min(stop, self.starts[b] + room - len(part_a))]
        return part_a, part_b, follows


def _hide(ids: Ids, places: NDArray[Any], mask: int, words: Ids, rng: np.random.Generator) -> None:
    """Replace the tokens at the places: 80 % by [MASK], 10 % by a random word, 10 % by themselves."""
    fate = rng.random(len(places))
    random_words = words[rng.integers(0, len(words), len(places))]
    ids[places] = np.where(fate < 0.8, mask, np.where(fate < 0.9, random_words, ids[places]))


def _make_batch(
    pairs: _Pairs, tokenizer: Tokenizer, words: Ids, batch: int, seq: int, p: int, rng: np.random.Generator
) -> Batch:
    pad, _, cls, sep, mask = tokenizer.specials
    ids = np.full((batch, seq), pad, np.int32)
    segments = np.zeros((batch, seq), np.int32)
    positions = np.zeros((batch, p), np.int32)
    labels = np.full((batch, p), IGNORE, np.int32)
    is_next = np.zeros(batch, np.int32)
    for row in range(batch):
        a, b, is_next[row] = pairs.draw(rng, seq - 3)
        tokens = np.concatenate([[cls], a, [sep], b, [sep]])
        ids[row, : len(tokens)] = tokens
        segments[row, len(a) + 2 : len(tokens)] = 1
        maskable = np.flatnonzero(~np.isin(ids[row], tokenizer.specials))
        chosen = np.sort(rng.choice(maskable, min(p, len(maskable)), replace=False))
        positions[row, : len(chosen)] = chosen
        labels[row, : len(chosen)] = ids[row, chosen]
        _hide(ids[row], chosen, mask, words, rng)
    return Batch(ids, segments, ids != pad, positions, labels, is_next)


def masked_lm_batches(
    text: str | Sequence[str | Ids],
    vocabulary: Tokenizer,
    *,
    batch: int,
    seq: int,
    rng: np.random.Generator,
    mask_share: float = 0.15,
) -> Iterator[Batch]:
    """Return an endless iterator of batches for BERT's two tasks.

    A is a run of sentences from a random place, about half of the sequence. B is the text after it or, with probability
    ½, a run from another place. Among the words of both, p = max(1, round(mask_share·seq)) are to be predicted (all, if
    there are fewer): 80 % are replaced by [MASK], 10 % by a random word, 10 % are unchanged. Special tokens, [UNK]
    among them, are never chosen.

    Args:
        text: a text, its sentences, or their ids.
        vocabulary: vocabulary of the words.
        batch: sequences per batch, ≥ 1.
        seq: tokens per sequence, ≥ 8.
        rng: source of all choices; equal states give equal batches.
        mask_share: p as a share of seq, in (0, 1].

    Returns:
        An iterator that never ends.

    Raises:
        ArgumentError: batch, seq or mask_share is out of range.
        DataError: the text has too few sentences for A, its continuation and another place; or none of its words is in
            the vocabulary.

    Source:
        Devlin et al. 2018 (arXiv 1810.04805), section 3.1 and Appendix A.1.
    """
    if batch < 1:
        raise ArgumentError(f"masked_lm_batches(batch={batch}): expected at least 1")
    if seq < 8:
        raise ArgumentError(f"masked_lm_batches(seq={seq}): expected at least 8")
    if not 0 < mask_share <= 1:
        raise ArgumentError(f"masked_lm_batches(mask_share={mask_share}): expected 0 < mask_share ≤ 1")
    parts = sentences(text) if isinstance(text, str) else text
    ids = (vocabulary.encode(part) if isinstance(part, str) else part for part in parts)
    encoded = [sentence for sentence in ids if len(sentence)]
    pairs = _Pairs.cut(encoded, (seq - 3) // 2)
    if not len(pairs.first):
        raise DataError(
            f"masked_lm_batches(seq={seq}): {counted(len(encoded), 'sentence')} of "
            f"{counted(len(pairs.tokens), 'word')} together, expected {counted(pairs.half, 'word')}, "
            "a sentence that follows them and one elsewhere "
            "(a sentence ends at . ? ! before white space, or at a blank line)"
        )
    if np.isin(pairs.tokens, vocabulary.specials).all():
        raise DataError(
            f"masked_lm_batches: none of {counted(len(pairs.tokens), 'word')} is in the vocabulary, expected some"
        )
    p = max(1, round(mask_share * seq))
    words = np.setdiff1d(np.arange(len(vocabulary), dtype=np.int32), vocabulary.specials)

    def generate() -> Iterator[Batch]:
        while True:
            yield _make_batch(pairs, vocabulary, words, batch, seq, p, rng)

    return generate()


def _pieces(tokens: Ids, starts: Sequence[int], seq: int, overlap: int) -> TextBatch:
    """Return pieces whose tokens are to be predicted from each start on, after ``overlap`` tokens of context."""
    ids = np.zeros((len(starts), seq), np.int32)
    labels = np.full((len(starts), seq), IGNORE, np.int32)
    for row, start in enumerate(starts):
        begin = max(0, start - overlap)
        piece = tokens[begin : start + seq - overlap]
        ids[row, : len(piece)] = piece
        labels[row, start - begin : len(piece)] = piece[start - begin :]
    return TextBatch(ids, labels)


def _check_pieces(call: str, tokens: Ids, batch: int, seq: int, overlap: int) -> None:
    if batch < 1 or not 0 < overlap < seq:
        raise ArgumentError(
            f"{call}(batch={batch}, seq={seq}, overlap={overlap}): expected batch ≥ 1, 0 < overlap < seq"
        )
    if len(tokens) < seq:
        raise DataError(f"{call}: a text of {counted(len(tokens), 'token')}, expected at least {seq}, one sequence")


def text_batches(tokens: Ids, *, batch: int, seq: int, overlap: int, rng: np.random.Generator) -> Iterator[TextBatch]:
    """Return an endless iterator of batches of pieces from random places of a text.

    Args:
        tokens: the text, (tokens,).
        batch: number of pieces in each batch.
        seq: tokens of a piece: ``overlap`` of context, then tokens to be predicted.
        overlap: tokens of context, 1 … seq − 1.
        rng: source of all places.

    Raises:
        ArgumentError: a number is out of range.
        DataError: the text is shorter than a piece.

    Source: paper, character models (8 pieces of 256, 32 of them context).
    """
    _check_pieces("text_batches", tokens, batch, seq, overlap)

    def generate() -> Iterator[TextBatch]:
        while True:
            yield _pieces(tokens, rng.integers(0, len(tokens) - (seq - overlap), batch).tolist(), seq, overlap)

    return generate()


def text_windows(tokens: Ids, *, batch: int, seq: int, overlap: int, most: int | None = None) -> list[TextBatch]:
    """Return a whole text in overlapping pieces: every token is predicted once; the last batch may be smaller.

    Arguments and errors are those of ``text_batches``. ``most`` is the largest number of batches; None: all.
    """
    _check_pieces("text_windows", tokens, batch, seq, overlap)
    starts = range(0, len(tokens), seq - overlap)
    firsts = range(0, len(starts), batch)[:most]
    return [_pieces(tokens, starts[i : i + batch], seq, overlap) for i in firsts]
