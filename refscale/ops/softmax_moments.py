"""Second moments of a softmax over n normal logits, of its gradient, and of the gradient of a cross-entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from refscale.scales.second_moments import Array, SecondMoments, contrast, without_mean

ELEMENTS = 1 << 17
"""Number of elements of the sample: at σ = 1 the error of means is half a percent."""
LENGTHS = 16
"""Maximum number of lengths of causal rows in a sample."""


@dataclass(frozen=True)
class SoftmaxMoments:
    """Mean squares of a softmax p, E p², and of its gradient, E p²·(1 − 2p + Σ p²), for incoming gradients N(0, 1)."""

    square: float
    gradient: float


def seen_keys(rows: int, n: int, causal: bool, window: int | None = None) -> tuple[int, ...]:
    """Return the numbers of keys, of n, that ``causal`` and ``window`` show to the rows of a masked softmax.

    Args:
        rows: number of queries.
        n: number of keys.
        causal, window: see ``MaskedSoftmax``.

    Returns:
        Up to ``LENGTHS`` counts ≥ 1, each for the same number of rows; empty if every row sees all keys.
    """
    if not causal and window is None:
        return ()
    if window is None:
        counts = np.unique(np.linspace(max(1, n - rows + 1), n, min(LENGTHS, rows)).round().astype(int))
    else:  # few rows see less than the window: quantiles of all counts
        place = np.arange(max(0, n - rows), n)
        behind, before = np.minimum(place, window - 1), np.minimum(n - 1 - place, window - 1)
        every = np.sort(1 + behind + (0 if causal else before))
        counts = every[((np.arange(LENGTHS) + 0.5) / LENGTHS * len(every)).astype(int)]
    return tuple(counts.tolist())


@cache
def softmax_moments(n: int, sigma: float, seen: tuple[int, ...] = ()) -> SoftmaxMoments:
    """Compute the moments of rows of n logits N(0, σ²), from a fixed sample.

    Args:
        n: length of a row.
        sigma: σ of the logits.
        seen: numbers of visible logits, each for the same number of rows; (): all are visible.

    Returns:
        The moments. Derivation: the gradient is p·(g − Σ p·g), whose square has the expectation
        p²·(1 − 2p + Σ p²) over an independent g ~ N(0, 1).
    """
    if seen:
        parts = [softmax_moments(k, sigma) for k in seen]
        weights = [k / n for k in seen]
        squares = [p.square * w for p, w in zip(parts, weights, strict=True)]
        gradients = [p.gradient * w for p, w in zip(parts, weights, strict=True)]
        return SoftmaxMoments(float(np.mean(squares)), float(np.mean(gradients)))
    p = _rows(sigma * _normal(n)[0])
    both = (p * p).sum(1, keepdims=True)
    return SoftmaxMoments(float(np.mean(p * p)), float(np.mean(p * p * (1 - 2 * p + both))))


@cache
def alike(n: int, sigma: float, rho: float) -> float:
    """Compute the correlation Cov(p, p′)/Var(p) of two rows whose logits have the correlation ρ: 0 … 1 for ρ ≥ 0."""
    if n == 1 or sigma == 0 or rho >= 1:
        return 1.0
    x, other = _normal(n)
    p, square, unrelated = _two_samples(n, sigma)
    q = _rows(sigma * (rho * x + math.sqrt(1 - rho**2) * other)) - 1 / n
    # Subtract the sample covariance of independent rows, which is not exactly 0.
    return (_mean_product(p, q) - (1 - rho) * unrelated) / square


@lru_cache(maxsize=LENGTHS + 4)  # a causal softmax goes over so many lengths, layer after layer
def _normal(n: int) -> Array:
    """Two samples of rows of n."""
    return np.random.default_rng(0).standard_normal((2, max(32, ELEMENTS // n), n))


@lru_cache(maxsize=1)
def _two_samples(n: int, sigma: float) -> tuple[Array, float, float]:
    """Softmax of the first without its mean, its mean square, and the mean of its products with that of the second."""
    p, r = (_rows(sigma * z) - 1 / n for z in _normal(n))
    return p, _mean_product(p, p), _mean_product(p, r)


def _mean_product(x: Array, y: Array) -> float:
    return float(np.vdot(x, y)) / x.size


def _rows(logits: Array) -> Array:
    x = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(x / x.sum(1, keepdims=True))


def _moments(x: SecondMoments, seen: tuple[int, ...] = ()) -> tuple[SoftmaxMoments, Array]:
    """Moments of a softmax's rows, and how alike two rows are, 0 to 1, by where they agree."""
    shared = contrast(x)
    variance = max(float(shared[(1,) * shared.ndim]), 0.0)
    found = softmax_moments(x.shape[-1], round(math.sqrt(variance), 4), seen)
    if variance == 0:
        return found, np.ones_like(shared)
    sigma = round(math.sqrt(variance), 4)
    rho = np.clip(shared / variance, -1.0, 1.0).round(4)
    return found, np.array([alike(x.shape[-1], sigma, float(r)) for r in rho.ravel()]).reshape(rho.shape)


def softmax_of(x: SecondMoments, causal: bool = False, window: int | None = None) -> SecondMoments:
    """Predict a softmax: weights that sum to 1, their mean squares, and products of two rows by their correlation."""
    n = x.shape[-1]
    found, likeness = _moments(x, _seen(x, causal, window))
    same = 1 / n**2 + likeness * (found.square - 1 / n**2)
    other = (1 / n - same) / max(1, n - 1)
    return SecondMoments(x.shape, np.stack([other, same], axis=-1))


def _seen(x: SecondMoments, causal: bool, window: int | None) -> tuple[int, ...]:
    return seen_keys(x.shape[-2], x.shape[-1], causal, window) if len(x.shape) > 1 else ()


def softmax_gradient(
    g: SecondMoments, x: SecondMoments, causal: bool = False, window: int | None = None
) -> SecondMoments:
    """Predict the gradient p·(g − Σ p·g) of a softmax: the mean of g over a row has no effect, and a row sums to 0."""
    found, likeness = _moments(x, _seen(x, causal, window))
    n = x.shape[-1]
    weights = (1 / n**2 + likeness * (found.square - 1 / n**2)) * found.gradient / found.square
    return without_mean(contrast(g) * weights, x.shape)


def cross_entropy_gradient(x: SecondMoments, kept: int) -> SecondMoments:
    """Predict the gradient p − onehot of ``kept`` rows, 0 in the others; labels are uniform and independent."""
    n, rows = x.shape[-1], math.prod(x.shape[:-1])
    found, likeness = _moments(x)
    same_row = found.square - 2 / n**2 + 1 / n
    squares = likeness * (found.square - 1 / n**2) * (kept / rows) ** 2
    squares[(1,) * squares.ndim] = same_row * kept / rows
    return without_mean(squares, x.shape)
