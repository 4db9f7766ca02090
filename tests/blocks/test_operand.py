"""Operands of a training step: each of the three products converts both its sides along the axis it sums over."""

from dataclasses import replace

import numpy as np
import pytest

from refscale import ops
from refscale.blocks import BLOCK_FORMATS, Operand, Recipe, get_block_cast, quantize_blocks, split_blocks
from refscale.blocks.operand import convert, lost, transform
from refscale.engine import Tape, apply, backward
from refscale.engine.record import CastRecord, Variable
from refscale.errors import ArgumentError, FormatError
from refscale.formats import Cast
from refscale.precision import POLICIES, Precision, get_precision
from refscale.rivals.technique import Outcome
from refscale.scales import regular, unit
from refscale.train import TrainConfig
from refscale.train.run import Run
from refscale.train.step import _with_blocks, training_step

RNG = np.random.default_rng(11)


def spread(*shape):
    """Over so many binades that it matters which elements share a scale."""
    return (RNG.standard_normal(shape) * 2.0 ** RNG.integers(-12, 12, shape)).astype(np.float32)


X, W, G = spread(2, 20, 96), spread(96, 70), spread(2, 20, 70)
BF16 = Cast("bfloat16", "nearest_even", "nonsaturate")
BLOCKED = [p for p in POLICIES.values() if p.blocks]
MXFP8 = BLOCK_FORMATS["mxfp8_e4m3"]


def run(precision, scheme=regular, op=None, x=X, w=W, g=G, **options):
    tape = Tape(scheme, precision, **options)
    a, b = tape.tensor(x, "x"), tape.tensor(w, "w")
    y = apply(op or ops.Matmul(), a, b)
    backward(y, g)
    return tape, y.value, a.grad, b.grad


def by_hand(recipe, x, w, g, alpha=1.0, beta=(1.0, 1.0)):
    """The three products of a linear layer, written out."""
    x, w, g = (BF16(v) for v in (x.reshape(-1, x.shape[-1]), w, g.reshape(-1, g.shape[-1])))

    def q(v, role, axis):
        return quantize_blocks(v, recipe.cast(role, axis))

    y = q(x, "activation", -1) @ q(w, "weight", 0)
    dx = q(g, "gradient", -1) @ q(w, "weight", 1).T
    dw = q(x, "activation", 0).T @ q(g, "gradient", 0)
    return [BF16(v) for v in (y * np.float32(alpha), dx * np.float32(beta[0]), dw * np.float32(beta[1]))]


@pytest.mark.parametrize("name", ["mxfp8", "mxfp6", "mxfp4", "fp8-tiles"])
def test_a_linear_layer_by_hand(name):
    policy = get_precision(name)
    _, y, dx, dw = run(policy)
    for found, expected in zip((y, dx, dw), by_hand(policy.blocks, X, W, G), strict=True):
        assert np.array_equal(found.reshape(expected.shape), expected)


def test_factors_are_the_engines_own():
    policy = get_precision("mxfp8")
    tape, *found = run(policy, unit)
    scales = tape.nodes[0].scales
    expected = by_hand(policy.blocks, X, W, G, scales.alpha, scales.beta)
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a.reshape(b.shape), b)


def test_the_weight_gradient_of_nvfp4_by_hand():
    """Rows are transformed, gradients rounded with the tape's own bits, first those of dx; squares are one value."""
    policy = get_precision("nvfp4")
    recipe = policy.blocks
    _, y, dx, dw = run(policy, rng=np.random.default_rng(3))
    x, w, g = (BF16(v) for v in (X.reshape(-1, 96), W, G.reshape(-1, 70)))
    bits = np.random.default_rng(3)
    square = quantize_blocks(w, recipe.weight)
    assert np.array_equal(y.reshape(-1, 70), BF16(quantize_blocks(x, recipe.activation) @ square))
    narrow = quantize_blocks(g, recipe.cast("gradient", -1), bits.integers(0, 2**32, g.shape, np.uint32))
    assert np.array_equal(dx.reshape(-1, 96), BF16(narrow @ square.T))
    left, right = transform(x.T, 16, -1), transform(g, 16, -2)
    right = quantize_blocks(right, recipe.cast("gradient", -2), bits.integers(0, 2**32, right.shape, np.uint32))
    assert np.array_equal(dw, BF16(quantize_blocks(left, recipe.activation) @ right))


def test_attention_has_no_weights_and_no_transform():
    q, k = RNG.standard_normal((2, 3, 8, 32)).astype(np.float32), RNG.standard_normal((2, 3, 8, 32)).astype(np.float32)
    g = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)
    plain = get_precision("nvfp4")
    without = Precision("nvfp4", plain.store, blocks=replace(plain.blocks, hadamard=0, weight=plain.blocks.activation))
    for one, two in zip(
        run(plain, op=ops.AttentionScores(), x=q, w=k, g=g, rng=np.random.default_rng(0))[1:],
        run(without, op=ops.AttentionScores(), x=q, w=k, g=g, rng=np.random.default_rng(0))[1:],
        strict=True,
    ):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("policy", BLOCKED, ids=lambda p: p.name)
def test_a_convolution_is_a_product_of_operands(policy):
    x, kernel, g = spread(2, 9, 32), spread(3, 32, 16), spread(2, 7, 16)
    tape, *_ = run(policy, op=ops.Conv1d(), x=x, w=kernel, g=g, rng=np.random.default_rng(0))
    assert len([c for c in tape.casts if c.blocks]) == 6


@pytest.mark.parametrize("policy", BLOCKED, ids=lambda p: p.name)
def test_what_is_recorded(policy):
    tape, *_ = run(policy, rng=np.random.default_rng(0), count_casts=True)
    found = [(c.place, c.variable.name, c.blocks > 0) for c in tape.casts if c.place.startswith("operand")]
    assert found == [
        ("operand", "x", True),
        ("operand", "w", True),
        ("operand_gradient", "matmul", True),
        ("operand", "w", True),
        ("operand", "x", True),
        ("operand_gradient", "matmul", True),
    ]
    assert all(c.clipped is not None and c.flushed is not None for c in tape.casts)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        # x (2, 20, 96) @ w (96, 70), g (2, 20, 70): lines of 32 along the contracted axis
        ("mxfp8", (2 * 20 * 3, 3 * 70, 2 * 20 * 3, 96 * 3, 2 * 96, 2 * 70)),
        # lines of 16, squares of 16 × 16 for w; the transform fills up 40 rows to 48
        ("nvfp4", (2 * 20 * 6, 6 * 5, 2 * 20 * 5, 6 * 5, 3 * 96, 3 * 70)),
    ],
)
def test_blocks_and_elements_are_counted(name, blocks):
    tape, *_ = run(get_precision(name), rng=np.random.default_rng(0))
    x, w, g, rows = 40 * 96, 96 * 70, 40 * 70, 40 if name == "mxfp8" else 48
    converted = [c for c in tape.casts if c.blocks]
    assert [c.elements for c in converted] == [x, w, g, w, rows * 96, rows * 70]
    assert tuple(c.blocks for c in converted) == blocks


def test_statistics_of_blocks_by_hand():
    """A statistic and a scale to each block, and to each tensor that has one; passes beyond the first of an operand."""
    x, w = (Variable(n, (4, 4), True, None) for n in "xw")
    across = replace(MXFP8, axis=0)
    plain = [
        CastRecord(x, "operand", MXFP8, 100, None, None, blocks=10),
        CastRecord(w, "operand", MXFP8, 20, None, None, blocks=3),
        CastRecord(x, "operand", across, 101, None, None, blocks=7),
        CastRecord(x, "operand_gradient", MXFP8, 1000, None, None, blocks=50),
        CastRecord(x, "output", BF16, 5, None, None),
    ]
    before = Outcome(statistics=1, extra_passes=2, elements=3, scales=4)
    found = _with_blocks(before, plain)
    assert found == replace(before, statistics=1 + 70, extra_passes=2 + 1, elements=3 + 101, scales=4 + 70)
    tensor = [CastRecord(w, "operand", BLOCK_FORMATS["nvfp4"], 40, None, None, blocks=2)]
    found = _with_blocks(before, tensor)
    assert found == replace(before, statistics=1 + 3, extra_passes=2 + 1, elements=3 + 40, scales=4 + 3)
    assert _with_blocks(before, plain[-1:]) is before


@pytest.mark.parametrize(("lead", "block"), [((), (128, 128)), ((2,), (128,))])
def test_one_matrix_is_a_weight_and_a_batch_of_them_are_activations(lead, block):
    tape = Tape(regular, "fp8-tiles")
    apply(ops.Matmul(), tape.tensor(spread(2, 3, 4), "x"), tape.tensor(spread(*lead, 4, 5), "w"))
    (found,) = [c.cast for c in tape.casts if c.place == "operand" and c.variable.name == "w"]
    assert found.block == block


def test_a_contraction_that_is_not_named_keeps_its_operands():
    policy = Precision("some", blocks=get_precision("mxfp8").blocks, contractions=("matmul",))
    named, other = (run(policy, op=op)[0] for op in (ops.Matmul(), ops.Readout()))
    assert len([c for c in named.casts if c.blocks]) == 6
    assert other.casts == []


def test_what_a_step_took():
    """Six conversions of each linear layer: three of them again, along another axis."""
    config = TrainConfig("bert-tiny", "unit", precision="mxfp8", steps=1, batch=2, seq=16)
    run_ = Run.of(config)
    _, result = training_step(run_, run_.initial_state(), next(run_.batches(0)))
    assert result.outcome.statistics == result.outcome.scales > 0
    assert 0 < result.outcome.extra_passes < 6 * 30
    run_ = Run.of(replace(config, precision="nvfp4"))
    _, nv = training_step(run_, run_.initial_state(), next(run_.batches(0)))
    assert nv.outcome.extra_passes > 2 * result.outcome.extra_passes  # each conversion reads the tensor's amax before
    run_ = Run.of(replace(config, precision="fp8"))
    _, plain = training_step(run_, run_.initial_state(), next(run_.batches(0)))
    assert plain.outcome.statistics == 0


def test_clipped_and_flushed_are_counted():
    x = np.float32([[500.0, 1.0, 0.0, 2.0**-12]])
    cast = get_block_cast(MXFP8, block=4)  # s = 1: 500 is beyond 448
    assert lost(x, quantize_blocks(x, cast), cast) == (1, 1)


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_beyond_the_largest_value_of_a_block(rounding):
    """T = 21504/2688 = 8. 51/6/8 = 1.0625 is a tie of scales 1 and 1.125, and 1 is even: the top is 6·1·8 = 48."""
    x = np.zeros((1, 32), np.float32)
    x[0, 0] = 21504.0
    x[0, 16:22] = [51, 48, -48, -51, np.nextafter(np.float32(48), 50), 1]  # 1 is an eighth: to nearest, 0
    cast = get_block_cast("nvfp4", rounding=rounding)
    words = None if rounding == "nearest_even" else np.zeros(x.shape, np.uint32)
    q = quantize_blocks(x, cast, words)
    assert q[0, 16:22].tolist() == [48, 48, -48, -48, 48, 0]
    assert lost(x, q, cast) == (3, 1)


def test_operands_in_float64_are_rounded_once():
    """amax 1: s = 2^-8. 1.0625 is a tie of e4m3fn, and a hair that float32 does not have decides it."""
    x = np.array([[1.0625 + 2.0**-40, 1.0625]])
    assert convert(x, MXFP8).tolist() == [[1.125, 1.0]]
    assert convert(x, get_block_cast("fp8_1x128", arithmetic="exact")).dtype == np.float64


@pytest.mark.parametrize("n", [2, 16, 128])
@pytest.mark.parametrize("axis", [-1, 0])
def test_the_transform_is_orthogonal(n, axis):
    x = RNG.standard_normal((130, 130))
    y = transform(x, n, axis)
    assert y.shape[axis] == -(-130 // n) * n
    other = transform(x.T, n, -1 - axis)
    back = y @ other if axis == -1 else other @ y
    right = x @ x.T if axis == -1 else x.T @ x
    assert np.abs(back - right).max() < 1e-12 * np.abs(right).max()


def test_the_transform_by_hand():
    """y = H·diag(signs)·x/√n: a unit vector gives its column of H, times its sign, the top bit of PCG64(4)'s words."""
    signs = [-1, -1, -1, 1]
    columns = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    for k in range(4):
        x = np.zeros(4)
        x[k] = 2.0
        assert transform(x, 4, 0).tolist() == [signs[k] * h for h in columns[k]]
    x = np.zeros((2, 6))
    x[1, 5] = 2.0  # the second of the last two, filled up with zeros
    assert transform(x, 4, -1).tolist() == [[0] * 8, [0] * 4 + [-1, 1, -1, 1]]


def test_the_transform_spreads_an_outlier():
    x = np.zeros(16)
    x[3] = 16.0
    assert set(np.abs(transform(x, 16, 0))) == {4.0}


def test_an_operand_stays_one():
    recipe = Recipe(MXFP8, MXFP8, MXFP8)
    x = Operand.of(X, recipe, "activation")
    for y in (x.T, x[0], x.reshape(-1, 96), x * np.float32(2), x.swapaxes(0, 1)):
        assert isinstance(y, Operand)
        assert y.role == "activation"
    product = x[0] @ Operand.of(W, recipe, "weight")
    assert type(product) is np.ndarray
    y = x[0].copy()
    y *= 2
    assert isinstance(y, Operand)


def test_there_is_one_way_to_contract():
    x = Operand.of(X[0], Recipe(MXFP8, MXFP8, MXFP8), "activation")
    for call in (lambda: np.einsum("ij,jk->ik", x, W), lambda: np.dot(x, W), lambda: np.tensordot(x, W, 1)):
        with pytest.raises(ArgumentError, match="would not convert its operands, expected @"):
            call()
    with pytest.raises(ArgumentError, match="expected an operand on both sides"):
        x @ W


def test_float64_carriers_and_errors():
    for policy in BLOCKED:
        y = run(policy, dtype=np.float64, rng=np.random.default_rng(0))[1]
        assert y.dtype == np.float64
        narrow = run(policy, rng=np.random.default_rng(0))[1]
        assert np.abs(y - narrow).max() <= 2.0**-7 * np.abs(narrow).max()
    with pytest.raises(ArgumentError, match=r"Recipe\(hadamard=12\): expected 0 or a power of two"):
        Recipe(MXFP8, MXFP8, MXFP8, 12)
    with pytest.raises(ArgumentError, match="Recipe: hadamard is '16', expected an integer"):
        Recipe(MXFP8, MXFP8, MXFP8, "16")
    with pytest.raises(FormatError, match="unknown block format 'mxfp5'"):
        Recipe("mxfp8_e4m3", "mxfp5", "mxfp8_e4m3")
    assert Recipe("mxfp8_e4m3", MXFP8, "MXFP8_E4M3", np.int64(16)) == Recipe(MXFP8, MXFP8, MXFP8, 16)
    with pytest.raises(ArgumentError, match="blocks together with operand, operand_gradient or accumulate"):
        replace(get_precision("mxfp8"), accumulate="exact")
    with pytest.raises(ArgumentError, match="needs random bits"):
        run(get_precision("nvfp4"))


# --- wrong on purpose ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["axis", "same blocks in backward", "no conversion", "gradient as it is"])
def test_a_wrong_engine_is_noticed(wrong, monkeypatch):
    recipe = get_precision("mxfp8").blocks
    right = by_hand(recipe, X, W, G)
    original = Recipe.cast

    def cast(self, role, axis):
        return original(self, role, {"axis": -3 - axis, "same blocks in backward": -1}.get(wrong, axis))

    def convert(x, cast, operand=None, words=None):
        plain = wrong == "no conversion" or operand.role == "gradient"
        return x if plain else quantize_blocks(x, cast)

    if wrong in ("no conversion", "gradient as it is"):
        monkeypatch.setattr("refscale.precision.rounder.convert", convert)
    else:
        monkeypatch.setattr(Recipe, "cast", cast)
    found = run(get_precision("mxfp8"))[1:]
    assert not all(np.array_equal(a.reshape(b.shape), b) for a, b in zip(found, right, strict=True))


def test_squares_are_the_same_both_ways():
    w = split_blocks(W, "nvfp4_16x16").wide()
    assert np.array_equal(split_blocks(W.T, "nvfp4_16x16").wide(), w.T)
    assert not np.array_equal(quantize_blocks(W, "nvfp4"), quantize_blocks(W.T, "nvfp4").T)
