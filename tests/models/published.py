"""Directories of published BERTs, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from refscale.claims.pretrained import PUBLISHED, tensors

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##aff", "##able", "cafe", "the", "a", ",", "!"]
WORDS += [f"w{i}" for i in range(50 - len(WORDS))]


def write(directory: Path, content=None, found=None, vocabulary=True) -> Path:
    """A directory with these files; missing ones are those of the claims."""
    from safetensors.numpy import save_file

    directory.mkdir(exist_ok=True)
    if found is None:
        found = single(tensors(np.random.default_rng(0)))
    save_file(found, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(PUBLISHED if content is None else content))
    if vocabulary:
        (directory / "vocab.txt").write_text("\n".join(WORDS))
    return directory


def single(found):
    return {name: np.ascontiguousarray(x, np.float32) for name, x in found.items()}
