"""Positions as constant arrays: sinusoids, and the angles of rotary embeddings."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from refscale.errors import ArgumentError

__all__ = ["rotary_angles", "sinusoids"]


def sinusoids(length: int, frequencies: int, period: int = 1024) -> NDArray[np.float64]:
    """Compute √2·sin(ω_k·t + φ_k): positions as vectors of unit RMS, sines and cosines of decreasing frequencies.

    Args:
        length: number of positions t = 0, 1, …
        frequencies: numbers per position, even, ≥ 4; ω_k = π·(2/period)^(⌊k/2⌋/(frequencies/2 − 1)), φ_k = 0, π/2, …
        period: period of the lowest frequency, in positions, > 0.

    Returns:
        (length, frequencies).

    Raises:
        ArgumentError: ``frequencies`` is odd or < 4, or ``period`` ≤ 0.

    Source: paper, character models; Vaswani et al. 2017, section 3.5.
    """
    if frequencies < 4 or frequencies % 2 or not period > 0:
        raise ArgumentError(
            f"sinusoids({length}, {frequencies}, {period}): expected an even number of frequencies ≥ 4 and a period > 0"
        )
    k = np.arange(frequencies)
    omega = np.pi * (2 / period) ** ((k // 2) / (frequencies // 2 - 1))
    return np.asarray(math.sqrt(2) * np.sin(np.arange(length)[:, None] * omega + np.pi / 2 * (k % 2)))


def rotary_angles(length: int, d: int, base: float = 10000.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute cos and sin of t·base^(−2i/d), (length, d/2) each: the angle of pair i at position t in ``ops.Rotary``.

    Source: Su et al. 2021 (arXiv 2104.09864), equation 15; pairs (i, i + d/2) as in published decoders.
    """
    angles = np.arange(length)[:, None] * base ** (-2 * np.arange(d // 2) / d)
    return np.cos(angles), np.sin(angles)
