"""Text as tokens, words or characters, and what a batch of them is; ``refscale.tasks`` draws batches.

Enough to pre-train on text that comes with Python itself, without a download.  A published model brings its own
tokenizer of sub-words, see ``published.load_pretrained``; what is asked of one is ``Tokenizer``.  All randomness comes
from the generator that is passed in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.arrays import plain
from refscale.errors import ArgumentError, DataError, counted
from refscale.files import read_text

__all__ = [
    "CLS",
    "IGNORE",
    "MASK",
    "PAD",
    "SEP",
    "SPECIALS",
    "UNK",
    "Batch",
    "Characters",
    "Ids",
    "SpanBatch",
    "TextBatch",
    "Tokenizer",
    "Vocabulary",
    "load_text",
    "sentences",
]

Ids = NDArray[np.int32]

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Tokens that stand for no word; their ids are 0 … 4.  No token of a text is spelled so: ``[`` is one by itself."""

PAD, UNK, CLS, SEP, MASK = range(len(SPECIALS))

IGNORE = -100
"""Label of a place that counts for nothing."""

_TOKEN = r"[^\W\d_]+|\d+|_|[^\w\s]"  # letters, digits, or one mark
_SENTENCE_END = r"(?<=[.?!])\s+|\n\s*\n"

# --- Text -------------------------------------------------------------------------------------------------------------


def load_text(path: str | Path | None = None) -> str:
    """Text to train on: a file, or by default the language reference that comes with Python.

    Args:
        path: a UTF-8 file, at most ``files.DATA`` bytes.  None: the help topics of ``pydoc``, about 460 000 characters,
            joined in the order of their names; they differ a little from one Python version to the next.

    Returns:
        The text, not empty, without a byte order mark.

    Raises:
        DataError: the file is missing, is a directory, cannot be read, holds nothing but white space, or is not UTF-8;
            or this Python was installed without its help topics.
    """
    if path is None:
        try:
            from pydoc_data.topics import topics  # imported late: 0.5 MB that few callers need
        except ImportError as error:
            raise DataError("load_text(): this Python has no pydoc_data, expected a path to a UTF-8 file") from error
        return "\n\n".join(topics[name] for name in sorted(topics))
    call = f"load_text({str(path)!r})"
    try:
        text = read_text(path, call)
    except OSError as error:
        raise DataError(f"{call}: cannot be read ({error.strerror}), expected a UTF-8 file") from error
    if not text.strip():
        count = counted(len(text), "character")
        raise DataError(f"{call}: holds no text ({count}), expected a UTF-8 file with words")
    return text


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order.

    A sentence ends at ``.``, ``?`` or ``!`` before white space, or at a blank line.  (So ``e.g. this`` is split: a
    simple rule, good enough for runs of sentences.)

    Args:
        text: any text.

    Returns:
        Sentences with their marks, white space collapsed to single spaces, none empty.
    """
    parts = (" ".join(part.split()) for part in re.split(_SENTENCE_END, text))
    return [part for part in parts if part]


class Tokenizer(Protocol):
    """What batches ask of a vocabulary: ``Vocabulary``, or that of a published model."""

    @property
    def specials(self) -> tuple[int, int, int, int, int]:
        """Ids of [PAD], [UNK], [CLS], [SEP], [MASK]."""

    def __len__(self) -> int:
        """How many tokens there are; ids are 0 … len−1."""

    def encode(self, text: str) -> Ids:
        """(tokens,) int32: the ids of a text, none added at its ends."""

    def spans(self, text: str) -> tuple[Ids, NDArray[np.int64]]:
        """The ids, and (tokens, 2): where each token starts and stops, in characters of the text."""


def _words(text: str) -> list[str]:
    return re.findall(_TOKEN, text.lower())


def _characters_of_lower(text: str) -> NDArray[np.int64]:
    """Of each character of ``text.lower()``, its place in ``text``.  İ alone becomes two (Unicode, SpecialCasing)."""
    codes = _code_points(text)
    return np.repeat(np.arange(codes.size), 1 + (codes == ord("İ")))


@dataclass(frozen=True)
class Vocabulary:
    """Words and their ids, which are their places in ``tokens``.

    Attributes:
        tokens: the five of ``SPECIALS``, then at least one word; all different.
    """

    tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.tokens[: len(SPECIALS)] != SPECIALS or len(self.tokens) == len(SPECIALS):
            raise ArgumentError(f"Vocabulary: tokens start {self.tokens[:6]}, expected {SPECIALS} and then words")
        if len(set(self.tokens)) < len(self.tokens):
            word = next(word for word, count in Counter(self.tokens).items() if count > 1)
            raise ArgumentError(f"Vocabulary: {word!r} occurs more than once, expected different tokens")

    @classmethod
    def from_text(cls, text: str, size: int) -> Vocabulary:
        """The most frequent words of a text; of equally frequent ones, the alphabetically first.

        Words are runs of letters, runs of digits and single punctuation marks, in lower case.

        Args:
            text: the text to count in.
            size: number of tokens, the five specials included, ≥ 6.  A text with fewer words gives a smaller
                vocabulary.

        Returns:
            The specials, then the words by falling frequency.

        Raises:
            ArgumentError: size < 6.
            DataError: the text has no word.
        """
        if size <= len(SPECIALS):
            raise ArgumentError(f"Vocabulary.from_text(size={size}): expected at least 6, five specials and a word")
        counts = Counter(_words(text))
        if not counts:
            raise DataError(
                f"Vocabulary.from_text: no word in a text of {counted(len(text), 'character')}, expected at least one"
            )
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(SPECIALS + tuple(ranked[: size - len(SPECIALS)]))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def specials(self) -> tuple[int, int, int, int, int]:
        """0 … 4."""
        return PAD, UNK, CLS, SEP, MASK

    @cached_property
    def _index(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    def encode(self, text: str) -> Ids:
        """Ids of the words of a text; ``UNK`` for those not in the vocabulary.

        Args:
            text: any text, also empty.

        Returns:
            (words,) int32.
        """
        return np.array([self._index.get(word, UNK) for word in _words(text)], np.int32)

    def spans(self, text: str) -> tuple[Ids, NDArray[np.int64]]:
        """The ids of a text, as of ``encode``, and where each word starts and stops.

        Args:
            text: any text.

        Returns:
            (words,) int32 and (words, 2) int64, in characters of the text as it is.
        """
        found = list(re.finditer(_TOKEN, text.lower()))
        ids = np.array([self._index.get(match.group(), UNK) for match in found], np.int32)
        spans = np.array([match.span() for match in found], np.int64).reshape(-1, 2)
        of = _characters_of_lower(text)
        return ids, np.stack([of[spans[:, 0]], of[spans[:, 1] - 1] + 1], -1)

    def decode(self, ids: ArrayLike) -> str:
        """Tokens of ids, joined by spaces.

        Args:
            ids: integers 0 … len−1, any shape; read in C order.

        Returns:
            The text, which ``encode`` maps back to the same ids if there is no special among them.

        Raises:
            ArgumentError: an id outside the vocabulary, or not an integer.
        """
        flat = plain("decode", "ids", ids).reshape(-1)
        if flat.size and flat.dtype.kind not in "iu":
            raise ArgumentError(f"Vocabulary.decode: ids are {flat.dtype}, expected integers")
        wrong = flat[(flat < 0) | (flat >= len(self))]
        if wrong.size:
            raise ArgumentError(f"Vocabulary.decode: id {wrong[0]}, expected 0 … {len(self) - 1}")
        return " ".join(self.tokens[int(i)] for i in flat)


@dataclass(frozen=True)
class Characters:
    """Characters and their ids, which are 1 more than their places; 0 is any other.

    Attributes:
        characters: at least one, all different.
    """

    characters: str

    def __post_init__(self) -> None:
        if not self.characters or len(set(self.characters)) < len(self.characters):
            raise ArgumentError(f"Characters({self.characters[:20]!r}): expected characters, each once")

    @classmethod
    def from_text(cls, text: str, size: int) -> Characters:
        """The size − 1 most frequent characters of a text; of equally frequent ones, those with smaller code points.

        Raises:
            ArgumentError: size < 2.
            DataError: the text is empty.
        """
        if size < 2:
            raise ArgumentError(f"Characters.from_text(size={size}): expected at least 2")
        if not text:
            raise DataError("Characters.from_text: the text is empty, expected at least one character")
        counts = np.zeros(_CODES, np.int64)
        for codes in _codes(text):
            found = np.bincount(codes)
            counts[: found.size] += found
        present = np.flatnonzero(counts)
        ranked = present[np.argsort(-counts[present], kind="stable")][: size - 1]
        return cls("".join(map(chr, ranked.tolist())))

    def __len__(self) -> int:
        return 1 + len(self.characters)

    @cached_property
    def _id_of_code(self) -> Ids:
        ids = np.zeros(_CODES, np.int32)
        ids[list(map(ord, self.characters))] = np.arange(1, len(self))
        return ids

    def encode(self, text: str) -> Ids:
        """(characters,) int32."""
        ids, start = np.empty(len(text), np.int32), 0
        for codes in _codes(text):
            np.take(self._id_of_code, codes, out=ids[start : start + codes.size])
            start += codes.size
        return ids

    def decode(self, ids: ArrayLike) -> str:
        """The characters of ids, U+FFFD for 0.  Raises ArgumentError for an id outside 0 … len−1."""
        flat = plain("decode", "ids", ids).reshape(-1)
        if flat.size and (flat.dtype.kind not in "iu" or flat.min() < 0 or flat.max() >= len(self)):
            raise ArgumentError(
                f"Characters.decode: {flat.dtype} to {flat.max()}, expected integers 0 … {len(self) - 1}"
            )
        return "".join("\ufffd" if i == 0 else self.characters[i - 1] for i in flat.tolist())


_CODES, _BLOCK = 0x110000, 1 << 20


def _codes(text: str) -> Iterator[NDArray[Any]]:
    """Code points, a block at a time: a large text four times over would be what memory is needed for."""
    for start in range(0, len(text), _BLOCK):
        yield _code_points(text[start : start + _BLOCK])


def _code_points(text: str) -> NDArray[Any]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


# --- Batches ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences ``[CLS] A [SEP] B [SEP] [PAD] …`` with what is to be predicted.  p = max(1, round(mask_share·seq)).

    Attributes:
        ids: (batch, seq) int32, some of them masked.
        segments: (batch, seq) int32, 1 on B and its [SEP], 0 elsewhere.
        mask: (batch, seq) bool, True on everything but [PAD].
        positions: (batch, p) int32, ascending places whose token is to be predicted; 0 where there is none.
        labels: (batch, p) int32, the tokens that stood there; ``IGNORE`` where there is none.
        is_next: (batch,) int32, 1 if B follows A in the text.
    """

    ids: Ids
    segments: Ids
    mask: NDArray[np.bool_]
    positions: Ids
    labels: Ids
    is_next: Ids


@dataclass(frozen=True, eq=False)
class SpanBatch:
    """Sequences ``[CLS] question [SEP] context [SEP] [PAD] …`` with the answer as a run of the context's tokens.

    Attributes:
        ids, segments, mask: as those of a ``Batch``; segment 1 is the context with its [SEP].
        starts, ends: (batch,) int32, places of the answer's first and last token; 0, the [CLS], where there is none.
    """

    ids: Ids
    segments: Ids
    mask: NDArray[np.bool_]
    starts: Ids
    ends: Ids


@dataclass(frozen=True, eq=False)
class TextBatch:
    """Pieces of a text, of which the beginning may only be context.

    Attributes:
        ids: (batch, seq) int32; 0 after the text's end.
        labels: (batch, seq) int32: the same where the token is to be predicted; ``IGNORE`` at context and padding.
    """

    ids: Ids
    labels: Ids
