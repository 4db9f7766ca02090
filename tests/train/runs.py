"""Small runs for tests: a tiny BERT on a few sentences of the built-in text."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from refscale.data import load_text
from refscale.train import TrainConfig

SMALL = TrainConfig(
    model="bert-tiny:width=32,hidden=64",
    steps=8,
    batch=2,
    seq=16,
    evaluate_every=3,
    evaluation_batches=2,
    checkpoint_every=2,
    scales_every=4,
)


def small(**changes) -> TrainConfig:
    return replace(SMALL, **changes)


@cache
def short_text() -> str:
    return load_text()[:30_000]


def write_text(directory: Path) -> Path:
    path = directory / "text.txt"
    path.write_text(short_text(), encoding="utf-8")
    return path


def arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint; not its meta, which knows how long it took."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name != "meta"}


def same_bits(a: Path, b: Path) -> bool:
    first, second = arrays(a), arrays(b)
    return first.keys() == second.keys() and all(
        first[k].dtype == second[k].dtype and first[k].tobytes() == second[k].tobytes() for k in first
    )
