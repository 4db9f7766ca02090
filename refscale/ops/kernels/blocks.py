"""Helpers of the fast forms: arrays as rows, and parts of them that stay in cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from refscale.engine import Array

Betas = Sequence[float | None]
"""The factor of each input's gradient; None: the gradient is not wanted."""

Kept = tuple[Any, ...]

BLOCK = 1 << 16
"""Elements per pass: three arrays of them are 768 KiB in float32, within 1 MiB of cache."""


def by_row(x: Array) -> Array:
    """Reshape (…, n) to (rows, n)."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def of_rows(rows: int, n: int) -> Iterator[slice]:
    """Yield slices that together cover all rows of n ≥ 1 elements; each part stays in cache."""
    step = max(1, BLOCK // n)
    return (slice(start, start + step) for start in range(0, rows, step))
