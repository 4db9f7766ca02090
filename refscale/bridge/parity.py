"""How far refscale's values and gradients of a module are from those of its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.errors import counted

__all__ = ["Difference", "TorchParity", "relative", "rms"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Difference:
    """How far one value is from torch's.

    Attributes:
        what: the step or parameter.
        relative: difference in units of the RMS of torch's value, see ``relative``.
    """

    what: str
    relative: float


@dataclass(frozen=True)
class TorchParity:
    """A module in refscale and in its source, torch or onnxruntime, on the example inputs.

    Attributes:
        dtype: the carrier, "float32" or "float64".
        steps: number of values that were compared.
        value: the worst of them.
        gradient: the parameter whose gradient is furthest from torch's; None: gradients were not compared.
        trained: number of parameters that receive a gradient; torch's number is the same.
        source: what refscale was compared with.
    """

    dtype: str
    steps: int
    value: Difference
    gradient: Difference | None
    trained: int
    source: str = "torch"

    def __str__(self) -> str:
        worst = self.gradient
        return (
            f"{self.dtype}: {counted(self.steps, 'value')}, worst {self.value.relative:.1e} of its RMS "
            f"({self.value.what}); "
            + (
                f"{counted(self.trained, 'gradient')}, worst {worst.relative:.1e} ({worst.what})"
                if worst
                else "gradients not compared"
            )
        )


def relative(ours: Array, theirs: Array, least: float = 0.0) -> float:
    """Difference of two arrays, in units of the RMS of the second.

    Args:
        ours: any shape; another shape than theirs differs by ∞.
        theirs: the reference.
        least: smallest unit.

    Returns:
        The larger of the RMS difference and 1/16 of the largest difference.
    """
    if ours.shape != theirs.shape:
        return np.inf
    if not theirs.size:
        return 0.0
    difference = ours.astype(np.float64) - theirs
    size = max(rms(difference), float(np.abs(difference).max()) / 16)
    unit = max(rms(theirs), least)
    return size / unit if unit else size


def rms(x: Array) -> float:
    """Root mean square; 0 of an empty array."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) if x.size else 0.0
