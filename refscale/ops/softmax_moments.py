"""Second moments of a softmax over n normal logits, of its gradient, and of that of a cross-entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from refscale.scales.second_moments import Array, SecondMoments, contrast, without_mean

ELEMENTS = 1 << 17
"""Of the sample: at σ = 1, means are then good to half a percent."""
LENGTHS = 16
"""How many lengths of causal rows stand for all of them."""


@dataclass(frozen=True)
class SoftmaxMoments:
    """Per element of rows of n: E p², and E p²·(1 − 2p + Σ p²), the gradient's for an incoming N(0, 1)."""

    square: float
    gradient: float


def seen_keys(rows: int, n: int, causal: bool, window: int | None = None) -> tuple[int, ...]:
    """How many of n keys the rows of a masked softmax see by their places, of rows that see any.

    Args:
        rows: number of queries.
        n: number of keys.
        causal, window: see ``MaskedSoftmax``.

    Returns:
        Up to ``LENGTHS`` counts, which stand for equally many rows; empty if every row sees all keys.
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
    """Of rows of n logits N(0, σ²), by a fixed sample.

    Args:
        n: length of a row.
        sigma: of the logits.
        seen: how many of them rows see, each count as often as another; none: all.

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
    """How alike two rows are whose logits have the correlation ρ: Cov(p, p')/Var(p), 0 to 1 (or below, for ρ < 0)."""
    if n == 1 or sigma == 0 or rho >= 1:
        return 1.0
    x, other = _normal(n)
    p, square, unrelated = _two_samples(n, sigma)
    q = _rows(sigma * (rho * x + math.sqrt(1 - rho**2) * other)) - 1 / n
    # What a sample of unrelated rows shows by chance is taken off.
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
    """Weights that sum to 1: squares as those of the rows, products of two rows by how alike they are."""
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
    """p·(g − Σ p·g): the mean of g over the row does not matter, and the result sums to 0."""
    found, likeness = _moments(x, _seen(x, causal, window))
    n = x.shape[-1]
    weights = (1 / n**2 + likeness * (found.square - 1 / n**2)) * found.gradient / found.square
    return without_mean(contrast(g) * weights, x.shape)


def cross_entropy_gradient(x: SecondMoments, kept: int) -> SecondMoments:
    """p − onehot in ``kept`` of the rows, 0 in the others: labels are uniform, and differ from row to row."""
    n, rows = x.shape[-1], math.prod(x.shape[:-1])
    found, likeness = _moments(x)
    same_row = found.square - 2 / n**2 + 1 / n
    squares = likeness * (found.square - 1 / n**2) * (kept / rows) ** 2
    squares[(1,) * squares.ndim] = same_row * kept / rows
    return without_mean(squares, x.shape)
