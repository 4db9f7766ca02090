"""Nearness to a transcription: the same formula, summed in another order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def assert_near(actual: npt.NDArray[Any], expected: npt.NDArray[Any], operations: int) -> None:
    """|actual − expected| ≤ operations · 2^-52 · max|expected|, for float64.

    Two evaluations of one formula that each make up to ``operations`` roundings of numbers no larger than the largest
    expected value, or of relative error (sums of at most that many terms without cancellation beyond that scale).
    """
    assert actual.dtype == np.float64
    assert actual.shape == expected.shape
    scale = float(np.max(np.abs(expected), initial=0))
    error = float(np.max(np.abs(actual - expected), initial=0))
    bound = operations * 2.0**-52 * scale
    assert error <= bound, f"off by {error:.3g}, {operations} roundings explain {bound:.3g}"
