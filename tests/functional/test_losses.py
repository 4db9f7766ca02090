"""Losses by torch's names and arguments: values by hand, then torch itself, then the RMS that the factor assumes."""

import math

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale.engine import Tape, backward
from refscale.errors import ArgumentError, ShapeError
from refscale.scales import regular, unit

RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 5))
TARGETS = np.array([0, 4, -100, 2, 2, -100, 1])
Q = RNG.dirichlet(np.ones(5), 7)
WEIGHT = np.array([0.5, 2.0, 1.0, 0.25, 3.0])


def run(loss, x, g=None, scheme=regular):
    tape = Tape(scheme, dtype=np.float64)
    leaf = tape.tensor(np.asarray(x, np.float64), "x")
    y = loss(leaf)
    backward(y, np.ones(y.shape) if g is None else g)
    return y.value, leaf.grad


# --- By hand ----------------------------------------------------------------------------------------------------------


def test_smoothed_and_weighted_by_hand():
    """Two rows of logits 0: log 2 each; p = ½; a row's gradient is T/2 − t."""
    value, gradient = run(
        lambda x: F.cross_entropy(x, [0, 1], weight=[1.0, 3.0], label_smoothing=0.5), np.zeros((2, 2))
    )
    # t = ½·w_y·onehot + ¼·w: (0.75, 0.75), (0.25, 2.25); sums 1.5 and 2.5; divisor 1 + 3.
    assert value == pytest.approx(math.log(2) * 4 / 4)
    assert gradient.tolist() == [[0, 0], [0.25, -0.25]]
    value, gradient = run(lambda x: F.cross_entropy(x, [0, 1], weight=[1.0, 3.0], reduction="none"), np.zeros((2, 2)))
    assert value.tolist() == pytest.approx([math.log(2), 3 * math.log(2)])
    assert gradient.tolist() == [[-0.5, 0.5], [1.5, -1.5]]


def test_probabilities_by_hand():
    value, gradient = run(lambda x: F.cross_entropy(x, [[0.75, 0.25]], reduction="sum"), [[0.0, math.log(3)]])
    assert value == pytest.approx(0.75 * math.log(4) + 0.25 * math.log(4 / 3))
    assert gradient.ravel().tolist() == pytest.approx([-0.5, 0.5])


def test_rows_that_do_not_count_may_be_nan():
    x = np.array([[0.0, 0.0], [np.nan, 1.0]])
    value, gradient = run(lambda t: F.cross_entropy(t, [1, -1], -1, label_smoothing=0.5), x)
    assert value == pytest.approx(math.log(2))
    assert gradient.tolist() == [[0.25, -0.25], [0, 0]]


def test_binary_by_hand():
    """σ(0) = ½: w·(½ − t), and p times that for t = 1."""
    value, gradient = run(
        lambda x: F.binary_cross_entropy_with_logits(x, [0.0, 1.0], [2.0, 1.0], pos_weight=4.0), np.zeros(2)
    )
    assert value == pytest.approx(math.log(2) * (2 + 4) / 2)
    assert gradient.tolist() == [0.5, -1.0]


def test_differences_by_hand():
    x, zero = [0.5, -3.0], np.zeros(2)
    value, gradient = run(lambda x: F.huber_loss(x, zero, delta=2.0, reduction="none"), x)
    assert (value.tolist(), gradient.tolist()) == ([0.125, 4.0], [0.5, -2.0])
    value, gradient = run(lambda x: F.smooth_l1_loss(x, zero, beta=2.0, reduction="sum"), x)
    assert (value, gradient.tolist()) == (2.0625, [0.25, -1.0])
    value, gradient = run(lambda x: F.smooth_l1_loss(x, zero, beta=0.0), x)
    assert (value, gradient.tolist()) == (1.75, [0.5, -0.5])


# --- torch ------------------------------------------------------------------------------------------------------------


def pairs(torch, reduction):
    """Our loss of x, and torch's."""
    T, t = torch.nn.functional, torch.tensor
    return {
        "ignored": (
            lambda x: F.cross_entropy(x, TARGETS, -100, reduction=reduction),
            lambda x: T.cross_entropy(x, t(TARGETS), reduction=reduction),
        ),
        "weighted, smoothed": (
            lambda x: F.cross_entropy(x, TARGETS, -100, weight=WEIGHT, label_smoothing=0.1, reduction=reduction),
            lambda x: T.cross_entropy(x, t(TARGETS), t(WEIGHT), label_smoothing=0.1, reduction=reduction),
        ),
        "probabilities": (
            lambda x: F.cross_entropy(x, Q, weight=WEIGHT, label_smoothing=0.1, reduction=reduction),
            lambda x: T.cross_entropy(x, t(Q), t(WEIGHT), label_smoothing=0.1, reduction=reduction),
        ),
        "binary": (
            lambda x: F.binary_cross_entropy_with_logits(x, Q, WEIGHT, reduction=reduction, pos_weight=2 * WEIGHT),
            lambda x: T.binary_cross_entropy_with_logits(
                x, t(Q), t(WEIGHT), reduction=reduction, pos_weight=t(2 * WEIGHT)
            ),
        ),
        "huber": (
            lambda x: F.huber_loss(x, Q, reduction=reduction, delta=0.5),
            lambda x: T.huber_loss(x, t(Q), reduction=reduction, delta=0.5),
        ),
        "smooth l1": (
            lambda x: F.smooth_l1_loss(x, Q, reduction=reduction, beta=0.5),
            lambda x: T.smooth_l1_loss(x, t(Q), reduction=reduction, beta=0.5),
        ),
        "softplus": (lambda x: F.softplus(x, 2.0, 1.0), lambda x: T.softplus(x, 2.0, 1.0)),
        "softplus, steep": (lambda x: F.softplus(x, 4.0), lambda x: T.softplus(x, 4.0, 1000.0)),
    }


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equal_to_torch(reduction):
    torch = pytest.importorskip("torch")
    for name, (ours, theirs) in pairs(torch, reduction).items():
        x = torch.tensor(X, requires_grad=True)
        expected = theirs(x)
        g = RNG.standard_normal(expected.shape)
        expected.backward(torch.tensor(g))
        value, gradient = run(ours, X, g)
        for actual, right in ((value, expected.detach().numpy()), (gradient, x.grad.numpy())):
            assert np.max(np.abs(actual - right)) <= 1e-12 * np.max(np.abs(right)), name


# --- The gradient's RMS under unit scaling ----------------------------------------------------------------------------


def losses(weight, smoothing):
    """Of logits (4·s, s), every class as often as the others, and of 2 × 6 elements, half of them positive."""
    targets = np.tile(np.arange(5), 4)
    half = np.arange(12.0).reshape(2, 6) % 2
    more = {"weight": weight, "label_smoothing": smoothing}
    return (
        ((20, 5), lambda x, r: F.cross_entropy(x, targets, **more, reduction=r)),
        ((20, 5), lambda x, r: F.cross_entropy(x, np.eye(5)[targets], **more, reduction=r)),
        ((2, 6), lambda x, r: F.binary_cross_entropy_with_logits(x, half, 0.5, pos_weight=3.0, reduction=r)),
    )


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("smoothing", [0.0, 0.25, 1.0])
def test_gradients_of_zero_logits_have_rms_1(weight, smoothing):
    for shape, loss in losses(weight, smoothing):
        for reduction in ("mean", "sum"):
            _, gradient = run(lambda x, loss=loss, r=reduction: loss(x, r), np.zeros(shape), scheme=unit)
            rms = math.sqrt(np.mean(gradient**2))
            flat = smoothing == 1 and weight is None and shape == (20, 5)  # every target is uniform
            assert rms == pytest.approx(0 if flat else 1, rel=1e-12, abs=1e-12)


# --- Errors -----------------------------------------------------------------------------------------------------------

REFUSED = {
    r"label_smoothing=1.5\): expected 0 ≤ label_smoothing ≤ 1": {"label_smoothing": 1.5},
    r"weight=\[1. 2.\]\): expected \(5,\) finite weights ≥ 0, not all 0": {"weight": [1.0, 2.0]},
    r"weight=\[ 1.  1.  1.  1. -1.\]\)": {"weight": [1.0, 1, 1, 1, -1]},
    "not all 0": {"weight": np.zeros(5)},
    "expected 'mean', 'sum' or 'none'": {"reduction": "max", "weight": WEIGHT},
}


@pytest.mark.parametrize("problem", REFUSED)
def test_refused(problem):
    with pytest.raises(ArgumentError, match=problem):
        run(lambda x: F.cross_entropy(x, TARGETS, -100, **REFUSED[problem]), X)


def test_targets_refused():
    with pytest.raises(ArgumentError, match=r"targets from 0 to 5 \(int64\), expected integers 0 … 4"):
        run(lambda x: F.cross_entropy(x, [0, 1, 2, 3, 4, 5, 0], weight=WEIGHT), X)
    with pytest.raises(ArgumentError, match=r"targets from 0.0 to 1.0 \(float64\), expected integers 0 … 4"):
        run(lambda x: F.cross_entropy(x, [0.0, 1, 0, 1, 0, 1, 0], label_smoothing=0.5), X)
    with pytest.raises(ArgumentError, match="targets are probabilities, expected integers"):
        run(lambda x: F.cross_entropy(x, Q, -100), X)
    with pytest.raises(ArgumentError, match="smallest target is"):
        run(lambda x: F.cross_entropy(x, Q - 0.5), X)
    with pytest.raises(ArgumentError, match=r"target from -0.5 to 1.0, expected 0 … 1"):
        run(lambda x: F.binary_cross_entropy_with_logits(x, [-0.5, 1.0]), np.zeros(2))


@pytest.mark.parametrize(
    ("target", "weights", "problem"),
    [
        (np.ones(2), {}, r"logits \(3, 2\), target \(2,\), weight \(\) and pos_weight \(\), expected a target of"),
        (1.0, {"pos_weight": 2.0}, r"target \(\), weight \(\) and pos_weight \(\), expected a target of"),
        (np.ones((3, 2)), {"weight": np.ones((1, 3, 2))}, r"weight \(1, 3, 2\) .*, and weights that broadcast to it"),
        (np.ones((3, 2)), {"weight": np.ones(3)}, r"shapes \(3, 2\), \(3,\), \(\) do not broadcast together"),
    ],
)
def test_shapes_of_binary_cross_entropy_refused(target, weights, problem):
    """A target is not broadcast to the logits, as in torch: it would count more than once."""
    with pytest.raises(ShapeError, match=problem):
        run(lambda x: F.binary_cross_entropy_with_logits(x, target, **weights), np.zeros((3, 2)))


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
@pytest.mark.parametrize(("value", "refused"), [(0.0, False), (-0.5, True), (np.inf, True), (np.nan, True)])
def test_weights_of_binary_cross_entropy_are_finite_and_not_negative(name, value, refused):
    weights = {name: np.array([1.0, value])}
    logits = Tape(dtype=np.float64).tensor(np.ones(2))
    if refused:
        with pytest.raises(ArgumentError, match=rf"{name}=.*expected finite weights ≥ 0"):
            F.binary_cross_entropy_with_logits(logits, [1.0, 0.0], **weights)
    else:
        F.binary_cross_entropy_with_logits(logits, [1.0, 0.0], **weights)
