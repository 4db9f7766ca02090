"""Multi-head attention: grouped queries, masks, windows, rotary positions, scores by distance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale import ops
from refscale.arrays import plain
from refscale.engine import Tensor, apply, tape_of
from refscale.errors import ArgumentError, ShapeError
from refscale.functional.branches import fork
from refscale.functional.noise import dropout as _drop  # where an argument has the name
from refscale.functional.probabilities import Mask, softmax
from refscale.scales import Constraint, ScoresRule, geometric, get_constraint, none, to_output_scale

__all__ = ["attention", "scaled_dot_product_attention"]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    heads: int,
    kv_heads: int | None = None,
    mask: Mask | None = None,
    attn_mask: ArrayLike | None = None,
    causal: bool = False,
    window: int | None = None,
    rotary: tuple[NDArray[Any], NDArray[Any]] | None = None,
    interleaved: bool = False,
    distances: Tensor | None = None,
    scores: ScoresRule | float | None = None,
    softcap: float | None = None,
    values: ops.ValuesRule = "correlated",
    constraint: str | Constraint = geometric,
    scores_constraint: str | Constraint | None = None,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Compute multi-head attention: softmax(q·kᵀ·damping)·v for each head, heads side by side.

    Args:
        query: (batch, s, heads·d).
        key: (batch, t, kv_heads·d).
        value: (batch, t, kv_heads·e); usually e = d.
        heads: number of heads of queries, a divisor of the width.
        kv_heads: number of heads of keys and values, a divisor of ``heads``; heads/kv_heads consecutive heads of
            queries share one (grouped queries, Ainslie et al. 2023). None: ``heads``.
        mask: boolean (batch, t), True for visible keys, False for padding; None: all are visible.
        attn_mask: (s, t), (batch, s, t) or (batch, heads, s, t), any axis may have length 1: boolean, True where the
            query sees the key; or numbers that are added to the damped scores, −∞ to hide a key.
        causal: hide keys j > i + t − s from query i.
        window: hide keys |i + t − s − j| ≥ window from query i: with ``causal`` it sees at most ``window`` keys.
        rotary: cos and sin (s, d/2) of the rotation of queries and keys, see ``rotary_angles``; needs s = t.
        interleaved: rotate pairs (2i, 2i + 1), instead of (i, i + d/2).
        distances: (s, heads·d), a vector for each distance 0, 1, … back from a query; its product with the query is
            added to the score (Dai et al. 2019, without their bias); needs s = t.
        scores: damping of the scores, "1/sqrt(d)" (Vaswani et al. 2017), "1/d" (u-μP), or a number; None: the damping
            of the scheme.
        softcap: replace damped scores by softcap·tanh(score/softcap), before ``attn_mask`` is added (Gemma 2).
        values: assumed correlation of the values of a sequence, see ``ops.AttentionMix``.
        constraint: constraint of α and both β of each product, and of α and β of the softmax, as inside a residual
            branch all edges here are non-cut edges. For correlated values the mixture's β equal its α, so that it stays
            a weighted mean.
        scores_constraint: constraint of the scores; None: ``constraint``.
        dropout: probability of hiding a key from a query, if ``rng`` is given.
        rng: generator for dropout; None in evaluation.

    Returns:
        (batch, s, heads·e). The result of a query without visible keys is 0.

    Raises:
        ShapeError: ``heads`` does not divide the width, ``kv_heads`` does not divide ``heads``, or a mask does not fit.
        ArgumentError: ``attn_mask`` is neither boolean nor of floats, or has an element that is NaN or +∞.
    """
    tape, constraint = tape_of("attention", query, key, value), get_constraint(constraint)
    batch, t = key.shape[:2]
    kv_heads = heads if kv_heads is None else kv_heads
    if mask is not None and mask.shape != (batch, t):
        raise ShapeError(f"attention: mask has shape {mask.shape}, expected {(batch, t)}")
    q, k, v = _to_heads(query, heads), _to_heads(key, kv_heads), _to_heads(value, kv_heads)
    if heads % kv_heads:
        raise ShapeError(f"attention: {heads} heads with kv_heads={kv_heads}, expected a divisor")
    s = query.shape[1]
    seen, added = _parts_of_mask("attention", attn_mask, (batch, heads, s, t), per_batch=True)
    if mask is not None:
        padding = mask[:, None, None, :]
        seen = padding if seen is None else seen & padding
    if rotary is not None:
        turn = ops.Rotary(interleaved)
        q, k = (apply(turn, x, *rotary, constraint=constraint, constrained=(0,)) for x in (q, k))
    tied = constraint if scores_constraint is None else get_constraint(scores_constraint)
    by_place, looking = None, ops.MaskedSoftmax(causal, window)
    rule = tape.scheme.attention_scores if scores is None else scores
    op = ops.AttentionScores(rule, None if window is None else looking.most_keys(t))
    if distances is not None:
        q, looking_back = fork(q, 2) if constraint is none else [q] * 2
        by_place = _scores_by_place(op, looking_back, distances, tied)
    logits = _grouped_scores(op, q, k, tied)
    if by_place is not None:
        both = ops.WeightedAdd((1.0, 1.0))
        logits = apply(both, logits, by_place, constraint=to_output_scale, constrained=(0, 1))
    if (multiplier := tape.scheme.multipliers.attention) != 1:
        logits = apply(ops.Scaled(multiplier, multiplier), logits)
    if softcap is not None:
        logits = apply(ops.SoftCap(softcap), logits, constraint=constraint, constrained=(0,))
    mixed = _mixture(
        ops.AttentionMix(values, op.keys), logits, v, seen, added, looking, constraint=constraint, p=dropout, rng=rng
    )
    merged = apply(ops.Transpose((0, 2, 1, 3)), mixed)
    return apply(ops.Reshape((batch, s, heads * v.shape[3])), merged)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: ArrayLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    values: ops.ValuesRule = "correlated",
    constraint: str | Constraint = geometric,
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Compute softmax(q·kᵀ·scale + attn_mask)·v, with the arguments of torch's ``scaled_dot_product_attention``.

    Args:
        query: (…, s, d).
        key: (…, t, d).
        value: (…, t, e).
        attn_mask: broadcast to (…, s, t): boolean, True where the query sees the key; or numbers added to the scores.
        dropout_p: probability of hiding a key from a query, if ``rng`` is given.
        is_causal: hide keys j > i from query i, also for s ≠ t (``attention`` hides j > i + t − s).
        scale: damping of the scores, > 0; None: 1/√d.
        enable_gqa: allow more heads of the query (…, heads, s, d) than of key and value, a multiple.
        values: assumed correlation of the values of a sequence, see ``ops.AttentionMix``.
        constraint: constraint of the products and the softmax, see ``attention``.
        rng: generator for dropout; None in evaluation.

    Returns:
        (…, s, e). The result of a query without visible keys is 0, as in PyTorch since 2.5.

    Raises:
        ShapeError: the shapes do not fit.
        ArgumentError: ``is_causal`` is given together with a mask; or the mask is neither boolean nor of floats, or has
            an element that is NaN or +∞.
    """
    name = "scaled_dot_product_attention"
    tape, constraint = tape_of(name, query, key, value), get_constraint(constraint)
    if query.ndim < 2 or not query.ndim == key.ndim == value.ndim:
        raise ShapeError(f"{name}: {query}, {key}, {value}, expected (…, s, d), (…, t, d), (…, t, e)")
    if is_causal and attn_mask is not None:
        raise ArgumentError(f"{name}(is_causal=True): got an attn_mask, too; expected one of them")
    heads = (query.shape[-3], key.shape[-3]) if query.ndim > 2 else (1, 1)
    if heads[0] != heads[1] and (not enable_gqa or heads[0] % heads[1]):
        raise ShapeError(f"{name}: {heads[0]} heads of queries, {heads[1]} of keys, enable_gqa={enable_gqa}")
    s, t = query.shape[-2], key.shape[-2]
    if is_causal:
        attn_mask = np.tri(s, t, dtype=np.bool_)
    seen, added = _parts_of_mask(name, attn_mask, (*query.shape[:-2], s, t))
    op = ops.AttentionScores(tape.scheme.attention_scores if scale is None else scale)
    logits = _grouped_scores(op, query, key, constraint)
    looking = ops.MaskedSoftmax()
    return _mixture(
        ops.AttentionMix(values), logits, value, seen, added, looking, constraint=constraint, p=dropout_p, rng=rng
    )


def _grouped_scores(op: ops.AttentionScores, q: Tensor, k: Tensor, constraint: Constraint) -> Tensor:
    """(…, heads, s, d) and (…, kv_heads, t, d) → (…, heads, s, t).

    The queries that share a key stand in one axis for the products: (…, kv_heads, queries·s, d).
    """
    logits = apply(op, _reshaped(q, _together(q.shape, k.shape)), k, constraint=constraint, constrained=(0, 1))
    return _reshaped(logits, (*q.shape[:-1], k.shape[-2]))


def _mixture(
    op: ops.AttentionMix,
    logits: Tensor,
    v: Tensor,
    seen: Mask | None,
    added: NDArray[Any] | None,
    looking: ops.MaskedSoftmax,
    *,
    constraint: Constraint,
    p: float,
    rng: np.random.Generator | None,
) -> Tensor:
    """Mixtures (…, heads, s, e) of v (…, kv_heads, t, e), by the softmax of logits (…, heads, s, t) + added."""
    if added is not None:
        logits = apply(ops.Bias(), logits, added)
    weights = softmax(logits, seen, causal=looking.causal, window=looking.window, constraint=constraint)
    with logits.tape.scope("weights"):
        weights = _drop(weights, p, rng)
    tied = to_output_scale if op.values == "correlated" and constraint is not none else constraint
    weights = _reshaped(weights, _together(logits.shape, v.shape))
    return _reshaped(apply(op, weights, v, constraint=tied, constrained=(0, 1)), (*logits.shape[:-1], v.shape[-1]))


def _together(shape: tuple[int, ...], of: tuple[int, ...]) -> tuple[int, ...]:
    """(…, heads, s, m) → (…, kv_heads, heads/kv_heads·s, m), the heads those of the other shape."""
    if len(shape) < 3 or shape[-3] == of[-3]:
        return shape
    return (*shape[:-3], of[-3], shape[-3] // of[-3] * shape[-2], shape[-1])


def _parts_of_mask(
    name: str, mask: ArrayLike | None, shape: tuple[int, ...], per_batch: bool = False
) -> tuple[Mask | None, NDArray[Any] | None]:
    """A mask as visible keys (boolean) and numbers to add to the scores; None for a part that has no effect.

    −∞ is kept out of the sums: a row of it would be NaN, and few formats represent it.
    """
    if mask is None:
        return None, None
    array = plain(name, "attn_mask", mask)
    if per_batch and array.ndim == 3:  # (batch, s, t), for all heads
        array = array[:, None]
    if array.dtype != np.bool_ and array.dtype.kind != "f":
        raise ArgumentError(f"{name}: attn_mask is {array.dtype}, expected bool or floats")
    if array.ndim > len(shape) or any(a not in (1, b) for a, b in zip(array.shape[::-1], shape[::-1], strict=False)):
        raise ShapeError(f"{name}: attn_mask has shape {array.shape}, expected one that broadcasts to {shape}")
    if array.dtype == np.bool_:
        return array, None
    if not np.all(array < np.inf):
        raise ArgumentError(f"{name}: attn_mask has an element that is NaN or +∞, expected numbers or −∞")
    seen = array > -np.inf
    added = np.where(seen, array, 0.0)
    return None if seen.all() else seen, added if added.any() else None


def _reshaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x if x.shape == shape else apply(ops.Reshape(shape), x)


def _scores_by_place(op: ops.AttentionScores, q: Tensor, distances: Tensor, constraint: Constraint) -> Tensor:
    """Scores (batch, heads, s, s) of queries (batch, heads, s, d) and vectors (s, heads·d) for the distances."""
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
