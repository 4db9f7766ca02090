"""Pictures to learn from, drawn from a generator: gratings of eight kinds, and the same with noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from refscale.programs import Program

SIDE, CHANNELS, KINDS = 12, 3, 8
NOISE, WRONG = 0.5, 0.1
"""σ of the noise of every pixel; share of the labels that are drawn at random."""

HELD_OUT = 4096
"""Pictures of a validation: on so many, two models of the same quality differ by less than 2 % of their loss."""


def gratings(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
    """Colored waves (n, SIDE, SIDE, CHANNELS) of unit RMS, and the kind of each (n,).

    The kind is one of four directions and one of two wavelengths; phase and color are random.
    """
    kind = rng.integers(0, KINDS, n)
    angle, length = np.pi * (kind % 4) / 4, np.where(kind < 4, 8.0, 4.0)
    y, x = np.mgrid[:SIDE, :SIDE]
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    wave = np.sqrt(2) * np.sin(2 * np.pi * along / length[:, None, None] + phase)
    color = rng.standard_normal((n, 1, 1, CHANNELS))
    color /= np.sqrt(np.mean(np.square(color), axis=-1, keepdims=True))
    picture = wave[..., None] * color + NOISE * rng.standard_normal((n, SIDE, SIDE, CHANNELS))
    label = np.where(rng.random(n) < WRONG, rng.integers(0, KINDS, n), kind)
    return picture / np.sqrt(1 + NOISE**2), label


def noisy(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
    """Gratings with noise as strong as they are, (n, SIDE, SIDE, CHANNELS) of unit RMS, and that noise."""
    picture, _ = gratings(rng, n)
    noise = rng.standard_normal(picture.shape)
    return (picture + noise) / np.sqrt(2), noise


class Pictures(Program):
    """A program whose every batch is new pictures; validation is ``HELD_OUT`` others."""

    memoryless = True
    batch = 32
    draw = staticmethod(gratings)

    def batches(self, rng: np.random.Generator) -> Iterator[Any]:
        while True:
            yield self.draw(rng, self.batch)

    def validation(self, rng: np.random.Generator) -> list[Any]:
        return [self.draw(rng, 128) for _ in range(HELD_OUT // 128)]
