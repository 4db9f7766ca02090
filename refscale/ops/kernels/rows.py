"""Kernels of the ops that work along rows: the readable forms, in blocks that stay in cache.

A readable form passes over whole arrays, which come from memory and go back to it at every step.  These kernels do the
same steps to one block after the other, into the arrays that they return or keep; nothing else is of full size.  The
factors go where a multiplication is due anyway, to a number per row or a row of gains, or cost one in cache.

Where a kernel differs from its readable form, it does so by roundings that can be counted: a factor is rounded into
what it multiplies (none for a power of two), and sums of products along a row are ``vecdot``'s, in its own order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from refscale.engine import Array, Op
from refscale.ops.kernels import blocks
from refscale.ops.kernels.blocks import Betas, Kept, by_row
from refscale.scales import Shape

if TYPE_CHECKING:
    from refscale.ops.losses import SoftmaxCrossEntropy
    from refscale.ops.norms import LayerNorm, RmsNorm
    from refscale.ops.softmax import MaskedSoftmax, Softmax


def _column(per_row: Array) -> Array:
    """(…) → (…, 1), to go with (…, n)."""
    return per_row[..., None]


# --- Softmax ----------------------------------------------------------------------------------------------------------


def _largest(x: Array) -> Array:
    """Largest of each row, (rows, 1); NaN if there is one.

    By ``argmax``: 0.24 ns per element in rows of 128, where ``max`` takes 0.56.
    """
    rows = by_row(x)
    return np.asarray(rows[np.arange(len(rows)), rows.argmax(-1)].reshape(*x.shape[:-1], 1))


def _sum(x: Array, ones: Array) -> Array:
    """Sum of each row, (rows, 1): 0.10 ns per element in rows of 128, where ``sum`` takes 0.31."""
    return np.asarray(np.vecdot(x, ones)[..., None])


def softmax(op: Softmax, alpha: float, x: Array) -> tuple[Array, Kept]:
    """α·softmax; keeps the result, and α."""
    op.check(x.shape)
    rows, y = by_row(x), np.empty(x.shape, x.dtype)
    out, ones = by_row(y), np.ones(x.shape[-1], x.dtype)
    for block in blocks.of_rows(*rows.shape):
        e = out[block]
        np.subtract(rows[block], _largest(rows[block]), e)
        np.exp(e, e)
        _divide(e, _sum(e, ones), alpha)
    return y, (y, alpha)


def _divide(e: Array, total: Array, alpha: float) -> None:
    """e·α/total in place."""
    if alpha != 1:
        total /= alpha
    e /= total


def softmax_backward(op: Op, betas: Betas, g: Array, y: Array, alpha: float) -> tuple[Array | None]:
    """β·y·(g − Σ g·y/α)/α with y = α·softmax."""
    beta = betas[0]
    if beta is None:
        return (None,)
    gradient = np.empty(y.shape, y.dtype)
    out, gs, ys = map(by_row, (gradient, g, y))
    for block in blocks.of_rows(*out.shape):
        o = out[block]
        mean = np.vecdot(gs[block], ys[block])[:, None]
        if alpha != 1:
            mean /= alpha
        np.subtract(gs[block], mean, o)
        o *= ys[block]
        if beta != alpha:
            o *= beta / alpha
    return (gradient,)


def masked_softmax_backward(op: Op, betas: Betas, g: Array, y: Array, alpha: float) -> tuple[Array | None, None]:
    """As without a mask, which has no gradient."""
    return *softmax_backward(op, betas[:1], g, y, alpha), None


def masked_softmax(op: MaskedSoftmax, alpha: float, x: Array, mask: Array) -> tuple[Array, Kept]:
    """α·softmax over the keys that may be seen; keeps the result, and α."""
    op.check(x, mask)
    y = np.empty(x.shape, x.dtype)
    if not y.size:
        return y, (y, alpha)
    visible, shape = _visible(mask, x.shape, op.causal)
    logits, out, ones = x.reshape(shape), y.reshape(shape), np.ones(shape[-1], x.dtype)
    all_visible, lowest = bool(visible.all()), -np.finfo(x.dtype).max
    limits = _limits(visible, x.dtype) if visible.size <= blocks.BLOCK else None
    for tile in _tiles(shape):
        e, seen = out[tile], logits[tile]
        if not all_visible:
            part = tuple(index if n > 1 else slice(None) for index, n in zip(tile, visible.shape, strict=False))
            seen = np.fmin(seen, _limits(visible[part], x.dtype) if limits is None else limits[part], out=e)
        top = _largest(seen)
        np.subtract(seen, np.maximum(top, lowest, out=top), e)  # of a row that sees no key: −∞ − lowest = −∞
        np.exp(e, e)
        total = _sum(e, ones)
        _divide(e, np.maximum(total, 1, out=total), alpha)  # where a key is seen, the largest gives 1; elsewhere 0/1
    return y, (y, alpha)


def _visible(mask: Array, x: Shape, causal: bool) -> tuple[Array, tuple[int, int, int, int]]:
    """The mask as (p or 1, 1, s or 1, t or 1), and the (p, h, s, t) that x of shape (…, s, t) is then taken for.

    What had been broadcast before it came here is cut to one again.
    """
    mask = mask.reshape((1,) * (len(x) - mask.ndim) + mask.shape)
    mask = mask[tuple(slice(None) if stride else slice(1) for stride in mask.strides)]
    if causal:
        s, t = x[-2:]
        mask = mask & np.tri(s, t, t - s, dtype=np.bool_)
    lead = len(x) - 2
    varies = max((i + 1 for i in range(lead) if mask.shape[i] > 1), default=0)
    mask = np.broadcast_to(mask, (*x[:varies], *mask.shape[varies:]))
    p, h = math.prod(x[:varies]), math.prod(x[varies:lead])
    return mask.reshape(p, 1, *mask.shape[-2:]), (p, h, x[-2], x[-1])


def _limits(visible: Array, dtype: np.dtype[Any]) -> Array:
    """What ``fmin`` turns a hidden logit into −∞ with, even if it is NaN, and leaves a visible one alone."""
    return np.asarray(np.where(visible, dtype.type(np.nan), dtype.type(-np.inf)))


def _tiles(shape: tuple[int, int, int, int]) -> Iterator[tuple[slice, slice, slice]]:
    """(p, h, s, t) in tiles of whole rows."""
    p, h, s, t = shape
    rows = max(1, blocks.BLOCK // t)
    steps = max(1, rows // (h * s)), min(h, max(1, rows // s)), min(s, rows)
    for i in range(0, p, steps[0]):
        for j in range(0, h, steps[1]):
            for k in range(0, s, steps[2]):
                yield slice(i, i + steps[0]), slice(j, j + steps[1]), slice(k, k + steps[2])


# --- Norms ------------------------------------------------------------------------------------------------------------


def layer_norm(op: LayerNorm, alpha: float, x: Array, gain: Array, bias: Array) -> tuple[Array, Kept]:
    """α·(gain·normal + bias); keeps normal (…, n), 1/σ (rows,) and the gain."""
    op.check(x.shape, gain.shape, bias.shape)
    rows, normal, y = by_row(x), np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    normals, out, inverse = by_row(normal), by_row(y), np.empty(len(rows), x.dtype)
    n, ones = x.shape[-1], np.ones(x.shape[-1], x.dtype)
    scaled, shift = (gain, bias) if alpha == 1 else (gain * alpha, bias * alpha)
    with np.errstate(over="ignore", invalid="ignore"):  # as einsum does: what it sums may leave the carrier's range
        _without_copies(n)
        for block in blocks.of_rows(*rows.shape):
            z, o, inv = normals[block], out[block], inverse[block]
            np.subtract(rows[block], _sum(rows[block], ones) / n, z)
            _inverse(z, n, op.eps, inv)
            z *= _column(inv)
            np.multiply(z, scaled, o)
            o += shift
    return y, (normal, inverse, gain)


def _without_copies(n: int) -> None:
    """Until the errstate around this call ends, broadcast the operands of long rows without copying them.

    What is broadcast is first copied into buffers that hold several rows; rows longer than a buffer are not.  In rows
    of 768 a product with a column takes 0.10 ns per element in place of 0.18, in rows of 128 the copies pay.
    """
    if n >= 512:
        np.setbufsize(16)


def _inverse(z: Array, n: int, eps: float, out: Array) -> None:
    """1/√(mean z² + eps) of each row."""
    np.vecdot(z, z, out)
    out /= n
    out += eps
    np.sqrt(out, out)
    np.divide(1, out, out)


def layer_norm_backward(
    op: Op, betas: Betas, g: Array, normal: Array, inverse: Array, gain: Array
) -> tuple[Array | None, ...]:
    """β·(d − mean d − normal·mean(d·normal))/σ with d = g·gain, in the place of normal; and the sums over rows."""
    return _norm_backward(betas, g, normal, inverse, gain, centered=True)


def rms_norm(op: RmsNorm, alpha: float, x: Array, gain: Array) -> tuple[Array, Kept]:
    """α·gain·normal; keeps normal (…, n), 1/RMS (rows,) and the gain."""
    op.check(x.shape, gain.shape)
    rows, normal, y = by_row(x), np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    normals, out, inverse = by_row(normal), by_row(y), np.empty(len(rows), x.dtype)
    scaled = gain if alpha == 1 else gain * alpha
    with np.errstate(over="ignore", invalid="ignore"):  # as for the layer norm
        _without_copies(x.shape[-1])
        for block in blocks.of_rows(*rows.shape):
            inv = inverse[block]
            _inverse(rows[block], x.shape[-1], op.eps, inv)
            np.multiply(rows[block], _column(inv), normals[block])
            np.multiply(normals[block], scaled, out[block])
    return y, (normal, inverse, gain)


def rms_norm_backward(
    op: Op, betas: Betas, g: Array, normal: Array, inverse: Array, gain: Array
) -> tuple[Array | None, ...]:
    """β·(d − normal·mean(d·normal))/RMS with d = g·gain, in the place of normal; and the sum over rows."""
    return _norm_backward(betas, g, normal, inverse, gain, centered=False)


def _norm_backward(
    betas: Betas, g: Array, normal: Array, inverse: Array, gain: Array, centered: bool
) -> tuple[Array | None, ...]:
    """Of every block: normal is multiplied into the gain's sum first, and then overwritten."""
    for_x = betas[0]
    rows, normals, n = by_row(g), by_row(normal), g.shape[-1]
    sums = [None if beta is None else np.zeros(n, g.dtype) for beta in betas[1:]]
    buffer = np.empty((min(len(rows), max(1, blocks.BLOCK // n)), n), g.dtype)
    if for_x is not None and for_x != 1:
        inverse *= for_x
    with np.errstate(over="ignore", invalid="ignore"):  # as for the forward
        _without_copies(n)
        for block in blocks.of_rows(*rows.shape):
            part, z = rows[block], normals[block]
            d = buffer[: len(part)]
            np.multiply(part, z, d)
            if sums[0] is not None:
                sums[0] += np.add.reduce(d, 0)
            if centered and sums[1] is not None:
                sums[1] += np.add.reduce(part, 0)
            if for_x is None:
                continue
            z *= _sum(d, gain) / n
            if centered:
                z += _sum(part, gain) / n
            np.multiply(part, gain, d)
            np.subtract(d, z, z)
            z *= _column(inverse[block])
    for total, beta in zip(sums, betas[1:], strict=True):
        if total is not None and beta != 1:
            total *= beta
    return None if for_x is None else normal, *sums


# --- Cross-entropy ----------------------------------------------------------------------------------------------------


def cross_entropy(op: SoftmaxCrossEntropy, alpha: float, logits: Array, targets: Array) -> tuple[Array, Kept]:
    """α·loss; keeps e = exp(logits − largest) (…, s), and of each row its sum, its target, and whether it counts."""
    counts, index, kept = op.check(logits.shape, targets)
    flat, e = by_row(logits), np.empty(logits.shape, logits.dtype)
    out, every = by_row(e), np.arange(len(flat))
    total, picked = np.ones(len(flat), logits.dtype), np.zeros(len(flat), logits.dtype)
    skips = not counts.all()
    for block in blocks.of_rows(*flat.shape):
        if skips and not counts[block].any():
            continue
        shifted = out[block]
        np.subtract(flat[block], np.maximum.reduce(flat[block], -1, keepdims=True), shifted)
        picked[block] = shifted[every[: len(shifted)], index[block]]
        np.exp(shifted, shifted)
        np.add.reduce(shifted, -1, out=total[block])
    weight = 1 / kept if op.reduction == "mean" else 1.0
    share = (counts * weight).astype(logits.dtype)
    value = np.where(counts, share * (np.log(total) - picked), 0).sum(dtype=logits.dtype)
    return np.asarray(value * alpha, logits.dtype), (e, total, index, counts, weight)


def cross_entropy_backward(
    op: Op, betas: Betas, g: Array, e: Array, total: Array, index: Array, counts: Array, weight: float
) -> tuple[Array | None, None]:
    """β·g·weight·(e/total − 1 at the target), 0 in rows that do not count; in the place of e."""
    if betas[0] is None:
        return None, None
    flat, every = by_row(e), np.flatnonzero(counts)
    index = index[every]
    factor = g * (weight * betas[0])
    per_row = _column(factor / total)
    at_target = (flat[every, index] / total[every] - 1) * factor
    skips = len(every) < len(flat)
    for block in blocks.of_rows(*flat.shape):
        if skips and not counts[block].any():
            flat[block] = 0
        else:
            flat[block] *= per_row[block]
    flat[every, index] = at_target
    if skips:
        flat[~counts] = 0  # assigned, not multiplied: such a row may be NaN
    return e, None
