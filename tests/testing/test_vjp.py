"""assert_vjp accepts right gradients tightly and rejects every deliberately wrong one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refscale.errors import ArgumentError, CarrierError
from refscale.testing import assert_vjp

X = np.random.default_rng(0).standard_normal((6, 6))
W = np.random.default_rng(1).standard_normal((6, 6))


def check(forward, backward, *inputs, **options):
    return assert_vjp(forward, backward, inputs, rng=np.random.default_rng(2), **options)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_vjp(g):
    y = softmax(X)
    return (y * (g - (g * y).sum(axis=-1, keepdims=True)),)


def layer_norm(x):
    centered = x - x.mean(axis=-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-5)


def layer_norm_vjp(g):
    y = layer_norm(X)
    inverse = 1 / np.sqrt(X.var(axis=-1, keepdims=True) + 1e-5)
    return (inverse * (g - g.mean(axis=-1, keepdims=True) - y * (g * y).mean(axis=-1, keepdims=True)),)


RIGHT = {
    "matmul": (np.matmul, lambda g: (g @ W.T, X.T @ g), (X, W)),
    "broadcast add": (np.add, lambda g: (g, g.sum(axis=0)), (X, W[0])),
    "square": (np.square, lambda g: (2 * g * X,), (X,)),
    "tanh": (np.tanh, lambda g: (g * np.cosh(X) ** -2.0,), (X,)),
    "exp": (np.exp, lambda g: (g * np.exp(X),), (X,)),
    "softmax": (softmax, softmax_vjp, (X,)),
    "layer norm": (layer_norm, layer_norm_vjp, (X,)),
    "log": (np.log, lambda g: (g / np.abs(X),), (np.abs(X),)),
    "relu": (lambda x: np.maximum(x, 0), lambda g: (g * (X > 0),), (X,)),
    "sum": (np.sum, lambda g: (np.broadcast_to(g, X.shape),), (X,)),
    "scalar": (np.sin, lambda g: (g * np.cos(0.3),), (0.3,)),
    "zero input": (np.add, lambda g: (g, g.sum(axis=0)), (X, np.zeros(6))),
    "small input": (
        lambda x, bias: np.tanh(x + bias),
        lambda g: (g * np.cosh(X + 1e-9) ** -2.0, (g * np.cosh(X + 1e-9) ** -2.0).sum(axis=0)),
        (X, np.full(6, 1e-9)),
    ),
    "constant": (np.ones_like, lambda g: (np.zeros_like(X),), (X,)),
    "empty": (np.square, lambda g: (g,), (np.ones((0, 3)),)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_accepts_right_gradients(name):
    forward, backward, inputs = RIGHT[name]
    assert check(forward, backward, *inputs) < 1e-7


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_accepts_inputs_of_any_scale(scale):
    x = scale * X
    assert check(np.matmul, lambda g: (g @ W.T, x.T @ g), x, W) < 1e-7


@pytest.mark.parametrize("seed", range(20))
def test_large_right_products_pass_whatever_the_seed(seed):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((30, 200)), rng.standard_normal((200, 20))
    assert assert_vjp(np.matmul, lambda g: (g @ w.T, x.T @ g), (x, w), rng=rng, directions=1) < 1e-8


@pytest.mark.parametrize("seed", range(20))
def test_kinks_between_the_points_are_stepped_over(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(3000)
    assert assert_vjp(np.abs, lambda g: (g * np.sign(x),), (x,), rng=rng) < 1e-5


@pytest.mark.parametrize("seed", range(60))
def test_kinks_in_the_derivative(seed):
    """Where differences do not converge smoothly, the bound must neither be too small nor swallow an error of 1e-4."""
    rng = np.random.default_rng(seed)
    b, m, n = rng.integers(1, 60, 3)
    x, w, bias = 10.0 ** rng.integers(-3, 2) * rng.standard_normal((b, m)), rng.standard_normal((m, n)), np.ones(n)

    def forward(x, w, bias):
        h = np.tanh(x @ w + bias)
        return np.maximum(h, 0) ** 2 + np.exp(-h)

    def backward(g):
        h = np.tanh(x @ w + bias)
        d = g * (2 * np.maximum(h, 0) - np.exp(-h)) * (1 - h) * (1 + h)
        return d @ w.T, x.T @ d, d.sum(axis=0)

    assert_vjp(forward, backward, (x, w, bias), rng=rng)
    with pytest.raises(AssertionError, match=r"ratio 1\.0001"):
        assert_vjp(forward, lambda g: tuple(1.0001 * d for d in backward(g)), (x, w, bias), rng=rng)


def test_a_gradient_too_small_for_differences_is_reported():
    """1 - tanh^2 near 1e-9: differences of outputs near 1 do not see it, so neither right nor wrong may pass."""
    x = np.full(5, 10.0)
    for factor in (1, 2):
        with pytest.raises(AssertionError, match=r"cannot be resolved .*\n.*tiny beside the outputs"):
            check(lambda x: np.tanh(x) + 100, lambda g, k=factor: (k * g * np.cosh(x) ** -2.0,), x)


def test_a_gradient_of_zero_up_to_rounding_is_accepted():
    """A shift of the logits changes no probability; the vjp of the shift is a sum that cancels."""
    check(lambda shift: softmax(X + shift), lambda g: (softmax_vjp(g)[0].sum(axis=-1, keepdims=True),), np.ones((6, 1)))


WRONG = {
    "transposed": lambda g: ((g @ W.T).T, X.T @ g),
    "w not transposed": lambda g: (g @ W, X.T @ g),
    "x not transposed": lambda g: (g @ W.T, X @ g),
    "sign": lambda g: (g @ W.T, -X.T @ g),
    "3 % factor": lambda g: (1.03 * (g @ W.T), X.T @ g),
    "1e-6 factor": lambda g: (g @ W.T, (1 + 1e-6) * (X.T @ g)),
    "zero": lambda g: (g @ W.T, np.zeros_like(W)),
    "one element": lambda g: (g @ W.T + 1e-3 * (np.arange(36) == 17).reshape(6, 6), X.T @ g),
    "swapped": lambda g: (X.T @ g, g @ W.T),
    "ignores g": lambda g: (np.ones_like(g) @ W.T, X.T @ g),
}


@pytest.mark.parametrize("name", WRONG)
def test_rejects_wrong_gradients(name):
    with pytest.raises(AssertionError, match=r"wrong for input \d of shape \(6, 6\), direction 1 of 3"):
        check(np.matmul, WRONG[name], X, W)


@settings(max_examples=25)
@given(st.sampled_from([n for n in RIGHT if n not in ("constant", "empty")]), st.integers(0, 2**32 - 1))
def test_rejects_three_percent_in_every_function(name, seed):
    forward, backward, inputs = RIGHT[name]
    with pytest.raises(AssertionError, match=r"ratio 1\.03"):
        assert_vjp(forward, lambda g: tuple(1.03 * d for d in backward(g)), inputs, rng=np.random.default_rng(seed))


class Ones:
    """A generator for sums that are exact: g = v = 1."""

    def standard_normal(self, shape):
        return np.ones(shape)


def beside(constant, slope=1.0):
    """x·slope at x = 0, and a constant output beside it: phi(t) = constant + slope·t, exactly."""
    return lambda x: np.append(slope * x, constant)


def check_at_zero(forward, gradient, **options):
    return assert_vjp(forward, lambda g: (np.array([gradient]),), (np.zeros(1),), rng=Ones(), directions=1, **options)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_bound_of_rounding_is_sharp(sign):
    """12·8·u·C/h for outputs of size C, at the first step, h = 2^-8: for C = 2^14, 96·2^-53·2^14·2^8 = 4.47e-8.

    (2^-24 of the gradient, where a smaller step is no longer tried, is 5.96e-8.)
    """
    bound = 96 * 2.0**-31
    check_at_zero(beside(2.0**14), 1 + 0.999 * sign * bound)
    with pytest.raises(AssertionError, match=r"= 1 \+- 4\.47e-08\n  relative error 4\.47e-08; ratio"):
        check_at_zero(beside(2.0**14), 1 + 1.001 * sign * bound)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_bound_of_truncation_is_sharp(sign):
    """x + x⁵ at 0, where D(h) = 1 + h⁴ and R(h) = 1 − h⁴/4: four times R(h/2) − R(h) is 15/16·h⁴, h = 2^-8."""
    bound, slope = 15 / 16 * 2.0**-32, 1 - 2.0**-42
    check_at_zero(lambda x: x + x**5, slope + 0.999 * sign * bound)
    with pytest.raises(AssertionError, match="the vector-Jacobian product is wrong"):
        check_at_zero(lambda x: x + x**5, slope + 1.001 * sign * bound)


@pytest.mark.parametrize(
    ("constant", "options", "resolved"),
    [
        (2.0**28, {}, True),  # 96·2^-53·2^28·2^8 = 7.3e-4 of the slope
        (2.0**29, {}, False),
        (2.0**28, {"resolution": 7.4e-4}, True),
        (2.0**28, {"resolution": 7.3e-4}, False),
    ],
)
def test_what_differences_resolve_is_sharp(constant, options, resolved):
    """A thousandth of the gradient, unless told otherwise."""
    if resolved:
        assert check_at_zero(beside(constant), 1.0, **options) == 0
    else:
        with pytest.raises(AssertionError, match=r"cannot be resolved .*\n  1 \+- "):
            check_at_zero(beside(constant), 1.0, **options)


def test_where_a_gradient_counts_as_zero_is_sharp():
    """2^-40 of the outputs: below that the bound alone decides, 96·2^-45 of them."""
    for slope in (2.0**-41, 2.0**-40, 0.0):
        check_at_zero(beside(1.0, slope), slope)
        check_at_zero(beside(1.0, slope), slope * -0.5)
    with pytest.raises(AssertionError, match="cannot be resolved"):
        check_at_zero(beside(1.0, 2.0**-39), 2.0**-39)
    check_at_zero(beside(1.0, 0.0), 2.0**-40)
    with pytest.raises(AssertionError, match="cannot be resolved"):
        check_at_zero(beside(1.0, 0.0), 2.0**-39)


@pytest.mark.parametrize("errors", [(3e-8, 0.0), (0.0, 3e-8)])
def test_the_largest_error_of_all_inputs_is_returned(errors):
    def gradients(g):
        return tuple(np.array([1 + e]) for e in errors)

    found = assert_vjp(lambda x, y: np.append(x + y, 2.0**14), gradients, [np.zeros(1)] * 2, rng=Ones(), directions=2)
    assert found == pytest.approx(3e-8, rel=1e-6)


def test_three_pairs_are_tried():
    calls = []

    def backward(g):
        calls.append(g)
        return (2 * g * X,)

    check(np.square, backward, X)
    assert len(calls) == 3
    check(np.square, backward, X, directions=5)
    assert len(calls) == 8


def test_message_gives_both_products_and_their_ratio():
    with pytest.raises(AssertionError) as error:
        check(np.square, lambda g: (-2 * g * X,), X, directions=1)
    lines = str(error.value).splitlines()
    assert lines[0] == "the vector-Jacobian product is wrong for input 0 of shape (6, 6), direction 1 of 1:"
    assert lines[1].startswith("  actual   <J^T g, v> = ")
    assert lines[2].startswith("  expected <g, J v>   = ")
    assert lines[3].endswith("; ratio -1")


def test_inputs_without_gradient():
    index = np.array([2, 0, 0])

    def backward(g):
        d = np.zeros_like(W)
        np.add.at(d, index, g)
        return d, None

    def overwriting(g):
        d = np.zeros_like(W)
        d[index] = g
        return d, None

    assert check(np.ndarray.__getitem__, backward, W, index) < 1e-9
    with pytest.raises(AssertionError, match="wrong for input 0"):
        check(np.ndarray.__getitem__, overwriting, W, index)
    with pytest.raises(ArgumentError, match="input 1 is int64 and has no gradient, expected None"):
        check(np.ndarray.__getitem__, lambda g: (backward(g)[0], index * 0), W, index)


def test_backward_may_remember_the_last_forward():
    memory = {}

    def forward(x):
        memory["y"] = np.tanh(x)
        return memory["y"]

    assert check(forward, lambda g: (g * (1 - memory["y"] ** 2),), X) < 1e-9


def test_narrow_inputs_are_widened():
    x = X.astype(np.float32)
    assert check(np.square, lambda g: (2 * g * x.astype(np.float64),), x) < 1e-9


@pytest.mark.parametrize("point", [0.0, 1e-9])
def test_a_kink_or_jump_at_the_point_is_reported(point):
    with pytest.raises(AssertionError, match=r"kink|wrong"):
        check(np.abs, lambda g: (g,), np.array([point, 1.0]))
    with pytest.raises(AssertionError, match=r"cannot be resolved .*\n.*is there a kink or a jump"):
        check(np.round, lambda g: (0 * g,), np.array([point + 0.5, 1.0]))


@pytest.mark.parametrize(
    ("gradients", "error", "message"),
    [
        (lambda g: g, ArgumentError, "backward returned ndarray, expected a tuple of 1"),
        (lambda g: (g, g), ArgumentError, "backward returned 2 gradients, expected a tuple of 1"),
        (lambda g: (g[0],), AssertionError, r"the gradient of input 0 has shape \(6,\), expected \(6, 6\)"),
        (lambda g: (g * np.nan,), AssertionError, "the gradient of input 0 is not finite"),
    ],
)
def test_malformed_gradients(gradients, error, message):
    with pytest.raises(error, match=message):
        check(np.square, gradients, X)


def test_forward_must_be_pure_deterministic_finite_and_float64():
    rng = np.random.default_rng(0)
    with pytest.raises(ArgumentError, match="forward gave two results for the same inputs"):
        check(lambda x: x * rng.standard_normal(), lambda g: (g,), X)
    with pytest.raises(CarrierError, match="forward returned float32, expected float64"):
        check(lambda x: x.astype(np.float32), lambda g: (g,), X)
    with pytest.raises(ArgumentError, match="forward is not finite"):
        check(lambda x: x * np.inf, lambda g: (g,), X)
    with pytest.raises(ValueError, match="read-only"):
        check(lambda x: np.multiply(x, 2, out=x), lambda g: (2 * g,), X)


@pytest.mark.parametrize("options", [{"directions": 0}, {"resolution": 0}, {"resolution": 1.0}])
def test_arguments_out_of_range(options):
    with pytest.raises(ArgumentError, match=f"assert_vjp: {next(iter(options))} is"):
        check(np.square, lambda g: (2 * g * X,), X, **options)
