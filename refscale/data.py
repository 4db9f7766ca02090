"""Text as tokens, words or characters, and the batches made of them; ``refscale.tasks`` draws batches.

The text that comes with Python itself is enough to pre-train on, without a download. A published model has its own
tokenizer of sub-words, see ``published.load_pretrained``; the interface is ``Tokenizer``. All randomness comes from the
passed generator.
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
"""Special tokens, not words; their ids are 0 … 4. No token of a text equals one, as ``[`` is a token by itself."""

PAD, UNK, CLS, SEP, MASK = range(len(SPECIALS))

IGNORE = -100
"""Label of a place that is not counted."""

_TOKEN = r"[^\W\d_]+|\d+|_|[^\w\s]"  # letters, digits, or one mark
_SENTENCE_END = r"(?<=[.?!])\s+|\n\s*\n"

# --- Text -------------------------------------------------------------------------------------------------------------


def load_text(path: str | Path | None = None) -> str:
    """Load a training text: a file, or by default the language reference that comes with Python.

    Args:
        path: path of a UTF-8 file, at most ``files.DATA`` bytes. None: the help topics of ``pydoc``, about 460 000
            characters, joined in the order of their names; they differ slightly between Python versions.

    Returns:
        The text, not empty, without a byte order mark.

    Raises:
        DataError: the file is missing, is a directory, cannot be read, has only white space, or is not UTF-8; or this
            Python was installed without its help topics.
    """
    if path is None:
        try:
            from pydoc_data.topics import topics  # imported lazily: 0.5 MB that few callers need
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
        raise DataError(f"{call}: contains no text ({count}), expected a UTF-8 file with words")
    return text


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, in order.

    A sentence ends at ``.``, ``?`` or ``!`` before white space, or at a blank line. (So ``e.g. this`` is split: a
    simple rule, good enough for runs of sentences.)

    Args:
        text: any text.

    Returns:
        Sentences with their marks, white space collapsed to single spaces, all non-empty.
    """
    parts = (" ".join(part.split()) for part in re.split(_SENTENCE_END, text))
    return [part for part in parts if part]


class Tokenizer(Protocol):
    """The interface that batches need: implemented by ``Vocabulary`` and by a published model's tokenizer."""

    @property
    def specials(self) -> tuple[int, int, int, int, int]:
        """Ids of [PAD], [UNK], [CLS], [SEP], [MASK]."""

    def __len__(self) -> int:
        """Return the number of tokens; ids are 0 … len−1."""

    def encode(self, text: str) -> Ids:
        """Return the ids of a text, (tokens,) int32, without special tokens at its ends."""

    def spans(self, text: str) -> tuple[Ids, NDArray[np.int64]]:
        """Return the ids, and (tokens, 2): start and stop of each token, in characters of the text."""


def _words(text: str) -> list[str]:
    return re.findall(_TOKEN, text.lower())


def _characters_of_lower(text: str) -> NDArray[np.int64]:
    """Return for each character of ``text.lower()`` its place in ``text``; only İ becomes two (SpecialCasing)."""
    codes = _code_points(text)
    return np.repeat(np.arange(codes.size), 1 + (codes == ord("İ")))


@dataclass(frozen=True)
class Vocabulary:
    """Words and their ids, which are their positions in ``tokens``.

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
        """Return the vocabulary of a text's most frequent words; of equally frequent ones, the alphabetically first.

        Words are runs of letters, runs of digits and single punctuation marks, in lower case.

        Args:
            text: text whose words are counted.
            size: number of tokens, the five special ones included, ≥ 6. A text with fewer words gives a smaller
                vocabulary.

        Returns:
            The special tokens, then the words by decreasing frequency.

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
        """Ids of the special tokens, 0 … 4."""
        return PAD, UNK, CLS, SEP, MASK

    @cached_property
    def _index(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    def encode(self, text: str) -> Ids:
        """Return the ids of the words of a text; ``UNK`` for words outside the vocabulary.

        Args:
            text: any text, also empty.

        Returns:
            (words,) int32.
        """
        return np.array([self._index.get(word, UNK) for word in _words(text)], np.int32)

    def spans(self, text: str) -> tuple[Ids, NDArray[np.int64]]:
        """Return the ids of a text, as ``encode`` does, and start and stop of each word.

        Args:
            text: any text.

        Returns:
            (words,) int32 and (words, 2) int64, in characters of the original text.
        """
        found = list(re.finditer(_TOKEN, text.lower()))
        ids = np.array([self._index.get(match.group(), UNK) for match in found], np.int32)
        spans = np.array([match.span() for match in found], np.int64).reshape(-1, 2)
        of = _characters_of_lower(text)
        return ids, np.stack([of[spans[:, 0]], of[spans[:, 1] - 1] + 1], -1)

    def decode(self, ids: ArrayLike) -> str:
        """Return the tokens of ids, joined by spaces.

        Args:
            ids: integers 0 … len−1, any shape; read in C order.

        Returns:
            The text, which ``encode`` maps back to the same ids unless special tokens are among them.

        Raises:
            ArgumentError: an id is outside the vocabulary, or not an integer.
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
    """Characters and their ids, which are their positions plus 1; 0 is any other character.

    Attributes:
        characters: characters, at least one, all different.
    """

    characters: str

    def __post_init__(self) -> None:
        if not self.characters or len(set(self.characters)) < len(self.characters):
            raise ArgumentError(f"Characters({self.characters[:20]!r}): expected characters, each once")

    @classmethod
    def from_text(cls, text: str, size: int) -> Characters:
        """Return characters of a text: the size − 1 most frequent; of equally frequent ones, the smaller code points.

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
        """Return the ids of the characters of a text, (characters,) int32."""
        ids, start = np.empty(len(text), np.int32), 0
        for codes in _codes(text):
            np.take(self._id_of_code, codes, out=ids[start : start + codes.size])
            start += codes.size
        return ids

    def decode(self, ids: ArrayLike) -> str:
        """Return the characters of ids, U+FFFD for 0; raise ArgumentError for an id outside 0 … len−1."""
        flat = plain("decode", "ids", ids).reshape(-1)
        if flat.size and (flat.dtype.kind not in "iu" or flat.min() < 0 or flat.max() >= len(self)):
            raise ArgumentError(
                f"Characters.decode: {flat.dtype} to {flat.max()}, expected integers 0 … {len(self) - 1}"
            )
        return "".join("\ufffd" if i == 0 else self.characters[i - 1] for i in flat.tolist())


_CODES, _BLOCK = 0x110000, 1 << 20


def _codes(text: str) -> Iterator[NDArray[Any]]:
    """Yield code points, a block at a time, as a large text needs four times its memory at once."""
    for start in range(0, len(text), _BLOCK):
        yield _code_points(text[start : start + _BLOCK])


def _code_points(text: str) -> NDArray[Any]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


# --- Batches ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences ``[CLS] A [SEP] B [SEP] [PAD] …`` with tokens to be predicted; p = max(1, round(mask_share·seq)).

    Attributes:
        ids: (batch, seq) int32, some of them masked.
        segments: (batch, seq) int32, 1 on B and its [SEP], 0 elsewhere.
        mask: (batch, seq) bool, True on everything but [PAD].
        positions: (batch, p) int32, ascending places whose token is to be predicted; 0 for an unused entry.
        labels: (batch, p) int32, original tokens at these places; ``IGNORE`` for an unused entry.
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
        ids, segments, mask: fields as in a ``Batch``; segment 1 is the context with its [SEP].
        starts, ends: (batch,) int32, places of the answer's first and last token; 0, the [CLS], without an answer.
    """

    ids: Ids
    segments: Ids
    mask: NDArray[np.bool_]
    starts: Ids
    ends: Ids


@dataclass(frozen=True, eq=False)
class TextBatch:
    """Pieces of a text, whose beginning may be context only.

    Attributes:
        ids: (batch, seq) int32; 0 after the text's end.
        labels: (batch, seq) int32: tokens to be predicted; ``IGNORE`` at context and padding.
    """

    ids: Ids
    labels: Ids
