"""Kernels of rows and elements against their readable forms: any shape, layout, factor and block size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale import ops
from refscale.exact import ErrorModel
from refscale.ops.kernels import blocks, rows
from refscale.scales import Scales
from refscale.testing import assert_same_bits
from refscale.testing.strategies import seeds
from tests.ops.cases import IGNORE, PROPERTY, STRATEGIES

ACTIVATIONS = (ops.Gelu, ops.Silu, ops.Tanh, ops.Sigmoid, ops.Softplus)
ROWS = (ops.Softmax, ops.MaskedSoftmax, ops.LayerNorm, ops.RmsNorm, ops.SoftmaxCrossEntropy)
DTYPES = [np.float32, np.float64]
by_name = {"ids": lambda op: op.__name__}

# --- The two forms ----------------------------------------------------------------------------------------------------


def readable(op, alpha, betas, g, arrays):
    """α·y and β_i·gradient_i by the forms that are the specification."""
    y, kept = op.forward(*arrays)
    pieces = op.backward(g, *kept)
    gradients = [None if beta is None else np.asarray(piece * beta) for piece, beta in zip(pieces, betas, strict=True)]
    return np.asarray(y * alpha), gradients


def fast(op, alpha, betas, g, arrays):
    """The same by the fast form; its arguments are as they were, its results are new."""
    given_arrays = [*arrays, g]
    before = [a.copy() for a in given_arrays]
    y, kept = op.fast_forward(alpha, *arrays)
    y_before = y.copy()
    gradients = list(op.fast_backward(betas, g, *kept))
    for array, copy in zip([*given_arrays, y], [*before, y_before], strict=True):
        assert_same_bits(array, copy)
    results = [y, *(gradient for gradient in gradients if gradient is not None)]
    for i, result in enumerate(results):
        assert not any(np.shares_memory(result, other) for other in [*given_arrays, *results[:i]])
    return y, gradients


# --- How far they may be apart ----------------------------------------------------------------------------------------

MODELS = {np.float32: ErrorModel(), np.float64: ErrorModel(2.0**-52, 5e-324)}
"""Of the arithmetic of both forms."""


def assert_near(actual, expected, bound, dtype):
    """Each form errs by at most the bound of the op: they differ by at most twice as much."""
    assert (type(actual), actual.dtype, actual.shape) == (np.ndarray, dtype, expected.shape)
    assert bound.shape == expected.shape
    error = np.abs(actual.astype(np.float64) - expected)
    assert np.all(error <= 2 * bound.error), f"off by {np.max(error / bound.error)} times the bound"


def check(op, alpha, betas, g, arrays):
    """The fast form against the readable one."""
    y, gradients = readable(op, alpha, betas, g, arrays)
    actual_y, actual_gradients = fast(op, alpha, betas, g, arrays)
    assert [gradient is None for gradient in actual_gradients] == [beta is None for beta in betas]
    results = [(actual_y, y), *zip(actual_gradients, gradients, strict=True)]
    if op.bitwise:
        for actual, expected in results:
            if expected is not None:
                assert_same_bits(actual, expected)
        return
    of_y, of_gradients = op.bound(Scales(alpha, tuple(betas)), g, *arrays, model=MODELS[y.dtype.type])
    for (actual, expected), bound in zip(results, [of_y, *of_gradients], strict=True):
        if expected is not None:
            assert_near(actual, expected, bound, y.dtype)


# --- Any shape --------------------------------------------------------------------------------------------------------


def laid_out(x, how):
    """The same values, not contiguous."""
    if how == "transposed" and x.ndim:
        return np.ascontiguousarray(x.T).T
    if how == "reversed" and x.ndim:
        return np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    if how == "strided" and x.ndim:
        return np.repeat(x, 2, -1)[..., ::2]
    return x


layouts = st.sampled_from(["contiguous", "transposed", "reversed", "strided"])
factors = st.sampled_from([1.0, 4.0]) | st.floats(0.125, 8)
block_sizes = st.sampled_from([1, 5, 16, blocks.BLOCK])


@st.composite
def calls(draw, kind):
    """(op, α, betas, g, arrays) of any shape, dtype and layout, some gradients unwanted."""
    case, dtype, rng = draw(STRATEGIES[kind]), draw(st.sampled_from(DTYPES)), np.random.default_rng(draw(seeds()))
    arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in case.arrays(rng)]
    shape = () if case.op.reports else case.inputs[0].shape
    g = np.asarray(rng.standard_normal(shape), dtype)
    arrays = [laid_out(a, draw(layouts)) for a in arrays]
    betas = [draw(factors | st.none()) if i in case.differentiable else None for i in range(len(arrays))]
    return case.op, draw(factors), betas, laid_out(g, draw(layouts)), arrays


@pytest.mark.parametrize("kind", ACTIVATIONS + ROWS, **by_name)
@PROPERTY
@given(data=st.data(), size=block_sizes)
def test_a_kernel_is_its_readable_form(kind, data, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", size)
        check(*data.draw(calls(kind)))


def call(op, *shapes, dtype=np.float32, alpha=3.0, beta=0.3, seed=0):
    """A call with normal arrays of these shapes."""
    rng = np.random.default_rng(seed)
    arrays = [s if isinstance(s, np.ndarray) else rng.standard_normal(s).astype(dtype) for s in shapes]
    betas = [None if i in op.constants else beta for i in range(len(arrays))]
    g = np.asarray(rng.standard_normal(() if op.reports else arrays[0].shape), dtype)
    return op, alpha, betas, g, arrays


TARGETS = np.random.default_rng(1).integers(0, 3000, (3, 50))
LENGTHS = np.arange(128) < np.array([128, 3, 0, 77]).reshape(4, 1, 1, 1)
LARGE = [  # of several blocks, the last one not full
    call(ops.Softmax(), (2, 700, 128)),
    call(ops.Softmax(), (3, blocks.BLOCK + 1)),
    call(ops.MaskedSoftmax(), (4, 6, 130, 128), LENGTHS),
    call(ops.MaskedSoftmax(causal=True), (4, 6, 130, 128), LENGTHS),
    call(ops.MaskedSoftmax(causal=True), (3, 300, 700), np.ones((300, 1), bool)),
    call(ops.MaskedSoftmax(), (6, 4, 50, 128), np.broadcast_to(np.arange(4).reshape(4, 1, 1) > 0, (6, 4, 50, 128))),
    call(ops.LayerNorm(), (3, 100, 768), (768,), (768,)),
    call(ops.RmsNorm(), (700, 128), (128,)),
    call(ops.SoftmaxCrossEntropy(), (3, 50, 3000), TARGETS),
    call(ops.SoftmaxCrossEntropy("sum", IGNORE, 90), (3, 50, 3000), np.where(np.arange(50) < 30, TARGETS, IGNORE)),
    *(call(kind(), (3, blocks.BLOCK)) for kind in ACTIVATIONS),
    call(ops.Gelu("tanh"), (3, blocks.BLOCK)),
]


@pytest.mark.parametrize("example", LARGE, ids=lambda c: f"{c[0].name}{list(c[4][0].shape)}")
@pytest.mark.parametrize("how", ["contiguous", "transposed"])
def test_of_several_blocks(example, how):
    op, alpha, betas, g, arrays = example
    check(op, alpha, betas, laid_out(g, how), arrays)


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_no_elements(dtype):
    for example in (
        call(ops.Softmax(), (0, 3), dtype=dtype),
        call(ops.MaskedSoftmax(), (2, 0, 3), np.ones((2, 1, 3), bool), dtype=dtype),
        call(ops.LayerNorm(), (2, 0, 3), (3,), (3,), dtype=dtype),
        call(ops.RmsNorm(), (0, 3), (3,), dtype=dtype),
        *(call(kind(), (3, 0), dtype=dtype) for kind in ACTIVATIONS),
    ):
        check(*example)


# --- Values that are not finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("causal", [False, True])
def test_what_a_mask_hides_changes_nothing(hidden, causal):
    op, alpha, betas, g, (x, mask) = call(ops.MaskedSoftmax(causal), (4, 2, 5, 128), LENGTHS)
    y, gradients = fast(op, alpha, betas, g, (x, mask))
    y_changed, changed = fast(op, alpha, betas, g, (np.where(mask, x, np.float32(hidden)), mask))
    assert_same_bits(y_changed, y)
    assert_same_bits(changed[0], gradients[0])
    assert not y[2].any()
    assert not gradients[0][2].any()


def test_nan_stays_in_its_row():
    op, alpha, betas, g, (x, mask) = call(ops.MaskedSoftmax(), (2, 3, 5), np.arange(5) < 4)
    x[0, 1, 2], x[1, 0] = np.nan, -np.inf
    for results in (fast(op, alpha, betas, g, (x, mask)), fast(ops.Softmax(), alpha, betas[:1], g[0], (x[0],))):
        for result in (results[0], results[1][0]):
            assert np.isnan(result.reshape(-1, 5)[1]).all()
            assert np.isnan(result).sum() == 5
    assert not y_of_hidden(op, x[1, 0]).any()


def y_of_hidden(op, row):
    """Where all that may be seen is −∞."""
    return op.fast_forward(3.0, row[None], np.ones((1, 5), bool))[0]


@pytest.mark.parametrize("ignored", [np.nan, 1e30])
@pytest.mark.parametrize("size", [4, blocks.BLOCK])
def test_a_row_that_does_not_count_may_be_anything(monkeypatch, ignored, size):
    monkeypatch.setattr(blocks, "BLOCK", size)
    targets = np.array([0, IGNORE, 2, IGNORE, IGNORE])
    op, alpha, betas, g, (logits, _) = call(ops.SoftmaxCrossEntropy("mean", IGNORE, 2), (5, 3), targets)
    y, (gradient, _) = fast(op, alpha, betas, g, (logits, targets))
    logits[targets == IGNORE] = ignored
    y_changed, (changed, _) = fast(op, alpha, betas, g, (logits, targets))
    assert_same_bits(y_changed, y)
    assert_same_bits(changed, gradient)
    assert_same_bits(changed[targets == IGNORE], np.zeros((3, 3), np.float32))


def test_squares_beyond_the_carrier_do_not_warn():
    for op, *more in ((ops.LayerNorm(0.0), (4,), (4,)), (ops.RmsNorm(0.0), (4,))):
        one, alpha, betas, g, arrays = call(op, (3, 4), *more)
        y, _ = readable(one, alpha, betas, g, arrays)
        arrays[0] = np.ldexp(arrays[0], 90)
        assert_same_bits(fast(one, 1.0, betas, g, arrays)[0] * np.float32(alpha), y)


# --- The check can fail -----------------------------------------------------------------------------------------------


def spoil(patch, op, part):
    """The results or the gradients of an op's fast form off by a thousandth."""
    right = getattr(type(op), f"fast_{part}")

    def wrong(x):
        return None if x is None else np.asarray(x * np.float32(1.001))

    def forward(*args):
        y, kept = right(*args)
        return wrong(y), kept

    def backward(*args):
        return tuple(map(wrong, right(*args)))

    patch.setattr(type(op), f"fast_{part}", {"forward": forward, "backward": backward}[part])


SMALL = {
    "softmax": call(ops.Softmax(), (3, 4)),
    "masked_softmax": call(ops.MaskedSoftmax(), (3, 4), np.arange(4) > 0),
    "layer_norm": call(ops.LayerNorm(), (3, 4), (4,), (4,)),
    "rms_norm": call(ops.RmsNorm(), (3, 4), (4,)),
    "softmax_cross_entropy": call(ops.SoftmaxCrossEntropy(), (3, 4), np.array([0, 3, 1])),
    "gelu": call(ops.Gelu(), (3, 4)),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("part", ["forward", "backward"])
def test_a_wrong_kernel_is_rejected(name, part, monkeypatch):
    op, alpha, betas, g, arrays = SMALL[name]
    check(op, alpha, betas, g, arrays)
    spoil(monkeypatch, op, part)
    with pytest.raises(AssertionError, match=r"off by|other bits"):
        check(op, alpha, betas, g, arrays)


def test_a_kernel_without_its_mean_is_rejected(monkeypatch):
    op, alpha, betas, g, arrays = SMALL["layer_norm"]

    def uncentered(op, betas, g, *kept):
        return rows._norm_backward(betas, g, *kept, with_mean=False)

    monkeypatch.setattr(ops.LayerNorm, "fast_backward", uncentered)
    with pytest.raises(AssertionError):
        check(op, alpha, betas, g, arrays)


def test_a_kernel_that_overwrites_is_rejected(monkeypatch):
    op, alpha, betas, g, arrays = SMALL["softmax"]

    def overwriting(op, betas, g, y, alpha):
        return (np.multiply(y, g, out=y),)

    monkeypatch.setattr(ops.Softmax, "fast_backward", overwriting)
    with pytest.raises(AssertionError, match="other bits"):
        check(op, alpha, betas, g, arrays)
