"""Factors of sums and products: inputs whose output or gradient each factor scales to exactly 1, at any shape.

Signs have unit variance in every sample, and columns of a Hadamard matrix times signs have an RMS of exactly √terms
(``refscale.testing.hadamard``), so no factor here is estimated. Sizes that a factor does not depend on are small.
"""

from __future__ import annotations

import numpy as np

from refscale import ops
from refscale.claims.claim import Figures, claim, same
from refscale.claims.one_op import GRID, Measure, columns, grid, quantiles_of_largest, unit
from refscale.engine import Array, Op
from refscale.scales import ScoresRule, Statistic
from refscale.testing import rms, signs, std
from refscale.testing.places import Place

TABLE = "paper, Table A.2"
QUADRANTS = np.array([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]])
"""Two rows of signs with all four combinations: Σ γ_i·row_i has an RMS of √(Σ γ_i²)."""
FEW = 8


def _summed_over_rows(op: Op, i: int, p: Place) -> Figures:
    """Yield β of an input repeated by broadcasting: b^-½, as its gradient sums b rows."""
    stacked = columns(p.b).T  # (b, p): sums over its rows have an RMS of √b
    rng, width = p.rng(), stacked.shape[1]
    arrays = [signs(stacked.shape, rng), signs((p.b, width), rng)]
    arrays[i] = signs((width,), rng)
    yield unit(f"β of input {i}, repeated {p.b} times", op, tuple(arrays), i, stacked)


@claim(TABLE + " (weighted add, γ = 1)", "b")
def claim_3_01_add(place: Place) -> Figures:
    """x + y of independent inputs: α = 2^-½; β = r^-½ for an input repeated r times by broadcasting."""
    yield from _sum_of_two(ops.Add(), place)


@claim(TABLE + " (weighted add, |γ| = 1)", "b")
def claim_3_02_subtract(place: Place) -> Figures:
    """x − y: the factors of x + y."""
    yield from _sum_of_two(ops.Subtract(), place)


def _sum_of_two(op: Op, place: Place) -> Figures:
    yield unit("α", op, tuple(QUADRANTS))
    for i in (0, 1):
        yield unit(f"β of input {i}", op, tuple(QUADRANTS), i, signs((4,), place.rng()))
        yield from _summed_over_rows(op, i, place)


@claim(TABLE + " (weighted add)", "b")
def claim_3_03_weighted_add(place: Place) -> Figures:
    """Σ γ_i x_i: α = (Σ γ_i²)^-½, β_i = 1/γ_i, for any weights."""
    weights = tuple(np.exp2(place.rng().uniform(-3, 3, 2)))
    op = ops.WeightedAdd(weights)
    yield from _sum_of_two(op, place)


@claim(TABLE + " (broadcast bias)", "b")
def claim_3_04_bias(place: Place) -> Figures:
    """x + bias: α = β_x = 1, as biases start at 0; β_bias = b^-½."""
    x, zero = signs((place.b, FEW), place.rng()), np.zeros(FEW)
    yield unit("α", ops.Bias(), (x, zero))
    yield unit("β of input 0", ops.Bias(), (x, zero), 0, x[::-1])
    yield from _summed_over_rows(ops.Bias(), 1, place)


@claim("E[(xy)²] = E[x²]·E[y²]", "b")
def claim_3_05_multiply(place: Place) -> Figures:
    """x·y of independent inputs: α = 1, β = r^-½."""
    op, rng = ops.Multiply(), place.rng()
    x, y, g = signs((3, place.b, FEW), rng)
    yield unit("α", op, (x, y))
    for i in (0, 1):
        yield unit(f"β of input {i}", op, (x, y), i, g)
        stacked = columns(place.b).T
        arrays = [signs(stacked.shape, rng), signs(stacked.shape, rng)]
        other = arrays[1 - i]
        arrays[i] = signs(stacked.shape[1:], rng)
        yield unit(f"β of input {i}, repeated", op, tuple(arrays), i, stacked * other)


@claim("quadrature; arXiv 2002.05202")
def claim_3_06_silu_glu(place: Place) -> Figures:
    """x·f(gate), with silu and other activations: α is 1 over the RMS of f, not σ, as x and gate are independent."""
    rng = place.rng()
    arrays = (signs(grid().shape, rng), grid())
    for op in (ops.SiluGlu(), *map(ops.Glu, ops.ACTIVATIONS), ops.Glu(ops.Swish(1.702))):
        yield unit("α", op, arrays, relative=GRID)
        for i in (0, 1):
            yield unit(f"β of input {i}", op, arrays, i, signs(grid().shape, rng), relative=GRID)


@claim("paper, Table A.2; E[keep²]/(1−p)² = 1/(1−p)")
def claim_3_07_dropout(place: Place) -> Figures:
    """Dropout of a share p, survivors divided by 1 − p: α = β = √(1−p)."""
    rng = place.rng()
    dropped = int(rng.integers(0, 64))
    keep = rng.permutation(64) >= dropped
    op, x = ops.Dropout(dropped / 64), signs((64,), rng)
    yield unit(f"α at p = {dropped}/64", op, (x, keep))
    yield unit(f"β at p = {dropped}/64", op, (x, keep), 0, signs((64,), rng))


@claim("authors' code, examples/listings.py (scaled); engine.settle")
def claim_3_08_identities(place: Place) -> Figures:
    """Scaled and Fork are identities with given factors; r forks of r^-½ preserve the RMS of a sum of gradients."""
    rng = place.rng()
    alpha, beta = (float(f) for f in np.exp2(rng.uniform(-3, 3, 2)))
    x, g = signs((2, 16), rng)
    yield unit("α", ops.Scaled(alpha, beta), (x,), expected=alpha)
    yield unit("β", ops.Scaled(alpha, beta), (x,), 0, g, expected=beta)
    yield unit("α", ops.Fork(2**-0.5), (x,))
    yield unit("β of two", ops.Fork(2**-0.5), (signs((4,), rng),), 0, QUADRANTS, ways=2)


def _product(op: Op, p: Place, *, alpha: bool = True) -> Figures:
    """Yield α from m terms, β_x from n, β_w from b."""
    rng = p.rng()
    if alpha:
        x = columns(p.m)
        yield unit(f"α over {p.m} terms", op, (x, signs((p.m, FEW), rng)))
    g = columns(p.n)
    yield unit(f"β of x over {p.n} terms", op, (signs((len(g), FEW), rng), signs((FEW, p.n), rng)), 0, g)
    x = columns(p.b).T
    yield unit(f"β of w over {p.b} terms", op, (x, signs((x.shape[1], FEW), rng)), 1, signs((p.b, FEW), rng))


@claim(TABLE, "bmn")
def claim_3_09_matmul(place: Place) -> Figures:
    """x (…, b, m) times w (m, n): α = m^-½, β_x = n^-½, β_w = b^-½ with b the rows of x over all leading axes.

    The gradient of an operand that broadcasting repeats r times sums r times as many terms.
    """
    rng, op = place.rng(), ops.Matmul()
    yield from _product(op, place)
    x = columns(2 * place.b).T  # rows of two halves, one weight
    halves, g = x.reshape(2, place.b, -1), signs((2, place.b, FEW), rng)
    yield unit(f"β of w over 2·{place.b} terms", op, (halves, signs((x.shape[1], FEW), rng)), 1, g)
    g = columns(4 * place.n)  # x is used by 4 products with n columns each
    four = g.reshape(len(g), 4, place.n).swapaxes(0, 1)
    arrays = (signs((1, len(g), FEW), rng), signs((4, FEW, place.n), rng))
    yield unit(f"β of x over 4·{place.n} terms", op, arrays, 0, four)
    arrays = (halves, signs((1, x.shape[1], FEW), rng))
    yield unit(f"β of one w for two x, over 2·{place.b} terms", op, arrays, 1, signs((2, place.b, FEW), rng))
    pairs = np.stack([columns(place.b).T] * 3)  # three products side by side: no operand is repeated
    arrays = (pairs, signs((3, pairs.shape[2], FEW), rng))
    yield unit(f"β of w in three products over {place.b} terms", op, arrays, 1, signs((3, place.b, FEW), rng))
    g = np.stack([columns(place.n)] * 3)
    arrays = (signs((3, g.shape[1], FEW), rng), signs((3, FEW, place.n), rng))
    yield unit(f"β of x in three products over {place.n} terms", op, arrays, 0, g)


@claim(TABLE + "; 1/m: arXiv 2407.17465, output layer", "bmn")
def claim_3_10_readout(place: Place) -> Figures:
    """A readout is a matmul; with the rule 1/m, α = 1/m: for weights and inputs of 1 the output is 1."""
    yield from _product(ops.Readout(), place)
    damped = ops.Readout("1/m")
    yield unit("α of aligned weights", damped, (np.ones((2, place.m)), np.ones((place.m, 3))))
    yield from _product(damped, place, alpha=False)


@claim(TABLE + "; correlated values: the mean of t equal ones", "bmn")
def claim_3_11_attention_mix(place: Place) -> Figures:
    """weights (s, t) of mean 1 times values (t, d): α = t^-½ for independent values, 1/t for equal ones.

    For a causal mixture of independent values, (t·H_t)^-½: query i computes t times the mean of i values.
    """
    rng = place.rng()
    yield from _product(ops.AttentionMix("independent"), place)
    yield from _product(ops.AttentionMix(), place, alpha=False)
    weights = rng.random((5, place.m)) + 0.1
    alike = np.tile(signs((1, FEW), rng), (place.m, 1))
    yield unit("α of equal values", ops.AttentionMix(), (weights / weights.mean(1, keepdims=True), alike))
    t = place.m
    means = np.tri(t) * (t / np.arange(1.0, t + 1))[:, None]
    yield unit(f"α of means of 1 to {t} values", ops.AttentionMix("causal"), (means, columns(t).T))


@claim(TABLE + "; Vaswani et al. 2017; arXiv 2407.17465", "bmn")
def claim_3_12_attention_scores(place: Place) -> Figures:
    """q·kᵀ·damping: α = 1, so that d^-½ gives σ = 1 and 1/d gives d^-½; both gradients have unit variance."""
    rng, d = place.rng(), place.m
    rules: tuple[tuple[ScoresRule, float], ...] = (("1/sqrt(d)", 1.0), ("1/d", d**-0.5))
    for rule, expected in rules:
        op = ops.AttentionScores(rule)
        q = columns(d)
        yield unit(f"α, {rule}", op, (q, signs((FEW, d), rng)), expected=expected)
        g = columns(place.n)
        arrays = (signs((len(g), FEW), rng), signs((place.n, FEW), rng))
        yield unit(f"β of q over {place.n} keys, {rule}", op, arrays, 0, g)
        q = columns(place.b).T
        arrays = (q, signs((FEW, q.shape[1]), rng))
        yield unit(f"β of k over {place.b} queries, {rule}", op, arrays, 1, signs((place.b, FEW), rng))


def _rows(*shape: int) -> Array:
    """Return rows of a Hadamard matrix in a shape, one column of it last: sums over all but the last axis are exact."""
    return columns(int(np.prod(shape))).T.reshape(*shape, -1)


def _per_group(w: Array) -> Array:
    """Repeat a weight for each of two groups of the last axis."""
    return np.concatenate([w, w], -1)


@claim("authors' code, scmm/uscale/ops.py (conv1d, conv2d), with b^-½ for its b^-1", "bms")
def claim_3_13_conv1d(place: Place) -> Figures:
    """Conv1d: α = (kernel·channels_in/groups)^-½, β_x = (kernel/stride·channels_out/groups)^-½.

    β_w = (batch·positions)^-½.
    """
    p, rng = place.at_most(b=8, m=16, s=32), place.rng()
    op = ops.Conv1d(stride=2, dilation=2, groups=2)
    length = 2 * p.s + 3  # gives s positions
    x, taps = signs((p.b, length, 2 * p.m), rng), _per_group(_rows(3, p.m))
    yield unit(f"α over 3·{p.m} terms", op, (x, taps))
    g = _per_group(_rows(p.b, p.s))
    taps = signs((3, p.m, g.shape[-1]), rng)
    yield unit(f"β of w over {p.b}·{p.s} terms", op, (x, taps), 1, g)
    # Padding of kernel − stride at both ends: every element of x is in kernel/stride = 2 windows of m outputs.
    seen = _rows(4, p.m).swapaxes(1, 2)
    x = signs((p.b, 2 * p.s, 2 * seen.shape[1]), rng)
    g = signs((p.b, p.s + 1, 2 * p.m), rng)
    yield unit(f"β of x over 2·{p.m} terms", ops.Conv1d(2, 2, groups=2), (x, _per_group(seen)), 0, g)


@claim("authors' code, scmm/uscale/ops.py (conv1d, conv2d), with b^-½ for its b^-1", "bms")
def claim_3_14_conv2d(place: Place) -> Figures:
    """Conv2d and Conv3d: as Conv1d, with kernel, stride and positions as products over two or three axes."""
    p, rng = place.at_most(b=4, m=8, s=8), place.rng()
    op = ops.Conv2d(stride=(1, 2), groups=2)
    x, taps = signs((p.b, p.s + 1, 2 * p.s, 2 * p.m), rng), _per_group(_rows(2, 2, p.m))
    yield unit(f"α over 2·2·{p.m} terms", op, (x, taps))
    g = _per_group(_rows(p.b, p.s, p.s))
    yield unit(f"β of w over {p.b}·{p.s}·{p.s} terms", op, (x, signs((2, 2, p.m, g.shape[-1]), rng)), 1, g)
    seen = _rows(2, 2, p.m).swapaxes(2, 3)
    x = signs((p.b, p.s, 2 * p.s, 2 * seen.shape[2]), rng)
    g = signs((p.b, p.s + 1, p.s, 2 * p.m), rng)
    padded = ops.Conv2d((1, 2), ((1, 1), (0, 0)), groups=2)
    yield unit(f"β of x over 2·{p.m} terms", padded, (x, _per_group(seen)), 0, g)
    deep, taps = ops.Conv3d(), _rows(2, 1, 2, p.m)
    x = signs((2, p.s + 1, 1, 2, p.m), rng)
    yield unit(f"α over 2·1·2·{p.m} terms", deep, (x, taps))
    g = _rows(2, p.s, 1, 1)
    yield unit(f"β of w over 2·{p.s} terms", deep, (x, signs((2, 1, 2, p.m, g.shape[-1]), rng)), 1, g)
    seen = _rows(2, 1, 1, p.m).swapaxes(3, 4)
    x = signs((2, p.s, 1, 1, seen.shape[3]), rng)
    g = signs((2, p.s + 1, 1, 1, p.m), rng)
    yield unit(f"β of x over 2·{p.m} terms", ops.Conv3d(padding=((1, 1), 0, 0)), (x, seen), 0, g)


@claim(TABLE + " (matmul), terms counted by window", "bms")
def claim_3_43_conv_transpose(place: Place) -> Figures:
    """ConvTranspose: α = (kernel/stride·channels_in/groups)^-½, β_x = (kernel·channels_out/groups)^-½.

    β_w = (batch·positions)^-½.
    """
    p, rng = place.at_most(b=8, m=16, s=32), place.rng()
    # Kernel 4, stride 2, three places cropped at both ends: each place of y sums two elements of x.
    op = ops.ConvTranspose(2, 2, groups=2)
    pairs = _rows(2, p.m)  # of the taps 0 and 2, and of 1 and 3
    taps = _per_group(np.stack([pairs, pairs], 1).reshape(4, p.m, -1))
    x = signs((p.b, p.s + 1, 2 * p.m), rng)
    yield unit(f"α over 2·{p.m} terms", op, (x, taps))
    whole = ops.ConvTranspose(2, groups=2)
    seen = _rows(4, p.m).swapaxes(1, 2)
    x = signs((p.b, p.s, 2 * seen.shape[1]), rng)
    g = signs((p.b, 2 * p.s + 2, 2 * p.m), rng)
    yield unit(f"β of x over 4·{p.m} terms", whole, (x, _per_group(seen)), 0, g)
    x = _per_group(_rows(p.b, p.s))
    weight = signs((4, x.shape[-1] // 2, 2 * FEW), rng)
    g = signs((p.b, 2 * p.s + 2, 2 * FEW), rng)
    yield unit(f"β of w over {p.b}·{p.s} terms", whole, (x, weight), 1, g)


@claim("the values are those of the input; repeats are counted", "bn")
def claim_3_44_padding_and_resize(place: Place) -> Figures:
    """Nearest resize by r: α = 1, β = r^-½; linear: by squared weights. Padding n to N: α = 1; β = 1, or (n/N)^½."""
    p, rng = place.at_most(b=32, n=32), place.rng()
    rows = columns(p.n).T  # sums over its rows have an RMS of √n
    x, r = signs((p.b, 3, rows.shape[1]), rng), p.n
    g = np.tile(rows, (p.b, 3, 1)) * np.repeat(signs((p.b, 3, rows.shape[1]), rng), r, 1)
    yield unit("α", ops.NearestResize(r), (x,))
    yield unit(f"β of {r} repeats", ops.NearestResize(r), (x,), 0, g)
    for align in (False, True):
        linear, x = ops.LinearResize(2 * r + 1, align), columns(r + 1).T[None]
        how = f"{r + 1} to {2 * r + 1}" + ", corners aligned" * align
        yield unit(f"α of linear {how}", linear, (x,))
        yield unit(
            f"β of linear {how}", linear, (np.ones((1, r + 1, len(columns(2 * r + 1)))),), 0, columns(2 * r + 1).T[None]
        )
    one, more = signs((p.b, 1, rows.shape[1]), rng), np.tile(rows, (p.b, 1, 1))
    copies = ops.Pad(((0, 0), (p.n - 1, 0), (0, 0)), "replicate")
    yield unit("α of copies", copies, (one,))
    yield unit(f"β of {p.n} copies", copies, (one,), 0, more)
    zeros = ops.Pad(((0, 0), (1, 2)))
    x = signs((p.b, p.n), rng)
    yield unit(f"α of {p.n} of {p.n + 3}", zeros, (x,), expected=(p.n / (p.n + 3)) ** 0.5)
    yield unit("β of elements", zeros, (x,), 0, signs((p.b, p.n + 3), rng))


@claim("order statistics: the largest of k has the distribution Φ^k")
def claim_3_15_max_pool(place: Place) -> Figures:
    """Max pooling of k: α = 1/σ of the largest of k; β = √k, as one of k elements receives each gradient.

    Gradients of overlapping windows are added.
    """
    rng = place.rng()
    for kernel in ((3,), (2, 2)):
        k = int(np.prod(kernel))
        largest = quantiles_of_largest(k)
        windows = np.full((len(largest), k), -10.0)
        windows[np.arange(len(largest)), np.arange(len(largest)) % k] = largest
        x = windows.reshape(1, -1, 1) if k == 3 else windows.reshape(-1, 2, 2, 1)
        statistics: tuple[tuple[Statistic, Measure], ...] = (("std", std), ("rms", rms))
        for by, measure in statistics:
            op, what = ops.MaxPool(kernel), f"by {by}, largest of {k}"
            yield unit(f"α {what}", op, (x,), measure=measure, statistic=by, relative=GRID)
            g = signs((1, len(largest), 1) if k == 3 else (len(largest), 1, 1, 1), rng)
            yield unit(f"β {what}", op, (x,), 0, g, statistic=by)
    rising = np.arange(9.0).reshape(1, 9, 1)
    g = signs((1, 4, 1), rng)
    yield unit("β of overlapping windows", ops.MaxPool((3,), (2,)), (rising,), 0, g)


@claim(TABLE + "; mean: the same, divided by n", "n")
def claim_3_16_reductions(place: Place) -> Figures:
    """A sum over n elements: α = n^-½, β = 1. A mean: α = √n, β = n; of correlated values, α = 1."""
    rng = place.rng()
    equal = np.tile(signs((FEW, 1), rng), (1, place.n))
    yield unit(f"α over {place.n} equal terms", ops.Mean((-1,), values="correlated"), (equal,), measure=rms)
    for op in (ops.Sum((-1,)), ops.Mean((-1,))):
        x = columns(place.n)
        yield unit(f"α over {place.n} terms", op, (x * signs((place.n,), rng),), measure=rms)
        yield unit(f"β over {place.n} terms", op, (x,), 0, signs((len(x),), rng))


@claim("the values are those of the input", "bmn")
def claim_3_17_movement(place: Place) -> Figures:
    """Reshape, transpose, concatenate: α = β = 1. A slice of k of n elements, k rows gathered of n: β = (n/k)^½."""
    p, rng = place.at_most(b=32, m=32, n=32), place.rng()
    b, m, n = p.b, p.m, p.n
    x = signs((b, m), rng)
    cut = int(rng.integers(0, m))
    moves: tuple[tuple[Op, tuple[int, ...]], ...] = (
        (ops.Reshape((m, b)), (m, b)),
        (ops.Transpose((1, 0)), (m, b)),
        (ops.Slice(1, cut, m), (b, m - cut)),
    )
    for op, shape in moves:
        yield unit("α", op, (x,))
        yield unit("β", op, (x,), 0, signs(shape, rng))
    pair = (x, signs((n, m), rng))
    yield unit("α", ops.Concat(0), pair)
    for i in (0, 1):
        yield unit(f"β of input {i}", ops.Concat(0), pair, i, signs((b + n, m), rng))
    some = int(rng.integers(1, b + 1))
    index = np.stack([rng.permutation(b)[:some] for _ in range(2)])
    rows = signs((2, b, m), rng)
    yield unit("α", ops.Gather(), (rows, index))
    yield unit(f"β of {some} of {b} rows", ops.Gather(), (rows, index), 0, signs((2, some, m), rng))


@claim("b/v independent terms in a row; authors' code, scmm/uscale/layers.py: v/b, for terms alike", "bn")
def claim_3_18_embedding(place: Place) -> Figures:
    """b rows of a table of v: α = 1; β = (v/b)^½, for many tokens per row or few."""
    p, rng = place.at_most(b=256, n=64), place.rng()
    few = rng.permutation(4 * p.b)[: p.b]
    table = signs((4 * p.b, FEW), rng)
    yield unit("α", ops.Embedding(), (table, few))
    yield unit("β, a quarter of the rows once", ops.Embedding(), (table, few), 0, signs((p.b, FEW), rng))
    g = columns(p.b).T  # every row of the table b times
    often = np.repeat(np.arange(p.n), p.b)
    table = signs((p.n, g.shape[1]), rng)
    yield unit(f"β, every row {p.b} times", ops.Embedding(), (table, often), 0, np.tile(g, (p.n, 1)))


@claim(TABLE, "bmns")
def claim_3_19_factors_see_shapes_only(place: Place) -> Figures:
    """The factors of a matmul are m^-½, n^-½ and b^-½ to the last bit, independent of other sizes and of the data."""
    scales = ops.Matmul().scale((place.s, place.b, place.m), (place.m, place.n))
    rows = place.s * place.b
    yield same("α", scales.alpha, place.m**-0.5)
    yield same("β of x", scales.beta[0] or 0, place.n**-0.5)
    yield same("β of w", scales.beta[1] or 0, rows**-0.5)
