"""What users call: linear layers, activations, norms, attention, residual branches, embeddings, losses.

Every function takes tensors of one tape and asks that tape's scheme for factors, so the same call builds a regular or a
unit-scaled model.  Names are those of ``torch.nn.functional``, where it has the function.

Constraints follow the paper's recipe: ops inside a residual branch are constrained by the geometric mean unless the
caller names another, a constraint or its name; ``constraint="none"`` is for cut-edges, and for branches that start with
``fork``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale import ops
from refscale.arrays import freeze, plain
from refscale.engine import Op, Tensor, apply, tape_of
from refscale.errors import ArgumentError, ShapeError
from refscale.ops.shapes import axis_of
from refscale.scales import (
    Constraint,
    ResidualRule,
    ScoresRule,
    default,
    geometric,
    get_constraint,
    get_residual,
    none,
    to_output_scale,
)

__all__ = [
    "Mask",
    "attention",
    "batch_norm",
    "conv1d",
    "cross_entropy",
    "dropout",
    "elementwise",
    "embedding",
    "embedding_sum",
    "fork",
    "gelu",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "matmul",
    "mean_pooled",
    "mse_loss",
    "readout",
    "relu",
    "relu6",
    "residual",
    "rms_norm",
    "rotary_angles",
    "sigmoid",
    "silu",
    "silu_glu",
    "sinusoids",
    "softmax",
    "softplus",
    "split",
    "tanh",
    "total_loss",
]

Mask = NDArray[np.bool_]

# --- Products ---------------------------------------------------------------------------------------------------------


def matmul(x: Tensor | ArrayLike, weight: Tensor | ArrayLike, *, constraint: str | Constraint = geometric) -> Tensor:
    """α·(x @ weight).

    Args:
        x: (…, m).
        weight: (m, n), of standard deviation 1 under unit scaling.
        constraint: ties α and β_x; β_weight is unconstrained, as a weight used once is on a cut-edge.

    Returns:
        (…, n).  Source: paper, Table A.2.
    """
    return apply(ops.Matmul(), x, weight, constraint=constraint, constrained=(0,))


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, constraint: str | Constraint = geometric
) -> Tensor:
    """α·(x @ weight) + bias.

    The bias is outside the forward factor: it is added after α, starts at zero, and its gradient takes β = rows^-1/2.

    Args:
        x: (…, m).
        weight: (m, n), of standard deviation 1 under unit scaling.
        bias: (n,) or None.
        constraint: ties α and β_x, as in ``matmul``.

    Returns:
        (…, n).  Source: paper, Table A.2.
    """
    y = matmul(x, weight, constraint=constraint)
    return y if bias is None else apply(ops.Bias(), y, bias)


def readout(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, constraint: str | Constraint = none) -> Tensor:
    """α·(x @ weight) + bias for an output layer; α is m^-1/2, or 1/m under schemes that damp it.

    Args:
        x: (…, m).
        weight: (m, n).
        bias: (n,) or None.
        constraint: ties α and β_x.

    Returns:
        (…, n).  α and β_x = n^-1/2 differ: legal on a cut-edge or in a branch that starts with ``fork``.
        Source: paper, Table A.2; 1/m: u-μP (arXiv 2407.17465).
    """
    rule = tape_of("readout", x, weight).scheme.readout
    y = apply(ops.Readout(rule), x, weight, constraint=constraint, constrained=(0,))
    return y if bias is None else apply(ops.Bias(), y, bias)


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int = 1,
    groups: int = 1,
    constraint: str | Constraint = geometric,
) -> Tensor:
    """α·(x ∗ weight) + bias along one axis, channels last; see ``ops.Conv1d``.

    Args:
        x: (batch, length, channels_in).
        weight: (kernel, channels_in/groups, channels_out).
        bias: (channels_out,) or None.
        stride: distance of neighboring windows, ≥ 1.
        padding: zeros before and after; (kernel − 1, 0) makes the convolution causal.
        dilation: distance of the elements of a window, ≥ 1.
        groups: parts of the channels that are convolved separately.
        constraint: ties α and β_x.

    Returns:
        (batch, positions, channels_out).  Source: paper, Table A.2 (matmul), terms counted by window.
    """
    op = ops.Conv1d(stride=stride, padding=padding, dilation=dilation, groups=groups)
    y = apply(op, x, weight, constraint=constraint, constrained=(0,))
    return y if bias is None else apply(ops.Bias(), y, bias)


# --- Activations ------------------------------------------------------------------------------------------------------


def _tied(op: Op, x: Tensor, constraint: str | Constraint) -> Tensor:
    """A function of one tensor, α and β tied."""
    return apply(op, x, constraint=constraint, constrained=(0,))


def relu(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """α·max(x, 0); see ``ops.Relu``.

    Args:
        x: any shape.
        constraint: ties α and β.
    """
    return _tied(ops.Relu(), x, constraint)


def leaky_relu(x: Tensor, slope: float = 0.01, *, constraint: str | Constraint = geometric) -> Tensor:
    """α·x where x > 0, else α·slope·x; see ``ops.LeakyRelu``.

    Args:
        x: any shape.
        slope: 0 < slope < 1.
        constraint: ties α and β.
    """
    return _tied(ops.LeakyRelu(slope), x, constraint)


def gelu(x: Tensor, form: Literal["erf", "tanh"] = "erf", *, constraint: str | Constraint = geometric) -> Tensor:
    """α·x·Φ(x), or its tanh approximation; see ``ops.Gelu``.

    Args:
        x: any shape.
        form: "erf", or "tanh" for the approximation.
        constraint: ties α and β.
    """
    return _tied(ops.Gelu(form), x, constraint)


def silu(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """α·x·sigmoid(x); see ``ops.Silu``.

    Args:
        x: any shape.
        constraint: ties α and β.
    """
    return _tied(ops.Silu(), x, constraint)


def silu_glu(x: Tensor, gate: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """α·x·silu(gate), the gated linear unit of SwiGLU; see ``ops.SiluGlu``.

    Args:
        x: any shape.
        gate: x's shape.
        constraint: ties α and both β.

    Returns:
        x's shape.  Source: arXiv 2002.05202.
    """
    return apply(ops.SiluGlu(), x, gate, constraint=constraint, constrained=(0, 1))


def tanh(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """α·tanh(x); see ``ops.Tanh``.

    Args:
        x: any shape.
        constraint: ties α and β.
    """
    return _tied(ops.Tanh(), x, constraint)


def sigmoid(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """α/(1 + e^−x); see ``ops.Sigmoid``.

    Args:
        x: any shape.
        constraint: ties α and β.
    """
    return _tied(ops.Sigmoid(), x, constraint)


def softplus(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """α·log(1 + e^x); see ``ops.Softplus``.

    Args:
        x: any shape.
        constraint: ties α and β.
    """
    return _tied(ops.Softplus(), x, constraint)


def hardsigmoid(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """α·min(max(x + 3, 0), 6)/6; see ``ops.HardSigmoid``.

    Args:
        x: any shape.
        constraint: ties α and β.
    """
    return _tied(ops.HardSigmoid(), x, constraint)


def hardswish(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """α·x·min(max(x + 3, 0), 6)/6; see ``ops.HardSwish``.

    Args:
        x: any shape.
        constraint: ties α and β.
    """
    return _tied(ops.HardSwish(), x, constraint)


def hardtanh(
    x: Tensor, min_val: float = -1.0, max_val: float = 1.0, *, constraint: str | Constraint = geometric
) -> Tensor:
    """α·min(max(x, min_val), max_val); see ``ops.Clip``.

    Args:
        x: any shape.
        min_val, max_val: finite, min_val < max_val.
        constraint: ties α and β.
    """
    return _tied(ops.Clip(min_val, max_val), x, constraint)


def relu6(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """α·min(max(x, 0), 6); see ``ops.Clip``.

    Args:
        x: any shape.
        constraint: ties α and β.
    """
    return hardtanh(x, 0.0, 6.0, constraint=constraint)


def elementwise(
    x: Tensor,
    f: Callable[[Any], Any],
    derivative: Callable[[Any], Any],
    kinks: Sequence[float] = (),
    *,
    constraint: str | Constraint = geometric,
) -> Tensor:
    """α·f(x) for any function of one number, given with its derivative; see ``ops.CustomElementwise``.

    Args:
        x: any shape.
        f: of an array, element by element, in NumPy functions.
        derivative: f′, likewise.
        kinks: places where f or f′ jumps.
        constraint: ties α and β.

    Returns:
        x's shape.  The same functions give the same op: pass functions that are defined once.

    Raises:
        ArgumentError: under schemes with factors, if a moment of f(X) or f′(X), X ~ N(0, 1), diverges or is 0.
    """
    return _tied(ops.CustomElementwise(f, derivative, tuple(float(k) for k in kinks)), x, constraint)


def softmax(
    x: Tensor, mask: Mask | None = None, *, causal: bool = False, constraint: str | Constraint = geometric
) -> Tensor:
    """α·e^x_i / Σ e^x_j over the last axis; see ``ops.Softmax`` and ``ops.MaskedSoftmax``.

    Args:
        x: (…, t), or (…, s, t) with a mask or causal.
        mask: boolean, broadcast to x, True at the elements that count; None: all do.
        causal: row i counts elements j ≤ i + t − s only.
        constraint: ties α and β.

    Returns:
        x's shape; 0 at elements that do not count.
    """
    if mask is None and not causal:
        return _tied(ops.Softmax(), x, constraint)
    seen = np.ones((1,) * (x.ndim - 1) + x.shape[-1:], np.bool_) if mask is None else mask
    return apply(ops.MaskedSoftmax(causal), x, seen, constraint=constraint, constrained=(0,))


def log_softmax(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """α·(x_i − log Σ e^x_j) over the last axis; see ``ops.LogSoftmax``.

    Args:
        x: (…, s).
        constraint: ties α and β.
    """
    return _tied(ops.LogSoftmax(), x, constraint)


# --- Uses of one tensor -----------------------------------------------------------------------------------------------


def split(x: Tensor, parts: int | Sequence[int], axis: int = -1) -> list[Tensor]:
    """x in equal ``parts`` along an axis, or in parts of the given sizes; all of them are to be used.

    Args:
        x: any shape.
        parts: how many, or their sizes, which add up to the side.
        axis: which.

    Returns:
        The parts; factors 1, for their gradients together fill x.
    """
    axis = axis_of("split", axis, len(x.shape))
    points = ops.split_points(x.shape[axis], parts)
    return [apply(ops.Slice(axis, a, b), x, constraint=to_output_scale, constrained=(0,)) for a, b in points]


def fork(x: Tensor, ways: int) -> list[Tensor]:
    """x for ``ways`` separate uses whose gradients may carry different factors; ``backward`` settles them.

    Args:
        x: any shape.
        ways: how many uses there will be.

    Returns:
        That many identities of x.
    """
    return [apply(ops.Fork(ways**-0.5), x) for _ in range(ways)]


def residual(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    tau: str | ResidualRule = default,
    layer: int = 1,
    depth: int | None = None,
) -> Tensor:
    """a·x + b·fn(x), with unit variance of activations *and* gradients inside the branch.

    The gradient meets the branch's weight b at the branch's start instead of at its end:
    y = a·x + scaled(fn(scaled(x, 1, b)), b, 1), for a² + b² = 1.  If α = β on every edge inside the branch, the
    gradient of x is right.  If not, the start is a ``Fork``, whose β ``backward`` chooses so that it is.

    Args:
        fn: the branch, (…) → (…) of the same shape.
        x: the stream.
        tau: ``scales.default``, ``fixed(τ)``, ``running_mean``, ``ratio(τ)``, a name of ``scales.get_residual``, or any
            rule from layer to (a, b).
        layer: number of this addition, from 1, since the stream was last normalized.
        depth: how many additions there will be, ``layer`` if None; some schemes ask.

    Returns:
        The stream after the branch.  Source: paper, weighted addition and the reference FFN.
    """
    scheme = tape_of("residual", x).scheme
    skip, branch = scheme.residual_weights(get_residual(tau), layer, layer if depth is None else depth)
    if skip == 0:
        return fn(x)
    # WeightedAdd has α = (a² + b²)^-1/2, β_x = α by the constraint, β_f = 1/b: the branch receives the gradient whole,
    # and owes b·α, which it pays where it starts.
    start = apply(ops.Fork(branch * (skip**2 + branch**2) ** -0.5), x)
    return apply(ops.WeightedAdd((skip, branch)), x, fn(start), constraint=to_output_scale, constrained=(0,))


# --- Attention --------------------------------------------------------------------------------------------------------


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


def sinusoids(length: int, frequencies: int, period: int = 1024) -> NDArray[np.float64]:
    """√2·sin(ω_k·t + φ_k): places as vectors of unit RMS, sines and cosines of falling frequencies.

    Args:
        length: places t = 0, 1, …
        frequencies: numbers to each, even, at least 4; ω_k = π·(2/period)^(⌊k/2⌋/(frequencies/2 − 1)), φ_k = 0, π/2, …
        period: of the lowest frequency, in places.

    Returns:
        (length, frequencies).

    Raises:
        ArgumentError: an odd number of frequencies, or less than 4, whose ω would be 0/0; or a period ≤ 0.

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
    """cos and sin of t·base^(−2i/d), (length, d/2) each: by what ``ops.Rotary`` turns pair i at place t.

    Source: Su et al. 2021 (arXiv 2104.09864), equation 15; pairs (i, i + d/2) as in published decoders.
    """
    angles = np.arange(length)[:, None] * base ** (-2 * np.arange(d // 2) / d)
    return np.cos(angles), np.sin(angles)


def _to_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, s, heads·d) → (batch, heads, s, d)."""
    if len(x.shape) != 3 or heads < 1 or x.shape[2] % heads:
        raise ShapeError(f"attention: {x} with {heads} heads, expected (batch, s, width), width a multiple of heads")
    batch, s, width = x.shape
    return apply(ops.Transpose((0, 2, 1, 3)), apply(ops.Reshape((batch, s, heads, width // heads)), x))


# --- Embeddings, norms, dropout ---------------------------------------------------------------------------------------


def embedding(table: Tensor, ids: NDArray[np.integer[Any]]) -> Tensor:
    """Rows of a table: table[ids]; see ``ops.Embedding``.

    Args:
        table: (v, d).
        ids: integers from 0 to v − 1, any shape.

    Returns:
        (…, d).
    """
    return apply(ops.Embedding(), table, ids)


def embedding_sum(*parts: tuple[Tensor, NDArray[np.integer[Any]]], weights: tuple[float, ...] | None = None) -> Tensor:
    """Σ weight_i·table_i[ids_i], broadcast, at unit variance.

    Args:
        parts: pairs of a table (v_i, d) and ids, e.g. words (batch, seq), positions (seq,), segments (batch, seq).
        weights: of the parts; equal ones if None.

    Returns:
        (batch, seq, d).  Source: paper, BERT (a weighted add with equal weights).
    """
    rows = [embedding(table, ids) for table, ids in parts]
    return apply(ops.WeightedAdd(weights or (1.0,) * len(rows)), *rows)


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-12) -> Tensor:
    """Layer norm over the last axis; α and β_x tied (both are 1 in Table A.2 already).

    Args:
        x: (…, n).
        gain: (n,), starts at 1.
        bias: (n,), starts at 0.
        eps: added to the variance.
    """
    return apply(ops.LayerNorm(eps), x, gain, bias, constraint=geometric, constrained=(0,))


def rms_norm(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    """RMS norm over the last axis; α and β_x tied, both are 1.

    Args:
        x: (…, n).
        gain: (n,), starts at 1.
        eps: added to the mean square.
    """
    return apply(ops.RmsNorm(eps), x, gain, constraint=geometric, constrained=(0,))


def batch_norm(
    x: Tensor,
    gain: Tensor,
    bias: Tensor,
    running: tuple[NDArray[Any], NDArray[Any]] | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Norm of each channel over all rows; α and β_x tied, both are 1.

    Args:
        x: (…, n), channels last.
        gain: (n,), starts at 1.
        bias: (n,), starts at 0.
        running: constant mean and variance (n,) each, in evaluation; None: those of x, in training.
        eps: added to the variance.
    """
    if running is None:
        return apply(ops.BatchNorm(eps), x, gain, bias, constraint=geometric, constrained=(0,))
    return apply(ops.FrozenBatchNorm(eps), x, gain, bias, *running, constraint=geometric, constrained=(0,))


def group_norm(x: Tensor, groups: int, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Norm over the places and channels of each group of a sample; α and β_x tied, both are 1.

    Args:
        x: (batch, …, n), channels last.
        groups: parts of the channels; divides n.
        gain: (n,), starts at 1.
        bias: (n,), starts at 0.
        eps: added to the variance.
    """
    return apply(ops.GroupNorm(groups, eps), x, gain, bias, constraint=geometric, constrained=(0,))


def mean_pooled(h: Tensor, mask: Mask) -> Tensor:
    """The mean of the tokens that are no padding.

    Args:
        h: encoder output (batch, seq, d).
        mask: (batch, seq), True at real tokens, at least one in each sequence.

    Returns:
        (batch, d): the mean, times √seq under unit scaling, as is right for independent tokens.

    Raises:
        ShapeError: the mask does not fit, or a sequence has no token.
    """
    mask = plain("mean_pooled", "mask", mask)
    if mask.shape != h.shape[:2] or not mask.any(-1).all():
        raise ShapeError(f"mean_pooled: mask {mask.shape} of {h}, expected (batch, seq) with a True in each row")
    share = mask * (mask.shape[1] / mask.sum(-1, keepdims=True))
    weights = np.broadcast_to(share[:, :, None], h.shape).astype(tape_of("mean_pooled", h).dtype)
    return apply(ops.Mean((1,)), apply(ops.Multiply(), h, freeze(weights)))


def dropout(x: Tensor, p: float, rng: np.random.Generator | None) -> Tensor:
    """x·keep/(1−p) with keep drawn from ``rng``; x itself if p = 0 or ``rng`` is None (evaluation).

    Args:
        x: any shape.
        p: probability of dropping, 0 ≤ p < 1.
        rng: source of the mask.
    """
    if p == 0 or rng is None:
        return x
    return apply(ops.Dropout(p), x, freeze(rng.random(x.shape) >= p))


_drop = dropout  # where an argument has the name


# --- Losses -----------------------------------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, targets: Tensor | ArrayLike, ignore_index: int | None = None) -> Tensor:
    """Mean of −log softmax(logits)[target] over the rows whose target is not ``ignore_index``.

    Args:
        logits: (…, s).
        targets: integers (…), 0 … s−1 or ``ignore_index``.
        ignore_index: marks rows that do not count.

    Returns:
        A scalar; both the mean and its factor β count only the rows that do.

    Raises:
        ArgumentError: no row counts, or a target is out of range.
    """
    targets = plain("cross_entropy", "targets", targets.value if isinstance(targets, Tensor) else targets)
    kept = None if ignore_index is None else int(np.count_nonzero(targets != ignore_index))
    return apply(ops.SoftmaxCrossEntropy("mean", ignore_index, kept), logits, targets)


def mse_loss(x: Tensor, target: Tensor | ArrayLike) -> Tensor:
    """Mean of (x − target)² over all elements; see ``ops.MseLoss``.

    Args:
        x: any shape.
        target: x's shape.

    Returns:
        A scalar.
    """
    return apply(ops.MseLoss(), x, target)


def total_loss(*losses: Tensor) -> Tensor:
    """Σ losses, unscaled: the sum is the objective.

    Args:
        losses: scalars; heads that share a trunk take it through ``fork``.
    """
    return apply(ops.LossSum(), *losses)
