"""Second moments of a softmax over n normal logits, and of its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

ELEMENTS = 1 << 17
"""Of the sample: at σ = 1, means are then good to half a percent."""
LENGTHS = 16
"""How many lengths of causal rows stand for all of them."""


@dataclass(frozen=True)
class SoftmaxMoments:
    """Per element of rows of n: E p², and E p²·(1 − 2p + Σ p²), the gradient's for an incoming N(0, 1)."""

    square: float
    gradient: float


@cache
def softmax_moments(n: int, sigma: float, causal: int = 0) -> SoftmaxMoments:
    """Of rows of n logits N(0, σ²), by a fixed sample; ``causal`` rows see 1, 2, … of them.

    Args:
        n: length of a row.
        sigma: of the logits.
        causal: number of rows of a causal softmax, 0 if it is none; row i sees i + n − rows + 1 logits.

    Returns:
        The moments.  Derivation: the gradient is p·(g − Σ p·g), whose square has the expectation
        p²·(1 − 2p + Σ p²) over an independent g ~ N(0, 1).
    """
    if causal:
        lengths = np.unique(np.linspace(max(1, n - causal + 1), n, min(LENGTHS, causal)).round().astype(int))
        parts = [softmax_moments(int(k), sigma) for k in lengths]
        weights = [k / n for k in lengths]
        squares = [p.square * w for p, w in zip(parts, weights, strict=True)]
        gradients = [p.gradient * w for p, w in zip(parts, weights, strict=True)]
        return SoftmaxMoments(float(np.mean(squares)), float(np.mean(gradients)))
    p = _rows(sigma * np.random.default_rng(0).standard_normal((max(32, ELEMENTS // n), n)))
    both = (p * p).sum(1, keepdims=True)
    return SoftmaxMoments(float(np.mean(p * p)), float(np.mean(p * p * (1 - 2 * p + both))))


@cache
def alike(n: int, sigma: float, rho: float) -> float:
    """How alike two rows are whose logits have the correlation ρ: Cov(p, p')/Var(p), 0 to 1 (or below, for ρ < 0)."""
    if n == 1 or sigma == 0 or rho >= 1:
        return 1.0
    rng = np.random.default_rng(0)
    x, other = rng.standard_normal((2, max(32, ELEMENTS // n), n))
    p, q, r = (_rows(sigma * z) - 1 / n for z in (x, rho * x + np.sqrt(1 - rho**2) * other, other))
    # What a sample of unrelated rows shows by chance is taken off.
    return float((np.mean(p * q) - (1 - rho) * np.mean(p * r)) / np.mean(p * p))


def _rows(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.exp(logits)
    return np.asarray(x / x.sum(1, keepdims=True))
