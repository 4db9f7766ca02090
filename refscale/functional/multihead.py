"""Multi-head attention: grouped queries, rotary positions, scores by distance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import ops
from refscale.engine import Tensor, apply, tape_of
from refscale.errors import ShapeError
from refscale.functional.branches import fork
from refscale.functional.noise import dropout as _drop  # where an argument has the name
from refscale.functional.probabilities import Mask, softmax
from refscale.scales import Constraint, ScoresRule, geometric, get_constraint, none, to_output_scale

__all__ = ["attention"]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    heads: int,
    kv_heads: int | None = None,
    mask: Mask | None = None,
    causal: bool = False,
    rotary: tuple[NDArray[Any], NDArray[Any]] | None = None,
    distances: Tensor | None = None,
    scores: ScoresRule | None = None,
    values: ops.ValuesRule = "correlated",
    constraint: str | Constraint = geometric,
    scores_constraint: str | Constraint | None = None,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Multi-head attention: softmax(q·kᵀ·damping)·v for each head, heads side by side.

    Args:
        query: (batch, s, heads·d).
        key: (batch, t, kv_heads·d).
        value: (batch, t, kv_heads·d).
        heads: number of heads, which divides the width.
        kv_heads: of keys and values, if fewer: heads/kv_heads queries after another share one (grouped queries, Ainslie
            et al. 2023).
        mask: boolean (batch, t), True at keys that may be seen (False: padding); None if all may.
        causal: query i sees keys j ≤ i + t − s only.
        rotary: cos and sin (s, d/2) by which queries and keys are rotated, see ``rotary_angles``; s = t.
        distances: (s, heads·d), a vector for each distance 0, 1, … that a query can look back; their product with the
            query is added to its score (Dai et al. 2019, without their bias); s = t.
        scores: damping of the scores by name, "1/sqrt(d)" (Vaswani et al. 2017) or "1/d" (u-μP); None: the scheme's.
        values: how alike the values of a sequence are taken to be, see ``ops.AttentionMix``.
        constraint: ties α and both β of each product, and α and β of the softmax; inside a residual branch no edge here
            is a cut-edge.  The mixture of correlated values takes its α, so that it stays the weighted mean.
        scores_constraint: of the scores, if another.
        dropout: probability that a query does not see a key, if there is a generator.
        rng: for dropout; None in evaluation.

    Returns:
        (batch, s, heads·d).  A query that may see no key gets 0; s = t = 1 is no special case.

    Raises:
        ShapeError: the width is no multiple of ``heads``, ``heads`` none of ``kv_heads``, or the mask does not fit.
    """
    tape, constraint = tape_of("attention", query, key, value), get_constraint(constraint)
    batch, t = key.shape[:2]
    kv_heads = heads if kv_heads is None else kv_heads
    if mask is not None and mask.shape != (batch, t):
        raise ShapeError(f"attention: mask has shape {mask.shape}, expected {(batch, t)}")
    q, k, v = _to_heads(query, heads), _to_heads(key, kv_heads), _to_heads(value, kv_heads)
    if heads % kv_heads:
        raise ShapeError(f"attention: {heads} heads with kv_heads={kv_heads}, expected a divisor")
    if rotary is not None:
        q, k = (apply(ops.Rotary(), x, *rotary, constraint=constraint, constrained=(0,)) for x in (q, k))
    op = ops.AttentionScores(scores or tape.scheme.attention_scores)
    tied = constraint if scores_constraint is None else get_constraint(scores_constraint)
    by_place = None
    if distances is not None:
        q, looking_back = fork(q, 2) if constraint is none else [q] * 2
        by_place = _scores_by_place(op, looking_back, distances, tied)
    # The queries that share a key stand in one axis for the products: (batch, kv_heads, queries·s, d).
    s, d, queries = query.shape[1], q.shape[3], heads // kv_heads
    together, apart = (batch, kv_heads, queries * s), (batch, heads, s)
    logits = _reshaped(apply(op, _reshaped(q, (*together, d)), k, constraint=tied, constrained=(0, 1)), (*apart, t))
    if by_place is not None:
        both = ops.WeightedAdd((1.0, 1.0))
        logits = apply(both, logits, by_place, constraint=to_output_scale, constrained=(0, 1))
    seen = None if mask is None else mask[:, None, None, :]
    weights = softmax(logits, seen, causal=causal, constraint=constraint)
    with tape.scope("weights"):
        weights = _drop(weights, dropout, rng)
    mixture = to_output_scale if values == "correlated" and constraint is not none else constraint
    weights = _reshaped(weights, (*together, t))
    mixed = _reshaped(apply(ops.AttentionMix(values), weights, v, constraint=mixture, constrained=(0, 1)), (*apart, d))
    merged = apply(ops.Transpose((0, 2, 1, 3)), mixed)
    return apply(ops.Reshape(query.shape), merged)


def _reshaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x if x.shape == shape else apply(ops.Reshape(shape), x)


def _scores_by_place(op: ops.AttentionScores, q: Tensor, distances: Tensor, constraint: Constraint) -> Tensor:
    """Of queries (batch, heads, s, d) and vectors (s, heads·d) for the distances: (batch, heads, s, s)."""
    heads, s, d = q.shape[1:]
    if distances.shape != (s, heads * d):
        raise ShapeError(f"attention: distances {distances}, expected {(s, heads * d)}")
    table = _to_heads(apply(ops.Reshape((1, s, heads * d)), distances), heads)
    by_distance = apply(op, q, table, constraint=constraint, constrained=(0,))
    return apply(ops.RelativeShift(), by_distance, constraint=to_output_scale, constrained=(0,))


def _to_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, s, heads·d) → (batch, heads, s, d)."""
    if len(x.shape) != 3 or heads < 1 or x.shape[2] % heads:
        raise ShapeError(f"attention: {x} with {heads} heads, expected (batch, s, width), width a multiple of heads")
    batch, s, width = x.shape
    return apply(ops.Transpose((0, 2, 1, 3)), apply(ops.Reshape((batch, s, heads, width // heads)), x))
