"""Where the assumptions fail: inputs that are not independent N(0, 1), and the scale to expect for each instead."""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from refscale import functional as F  # noqa: N812
from refscale import models, ops
from refscale.claims.claim import Figures, claim, near, none_wrong, same, sampled
from refscale.claims.measure import uniform_batch
from refscale.claims.models import small_bert
from refscale.claims.one_op import EXACT, columns, power_of_two
from refscale.engine import Array, Op, Tape, Tensor, apply, backward
from refscale.models import bert
from refscale.scales import gaussian_mean, none, unit
from refscale.special import sigmoid
from refscale.testing import correlated_rows, hadamard, rms, signs
from refscale.testing.gradients import assert_gradient_factor
from refscale.testing.places import Place


def run(
    op: Op, *arrays: Array, gradient: Array | float | None = None, scheme: str = "unit"
) -> tuple[Array, list[Array | None]]:
    """Return output and gradients of one op under unit scaling, in float64."""
    tape = Tape(scheme, dtype=np.float64)
    leaves = [tape.tensor(x) for x in arrays]
    y = apply(op, *leaves)
    if gradient is not None:
        backward(y, gradient)
    return y.value, [leaf.grad for leaf in leaves]


def _gradient(found: tuple[Array, list[Array | None]], i: int) -> Array:
    g = found[1][i]
    assert g is not None
    return g


@claim("refscale.testing.correlated_rows; the authors' character models use b^-1", "bmn")
def claim_12_01_correlated_batch(place: Place) -> Figures:
    """With b identical rows the rule b^-½ gives weight and bias gradients an RMS of √b; the rule b^-1 would give 1.

    If a share ρ of each row's variance is common, the RMS is √(1 + (b−1)·ρ²) for weights and √(1 + (b−1)·ρ) for biases.
    """
    rng, b = place.rng(), place.b
    n = power_of_two(max(2, place.n))
    x, g = np.tile(signs((1, place.m), rng), (b, 1)), np.tile(signs((1, n), rng), (b, 1))
    found = run(ops.Matmul(), x, signs((place.m, n), rng), gradient=g)
    yield near(f"weight gradient of {b} equal rows", rms(_gradient(found, 1)), math.sqrt(b), EXACT)
    found = run(ops.Bias(), g, np.zeros(n), gradient=g)
    yield near(f"bias gradient of {b} equal rows", rms(_gradient(found, 1)), math.sqrt(b), EXACT)
    share, wide = 0.1, 1 << 14
    found = run(ops.Bias(), np.zeros((b, wide)), np.zeros(wide), gradient=correlated_rows(rng, b, wide, share))
    expected = math.sqrt(1 + (b - 1) * share)
    # One normal number for each column: the RMS has a relative standard error of (2n)^-½.
    se = expected * (2 * wide) ** -0.5
    yield sampled(f"bias gradient, a tenth in common, {b} rows", rms(_gradient(found, 1)), expected, se)
    x, g = correlated_rows(rng, b, 256, share), correlated_rows(rng, b, 256, share)
    found = run(ops.Matmul(), x, np.ones((256, 256)), gradient=g)
    expected = math.sqrt(1 + (b - 1) * share**2)
    # The common part is one product of two vectors of 256 and two mixed sums: at most 6/256 of relative variance.
    se = expected * 0.5 * math.sqrt(6 / 256)
    yield sampled(f"weight gradient, a tenth in common, {b} rows", rms(_gradient(found, 1)), expected, se)


@claim("E over tokens drawn with p_k ∝ 1/k: row k receives p_k·b of b tokens")
def claim_12_02_zipf_tokens(place: Place) -> Figures:
    """For Zipf tokens embedding gradients have RMS 1 over the table, but row k has √(v·p_k): row 1 of 4096 has 21.4.

    The rule for uniform tokens holds only in the mean over rows, and many rows receive no gradient from one batch.
    """
    v, b = 4096, 8192
    weights = 1 / np.arange(1.0, v + 1)
    counts = np.round(b * weights / weights.sum()).astype(int)
    counts[np.flatnonzero(counts == 0)[: b - counts.sum()]] = 1  # fill up with rows expected less than half a time
    h = hadamard(power_of_two(int(counts.max())))
    g = np.concatenate([h[:k] for k in counts if k])  # rows of a Hadamard matrix: sums of k have an RMS of √k
    _, (gradient, _) = run(ops.Embedding(), np.zeros((v, len(h))), np.repeat(np.arange(v), counts), gradient=g)
    assert gradient is not None
    row = np.sqrt(np.mean(gradient**2, axis=1))
    yield near("RMS over the table", rms(gradient), 1.0, EXACT)
    yield near("RMS of the first row", float(row[0]), math.sqrt(v / weights.sum()), 1e-3)
    yield near("the same, from its count", float(row[0]), math.sqrt(v * counts[0] / b), EXACT)
    yield near("RMS of a row that occurs once", float(row[counts == 1].mean()), math.sqrt(v / b), EXACT)
    yield same("rows without a gradient", int((row == 0).sum()), int((counts == 0).sum()))
    yield none_wrong("rows without a gradient: at least a tenth", (counts == 0).mean() < 0.1)


@claim("√0.15; paper, BERT: a masked-LM loss counts a seventh of the tokens", "s")
def claim_12_03_masked_loss(place: Place) -> Figures:
    """A loss that counts 15 % of its rows has gradients of RMS 0.387 if the factor counts all of them."""
    rows, kept, s = 200, 30, max(2, place.s)
    targets = np.where(np.arange(rows) < kept, np.arange(rows) % s, -100)
    found = run(ops.SoftmaxCrossEntropy("mean", -100, kept), np.zeros((rows, s)), targets, gradient=1.0)
    yield near("factor of the counted rows", rms(_gradient(found, 0)), 1.0, EXACT)
    right = ops.SoftmaxCrossEntropy("mean", -100, kept).scale((rows, s), (rows,)).beta[0] or 0
    blind = (ops.SoftmaxCrossEntropy("sum").scale((rows, s), (rows,)).beta[0] or 0) * kept
    yield near("factor of all rows", rms(_gradient(found, 0)) * blind / right, math.sqrt(kept / rows), EXACT)
    yield near("RMS over the counted rows", rms(_gradient(found, 0)[:kept]) * blind / right, 1.0, EXACT)


@claim("softmax of one logit is 1, its derivative 0; of two, E (p·(1−p))² by quadrature")
def claim_12_04_short_sequences(place: Place) -> Figures:
    """Attention over one key returns its value, and queries and keys have no gradient.

    Over two keys softmax gradients have 0.54 of the RMS that the rule predicts for N(0, 1) logits, 0.71 for equal
    logits.
    """
    rng = place.rng()
    for causal in (False, True):
        tape = Tape(unit, dtype=np.float64)
        q, k, v = (tape.tensor(signs((3, 1, 8), rng)) for _ in range(3))
        y = F.attention(q, k, v, heads=2, causal=causal)
        backward(y, signs((3, 1, 8), rng))
        yield near("RMS of the mixture", rms(y.value), 1.0, EXACT)
        yield none_wrong("query and key have a gradient", np.any(np.asarray(q.grad)) or np.any(np.asarray(k.grad)))
        yield near("RMS of the value's gradient", rms(np.asarray(v.grad)), 1.0, EXACT)
    alternate = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    found = run(ops.Softmax(), np.zeros((4, 2)), gradient=alternate)
    yield near("two equal logits", rms(_gradient(found, 0)), math.sqrt(0.5), EXACT)
    z = np.linspace(-12, 12, 3073)
    found = run(ops.Softmax(), np.stack([z, np.zeros_like(z)], 1), gradient=np.tile([1.0, -1.0], (z.size, 1)))
    density = np.exp(-(z**2) / 4)  # the difference of two N(0, 1) has variance 2
    measured = math.sqrt(float((density * (_gradient(found, 0) ** 2).mean(1)).sum() / density.sum()) / 2)
    expected = 2 * math.sqrt(2 * gaussian_mean(lambda t: (sigmoid(math.sqrt(2) * t) * sigmoid(-math.sqrt(2) * t)) ** 2))
    yield near("two N(0, 1) logits", measured, expected, 1e-6)
    yield near("as stated", expected, 0.5443, 1e-4)


@claim("E p² of two N(0, 1) logits by quadrature; numbers of refscale.special")
def claim_12_05_two_classes(place: Place) -> Figures:
    """Cross-entropy over 2 classes has gradients of RMS 1.13 at N(0, 1) logits, and 1 at uniform logits."""
    z = np.linspace(-12, 12, 3073)
    density = np.exp(-(z**2) / 4)
    both = []
    for label in (0, 1):
        tape = Tape(unit, dtype=np.float64)
        leaf = tape.tensor(np.stack([z, np.zeros_like(z)], 1))
        loss = apply(ops.SoftmaxCrossEntropy("sum"), leaf, np.full(z.size, label))
        backward(loss, 1.0)
        both.append(float((density * (np.asarray(leaf.grad) ** 2).mean(1)).sum() / density.sum()))
    expected = 2 * math.sqrt(gaussian_mean(lambda t: sigmoid(math.sqrt(2) * t) ** 2))
    yield near("RMS of the gradient", math.sqrt(np.mean(both)), expected, 1e-6)
    yield near("as stated", expected, 1.1286, 1e-4)


@claim("Var(x + b) = Var x + Var b", "n")
def claim_12_06_biases(place: Place) -> Figures:
    """Biases of standard deviation σ raise the output's RMS to √(1 + σ²), as the rule assumes biases of 0."""
    rng = place.rng()
    sigma = float(rng.uniform(0.1, 2))
    x = np.array([[1.0], [-1.0]]) * signs((1, place.n), rng)
    y, _ = run(ops.Bias(), x, sigma * signs((place.n,), rng))
    yield near(f"biases of σ = {sigma:.3f}", rms(y), math.hypot(1, sigma), EXACT)


@claim("paper, definition of a cut-edge; refscale.engine.settle")
def claim_12_07_tied_embedding(place: Place) -> Figures:
    """A word embedding shared by input and decoder has no cut-edge, so forks give both uses one constant.

    Untied, each of the two tables has its own constant.
    """
    batch = uniform_batch(small_bert(), place.rng(), 2, 8, 2)
    for tied in (True, False):
        config = small_bert(layers=1, tied=tied)
        parameters = models.initial_parameters(config, unit, place.rng())

        def program(p: dict[str, Tensor], config: bert.BertConfig = config) -> Tensor:
            return bert.pretraining_loss(p, batch, config).total

        c = assert_gradient_factor(program, parameters)
        yield none_wrong("constants missing", len(parameters) - len(c))
        if not tied:
            apart = c["mlm.decoder.weight"] / c["embeddings.word"]
            yield none_wrong("untied, both uses have one constant", abs(apart - 1) < 1e-9)


@claim("E over all 2^t masks: of the mixture's square, (1−p) + p/t")
def claim_12_08_dropout_in_attention(place: Place) -> Figures:
    """Dropout of attention weights by the dropout rule leaves a mixture of equal values at mean √(1−p), not 1.

    The rule preserves the variance of a tensor of mean 0, but attention weights have mean 1. At p = ½ over 8 keys, with
    all masks enumerated: mean 0.707, RMS 0.75.
    """
    t, p = 8, 0.5
    keep = np.array(list(product([False, True], repeat=t)))
    tape = Tape(unit, dtype=np.float64)
    weights = tape.tensor(np.ones((len(keep), t)))
    dropped = apply(ops.Dropout(p), weights, keep)
    values = tape.tensor(np.ones((t, 1)))
    mixture = apply(ops.AttentionMix(), dropped, values).value
    yield near("mean of the mixture", float(mixture.mean()), math.sqrt(1 - p), EXACT)
    yield near("RMS of the mixture", rms(mixture), math.sqrt((1 - p) + p / t), EXACT)


@claim("closed form: E 1/s² = (n−1)/(n−3) of 1/E s² for n normal numbers", "b")
def claim_12_09_tiny_widths(place: Place) -> Figures:
    """Layer norm of width 1 returns 0, of width 2 it returns ±1 without a gradient; at width n its gradient is not 1.

    It is √((n−2)/(n−3)), 1.095 at n = 8. The fourth moment in its variance exists from n = 6 on, so widths from 16 on
    are sampled.
    """
    rng = place.rng()
    for n, expected in ((1, 0.0), (2, 1.0)):
        x = rng.standard_normal((place.b, n)) * 4
        y, gradients = run(ops.LayerNorm(1e-30), x, np.ones(n), np.zeros(n), gradient=rng.standard_normal((place.b, n)))
        yield near(f"width {n}: RMS of the output", 1 + rms(y), 1 + expected, 1e-9)
        yield near(f"width {n}: RMS of the gradient", 1 + rms(np.asarray(gradients[0])), 1.0, 1e-9)
    for n in (16, 64):
        rows = (1 << 18) // n
        x, g = rng.standard_normal((2, rows, n))
        found = run(ops.LayerNorm(0.0), x, np.ones(n), np.zeros(n), gradient=g)
        expected = math.sqrt((n - 2) / (n - 3))
        # Each row counts as n elements, and its own 1/s² varies by 2/n: 4κ/(rows·n) of relative variance, κ < 4.
        se = expected * 0.5 * math.sqrt(16 / (rows * n))
        yield sampled(f"width {n}: RMS of the gradient", rms(_gradient(found, 0)), expected, se)


@claim("row i of a causal mask sees i + 1 of t keys", "s")
def claim_12_10_causal_mask(place: Place) -> Figures:
    """Under a causal mask the RMS of row i of a mixture is (i + 1)^-½ for independent values and 1 for equal values.

    Both are exact at uniform logits. The value of the first key is in every mixture: its gradient is √(Σ (i+1)^-2)·√t.
    """
    t = min(place.s, 64)
    tape = Tape(unit, dtype=np.float64)
    zero = tape.tensor(np.zeros((t, t)))
    weights = apply(ops.MaskedSoftmax(causal=True), zero, np.ones((1, 1), bool))
    h = columns(t).T  # t orthogonal rows of signs
    independent = tape.tensor(h)
    mixed = apply(ops.AttentionMix(), weights, independent)
    for i in sorted({0, t // 2, t - 1}):
        yield near(f"row {i} of independent values", rms(mixed.value[i]), (i + 1) ** -0.5, EXACT)
    equal = apply(ops.AttentionMix(), weights, tape.tensor(np.tile(h[:1], (t, 1)))).value
    yield near("rows of equal values", rms(equal), 1.0, EXACT)
    backward(mixed, h)
    expected = math.sqrt(t * sum((i + 1) ** -2 for i in range(t)))
    yield near("gradient of the first value", rms(np.asarray(independent.grad)[0]), expected, EXACT)


@claim("refscale.ops.AttentionMix; tests/models -k tokens_alike", "s")
def claim_12_11_common_values(place: Place) -> Figures:
    """If values share a part ρ of variance, the rule for independent values gives a mixture of RMS √(1 + (t−1)·ρ).

    The rule for correlated values keeps it at √(ρ + (1 − ρ)/t), below 1.
    """
    t, rho = power_of_two(max(2, min(place.s, 256))), 0.1
    h = hadamard(t)
    # Row 0 is common to all; the others, with signs, are orthogonal to it and to each other.
    v = math.sqrt(rho) * h[:1] + math.sqrt(1 - rho) * h[np.r_[1:t]]
    uniform, keys = np.ones((1, t - 1)), t - 1
    independent, _ = run(ops.AttentionMix("independent"), uniform, v)
    expected = math.sqrt(keys * rho + (1 - rho))
    yield near(f"independent rule, {keys} keys", rms(independent), expected, EXACT)
    correlated, _ = run(ops.AttentionMix(), uniform, v)
    yield near(f"correlated rule, {keys} keys", rms(correlated), math.sqrt(rho + (1 - rho) / keys), EXACT)


@claim("paper, Theorem 5.2: the gradient of a constrained op by its own factor", "mn")
def claim_12_12_what_constraints_cost(place: Place) -> Figures:
    """A constrained projection m → n has an output of RMS (m/n)^¼ and an input gradient of RMS (n/m)^¼.

    For 4 times the width the output has 0.707. Unconstrained, with a fork at the start of the branch, both are 1.
    """
    for m, n in ((place.m, place.n), (16, 64)):
        x, w = columns(m), signs((m, 3), place.rng())
        scale = (m * n) ** -0.25
        yield near(f"constrained, {m} to {n}", rms(x @ w) * scale, (m / n) ** 0.25, EXACT)
        tape = Tape(unit, dtype=np.float64)
        y = F.linear(tape.tensor(x), tape.tensor(w), constraint=none)
        yield near(f"unconstrained, {m} to {n}", rms(y.value), 1.0, EXACT)


@claim("authors' code, scmm/uscale (b^-1, v/b); the variance of a sum of b terms, b·(1 + (b − 1)·ρ)", "bmn")
def claim_12_13_rules_of_rows(place: Place) -> Figures:
    """unit:rows=alike, by b^-1, gives gradients of RMS 1 for weights, biases, gains and tables of b identical rows.

    embeddings=v/b does so for a table whose rows are used equally often; rows=ρ for rows with a common share ρ.
    """
    rng, b, m = place.rng(), place.b, place.m
    n = power_of_two(max(2, place.n))
    x, g = np.tile(signs((1, m), rng), (b, 1)), np.tile(signs((1, n), rng), (b, 1))
    ones, zeros = np.ones(n), np.zeros(n)
    cases: list[tuple[str, Op, tuple[Array, ...], Array, int]] = [
        ("weight", ops.Matmul(), (x, signs((m, n), rng)), g, 1),
        ("readout", ops.Readout(), (x, signs((m, n), rng)), g, 1),
        ("kernel", ops.Conv1d(), (x[None], signs((1, m, n), rng)), g[None], 1),
        ("kernel of two axes", ops.Conv2d(), (x[None, None], signs((1, 1, m, n), rng)), g[None, None], 1),
        ("bias", ops.Bias(), (g, zeros), g, 1),
        ("part of a sum", ops.Add(), (g, zeros), g, 1),
        ("bias of a norm", ops.LayerNorm(), (g, ones, zeros), g, 2),
    ]
    for name, op, arrays, gradient, i in cases:
        found = run(op, *arrays, gradient=gradient, scheme="unit:rows=alike")
        yield near(f"gradient of a {name}, {b} equal rows", rms(_gradient(found, i)), 1.0, EXACT)
    ids = np.repeat(np.arange(m), b)
    table, terms = signs((m, n), rng), np.repeat(signs((m, n), rng), b, axis=0)
    found = run(ops.Embedding(), table, ids, gradient=terms, scheme="unit:embeddings=v/b")
    yield near(f"gradient of a table, every row {b} times", rms(_gradient(found, 0)), 1.0, EXACT)
    share, wide = 0.1, 1 << 14
    rows = correlated_rows(rng, b, wide, share)
    found = run(ops.Bias(), np.zeros((b, wide)), np.zeros(wide), gradient=rows, scheme=f"unit:rows={share}")
    # One normal number for each column: the RMS has a relative standard error of (2n)^-½.
    yield sampled(f"bias gradient, a tenth in common, {b} rows", rms(_gradient(found, 1)), 1.0, (2 * wide) ** -0.5)
