"""The values of factors. What they make exactly 1 is section 3 of the claims, and that 3 % is noticed, its mutants."""

import math

import numpy as np
import pytest

from refscale import ops
from refscale.errors import ArgumentError
from refscale.scales import SCHEMES, Call, Scales, geometric, unit
from tests.ops.cases import CASES

# Values.

ACTIVATIONS = {  # std and RMS of f(X), RMS of G·f'(X), by 30-digit quadrature
    ops.Relu(): (0.58381937, 0.70710678, 0.70710678),
    ops.LeakyRelu(): (0.58656819, 0.70714214, 0.70714214),
    ops.Gelu(): (0.58791497, 0.65209009, 0.67516729),
    ops.Gelu("tanh"): (0.58791832, 0.65206879, 0.67514283),
    ops.Silu(): (0.55953847, 0.59646921, 0.61602139),
    ops.Tanh(): (0.62792873, 0.62792873, 0.68147113),
    ops.Sigmoid(): (0.20827634, 0.54164475, 0.21174570),
    ops.Softplus(): (0.52107053, 0.95981556, 0.54164475),
    ops.Exp(): (2.16119742, 2.71828183, 2.71828183),
    ops.ThresholdedSoftplus(1.0, 40.0): (0.52107053, 0.95981556, 0.54164475),
    ops.Abs(): (0.60281027, 1.0, 1.0),
    ops.Square(): (1.41421356, 1.73205081, 2.0),
    ops.Clip(): (0.71837215, 0.71837215, 0.82625026),
    ops.Clip(0.0, 6.0): (0.58381937, 0.70710678, 0.70710678),
    ops.HardSigmoid(): (0.16625009, 0.52691469, 0.16644153),
    ops.HardSwish(): (0.55130698, 0.57581887, 0.59877501),
}
LARGEST = {  # std and RMS of the largest of k
    2: (0.82564527, 1.00000000),
    3: (0.74797540, 1.12945316),
    4: (0.70122410, 1.24552354),
    8: (0.61065305, 1.54904324),
    9: (0.59779037, 1.60081773),
    16: (0.54314805, 1.84762967),
    25: (0.50843955, 2.03001781),
    64: (0.45109474, 2.38674947),
}
EIGHT_DIGITS = 0.5e-8
PAPER = 0.5e-3  # the paper's own constants are Monte-Carlo values


@pytest.mark.parametrize("op", ACTIVATIONS, ids=str)
def test_activations_to_eight_digits(op):
    std, rms, gradient_rms = ACTIVATIONS[op]
    for scheme, sigma in (("unit", std), ("unit-rms", rms)):
        scales = SCHEMES[scheme].scales(Call(op, ((5, 7),)))
        assert abs(1 / scales.alpha - sigma) <= EIGHT_DIGITS
        assert abs(1 / scales.beta[0] - gradient_rms) <= EIGHT_DIGITS


def test_swish():
    """β = 1 is silu; of the steepest, four times as many nodes give the same moments to 1e-14."""
    assert ops.Swish(1.0).scale(()) == ops.Silu().scale(())
    op, x = ops.Swish(32.0), np.linspace(-20, 20, 40 * 256 + 1)
    weights = np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi) / 256
    e = np.exp(-32 * np.abs(x))
    gate = np.where(x > 0, 1, e) / (1 + e)
    value, slope = x * gate, gate * (1 + 32 * x * np.where(x > 0, e, 1) / (1 + e))
    for actual, expected in (
        (op.moments().std, math.sqrt(weights @ (value - weights @ value) ** 2)),
        (op.moments().rms, math.sqrt(weights @ value**2)),
        (op.moments().gradient_rms, math.sqrt(weights @ slope**2)),
    ):
        assert abs(actual - expected) <= 1e-14 * expected


@pytest.mark.parametrize("k", LARGEST)
def test_maxima_to_eight_digits(k):
    for statistic, sigma in zip(("std", "rms"), LARGEST[k], strict=True):
        for op, shape in ((ops.MaxPool((k,)), (2, 3 * k, 5)), (ops.MaxPool((1, k), (1, 1)), (2, 1, 2 * k, 5))):
            assert abs(1 / op.scale(shape, statistic=statistic).alpha - sigma) <= EIGHT_DIGITS


def test_the_largest_of_one_is_itself():
    assert abs(ops.MaxPool((1,)).scale((2, 3, 4)).alpha - 1) <= 1e-15


def test_closed_forms():
    for op, alpha, beta in (
        (ops.Relu(), math.sqrt(2 / (1 - 1 / math.pi)), math.sqrt(2)),
        (ops.Exp(), (math.e * (math.e - 1)) ** -0.5, 1 / math.e),
    ):
        scales = op.scale(())
        assert abs(scales.alpha - alpha) <= 1e-15 * alpha
        assert abs(scales.beta[0] - beta) <= 1e-15 * beta


@pytest.mark.parametrize("c", [-1.0, 0.375, -3.0, 2.0**-126, 2.0**126])
def test_numbers(c):
    """c·x has the factors 1/|c|, x/c has |c|: under unit scaling both are ±x."""
    assert ops.ScalarMultiply(c).scale((2, 3)) == Scales(1 / abs(c), (1 / abs(c),))
    assert ops.ScalarDivide(c).scale((2, 3)) == Scales(abs(c), (abs(c),))


def test_windows_and_copies():
    """A mean of 6 = 2·3 has √6; an element receives g/6 from 6/2 windows of stride (2, 1): √(6·2)."""
    assert ops.AvgPool((2, 3), (2, 1)).scale((5, 8, 8, 3)) == Scales(math.sqrt(6), (math.sqrt(12),))
    assert ops.AvgPool(2).scale((5, 8, 3)) == Scales(math.sqrt(2), (2.0,))
    assert ops.Expand((2, 3, 4)).scale((3, 1)) == Scales(1.0, (math.sqrt(3 / 24),))
    assert ops.Where().scale((3, 1), (2, 3, 4), (4,)) == Scales(1.0, (None, 1.0, math.sqrt(4 / 24)))


def test_transposed_windows():
    """Kernel 6 = 2·3, stride 2 = 2·1: 3·4 terms of y, 6·5 of x, 2·20 of w, with 8 channels in two groups to 10."""
    op = ops.ConvTranspose((2, 1), groups=2)
    scales = op.scale((2, 5, 4, 8), (2, 3, 4, 10))
    assert scales == Scales(12**-0.5, (30**-0.5, 40**-0.5))
    assert ops.Conv3d((1, 2, 1)).scale((2, 2, 3, 4, 3), (2, 1, 2, 3, 4)) == Scales(12**-0.5, (8**-0.5, 12**-0.5))


@pytest.mark.parametrize("f", ["relu", "sigmoid", "gelu", "silu"])
def test_gated_units_see_the_rms(f):
    """One over the RMS of f, of f, and of f′; under both statistics."""
    _, rms, gradient_rms = ACTIVATIONS[ops.ACTIVATIONS[f]]
    for scheme in ("unit", "unit-rms"):
        scales = SCHEMES[scheme].scales(Call(ops.Glu(f), ((5, 7), (5, 7))))
        for factor, moment in zip((scales.alpha, *scales.beta), (rms, rms, gradient_rms), strict=True):
            assert abs(1 / factor - moment) <= EIGHT_DIGITS
    assert ops.Glu("silu").scale((2,), (2,)) == ops.SiluGlu().scale((2,), (2,))


def test_padding_and_resize():
    """Of 12 elements, 20 after padding; each of them 6 times."""
    for mode, beta in (("constant", 1.0), ("reflect", math.sqrt(12 / 20)), ("replicate", math.sqrt(12 / 20))):
        assert ops.Pad(((0, 1), (0, 1)), mode).scale((3, 4)) == Scales(1.0, (beta,))
    assert ops.NearestResize((2, 3)).scale((5, 2, 2, 4)) == Scales(1.0, (6**-0.5,))
    assert ops.NearestResize(2).scale((5, 2, 2, 4)) == Scales(1.0, (0.5,))
    # Of 2 elements at 3 places: weights (1, 0), (½, ½), (0, 1): m = 2.5/3, each element has 1.25.
    aligned = ops.LinearResize(3, align_corners=True).scale((5, 2, 4))
    assert aligned.alpha == pytest.approx((3 / 2.5) ** 0.5, rel=1e-15)
    assert aligned.beta == (pytest.approx(1.25**-0.5, rel=1e-15),)
    # At 4 places: (1, 0), (¾, ¼), (¼, ¾), (0, 1): 3.25 in all; on two axes the squares.
    assert ops.LinearResize(4).scale((5, 2, 2, 4)).alpha == pytest.approx(4 / 3.25, rel=1e-15)
    assert ops.LinearResize(4).scale((5, 2, 2, 4)).beta == (pytest.approx(2 / 3.25, rel=1e-15),)


def test_norms_over_rows_and_groups():
    """The parameters' gradients sum 2·3·5 rows."""
    for op, more in ((ops.BatchNorm(), 0), (ops.FrozenBatchNorm(), 2), (ops.GroupNorm(2), 0)):
        scales = op.scale((2, 3, 5, 4), *[(4,)] * (2 + more))
        assert scales == Scales(1.0, (1.0, 30**-0.5, 30**-0.5, *[None] * more))


def test_extremes():
    """Of two: mean 1/√π, mean square 1; half of the gradient's elements, times r repeats."""
    for op in (ops.Maximum(), ops.Minimum()):
        scales = op.scale((2, 3, 4), (3, 1))
        assert abs(1 / scales.alpha - LARGEST[2][0]) <= EIGHT_DIGITS
        assert op.scale((2, 3, 4), (3, 1), statistic="rms").alpha == 1
        assert scales.beta == (math.sqrt(2), math.sqrt(2) * math.sqrt(3 / 24))


def test_losses_with_weights():
    """Soft targets: s/√(s−1) over the given RMS, a mean of them times the divisor; of logits: 2; √2 less for kept."""
    hard = 5 / 2
    for op, beta in (
        (ops.SoftTargetCrossEntropy(), 4 * hard),
        (ops.SoftTargetCrossEntropy("sum", gradient_rms=0.5), 2 * hard),
        (ops.SoftTargetCrossEntropy("none", 7.0), hard),
        (ops.SoftTargetCrossEntropy("mean", 7.0, 2), 7 * math.sqrt(2) * hard),
        (ops.SoftmaxCrossEntropy("none", -1, 2), math.sqrt(2) * hard),
    ):
        shapes = ((4, 5), (4,) if isinstance(op, ops.SoftmaxCrossEntropy) else (4, 5))
        assert op.scale(*shapes) == Scales(1.0, (beta, None))
    assert ops.BinaryCrossEntropy("mean", 0.5).scale(*[(3, 4)] * 3) == Scales(1.0, (48.0, None, None))
    assert ops.BinaryCrossEntropy("none").scale(*[(3, 4)] * 3) == Scales(1.0, (2.0, None, None))


@pytest.mark.parametrize("delta", [0.25, 1.0, 2.0, 64.0])
def test_clipped_differences(delta):
    """E min(D², δ²) = ∫ 2t·P(|D| > t) dt from 0 to δ, of D ~ N(0, 2), by the midpoint rule."""
    t = (np.arange(1 << 16) + 0.5) / (1 << 16) * delta
    tail = np.array([math.erfc(v / 2) for v in t])
    rms = math.sqrt(float(np.mean(2 * t * tail)) * delta)
    for reduction, n in (("mean", 12), ("sum", 1), ("none", 1)):
        huber, smooth = (kind(delta, reduction).scale((3, 4), (3, 4)) for kind in (ops.HuberLoss, ops.SmoothL1Loss))
        assert huber.alpha == smooth.alpha == 1
        assert huber.beta[0] == huber.beta[1] == pytest.approx(n / rms, rel=1e-7)
        assert smooth.beta[0] == smooth.beta[1] == pytest.approx(n * delta / rms, rel=1e-7)
    assert ops.SmoothL1Loss(0.0).scale((3, 4), (3, 4)) == Scales(1.0, (12.0, 12.0))


B, M, N, S = 10, 12, 7, 5
PAPER_TABLE = [  # op, shapes, α, β: Table A.2, in the table's own letters
    (ops.Sum(), ((N,),), N**-0.5, (1.0,)),
    (ops.WeightedAdd((0.6, 0.8)), ((B,), (B,)), 1.0, (1 / 0.6, 1 / 0.8)),
    (ops.Matmul(), ((2, B // 2, M), (M, N)), M**-0.5, (N**-0.5, B**-0.5)),
    (ops.Relu(), ((B,),), 1.713, (1.414,)),
    (ops.Gelu(), ((B,),), 1.701, (1.481,)),
    (ops.Tanh(), ((B,),), 1.593, (1.468,)),
    (ops.Sigmoid(), ((B,),), 4.802, (4.722,)),
    (ops.Softmax(), ((B, S),), S, (S,)),
    (ops.SoftmaxCrossEntropy("sum"), ((B, S), (B,)), 1.0, (S / math.sqrt(S - 1), None)),
    (ops.SoftmaxCrossEntropy("mean"), ((B, S), (B,)), 1.0, (B * S / math.sqrt(S - 1), None)),
    (ops.LayerNorm(), ((B, N), (N,), (N,)), 1.0, (1.0, B**-0.5, B**-0.5)),
    (ops.Bias(), ((B, N), (N,)), 1.0, (1.0, B**-0.5)),
    (ops.Dropout(0.19), ((B,), (B,)), 0.9, (0.9, None)),
    (ops.Embedding(), ((M, N), (B,)), 1.0, ((M / B) ** 0.5, None)),
    (
        ops.Conv1d(stride=2, padding=1, groups=3),
        ((2, 10, 12), (4, 4, 9)),
        (4 * 4) ** -0.5,
        ((4 / 2 * 3) ** -0.5, (2 * 5) ** -0.5),
    ),
    (
        ops.Conv2d((2, 1), (0, 1)),
        ((2, 6, 5, 3), (2, 3, 3, 8)),
        (6 * 3) ** -0.5,
        ((6 / 2 * 8) ** -0.5, (2 * 3 * 5) ** -0.5),
    ),
]


@pytest.mark.parametrize(("op", "shapes", "alpha", "beta"), PAPER_TABLE, ids=str)
def test_the_papers_table(op, shapes, alpha, beta):
    scales = op.scale(*shapes)
    rounded = PAPER if isinstance(op, ops.Relu | ops.Gelu | ops.Tanh | ops.Sigmoid) else 1e-12
    assert abs(scales.alpha - alpha) <= 2 * rounded
    for actual, expected in zip(scales.beta, beta, strict=True):
        assert actual is expected if expected is None else abs(actual - expected) <= 2 * rounded * abs(expected)


def test_positions():
    """Of a square of 4, 1 + 2 + 3 + 4 of 16 elements have a gradient; a rotation changes no length."""
    shift, turn = ops.RelativeShift().scale((2, 4, 4)), ops.Rotary().scale((2, 3, 4), (3, 2), (3, 2))
    assert shift.alpha == 1
    assert abs(shift.beta[0] - math.sqrt(16 / 10)) <= 1e-15
    assert turn == Scales(1.0, (1.0, None, None))


def test_windows():
    """A causal window of 3 of 12 keys: weights of mean 1 in the window, sums of a quarter of the terms."""
    s, t, d = 8, 12, 16
    scores, softmax = ops.AttentionScores(0.5, 3).scale((2, s, d), (2, t, d)), ops.MaskedSoftmax(True, 3)
    assert scores == Scales(1.0, (3**-0.5 / 0.5, 2**-0.5 / 0.5))
    assert softmax.scale((2, s, t), (1, t)) == Scales(3.0, (3.0, None))
    assert ops.MaskedSoftmax(window=3).scale((2, s, t), (1, t)) == Scales(5.0, (5.0, None))  # two on each side
    assert ops.MaskedSoftmax(window=9).scale((2, s, t), (1, t)) == Scales(12.0, (12.0, None))
    # Queries 0, 1, 2, … mix 1, 2, 3, 3, … values by weights of 3, 3/2, 1, 1, …: σ² = 9, 9/2, 3, 3, …
    causal = ((9 + 9 / 2 + 3 * 10) / t) ** -0.5
    for values, alpha in (("correlated", 1 / 3), ("independent", 3**-0.5), ("causal", causal)):
        found = ops.AttentionMix(values, 3).scale((2, s, t), (2, t, d))
        assert found.alpha == pytest.approx(alpha, rel=1e-14)
        assert found.beta == pytest.approx((d**-0.5, (s * 3 / 12) ** -0.5), rel=1e-14)
    for wide in (12, 13):  # all of them
        assert ops.AttentionMix("causal", wide).scale((s, t), (t, d)) == ops.AttentionMix("causal").scale(
            (s, t), (t, d)
        )
        assert ops.AttentionScores(keys=wide).scale((s, d), (t, d)) == ops.AttentionScores().scale((s, d), (t, d))


def test_cells():
    """By the moments of Table A.2: RMS σ = 1/1.846, σ′ = 1/4.723, tanh = 1/1.593, tanh′ = 1/1.467."""
    state, gates = (3, 5), (3, 20)
    found = ops.LstmState().scale(state, gates)
    of_gates = 2 / math.hypot(1 / (1.593 * 4.723), 1 / 4.723, 1 / (1.846 * 1.467))
    assert found.alpha == 1
    assert found.beta == pytest.approx((1.846, of_gates), rel=1e-3)
    found = ops.LstmOutput().scale(state, gates)
    assert found.alpha == pytest.approx(1.846 * 1.593, rel=1e-3)
    assert found.beta == pytest.approx((1.846 * 1.467, 2 * 1.593 * 4.723), rel=1e-3)
    found = ops.GruState().scale(state, (3, 10), state, state)
    assert found.alpha == 1
    assert found.beta[0] == pytest.approx(1.846, rel=1e-3)


def test_the_candidate_of_a_gru_against_a_sample():
    """2^18 elements: standard errors of the root mean squares are 0.2 % or less, five of which are allowed."""
    rng = np.random.default_rng(0)
    h, candidate, recurrent = rng.standard_normal((3, 1 << 18, 1))
    arrays = h, rng.standard_normal((1 << 18, 2)), candidate, recurrent
    _, kept = ops.GruState().forward(*arrays)
    gradients = ops.GruState().backward(rng.standard_normal(h.shape), *kept)
    betas = ops.GruState().scale(*[a.shape for a in arrays]).beta
    for beta, gradient in zip(betas, gradients, strict=True):
        assert beta * np.sqrt(np.mean(gradient**2)) == pytest.approx(1, abs=0.01)


def test_soft_cap():
    """x − x³/(3c²) + …: σ² = 1 − 2/c² + O(c^-4), E f′² = 1 − 2/c² + O(c^-4); steep, ±c almost everywhere."""
    for statistic in ("std", "rms"):
        wide = ops.SoftCap(50.0).scale((3,), statistic)
        assert abs(wide.alpha - (1 + 1 / 50**2)) <= 6 / 50**4
        assert abs(wide.beta[0] - (1 + 1 / 50**2)) <= 6 / 50**4
    assert 0.9 < ops.SoftCap(1 / 16).scale((3,)).alpha / 16 < 1.1


def test_constrained_factors_of_the_paper():
    gelu = unit.scales(Call(ops.Gelu(), ((B, M),), geometric, (0,)))
    assert gelu.alpha == gelu.beta[0]
    assert abs(gelu.alpha - 1.587) <= PAPER
    matmul = unit.scales(Call(ops.Matmul(), ((B, M), (M, N)), geometric, (0,)))
    assert matmul.alpha == matmul.beta[0]
    assert abs(matmul.alpha - (M * N) ** -0.25) <= 1e-15
    assert matmul.beta[1] == B**-0.5


@pytest.mark.parametrize("case", CASES, ids=str)
def test_factors_exist_for_exactly_the_differentiable_inputs(case):
    scales = case.op.scale(*(x.shape for x in case.inputs))
    assert [i for i, beta in enumerate(scales.beta) if beta is not None] == case.differentiable
    assert len(scales.beta) == len(case.inputs)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_factors_see_shapes_and_attributes_only(case):
    shapes = tuple(x.shape for x in case.inputs)
    assert case.op.scale(*shapes) == type(case.op)(**vars(case.op)).scale(*shapes)
    assert all(type(f) is float for f in (case.op.scale(*shapes).alpha, *filter(None, case.op.scale(*shapes).beta)))


def test_a_mean_of_values_that_are_alike():
    assert ops.Mean((1,)).scale((2, 9, 4)) == Scales(3.0, (9.0,))
    assert ops.Mean((1,), values="correlated").scale((2, 9, 4)) == Scales(1.0, (9.0,))
    assert ops.Mean((1,)).attributes() == {"axes": (1,)}
    with pytest.raises(ArgumentError, match=r"Mean\(values='alike'\): expected 'independent' or 'correlated'"):
        ops.Mean((1,), values="alike")


def test_products_of_groups():
    """2·3 elements of x, each with 2 groups of 2 channels to 3, at 5 taps; as many windows of a convolution."""
    assert ops.ConvTranspose(groups=2).products((2, 3, 4), (5, 2, 6)) == 2 * 3 * 2 * (2 * 3) * 5
    assert ops.Conv1d(padding=2, groups=2).products((2, 3, 4), (5, 2, 6)) == 2 * 3 * 2 * (2 * 3) * 5
