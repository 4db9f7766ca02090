"""The smallest shapes, masks that hide all, ties, infinities."""

import numpy as np
import pytest

from refscale import ops
from refscale.engine import Tape, apply, backward
from refscale.errors import ArgumentError
from refscale.scales import SCHEMES, unit
from refscale.testing import assert_same_bits
from tests.ops.cases import IGNORE, case, run
from tests.ops.references import assert_close_to_reference
from tests.ops.test_gradients import check_vjp

RNG = np.random.default_rng(0)
schemes = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


@schemes
def test_softmax_of_length_one(scheme):
    for op, more in (
        (ops.Softmax(), ()),
        (ops.MaskedSoftmax(), (np.ones((1, 1), bool),)),
        (ops.MaskedSoftmax(causal=True), (np.ones((1, 1), bool),)),
    ):
        y, (gradient, *_) = run(op, [RNG.standard_normal((4, 1, 1)), *more], scheme=scheme)
        if scheme.name != "unit-rms":
            assert_same_bits(y, np.ones((4, 1, 1)))
        assert not np.any(gradient)
    y, (gradient,) = run(ops.LogSoftmax(), [RNG.standard_normal((4, 1))], scheme=scheme)
    assert_same_bits(y, np.zeros((4, 1)))
    assert not np.any(gradient)


@schemes
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_of_one_class(scheme, reduction):
    op = ops.SoftmaxCrossEntropy(reduction)
    y, (gradient, _) = run(op, [RNG.standard_normal((4, 1)), np.zeros(4, int)], scheme=scheme)
    assert y == 0
    assert not np.any(gradient)


def test_cross_entropy_of_one_row():
    y, (gradient, _) = run(ops.SoftmaxCrossEntropy(), [np.zeros((1, 4)), np.array([2])], np.ones(()))
    assert abs(y - np.log(4)) <= 1e-15
    assert_same_bits(gradient, np.array([[0.25, 0.25, -0.75, 0.25]]))


def test_ignored_rows_have_gradients_of_exactly_zero():
    logits, targets = RNG.standard_normal((5, 3)), np.array([0, IGNORE, 2, IGNORE, IGNORE])
    y, (gradient, _) = run(ops.SoftmaxCrossEntropy("mean", IGNORE, 2), [logits, targets], np.ones(()), scheme=unit)
    assert not np.any(gradient[targets == IGNORE])
    assert np.all(gradient[targets != IGNORE])
    logits[targets == IGNORE] = 1e6
    assert_same_bits(run(ops.SoftmaxCrossEntropy("mean", IGNORE, 2), [logits, targets], scheme=unit)[0], y)


def test_cross_entropy_of_huge_logits():
    logits = np.array([[1e300, 0.0], [0.0, -1e300]])
    y, (gradient, _) = run(ops.SoftmaxCrossEntropy("sum"), [logits, np.array([0, 0])], np.ones(()))
    assert y == 0
    assert not np.any(gradient)


@schemes
def test_a_row_that_sees_no_key_is_zero(scheme):
    mask = np.ones((2, 3, 5), bool)
    mask[0, 1] = False
    x = RNG.standard_normal((2, 3, 5))
    y, (gradient, none) = run(ops.MaskedSoftmax(), [x, mask], scheme=scheme)
    assert none is None
    assert not np.any(y[0, 1])
    assert not np.any(gradient[0, 1])
    others = np.any(mask, -1)
    assert np.all(np.abs(y[others].sum(-1) / y[others].sum(-1)[0] - 1) <= 1e-14)
    assert np.all(gradient[others])


@pytest.mark.parametrize(("s", "t"), [(2, 5), (5, 2), (3, 3), (1, 4), (4, 1), (1, 1)])
def test_causal_lines_up_the_last_query_with_the_last_key(s, t):
    example = case(ops.MaskedSoftmax(causal=True), (2, s, t))
    arrays = [*example.arrays(RNG), np.ones((1, 1, 1), bool)]
    y = run(example.op, arrays)[0]
    assert_close_to_reference(example.op, arrays, y)
    check_vjp(example.op, arrays)
    assert np.all(y[:, -1] > 0)
    seen = np.count_nonzero(y[0], -1)
    assert seen.tolist() == [max(0, i + 1 + t - s) for i in range(s)]


def test_minus_infinity_is_a_mask_too():
    x = RNG.standard_normal((2, 4))
    x[0, 1] = -np.inf
    y = run(ops.Softmax(), [x])[0]
    assert y[0, 1] == 0
    assert abs(y.sum() - 2) <= 1e-15


@schemes
def test_products_over_one_element(scheme):
    for op, shapes in (
        (ops.Matmul(), ((1, 1), (1, 1))),
        (ops.Matmul(), ((3, 1), (1, 4))),
        (ops.Readout(), ((3, 1), (1, 4))),
        (ops.AttentionScores(), ((3, 1), (4, 1))),
        (ops.AttentionMix(), ((3, 1), (1, 4))),
        (ops.Conv1d(), ((1, 1, 1), (1, 1, 1))),
        (ops.Conv2d(), ((1, 1, 1, 1), (1, 1, 1, 1))),
    ):
        example = case(op, *shapes)
        arrays = example.arrays(RNG)
        y, gradients = run(op, arrays, scheme=scheme)
        assert np.all(np.isfinite(y))
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
        check_vjp(op, arrays)


def test_a_convolution_over_one_element_is_a_matmul():
    x, w = RNG.standard_normal((2, 3, 4)), RNG.standard_normal((4, 5))
    y, gradients = run(ops.Conv1d(), [x, w[None]], scheme=unit)
    expected, expected_gradients = run(ops.Matmul(), [x, w], scheme=unit)
    for actual, other in (
        (y, expected),
        (gradients[0], expected_gradients[0]),
        (gradients[1][0], expected_gradients[1]),
    ):
        # The same products of 4, 5 and 6 terms in some order, and one factor.
        assert np.max(np.abs(actual - other)) <= 16 * 2.0**-53 * np.max(np.abs(other)) * 8


def test_a_causal_convolution_does_not_see_the_future():
    x, w = RNG.standard_normal((1, 8, 3)), RNG.standard_normal((3, 3, 2))
    op = ops.Conv1d(padding=(4, 0), dilation=2)
    y = op.forward(x, w)[0]
    assert y.shape == (1, 8, 2)
    x[:, 5:] = 1e6
    assert_same_bits(op.forward(x, w)[0][:, :5], y[:, :5])


@schemes
def test_norms_of_one_row_and_of_one_column(scheme):
    for shape in ((1, 5), (5, 1), (1, 1)):
        arrays = [RNG.standard_normal(shape), np.ones(shape[-1:]), np.zeros(shape[-1:])]
        for op, used in ((ops.LayerNorm(), arrays), (ops.RmsNorm(), arrays[:2])):
            y, gradients = run(op, used, scheme=scheme)
            assert np.all(np.isfinite(y))
            assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_layer_norm_of_a_constant_row_is_the_bias():
    y, _ = run(ops.LayerNorm(), [np.full((2, 4), 3.0), np.ones(4), np.arange(4.0)])
    assert_same_bits(y, np.tile(np.arange(4.0), (2, 1)))


def test_an_element_embedded_twice_gets_both_gradients():
    g = np.array([[1.0], [2.0], [4.0]])
    _, (gradient, _) = run(ops.Embedding(), [np.zeros((4, 1)), np.array([2, 0, 2])], g)
    assert_same_bits(gradient, np.array([[2.0], [0.0], [5.0], [0.0]]))
    _, (gradient, _) = run(
        ops.Gather(), [np.zeros((2, 2, 1)), np.array([[1, 1], [0, 1]])], g[[0, 1, 2, 0]].reshape(2, 2, 1)
    )
    assert_same_bits(gradient, np.array([[[0.0], [3.0]], [[4.0], [1.0]]]))


def test_the_first_of_equal_elements_gets_the_gradient():
    _, (gradient,) = run(ops.MaxPool((3,)), [np.ones((1, 6, 1))], np.array([[[2.0], [3.0]]]))
    assert_same_bits(gradient.ravel(), np.array([2.0, 0, 0, 3.0, 0, 0]))


def test_overlapping_windows_add_up():
    x = np.array([0.0, 1.0, 5.0, 1.0, 0.0]).reshape(1, 5, 1)
    _, (gradient,) = run(ops.MaxPool((3,), (1,)), [x], np.array([1.0, 2.0, 4.0]).reshape(1, 3, 1))
    assert_same_bits(gradient.ravel(), np.array([0.0, 0, 7.0, 0, 0]))


def test_padding_is_never_the_largest():
    y, _ = run(ops.MaxPool((2,), (2,), (1,)), [np.full((1, 2, 1), -3.0)])
    assert_same_bits(y, np.full((1, 2, 1), -3.0))


def test_nan_and_infinity_pass_through():
    x = np.array([np.nan, np.inf, -np.inf, -1.0])
    relu = ops.Relu().forward(x)[0]
    assert np.isnan(relu[0])
    assert relu[1:].tolist() == [np.inf, 0, 0]
    pooled = ops.MaxPool((2,)).forward(x.reshape(1, 4, 1))[0]
    assert np.isnan(pooled[0, 0, 0])
    assert pooled[0, 1, 0] == -1


def test_kinks_have_the_derivative_of_the_left():
    for op, slope in ((ops.Relu(), 0.0), (ops.LeakyRelu(0.25), 0.25)):
        assert_same_bits(run(op, [np.zeros(2)], np.ones(2))[1][0], np.full(2, slope))


@schemes
def test_empty_batches(scheme):
    """No rows: no values and no complaints; the gradient of a weight is zero."""
    for op, shapes in (
        (ops.Matmul(), ((0, 3), (3, 4))),
        (ops.Bias(), ((0, 3), (3,))),
        (ops.LayerNorm(), ((0, 3), (3,), (3,))),
        (ops.Conv1d(), ((0, 5, 3), (2, 3, 4))),
        (ops.MaxPool((2,)), ((0, 4, 3),)),
        (ops.Gelu(), ((0, 3),)),
        (ops.Softmax(), ((0, 3),)),
    ):
        y, gradients = run(op, [np.ones(shape) for shape in shapes], scheme=scheme)
        assert y.size == 0
        assert [gradient.shape for gradient in gradients] == list(shapes)
        assert not any(np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("op", [ops.Relu(), ops.Tanh(), ops.Multiply(), ops.Subtract(), ops.MseLoss()], ids=str)
def test_rank_zero(op):
    """NumPy returns scalars for inputs without dimensions; the engine must still return arrays."""
    arrays = [RNG.standard_normal(()) for _ in op.inputs]
    y, gradients = run(op, arrays, np.ones(()))
    assert_close_to_reference(op, arrays, y)
    assert all(isinstance(array, np.ndarray) for array in (y, *gradients))


def test_identities_share_memory_and_survive_scaling():
    """Ops that return their input must not let the engine scale it in place."""
    x = RNG.standard_normal((3, 4))
    tape = Tape(unit, dtype=np.float64)
    leaf = tape.tensor(x)
    y = apply(ops.Scaled(0.5, 2.0), leaf)
    z = apply(ops.WeightedAdd((0.6, 0.8)), leaf, y)
    g = RNG.standard_normal((3, 4))
    backward(z, g, check=False)  # two multiples of the gradient, on purpose
    assert_same_bits(leaf.value, x)
    assert_same_bits(y.value, 0.5 * x)
    expected = g + 2 * g
    assert np.max(np.abs(leaf.grad - expected)) <= 8 * 2.0**-53 * np.max(np.abs(expected))


# --- Axes and windows -------------------------------------------------------------------------------------------------


def test_numbers_stand_for_tuples_and_numpy_integers_are_integers():
    one, two = np.int64(1), np.uint8(2)
    for op, same in (
        (ops.Sum(-1), ops.Sum((-1,))),
        (ops.Mean([0, one]), ops.Mean((0, 1))),
        (ops.Slice(one, 0, two), ops.Slice(1, 0, 2)),
        (ops.Concat(one), ops.Concat(1)),
        (ops.Transpose([one, 0]), ops.Transpose((1, 0))),
        (ops.Reshape(two), ops.Reshape((2,))),
        (ops.Conv1d(two, (one, 0), two, one), ops.Conv1d(2, (1, 0), 2, 1)),
        (ops.Conv2d(2, one, 3), ops.Conv2d((2, 2), (1, 1), (3, 3))),
        (ops.Conv2d([1, two], [[one, 0], 2]), ops.Conv2d((1, 2), ((1, 0), 2))),
        (ops.MaxPool(two, one, one), ops.MaxPool(2, 1, 1)),
        (ops.MaxPool(3, (1, 2), 1), ops.MaxPool((3, 3), (1, 2), (1, 1))),
    ):
        assert repr(op) == repr(same)
        assert hash(op) == hash(same)
    assert ops.split_points(6, np.int64(3)) == ops.split_points(6, np.array([2, 2, 2])) == [(0, 2), (2, 4), (4, 6)]


def test_a_number_is_the_side_of_a_window_on_every_axis():
    x = RNG.standard_normal((2, 5, 6, 3))
    assert_same_bits(ops.MaxPool(2, 1, 1).forward(x)[0], ops.MaxPool((2, 2), (1, 1), (1, 1)).forward(x)[0])
    assert_same_bits(ops.MaxPool(2).forward(x[0])[0], ops.MaxPool((2,)).forward(x[0])[0])
    assert ops.MaxPool(2).scale((2, 4, 1)) == ops.MaxPool((2,)).scale((2, 4, 1))
    assert ops.MaxPool(2).scale((2, 4, 4, 1)) == ops.MaxPool((2, 2)).scale((2, 4, 4, 1))


def test_no_gradient_goes_into_the_padding():
    """Windows [p, −∞], [1, −∞] and [−∞, p]: an element of x is the largest of each, also where it is −∞."""
    x = np.array([-np.inf, 1, -np.inf, -np.inf]).reshape(1, 4, 1)
    _, (gradient,) = run(ops.MaxPool((2,), None, (1,)), [x], np.ones((1, 3, 1)))
    assert_same_bits(gradient.ravel(), np.array([1.0, 1.0, 0.0, 1.0]))
    corner = np.full((1, 1, 1, 1), -np.inf)
    _, (gradient,) = run(ops.MaxPool((2, 2), None, (1, 1)), [corner], np.ones((1, 1, 1, 1)))
    assert_same_bits(gradient.ravel(), np.ones(1))


def test_the_first_of_equal_infinities_gets_the_gradient():
    x = np.array([-np.inf, -np.inf, np.inf, np.inf]).reshape(1, 4, 1)
    _, (gradient,) = run(ops.MaxPool((4,), (1,), (1,)), [x], np.array([1.0, 2.0, 4.0]).reshape(1, 3, 1))
    assert_same_bits(gradient.ravel(), np.array([0.0, 0, 7.0, 0]))
    x[...] = -np.inf
    _, (gradient,) = run(ops.MaxPool((4,), (1,), (1,)), [x], np.array([1.0, 2.0, 4.0]).reshape(1, 3, 1))
    assert_same_bits(gradient.ravel(), np.array([3.0, 4.0, 0, 0]))


AT_KINKS = {
    ops.Abs(): ([-2.0, 0.0, 3.0], [2, 0, 3], [-1, 0, 1]),
    ops.Square(): ([-2.0, 0.0, 3.0], [4, 0, 9], [-4, 0, 6]),
    ops.Clip(-1.0, 2.0): ([-1.5, -1.0, 0.5, 2.0, 3.0], [-1, -1, 0.5, 2, 2], [0, 1, 1, 1, 0]),
    ops.HardSigmoid(): ([-4.0, -3.0, 0.0, 1.5, 3.0, 4.0], [0, 0, 0.5, 0.75, 1, 1], [0, 0, 1 / 6, 1 / 6, 0, 0]),
    ops.HardSwish(): ([-4.0, -3.0, -1.5, 0.0, 3.0, 4.0], [0, 0, -0.375, 0, 3, 4], [0, 0, 0, 0.5, 1, 1]),
}


class TestKinks:
    """Values and derivatives at the kinks and beyond, by hand."""

    @pytest.mark.parametrize("op", AT_KINKS, ids=str)
    def test_of_one(self, op):
        x, y, slopes = AT_KINKS[op]
        value, (gradient,) = run(op, [np.array(x)], np.ones(len(x)))
        assert value.tolist() == y
        assert gradient.tolist() == pytest.approx(slopes, rel=1e-15)

    def test_of_two(self):
        """Equal elements share the gradient; a NaN in either gives NaN."""
        x, y, g = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, -1.0]), np.array([1.0, 8.0, 4.0])
        value, gradients = run(ops.Maximum(), [x, y], g)
        assert value.tolist() == [2, 2, 3]
        assert [d.tolist() for d in gradients] == [[0, 4, 4], [1, 4, 0]]
        value, gradients = run(ops.Minimum(), [x, y], g)
        assert value.tolist() == [1, 2, -1]
        assert [d.tolist() for d in gradients] == [[1, 4, 0], [0, 4, 4]]
        _, (dx, dy) = run(ops.Maximum(), [np.zeros((3, 1)), np.array([1.0, -1.0])], np.ones((3, 2)))
        assert (dx.tolist(), dy.tolist()) == ([[1], [1], [1]], [3, 0])
        assert np.isnan(run(ops.Maximum(), [np.array([np.nan]), np.ones(1)])[0]).all()

    def test_infinities(self):
        x = np.array([-np.inf, np.inf])
        for op, expected in ((ops.Clip(), [-1, 1]), (ops.HardSigmoid(), [0, 1]), (ops.HardSwish(), [0, np.inf])):
            assert op.forward(x)[0].tolist() == expected


def test_average_pooling_by_hand():
    """Windows of 3 at stride 2 with a zero on both sides; each element receives a third from its windows."""
    y, (dx,) = run(
        ops.AvgPool((3,), (2,), (1,)), [np.array([3.0, 6, 9, 12, 15])[None, :, None]], np.array([[[3.0], [6], [9]]])
    )
    assert y.ravel().tolist() == [3, 9, 9]
    assert dx.ravel().tolist() == pytest.approx([1, 3, 2, 5, 3])


def test_transposed_convolution_by_hand():
    """Stride 2, kernel (1, 10, 100): an element goes to three places, of which neighbors share one."""
    x, w = np.array([1.0, 2.0, 3.0])[None, :, None], np.array([1.0, 10.0, 100.0])[:, None, None]
    y, (dx, dw) = run(ops.ConvTranspose(2), [x, w], np.arange(7.0)[None, :, None])
    assert y.ravel().tolist() == [1, 10, 102, 20, 203, 30, 300]
    assert dx.ravel().tolist() == [0 + 10 + 200, 2 + 30 + 400, 4 + 50 + 600]
    assert dw.ravel().tolist() == [0 + 4 + 12, 1 + 6 + 15, 2 + 8 + 18]
    y, _ = run(ops.ConvTranspose(2, padding=((1, 2),), output_padding=1), [x, w])
    assert y.ravel().tolist() == [10, 102, 20, 203, 30]


def test_padding_and_resize_by_hand():
    x, g = np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 2, 4, 8, 16, 32]])
    for mode, value, gradient in (
        ("constant", [9, 9, 1, 2, 3, 9], [4, 8, 16]),
        ("reflect", [3, 2, 1, 2, 3, 2], [4, 8 + 2 + 32, 16 + 1]),
        ("replicate", [1, 1, 1, 2, 3, 3], [4 + 1 + 2, 8, 16 + 32]),
    ):
        y, (dx,) = run(ops.Pad(((0, 0), (2, 1)), mode, 9.0 if mode == "constant" else 0.0), [x], g)
        assert (y.tolist(), dx.tolist()) == ([value], [gradient])
    y, (dx,) = run(ops.NearestResize(2), [x[..., None]], g[..., None])
    assert (y.ravel().tolist(), dx.ravel().tolist()) == ([1, 1, 2, 2, 3, 3], [3, 12, 48])
    y, (dx,) = run(ops.LinearResize(4), [x[:, :2, None]], np.array([1.0, 2.0, 4.0, 8.0])[None, :, None])
    assert y.ravel().tolist() == [1, 1.25, 1.75, 2]
    assert dx.ravel().tolist() == [1 + 1.5 + 1, 0.5 + 3 + 8]
    y, (dx,) = run(ops.LinearResize(5, True), [x[..., None]], np.ones((1, 5, 1)))
    assert y.ravel().tolist() == [1, 1.5, 2, 2.5, 3]
    assert dx.ravel().tolist() == [1.5, 2, 1.5]
    y, _ = run(ops.LinearResize(2), [np.array([1.0, 3, 5, 7])[None, :, None]], np.ones((1, 2, 1)))
    assert y.ravel().tolist() == [2, 6]
    y, (dx,) = run(ops.LinearResize(1, True), [x[..., None]], np.ones((1, 1, 1)))  # the first element
    assert (y.ravel().tolist(), dx.ravel().tolist()) == ([1], [1, 0, 0])


def test_a_mean_of_elements_alone_by_hand():
    """Windows [·, 3], [3, 6] and [6, ·] of zeros or nothing."""
    x, g = np.array([3.0, 6.0])[None, :, None], np.ones((1, 3, 1))
    for counted, value, gradient in ((True, [1.5, 4.5, 3], [1, 1]), (False, [3, 4.5, 6], [1.5, 1.5])):
        y, (dx,) = run(ops.AvgPool(2, 1, 1, count_include_pad=counted), [x], g)
        assert (y.ravel().tolist(), dx.ravel().tolist()) == (value, gradient)


def test_glu_with_silu_is_the_fused_unit():
    x, gate = RNG.standard_normal((2, 3, 5)).astype(np.float32)
    g = np.ones_like(x)
    y, kept = ops.Glu("silu").forward(x, gate)
    other, same = ops.SiluGlu().forward(x, gate)
    assert_same_bits(y, other)
    for a, b in zip(ops.Glu("silu").backward(g, *kept), ops.SiluGlu().backward(g, *same), strict=True):
        assert_same_bits(a, b)


def test_attributes_that_came_later():
    """At their defaults they are in no id and no record; one number for each axis is the number."""
    assert ops.MaxPool((2, 2)).attributes() == {"kernel": (2, 2), "stride": None, "padding": None}
    assert ops.MaxPool((2, 2), dilation=(1, 1)) == ops.MaxPool((2, 2))
    assert ops.MaxPool((2, 2), dilation=(1, 2)).attributes()["dilation"] == (1, 2)
    assert ops.AvgPool(2, count_include_pad=False).attributes()["count_include_pad"] is False
    assert ops.Sum((0,)).attributes() == {"axes": (0,)}
    assert ops.Mean((0,), keepdims=True).attributes() == {"axes": (0,), "keepdims": True}


def test_where_and_expand_by_hand():
    mask, x, y = np.array([[True, False], [False, False]]), np.array([1.0, np.nan]), np.array([[5.0], [7.0]])
    value, (none, dx, dy) = run(ops.Where(), [mask, np.array([1.0, 2.0]), y], np.array([[1.0, 2.0], [4.0, 8.0]]))
    assert value.tolist() == [[1, 5], [7, 7]]
    assert none is None
    assert (dx.tolist(), dy.tolist()) == ([1, 0], [[2], [12]])
    assert not np.isnan(ops.Where().forward(mask, x, y)[0]).any()  # what is not taken may be NaN
    value, (dx,) = run(ops.Expand((2, 3)), [y], np.arange(6.0).reshape(2, 3))
    assert (value.tolist(), dx.tolist()) == ([[5] * 3, [7] * 3], [[3], [12]])
    with pytest.raises(ArgumentError, match="where: mask is float64, expected bool"):
        ops.Where().forward(y, y, y)


def test_norms_of_columns_and_groups_by_hand():
    """Columns (1, 3) and (0, 8) are ∓1; a group of (1, 3, 1, 3) too; the wrong axis would give other signs."""
    one, zero = np.ones(2), np.zeros(2)
    x = np.array([[1.0, 8.0], [3.0, 0.0]])
    assert ops.BatchNorm(0.0).forward(x, one, zero)[0].tolist() == [[-1, 1], [1, -1]]
    frozen = ops.FrozenBatchNorm(0.0).forward(x, 2 * one, one, np.array([1.0, 4.0]), np.array([4.0, 16.0]))[0]
    assert frozen.tolist() == [[1, 3], [3, -1]]
    x = np.array([[[1.0, 3.0, 0.0, 8.0], [1.0, 3.0, 8.0, 0.0]]])
    expected = [[[-1, 1, -1, 1], [-1, 1, 1, -1]]]
    assert ops.GroupNorm(2, 0.0).forward(x, np.ones(4), np.zeros(4))[0].tolist() == expected
    with pytest.raises(ArgumentError, match=r"frozen_batch_norm: smallest variance is -1\.0, expected all ≥ 0"):
        ops.FrozenBatchNorm().forward(x[0, :, :2], one, zero, zero, -one)
