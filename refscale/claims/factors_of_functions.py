"""Factors of activations, softmax, norms and losses: the scale that each makes 1, by quantiles or in closed form."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from refscale import ops
from refscale.claims.claim import Figures, claim, near, none_wrong
from refscale.claims.factors_of_products import QUADRANTS, TABLE
from refscale.claims.one_op import (
    GRID,
    WIDE,
    Measure,
    by_density,
    columns,
    grid,
    lattice,
    mean,
    power_of_two,
    std_by_density,
    unit,
)
from refscale.engine import Array, Op, Sizes
from refscale.scales import Call, Scheme, Statistic, get_scheme
from refscale.testing import quantile_grid, rms, signs, std
from refscale.testing.places import Place

STATISTICS: tuple[tuple[Statistic, Measure], ...] = (("std", std), ("rms", rms))
IGNORE = -100
EVERYTHING = np.ones((1, 1), np.bool_)


def _activation(op: Op, place: Place) -> Figures:
    """Yield α by both statistics, and β, on the quantiles of N(0, 1)."""
    gradient = signs(grid().shape, place.rng())
    for by, measure in STATISTICS if op.has_mean else STATISTICS[:1]:
        yield unit(f"α by {by}", op, (grid(),), measure=measure, statistic=by, relative=GRID)
        yield unit(f"β by {by}", op, (grid(),), 0, gradient, statistic=by, relative=GRID)


def _growing(op: Op, x: Array, measures: tuple[tuple[Statistic, Measure], ...]) -> Figures:
    """Yield α and β of functions that weigh the tails, by the density of N(0, 1)."""
    for by, measure in measures:
        yield unit(f"α by {by}", op, (x,), measure=measure, statistic=by, relative=GRID)
        yield unit(f"β by {by}", op, (x,), 0, np.ones_like(x), measure=by_density, statistic=by, relative=GRID)


BY_DENSITY: tuple[tuple[Statistic, Measure], ...] = (("std", std_by_density), ("rms", by_density))


@claim(TABLE + "; closed form √(2/(1−1/π)), √2")
def claim_3_20_relu(place: Place) -> Figures:
    """relu: α = √(2/(1−1/π)) by standard deviation, √2 by RMS; β = √2."""
    yield from _activation(ops.Relu(), place)


@claim("closed form")
def claim_3_21_leaky_relu(place: Place) -> Figures:
    """leaky relu of any slope: E f = (1−a)/√(2π), E f² = E f'² = (1+a²)/2."""
    yield from _activation(ops.LeakyRelu(), place)
    yield from _activation(ops.LeakyRelu(float(place.rng().uniform(0.05, 0.95))), place)


@claim(TABLE + "; quadrature")
def claim_3_22_gelu(place: Place) -> Figures:
    """gelu by erf and by tanh: α = 1.701, β = 1.481; their constants differ from the fifth digit on."""
    yield from _activation(ops.Gelu(), place)
    yield from _activation(ops.Gelu("tanh"), place)


@claim("quadrature")
def claim_3_23_silu(place: Place) -> Figures:
    """silu: α = 1.787, β = 1.623."""
    yield from _activation(ops.Silu(), place)


@claim(TABLE + "; quadrature")
def claim_3_24_tanh(place: Place) -> Figures:
    """tanh: α = 1.593, β = 1.467."""
    yield from _activation(ops.Tanh(), place)


@claim(TABLE + "; quadrature")
def claim_3_25_sigmoid(place: Place) -> Figures:
    """sigmoid: α = 4.801 by standard deviation, 1.846 by RMS; β = 4.723."""
    yield from _activation(ops.Sigmoid(), place)


@claim("quadrature")
def claim_3_26_softplus(place: Place) -> Figures:
    """softplus: α = 1.919 by standard deviation, 1.042 by RMS; β = 1.846, that of sigmoid by RMS."""
    yield from _activation(ops.Softplus(), place)


@claim("moments of the lognormal distribution")
def claim_3_27_exponentials(place: Place) -> Figures:
    """exp of N(0, 1), log and square root of its exponential: closed forms of the lognormal distribution."""
    z = lattice()
    yield from _growing(ops.Exp(), z, BY_DENSITY)
    yield from _growing(ops.Log(), np.exp(z), BY_DENSITY if ops.Log.has_mean else BY_DENSITY[:1])
    yield from _growing(ops.Sqrt(), np.exp(z), BY_DENSITY if ops.Sqrt.has_mean else BY_DENSITY[:1])


@claim(TABLE + "; by RMS: the limit of wide rows", "s")
def claim_3_28_softmax(place: Place) -> Figures:
    """softmax over s: α = s gives the output mean 1; β = s gives the gradient RMS 1 at uniform logits, for g of mean 0.

    By RMS, α = s/√e: the limit of wide rows of N(0, 1) logits, within 1 % at 65 536. A mask of ones changes nothing.
    """
    s, rng = place.s, place.rng()
    h = columns(power_of_two(max(2, s)))
    row, alternating = grid()[None], np.where(np.arange(grid().size) % 2, 1.0, -1.0)[None]
    ones: tuple[tuple[Op, tuple[Array, ...]], ...] = (
        (ops.Softmax(), ()),
        (ops.MaskedSoftmax(), (np.ones((1, 1), bool),)),
    )
    for op, more in ones:
        yield unit("α", op, (rng.standard_normal((3, s)), *more), measure=mean)
        yield unit("β", op, (np.zeros((len(h) - 1, len(h))), *more), 0, h[1:])
        yield unit("α by rms", op, (row, *more), statistic="rms", relative=WIDE)
        yield unit("β by rms", op, (row, *more), 0, alternating, statistic="rms", relative=WIDE)


@claim("log-softmax of wide rows is the logits, less a constant; Σ g is removed", "s")
def claim_3_29_log_softmax(place: Place) -> Figures:
    """log softmax over s: α = 1 by standard deviation; at uniform logits the gradient loses its mean, one part in s.

    A mask of ones changes nothing.
    """
    h = columns(power_of_two(max(2, place.s)))  # the first row is constant, so all of it is removed
    kinds: tuple[tuple[Op, tuple[Array, ...]], ...] = (
        (ops.LogSoftmax(), ()),
        (ops.MaskedLogSoftmax(), (EVERYTHING,)),
    )
    for by, measure in STATISTICS:
        for op, more in kinds:
            yield unit(f"β by {by}", op, (np.zeros(h.shape), *more), 0, h, statistic=by)
            yield unit(f"α by {by}", op, (grid()[None], *more), measure=measure, statistic=by, relative=GRID)


@claim(TABLE, "bn")
def claim_3_30_norms(place: Place) -> Figures:
    """Layer norm and RMS norm over b rows: α = β_x = 1; β = b^-½ for gain and bias.

    Rows of signs of mean zero equal their own norm, and a gradient orthogonal to them and to 1 passes unchanged.
    """
    rng, n = place.rng(), power_of_two(max(4, place.at_most(n=256).n))
    h = columns(n)
    flip = np.repeat(signs((n // 2,), rng), 2)[:, None] * np.ones((1, n))  # the same sign for compared rows
    x, one, zero = h[1] * flip, np.ones(n), np.zeros(n)
    g = columns(place.b).T  # (b, p): sums over its rows have an RMS of √b
    wide = np.tile(g, (1, max(1, n // g.shape[1])))[:, : max(n, g.shape[1])]
    y = columns(wide.shape[1])[1] * signs((place.b, 1), rng)
    pairs: tuple[tuple[Op, int], ...] = ((ops.LayerNorm(0.0), 2), (ops.RmsNorm(0.0), 1))
    for op, count in pairs:
        small = (one, zero)[:count]
        yield unit("α", op, (float(rng.uniform(1, 9)) * x, *small))
        yield unit("β of x", op, (x[2:], *small), 0, h[2:])
        large = (np.ones(wide.shape[1]), np.zeros(wide.shape[1]))[:count]
        yield unit(f"β of the gain over {place.b} rows", op, (y, *large), 1, wide * y)
        if count == 2:
            yield unit(f"β of the bias over {place.b} rows", op, (y, *large), 2, wide)


@claim(TABLE + "; a mean over rows multiplies β by their number", "bs")
def claim_3_31_cross_entropy(place: Place) -> Figures:
    """Cross-entropy of s classes: α = 1; β = s/√(s−1), exact at uniform logits; for a mean, times the counted rows.

    All targets give the same RMS, so rows are enumerated, not drawn. For one class the gradient is 0, and β = 1.
    """
    b, s = place.b, max(2, place.s)
    uniform, targets = np.zeros((b, s)), np.arange(b) % s
    kept = 1 + int(place.rng().integers(0, b))
    some = np.where(np.arange(b) < kept, targets, IGNORE)
    reductions: tuple[tuple[Literal["sum", "mean"], int], ...] = (("sum", 1), ("mean", 0))
    for reduction, rows in reductions:
        every = ops.SoftmaxCrossEntropy(reduction)
        masked = ops.SoftmaxCrossEntropy(reduction, IGNORE, kept)
        yield unit(f"α, {reduction}", every, (uniform, targets), measure=mean, expected=math.log(s) * b**rows)
        yield unit(f"β, {reduction} of {b}", every, (uniform, targets), 0, 1.0)
        value = math.log(s) * kept**rows
        yield unit(f"α, {reduction} of {kept} kept", masked, (uniform, some), measure=mean, expected=value)
        yield unit(f"β, {reduction} of {kept} kept", masked, (uniform, some), 0, 1.0)
    one = ops.SoftmaxCrossEntropy("sum").scale((b, 1), (b,))
    yield none_wrong("β of one class is not 1", one.beta[0] != 1.0)


@claim("gradient 2(x−y)/n of two independent inputs; a sum is the objective")
def claim_3_32_other_losses(place: Place) -> Figures:
    """Squared error: β = n/√8, as x − y has variance 2. A sum of losses: every factor is 1."""
    yield unit("α", ops.MseLoss(), tuple(QUADRANTS), measure=mean, expected=2.0)
    for i in (0, 1):
        yield unit(f"β of input {i}", ops.MseLoss(), tuple(QUADRANTS), i, 1.0)
    losses = tuple(np.asarray(v) for v in place.rng().uniform(1, 4, 3))
    yield unit("α", ops.LossSum(), losses, measure=mean, expected=float(sum(losses)))
    for i in range(3):
        yield unit(f"β of input {i}", ops.LossSum(), losses, i, 1.0)


CONSTANTS: tuple[tuple[Op, float, float, float], ...] = (
    (ops.Relu(), 1.7128586, 1.4142136, 1.4142136),
    (ops.Gelu(), 1.7009262, 1.5335304, 1.4811144),
    (ops.Gelu("tanh"), 1.7009166, 1.5335805, 1.4811681),
    (ops.Silu(), 1.7871872, 1.6765325, 1.6233203),
    (ops.Tanh(), 1.5925374, 1.5925374, 1.4674136),
    (ops.Sigmoid(), 4.8013134, 1.8462285, 4.7226461),
)
"""α by standard deviation, α by RMS, β: quadrature to 30 digits, rounded to eight digits."""


@claim("quadrature to 30 digits; paper, Table A.2, to its ±0.0005")
def claim_3_33_constants(place: Place) -> Figures:
    """The constants of the activations agree with quadrature to eight digits."""
    schemes: tuple[Scheme, Scheme] = (get_scheme("unit"), get_scheme("unit-rms"))
    for op, *alphas, beta in CONSTANTS:
        for scheme, alpha in zip(schemes, alphas, strict=True):
            scales = scheme.scales(Call(op, ((5, 7),)))
            yield near(f"{op.name}: α, {scheme.name}", scales.alpha, alpha, 4e-8)
            yield near(f"{op.name}: β, {scheme.name}", scales.beta[0] or 0, beta, 4e-8)


@claim("the rule of refscale.ops.Elementwise, on quantiles of N(0, 1)")
def claim_3_37_elementwise(place: Place) -> Figures:
    """For every element-wise op of the table, α and β give output and gradient scale 1, by both statistics."""
    for example in ops.examples(Sizes(1, 1, 1, 1)):
        if isinstance(example.op, ops.Square):
            yield from _growing(example.op, lattice(), BY_DENSITY)
        elif isinstance(example.op, ops.Elementwise):
            yield from _activation(example.op, place)


@claim("closed form: E max(X, Y) = π^-½; half of the elements go to each input")
def claim_3_38_extremes(place: Place) -> Figures:
    """Maximum and minimum of two independent N(0, 1): α = (1 − 1/π)^-½ by standard deviation, 1 by RMS; β = √2."""
    quantiles = quantile_grid(512)
    x, y = (np.array(a) for a in np.broadcast_arrays(quantiles[:, None], quantiles[None]))
    g = signs(x.shape, place.rng())
    for op in (ops.Maximum(), ops.Minimum()):
        for by, measure in STATISTICS:
            yield unit(f"α by {by}", op, (x, y), measure=measure, statistic=by, relative=WIDE)
            for i in range(2):
                yield unit(f"β{i} by {by}", op, (x, y), i, g, statistic=by, relative=WIDE)


@claim(TABLE + " (sum; broadcast bias), terms counted by window", "b")
def claim_3_39_copies_and_means(place: Place) -> Figures:
    """Average pooling of k: α = √k, β = k for disjoint windows; expand: β = r^-½; where: α = β = 1."""
    rng, b = place.rng(), place.at_most(b=256).b
    h = columns(b)
    x, g = h[:, :, None] * signs((len(h), 1, 3), rng), signs((len(h), 1, 3), rng)
    yield unit(f"α of windows of {b}", ops.AvgPool((b,)), (x,), relative=GRID)
    yield unit(f"β of windows of {b}", ops.AvgPool((b,)), (x,), 0, g, relative=GRID)
    op = ops.Expand((len(h), b))
    yield unit("α", op, (signs((len(h), 1), rng),))
    yield unit(f"β of {b} repeats", op, (signs((len(h), 1), rng),), 0, h, relative=GRID)
    u, v, g = signs((3, 5, b), rng)
    for value, i in ((True, 1), (False, 2)):
        mask = np.full((5, 1), value)
        yield unit("α", ops.Where(), (mask, u, v))
        yield unit(f"β of input {i}", ops.Where(), (mask, u, v), i, g)


@claim("as layer norm", "b")
def claim_3_40_norms_of_channels(place: Place) -> Figures:
    """Batch norm, training and frozen, and group norm over R rows: α = β_x = 1; β = R^-½ for gain and bias."""
    rng, b = place.rng(), power_of_two(max(4, place.at_most(b=256).b))
    h = columns(b)  # columns of mean 0, except the first, orthogonal to each other
    x, g = (np.tile(h[i][:, None], (1, 8)) * signs((1, 8), rng) for i in (1, 2))
    n = np.ones(8)
    kinds: tuple[tuple[Op, tuple[Array, ...]], ...] = ((ops.BatchNorm(0.0), ()), (ops.FrozenBatchNorm(0.0), (0 * n, n)))
    for op, more in kinds:
        yield unit(f"α over {b} rows", op, (x, n, 0 * n, *more))
        yield unit(f"β_x over {b} rows", op, (x, n, 0 * n, *more), 0, g, relative=GRID)
        wide = h.T
        y = np.tile(h[1][:, None], (1, b))
        ones = np.ones(b)
        statistics = (0 * ones, ones) if more else ()
        yield unit(f"β_gain over {b} rows", op, (y, ones, 0 * ones, *statistics), 1, wide, relative=GRID)
        yield unit(f"β_bias over {b} rows", op, (y, ones, 0 * ones, *statistics), 2, wide, relative=GRID)
    # A sample for each row; its group is the four elements (1, −1, 1, −1), orthogonal to (1, 1, −1, −1).
    x, g = (np.tile(c, (b, 1)) for c in (h4(1), h4(2)))
    op, one4 = ops.GroupNorm(2, 0.0), np.ones(8)
    yield unit("α", op, (x, one4, 0 * one4))
    yield unit("β_x", op, (x, one4, 0 * one4), 0, g)
    g = np.ones((b, 8))  # identical rows: √b
    yield unit("β_gain of equal rows", op, (x, one4, 0 * one4), 1, g, expected=math.sqrt(b))
    yield unit("β_bias of equal rows", op, (x, one4, 0 * one4), 2, g, expected=math.sqrt(b))


def h4(i: int) -> Array:
    """Return a column of the Hadamard matrix of 4, twice."""
    return np.tile(columns(4)[i], 2)


@claim("closed form at uniform logits", "bs")
def claim_3_41_weighted_targets(place: Place) -> Figures:
    """Cross-entropy of smoothed or weighted targets: β of hard targets over the RMS of the gradient at uniform logits.

    For two classes by one logit: β = 2 over the RMS of the weights, times the number of elements of a mean.
    """
    b, s, rng = place.b, max(2, place.s), place.rng()
    smoothing, weight = float(rng.uniform(0, 0.5)), float(rng.uniform(1, 4))
    kept = 1 + int(rng.integers(0, b))
    hard = (np.arange(s) == (np.arange(b) % s)[:, None]) * (np.arange(b) < kept)[:, None]
    targets = weight * ((1 - smoothing) * hard + smoothing / s * hard.any(-1, keepdims=True))
    of_rows: tuple[tuple[ops.Reduction, float], ...] = (("sum", kept), ("mean", 1), ("none", kept / b))
    for reduction, rows in of_rows:
        op = ops.SoftTargetCrossEntropy(reduction, weight * kept, kept, weight * (1 - smoothing))
        value = math.log(s) * rows * (1 if reduction == "mean" else weight)
        g = signs((b,), rng) if reduction == "none" else 1.0
        yield unit(f"α, {reduction} of {kept} of {b}", op, (np.zeros((b, s)), targets), measure=mean, expected=value)
        yield unit(f"β, {reduction} of {kept} of {b}", op, (np.zeros((b, s)), targets), 0, g)
    t = np.arange(2 * b) % 2
    of_elements: tuple[tuple[ops.Reduction, float], ...] = (("sum", 2 * b), ("mean", 1), ("none", 1))
    for reduction, rows in of_elements:
        binary = ops.BinaryCrossEntropy(reduction, math.sqrt((weight**2 + 1) / 2))
        arrays = (np.zeros(2 * b), weight * t, 1.0 - t)
        g = signs((2 * b,), rng) if reduction == "none" else 1.0
        value = math.log(2) * rows * (weight + 1) / 2
        yield unit(f"α, {reduction} of {2 * b} elements", binary, arrays, measure=mean, expected=value)
        yield unit(f"β, {reduction} of {2 * b} elements", binary, arrays, 0, g)


@claim("closed form: E min(D², δ²) of D ~ N(0, 2)")
def claim_3_42_clipped_losses(place: Place) -> Figures:
    """Huber loss and smooth L1 of x − y ~ N(0, 2): β is 1 over the RMS of the difference clipped to ±δ."""
    d, delta = math.sqrt(2) * grid(), float(place.rng().uniform(0.25, 4))
    arrays = (d, np.zeros_like(d))
    huber = float(np.mean(np.where(np.abs(d) <= delta, d * d / 2, delta * (np.abs(d) - delta / 2))))
    pairs: tuple[tuple[Op, float], ...] = ((ops.HuberLoss(delta), huber), (ops.SmoothL1Loss(delta), huber / delta))
    for op, value in pairs:
        yield unit(f"α at δ = {delta:.3g}", op, arrays, measure=mean, expected=value)
        for i in (0, 1):
            yield unit(f"β of input {i} at δ = {delta:.3g}", op, arrays, i, 1.0, relative=GRID)
