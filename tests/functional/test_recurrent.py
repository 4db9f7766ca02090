"""LSTM and GRU: hand-computed steps, PyTorch as an oracle, factors under unit scaling."""

import itertools
import math

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.analysis import predict
from refscale.engine import Tape, backward
from refscale.errors import ShapeError
from refscale.graph import gradient_factors, plan
from refscale.layers import initialize, lstm_specs
from refscale.scales import none, regular, unit

RUNS = {"lstm": (F.lstm, 4), "gru": (F.gru, 3)}


def logistic(x):
    return 1 / (1 + math.exp(-x))


def test_a_step_of_an_lstm_by_hand():
    """d = m = 1, gates i, f, g, o of 1, 2, 3, 4 times x = ½, plus 0.1, 0.2, 0.3, 0.4 times h = −1."""
    tape = Tape(regular, dtype=np.float64)
    x, h, c = (tape.tensor(np.array([[v]])) for v in (0.5, -1.0, 2.0))
    weights = [tape.tensor(np.array([w])) for w in ([1.0, 2, 3, 4], [0.1, 0.2, 0.3, 0.4])]
    h1, c1 = F.lstm_cell(x, (h, c), *weights)
    i, f, g, o = 0.4, 0.8, 1.2, 1.6
    state = logistic(f) * 2 + logistic(i) * math.tanh(g)
    assert c1.value[0, 0] == pytest.approx(state, rel=1e-15)
    assert h1.value[0, 0] == pytest.approx(logistic(o) * math.tanh(state), rel=1e-15)


def test_a_step_of_a_gru_by_hand():
    """r, z, n of 1, 2, 3 times x = ½ (plus 0 0 0.25), and 0.1, 0.2, 0.3 times h = −1 (plus 0 0 0.5, inside r)."""
    tape = Tape(regular, dtype=np.float64)
    x, h = (tape.tensor(np.array([[v]])) for v in (0.5, -1.0))
    weights = [tape.tensor(np.array([w])) for w in ([1.0, 2, 3], [0.1, 0.2, 0.3])]
    biases = [tape.tensor(np.array(b)) for b in ([0, 0, 0.25], [0, 0, 0.5])]
    n = math.tanh(1.75 + logistic(0.4) * 0.2)
    z = logistic(0.8)
    assert F.gru_cell(x, h, *weights, *biases).value[0, 0] == pytest.approx((1 - z) * n - z, rel=1e-14)


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [0, 2, 1, 3], [0, 1, 3, 2], [3, 1, 2, 0]])
def test_another_order_of_the_gates_is_another_function(order):
    """So the values by hand reject an op that takes gates in another order, such as i, f, o, g."""
    tape = Tape(regular, dtype=np.float64)
    x, h, c = (tape.tensor(np.array([[v]])) for v in (0.5, -1.0, 2.0))
    weights = np.array([[1.0, 2, 3, 4]]), np.array([[0.1, 0.2, 0.3, 0.4]])
    right, wrong = (
        F.lstm_cell(x, (h, c), *[tape.tensor(w[:, gates]) for w in weights])[0].value for gates in (range(4), order)
    )
    assert abs(right - wrong) > 1e-3


def arrays(rng, kind, m, d, layers, bidirectional, bias):
    parts, directions = RUNS[kind][1], 2 if bidirectional else 1
    found = []
    for k in range(layers * directions):
        fan_in = m if k < directions else directions * d
        shapes = [(fan_in, parts * d), (d, parts * d)] + [(parts * d,)] * 2 * bias
        found.append([rng.standard_normal(s) / 2 for s in shapes])
    return found


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize(
    ("layers", "bidirectional", "bias"), list(itertools.product((1, 2), (False, True), (False, True)))
)
def test_pytorch_has_the_same(kind, layers, bidirectional, bias):
    """Outputs, last states and every gradient, from given states."""
    torch = pytest.importorskip("torch")
    rng, m, d, count = np.random.default_rng(0), 5, 3, layers * (1 + bidirectional)
    x, weights = rng.standard_normal((2, 4, m)), arrays(rng, kind, m, d, layers, bidirectional, bias)
    h, c = rng.standard_normal((2, count, 2, d))
    tape = Tape(regular, dtype=np.float64)
    tensors, leaf = [[tape.tensor(w) for w in layer] for layer in weights], tape.tensor(x)
    starts = [tape.tensor(a) for a in h]
    pairs = list(zip(starts, c, strict=True)) if kind == "lstm" else starts
    y, last = RUNS[kind][0](leaf, tensors, pairs, bidirectional=bidirectional)
    module = getattr(torch.nn, kind.upper())(
        m, d, layers, bias=bias, batch_first=True, bidirectional=bidirectional, dtype=torch.float64
    )
    with torch.no_grad():
        for theirs, ours in zip(module._flat_weights, itertools.chain(*weights), strict=True):
            theirs.copy_(torch.tensor(ours.T))
    given, state = torch.tensor(x, requires_grad=True), torch.tensor(h, requires_grad=True)
    out, final = module(given, (state, torch.tensor(c)) if kind == "lstm" else state)
    g = rng.standard_normal(y.shape)
    backward(y, g)
    out.backward(torch.tensor(g))
    compared = [(y.value, out), (leaf.grad, given.grad)]
    compared += [(start.grad, state.grad[k]) for k, start in enumerate(starts)]
    compared += [(w.grad.T, v.grad) for w, v in zip(itertools.chain(*tensors), module._flat_weights, strict=True)]
    for k, z in enumerate(last):
        compared += [(z[0].value, final[0][k]), (z[1].value, final[1][k])] if kind == "lstm" else [(z.value, final[k])]
    for ours, theirs in compared:
        expected = theirs.detach().numpy()
        assert np.max(np.abs(ours - expected)) <= 1e-12 * max(1.0, float(np.max(np.abs(expected))))


@pytest.mark.parametrize("kind", RUNS)
def test_a_sequence_is_its_steps_from_zero(kind):
    rng, tape = np.random.default_rng(0), Tape(unit, dtype=np.float64)
    weights = [tape.tensor(w) for w in arrays(rng, kind, 3, 4, 1, False, True)[0]]
    x = tape.tensor(rng.standard_normal((2, 3, 3)))
    y, _ = RUNS[kind][0](x, [weights])
    state = [np.zeros((2, 4))] * (2 if kind == "lstm" else 1)
    for t in range(3):
        at = tape.tensor(x.value[:, t])
        state = F.lstm_cell(at, state, *weights) if kind == "lstm" else [F.gru_cell(at, *state, *weights)]
        assert np.max(np.abs(state[0].value - y.value[:, t])) <= 1e-14


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("constraint", ["geometric", "to_output_scale", "none"])
def test_under_unit_every_loop_is_tied(kind, constraint):
    """c = 1 except on cut-edges: the weights, whose gradients are those of rows and of steps."""
    rng, tape = np.random.default_rng(0), Tape(unit)
    weights = [[tape.tensor(w) for w in layer] for layer in arrays(rng, kind, 3, 4, 2, True, True)]
    x = tape.tensor(rng.standard_normal((2, 5, 3)), "x")
    y, _ = RUNS[kind][0](x, weights, bidirectional=True, constraint=constraint)
    c = gradient_factors(y)
    assert c[x.variable] == pytest.approx(1, rel=1e-9)
    assert predict(y).without_rule == ()
    backward(y, np.ones(y.shape))


@pytest.mark.parametrize("kind", RUNS)
def test_parameters_of_every_step_start_with_a_factor(kind):
    """Gradients that sum over 9 steps: β = 9^-½, of weight_hh and of the bias inside the reset of a GRU."""
    rng, tape = np.random.default_rng(0), Tape(unit)
    weights = [tape.tensor(w) for w in arrays(rng, kind, 3, 4, 1, False, True)[0]]
    RUNS[kind][0](tape.tensor(rng.standard_normal((2, 9, 3))), [weights])
    starts = [n for n in tape.nodes if isinstance(n.op, ops.Fork)]
    assert [n.inputs[0].shape for n in starts] == [w.shape for w in weights[1 : 2 if kind == "lstm" else 4 : 2]]
    assert [n.scales.beta[0] for n in starts] == pytest.approx([1 / 3] * len(starts), rel=1e-15)


@pytest.mark.parametrize("kind", RUNS)
def test_a_plan_is_certified(kind):
    rng = np.random.default_rng(0)
    weights = arrays(rng, kind, 3, 4, 1, False, True)

    def fn(x, *layer):
        return RUNS[kind][0](x, [layer], constraint=none)[0]

    planned = plan(fn, rng.standard_normal((2, 4, 3)), *weights[0])
    tape = Tape(planned)
    y = fn(tape.tensor(rng.standard_normal((3, 4, 3))), *map(tape.tensor, weights[0]))  # another batch
    gradient_factors(y)


@pytest.mark.parametrize("kind", RUNS)
def test_scales_stay_along_a_sequence(kind):
    """64 steps: neither states nor gradients grow or vanish.

    Loops that are tied keep α = 1 of a GRU's state, whose gates get a fifth of the gradient that they could have.
    """
    rng, m, d = np.random.default_rng(0), 32, 64
    tape = Tape(unit)
    weights = [tape.tensor(rng.standard_normal((n, RUNS[kind][1] * d))) for n in (m, d)]
    x = tape.tensor(rng.standard_normal((8, 64, m)))
    y, _ = RUNS[kind][0](x, [weights])
    backward(y, rng.standard_normal(y.shape))
    predicted = predict(y)

    def rms(a):
        return float(np.sqrt(np.mean(np.square(a))))

    halves = [rms(a[:, part]) for a in (y.value, x.grad) for part in (slice(16, 32), slice(32, 48))]
    assert halves[0] == pytest.approx(halves[1], rel=0.2)
    assert halves[2] == pytest.approx(halves[3], rel=0.2)
    for found, foretold in ((y.value, predicted.values[y.variable]), (x.grad, predicted.gradients[x.variable])):
        assert 1 / 4 < rms(found) < 4
        assert rms(found) / foretold.rms == pytest.approx(1, abs=0.4)
    assert 1 / 4 < rms(weights[0].grad) < 4
    assert 1 / 20 < rms(weights[1].grad) < 4


def test_specs_of_layers():
    specs = lstm_specs("rnn", 5, 3, layers=2, bidirectional=True)
    assert {n: s.shape for n, s in specs.items() if "l1_reverse" in n} == {
        "rnn.weight_ih_l1_reverse": (6, 12),
        "rnn.weight_hh_l1_reverse": (3, 12),
        "rnn.bias_ih_l1_reverse": (12,),
        "rnn.bias_hh_l1_reverse": (12,),
    }
    assert {s.role for s in specs.values()} == {"weight", "bias"}
    assert len(specs) == 16
    assert initialize(specs, unit, np.random.default_rng(0)).keys() == specs.keys()


def test_errors():
    tape = Tape()
    x = tape.tensor(np.ones((2, 3, 5)))
    ih, hh, bias = (tape.tensor(np.ones(s)) for s in ((5, 16), (4, 16), (16,)))
    expected = "expected weight_ih (5, 4·d), weight_hh (d, 4·d), and bias_ih and bias_hh (4·d,) or neither"
    flipped = tape.tensor(np.ones((16, 5)))
    for weights in ([flipped, hh], [ih, hh, bias], [ih], [ih, None], [ih, hh, bias, ih]):
        shown = ", ".join(str(w if w is None else w.shape) for w in weights)
        with pytest.raises(ShapeError) as error:
            F.lstm(x, [weights])
        assert str(error.value) == f"lstm: x (…, 5) and weights {shown}, {expected}"
    cases = {
        "lstm: 0 layers, expected one or more, and as many states": ([], None, False),
        "lstm: 1 layers, expected pairs, and as many states": ([[ih, hh]], None, True),
        "lstm: 1 layers and 2 states, expected one or more, and as many states": (
            [[ih, hh]],
            [(np.ones((2, 4)), np.ones((2, 4)))] * 2,
            False,
        ),
        "lstm: a state has shape (2, 3), expected (2, 4)": ([[ih, hh]], [(np.ones((2, 4)), np.ones((2, 3)))], False),
    }
    for message, (layers, state, bidirectional) in cases.items():
        with pytest.raises(ShapeError) as error:
            F.lstm(x, layers, state, bidirectional=bidirectional)
        assert str(error.value) == message
    with pytest.raises(ShapeError, match=r"^gru: x Tensor\(.*\), expected \(batch, seq, m\) with seq ≥ 1$"):
        F.gru(tape.tensor(np.ones((2, 5))), [[ih, hh]])
