"""Kernels of the ops along rows: the readable forms, computed for some rows at a time, which stay in cache.

A readable form reads whole arrays from memory, and writes them back, at every step. A kernel computes all steps for
some rows, then for the next ones. It writes into the arrays that it returns or keeps, and makes no other arrays of full
size. Factors are multiplied into a number per row or a row of gains if possible, else into the rows in cache.

The differences from the readable form are a fixed number of roundings: a factor is rounded into the array that it
multiplies (exactly for a power of two), and sums of products along a row are added in the order of ``vecdot``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from refscale.engine import Array, Op
from refscale.ops.kernels import blocks
from refscale.ops.kernels.blocks import Betas, Kept, by_row
from refscale.ops.moments import normalized
from refscale.ops.sums import total
from refscale.scales import Shape


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


def softmax(op: Any, alpha: float, x: Array) -> tuple[Array, Kept]:
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


def _divide(e: Array, sums: Array, alpha: float) -> None:
    """e·α/sums in place."""
    if alpha != 1:
        sums /= alpha
    e /= sums


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
    """Backward of ``masked_softmax``: that of ``softmax``, and None for the mask."""
    return *softmax_backward(op, betas[:1], g, y, alpha), None


def masked_softmax(op: Any, alpha: float, x: Array, mask: Array) -> tuple[Array, Kept]:
    """α·softmax over the visible keys; keeps the result, and α."""
    op.check(x, mask)
    y = np.empty(x.shape, x.dtype)
    if not y.size:
        return y, (y, alpha)
    visible, shape = _visible(mask, x.shape, op)
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
        sums = _sum(e, ones)
        _divide(e, np.maximum(sums, 1, out=sums), alpha)  # where a key is seen, the largest gives 1; elsewhere 0/1
    return y, (y, alpha)


def _visible(mask: Array, x: Shape, op: Any) -> tuple[Array, tuple[int, int, int, int]]:
    """The mask as (p or 1, 1, s or 1, t or 1), and the (p, h, s, t) that x of shape (…, s, t) is then taken for.

    What had been broadcast before it came here is cut to one again.
    """
    mask = mask.reshape((1,) * (len(x) - mask.ndim) + mask.shape)
    mask = mask[tuple(slice(None) if stride else slice(1) for stride in mask.strides)]
    if op.hides_by_place:
        mask = mask & op.places(*x[-2:])
    lead = len(x) - 2
    varies = max((i + 1 for i in range(lead) if mask.shape[i] > 1), default=0)
    mask = np.broadcast_to(mask, (*x[:varies], *mask.shape[varies:]))
    p, h = math.prod(x[:varies]), math.prod(x[varies:lead])
    return mask.reshape(p, 1, *mask.shape[-2:]), (p, h, x[-2], x[-1])


def _limits(visible: Array, dtype: np.dtype[Any]) -> Array:
    """Operands of ``fmin`` that turn hidden logits, even NaN, into −∞, and leave visible logits unchanged."""
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


def layer_norm(op: Any, alpha: float, x: Array, gain: Array, bias: Array) -> tuple[Array, Kept]:
    """α·(gain·normal + bias); keeps normal (…, n), 1/σ (rows,) and the gain."""
    op.check(x.shape, gain.shape, bias.shape)
    scaled, shift = (gain, bias) if alpha == 1 else (gain * alpha, bias * alpha)
    return _norm(x, op.eps, scaled, shift, gain)


def rms_norm(op: Any, alpha: float, x: Array, gain: Array) -> tuple[Array, Kept]:
    """α·gain·normal; keeps normal (…, n), 1/RMS (rows,) and the gain."""
    op.check(x.shape, gain.shape)
    return _norm(x, op.eps, gain if alpha == 1 else gain * alpha, None, gain)


def _norm(x: Array, eps: float, scaled: Array, shift: Array | None, gain: Array) -> tuple[Array, Kept]:
    """scaled·normal + shift, and the kept arrays; the RMS norm has no shift."""
    rows, normal, y = by_row(x), np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    normals, out, inverse = by_row(normal), by_row(y), np.empty(len(rows), x.dtype)
    ones = None if shift is None else np.ones(x.shape[-1], x.dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # squares may leave the carrier's range
        _without_copies(x.shape[-1])
        for block in blocks.of_rows(*rows.shape):
            z, o = normals[block], out[block]
            _normalize(rows[block], eps, ones, z, inverse[block])
            np.multiply(z, scaled, o)
            if shift is not None:
                o += shift
    return y, (normal, inverse, gain)


def _without_copies(n: int) -> None:
    """Until the errstate around this call ends, broadcast the operands of long rows without copying them.

    Broadcast operands are first copied into buffers of several rows, unless a row is longer than a buffer. With rows
    of 768 a product with a column takes 0.10 ns per element instead of 0.18; with rows of 128 copying is faster, too.
    """
    if n >= 512:
        np.setbufsize(16)


_MEAN_SQUARES = {np.dtype(t): (float(np.finfo(t).tiny / np.finfo(t).eps), float(np.finfo(t).max)) for t in "fd"}
"""Range, by dtype, of mean squares without overflow, and with less underflow than the rounding error."""


def _normalize(x: Array, eps: float, ones: Array | None, z: Array, inverse: Array) -> None:
    """z = (x − mean)·inverse of each row, with inverse = 1/√(var + eps); the mean is subtracted if there are ``ones``.

    Rows whose sums or squares leave the carrier's range, or almost, are computed by the readable form.
    """
    y = x
    if ones is not None:
        _center(x, ones, z)
        y = z
    np.vecdot(y, y, inverse)
    inverse /= x.shape[-1]
    inverse += eps
    least, most = _MEAN_SQUARES[x.dtype]
    beyond = None
    if not (least <= np.minimum.reduce(inverse) and np.maximum.reduce(inverse) <= most):
        beyond = ~((least <= inverse) & (inverse <= most))
        inverse[beyond] = 1
    np.sqrt(inverse, inverse)
    np.divide(1, inverse, inverse)
    np.multiply(y, _column(inverse), z)
    if beyond is not None:
        z[beyond], column = normalized(x[beyond], eps, with_mean=ones is not None)
        inverse[beyond] = column[:, 0]


def _center(x: Array, ones: Array, out: Array) -> None:
    """x − mean of each row: exactly 0 if all its elements are equal, as in ``ops.moments``."""
    np.subtract(x, x[:, :1].copy(), out)  # of a view NumPy would copy the whole, where out is x
    out -= _sum(out, ones) / x.shape[-1]


def layer_norm_backward(
    op: Op, betas: Betas, g: Array, normal: Array, inverse: Array, gain: Array
) -> tuple[Array | None, ...]:
    """β·(d − mean d − normal·mean(d·normal))/σ with d = g·gain, written over normal; and the sums over rows."""
    return _norm_backward(betas, g, normal, inverse, gain, with_mean=True)


def rms_norm_backward(
    op: Op, betas: Betas, g: Array, normal: Array, inverse: Array, gain: Array
) -> tuple[Array | None, ...]:
    """β·(d − normal·mean(d·normal))/RMS with d = g·gain, written over normal; and the sum over rows."""
    return _norm_backward(betas, g, normal, inverse, gain, with_mean=False)


def _add_rows(x: Array) -> Array:
    """Sum of the rows in float64, as ``ops.sums.total`` before it rounds; NumPy's cast is slow ``_without_copies``."""
    return np.asarray(np.ones(len(x)) @ x.astype(np.float64, copy=False))


def _norm_backward(
    betas: Betas, g: Array, normal: Array, inverse: Array, gain: Array, with_mean: bool
) -> tuple[Array | None, ...]:
    """Backward of every block: the gain's sum uses normal, which is then overwritten. Sums are in float64."""
    for_x = betas[0]
    rows, normals, n = by_row(g), by_row(normal), g.shape[-1]
    sums = [None if beta is None else np.zeros(n) for beta in betas[1:]]
    buffer, ones = np.empty((min(len(rows), max(1, blocks.BLOCK // n)), n), g.dtype), np.ones(n, g.dtype)
    if for_x is not None and for_x != 1:
        inverse *= for_x
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # as for the forward
        _without_copies(n)
        for block in blocks.of_rows(*rows.shape):
            part, z = rows[block], normals[block]
            d = buffer[: len(part)]
            if sums[0] is not None:
                sums[0] += _add_rows(np.multiply(part, z, d))
            if with_mean and sums[1] is not None:
                sums[1] += _add_rows(part)
            if for_x is None:
                continue
            np.multiply(part, gain, d)
            if with_mean:
                _center(d, ones, d)
            z *= _column(np.vecdot(d, z)) / n
            np.subtract(d, z, z)
            z *= _column(inverse[block])
    parameters = (
        None if y is None or beta is None else (y * beta).astype(g.dtype)
        for y, beta in zip(sums, betas[1:], strict=True)
    )
    return None if for_x is None else normal, *parameters


# --- Cross-entropy ----------------------------------------------------------------------------------------------------


def cross_entropy(op: Any, alpha: float, logits: Array, targets: Array) -> tuple[Array, Kept]:
    """α·loss; keeps e = exp(logits − largest) (…, s), and for each row its sum, its target, and whether it counts."""
    counts, index, kept = op.check(logits.shape, targets)
    flat, e = by_row(logits), np.empty(logits.shape, logits.dtype)
    out, every = by_row(e), np.arange(len(flat))
    sums, picked = np.ones(len(flat), logits.dtype), np.zeros(len(flat), logits.dtype)
    skips = not counts.all()
    for block in blocks.of_rows(*flat.shape):
        if skips and not counts[block].any():
            continue
        shifted = out[block]
        np.subtract(flat[block], np.maximum.reduce(flat[block], -1, keepdims=True), shifted)
        picked[block] = shifted[every[: len(shifted)], index[block]]
        np.exp(shifted, shifted)
        np.add.reduce(shifted, -1, out=sums[block])
    weight = 1 / kept if op.reduction == "mean" else 1.0
    share = (counts * weight).astype(logits.dtype)
    losses = np.where(counts, share * (np.log(sums) - picked), np.zeros((), logits.dtype))
    value = losses.reshape(targets.shape) if op.reduction == "none" else total(losses)
    return np.asarray(value * alpha, logits.dtype), (e, sums, index, counts, weight)


def cross_entropy_backward(
    op: Op, betas: Betas, g: Array, e: Array, sums: Array, index: Array, counts: Array, weight: float
) -> tuple[Array | None, None]:
    """β·g·weight·(e/sums − 1 at the target), 0 in rows that do not count; written over e."""
    if betas[0] is None:
        return None, None
    flat, every = by_row(e), np.flatnonzero(counts)
    index = index[every]
    factor = np.broadcast_to(g.reshape(-1), len(flat)) * (weight * betas[0])  # g is a number, or one for each row
    per_row = _column(factor / sums)
    at_target = (flat[every, index] / sums[every] - 1) * factor[every]
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
