"""The tokenizer of a published model, through the library ``tokenizers``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.data import SPECIALS, Ids
from refscale.errors import ArgumentError, DataError
from refscale.files import read_json, read_lines, read_text

EXTRA = "pip install 'refscale[pretrained]'"


class SubWords:
    """The tokenizer of a published model, a ``data.Tokenizer`` that uses the library ``tokenizers``.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``; its truncation and padding are disabled.

    Attributes:
        specials: ids of [PAD], [UNK], [CLS], [SEP], [MASK].

    Raises:
        DataError: one of the five has no id.
    """

    def __init__(self, tokenizer: Any) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        ids = [tokenizer.token_to_id(token) for token in SPECIALS]
        if None in ids:
            raise DataError(
                f"SubWords: the tokenizer has no {SPECIALS[ids.index(None)]}, expected {', '.join(SPECIALS)}"
            )
        pad, unk, cls, sep, mask = ids
        self.specials: tuple[int, int, int, int, int] = (pad, unk, cls, sep, mask)
        self._tokenizer = tokenizer
        self._size: int = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())

    @classmethod
    def load(cls, directory: str | Path) -> SubWords | None:
        """Load the tokenizer of a directory; None if it has neither ``tokenizer.json`` nor ``vocab.txt``.

        Each line of ``vocab.txt`` is a token; its line number, from 0, is the token's id. If a token occurs twice, the
        last line counts, as in Hugging Face transformers.

        Raises:
            ArgumentError: the library is not installed.
            DataError: a file is damaged, or an option of ``tokenizer_config.json`` has another type.
        """
        directory = Path(directory)
        whole, words = directory / "tokenizer.json", directory / "vocab.txt"
        if not (whole.is_file() or words.is_file()):
            return None
        try:
            from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
        except ImportError as error:
            raise ArgumentError(f"SubWords.load: tokenizers is missing: {EXTRA}") from error
        if whole.is_file():
            call = f"SubWords.load({str(whole)!r})"
            text = read_text(whole, call)
            try:
                return cls(Tokenizer.from_str(text))
            except Exception as error:  # the library raises nothing narrower
                raise DataError(f"{call}: {error}") from error
        options = _options(directory / "tokenizer_config.json")
        vocabulary = {token: i for i, token in enumerate(read_lines(words, f"SubWords.load({str(words)!r})"))}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIALS[1]))
        tokenizer.normalizer = normalizers.BertNormalizer(
            lowercase=options["do_lower_case"],
            strip_accents=options["strip_accents"],
            handle_chinese_chars=options["tokenize_chinese_chars"],
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return cls(tokenizer)

    def __len__(self) -> int:
        return self._size

    def encode(self, text: str) -> Ids:
        """Return the ids of a text, int32 (tokens,), without special tokens at its ends."""
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def spans(self, text: str) -> tuple[Ids, NDArray[np.int64]]:
        """Return the ids, and start and end of each token in characters of the text, (tokens, 2)."""
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return np.array(found.ids, np.int32), np.array(found.offsets, np.int64).reshape(-1, 2)

    def to_json(self) -> str:
        """Return the text of a ``tokenizer.json``."""
        return str(self._tokenizer.to_str())


_OPTIONS: dict[str, tuple[bool | None, ...]] = {
    "do_lower_case": (True, False),
    "strip_accents": (None, True, False),
    "tokenize_chinese_chars": (True, False),
}
"""Options of ``tokenizer_config.json`` and their values, the default first. None: as ``do_lower_case``."""


def _options(path: Path) -> dict[str, Any]:
    """Options from ``tokenizer_config.json``, or their defaults."""
    call = f"SubWords.load({str(path)!r})"
    content = read_json(path, call) if path.exists() else {}
    found = {name: content.get(name, values[0]) for name, values in _OPTIONS.items()}
    for name, value in found.items():
        if not any(value is allowed for allowed in _OPTIONS[name]):
            raise DataError(f"{call}: {name} = {value!r}, expected true or false")
    return found
