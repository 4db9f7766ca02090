"""The tokenizer of a published model, through the library ``tokenizers``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.data import SPECIALS, Ids
from refscale.errors import ArgumentError, DataError

EXTRA = "pip install 'refscale[pretrained]'"


class SubWords:
    """The tokenizer of a published model, as ``data.Tokenizer``: what the library ``tokenizers`` makes of its files.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``; its truncation and padding are switched off.

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

    @classmethod
    def load(cls, directory: str | Path) -> SubWords | None:
        """That of a directory; None if it has neither ``tokenizer.json`` nor ``vocab.txt``.

        Raises:
            ArgumentError: the library is not installed.
            DataError: a file cannot be understood.
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
            try:
                return cls(Tokenizer.from_file(str(whole)))
            except Exception as error:  # the library raises nothing narrower
                raise DataError(f"SubWords.load({str(whole)!r}): {error}") from error
        options = _options(directory / "tokenizer_config.json")
        vocabulary = {token: i for i, token in enumerate(words.read_text(encoding="utf-8").splitlines())}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIALS[1]))
        tokenizer.normalizer = normalizers.BertNormalizer(
            lowercase=options.get("do_lower_case", True),
            strip_accents=options.get("strip_accents"),
            handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return cls(tokenizer)

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> Ids:
        """(tokens,) int32: the ids of a text, none added at its ends."""
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def spans(self, text: str) -> tuple[Ids, NDArray[np.int64]]:
        """The ids, and (tokens, 2): where each token starts and stops, in characters of the text."""
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return np.array(found.ids, np.int32), np.array(found.offsets, np.int64).reshape(-1, 2)

    def to_json(self) -> str:
        """The text of a ``tokenizer.json``."""
        return str(self._tokenizer.to_str())


def _options(path: Path) -> dict[str, Any]:
    """What ``tokenizer_config.json`` says; nothing if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise DataError(f"SubWords.load: {str(path)!r} cannot be understood: {error}") from error
    return dict(content)
