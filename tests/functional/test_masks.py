"""Attention with masks of scores, windows, a soft cap, its own damping, and values of another width.

Against a transcription, one query at a time; and against PyTorch, where it is installed, by its name and arguments.
"""

import math

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.analysis import predict
from refscale.engine import Tape, apply, backward
from refscale.errors import ArgumentError, ShapeError
from refscale.graph import gradient_factors, plan
from refscale.scales import none, regular, unit
from refscale.testing import assert_same_bits
from tests.functional.near import assert_near

BATCH, HEADS, KV, S, T, D, E = 2, 4, 2, 3, 5, 4, 6
NEAR = 1000  # roundings: those of test_attention, for scores below 20
RNG = np.random.default_rng(0)
Q, K, V = (RNG.standard_normal(shape) for shape in ((BATCH, S, HEADS * D), (BATCH, T, KV * D), (BATCH, T, KV * E)))
G = RNG.standard_normal((BATCH, S, HEADS * E))
SEEN = RNG.random((BATCH, HEADS, S, T)) < 0.6
SEEN[..., 0] = True
ADDED = RNG.standard_normal(SEEN.shape)
HIDING = np.where(SEEN, ADDED, -np.inf)


def transcription(attn_mask=None, mask=None, causal=False, window=None, scores=D**-0.5, softcap=None):
    y = np.zeros((BATCH, S, HEADS * E))
    shown = np.zeros(SEEN.shape) if attn_mask is None else attn_mask
    if shown.dtype == bool:
        shown = np.where(shown, 0, -np.inf)
    shown = np.broadcast_to(shown[:, None] if shown.ndim == 3 else shown, SEEN.shape)
    for n, h, i in np.ndindex(BATCH, HEADS, S):
        kv, place = h // (HEADS // KV), i + T - S
        total, mixed = 0.0, np.zeros(E)
        for j in range(T):
            hidden = (mask is not None and not mask[n, j]) or (causal and j > place)
            if hidden or (window is not None and abs(place - j) >= window):
                continue
            x = float(Q[n, i, h * D : (h + 1) * D] @ K[n, j, kv * D : (kv + 1) * D]) * scores
            if softcap is not None:
                x = softcap * math.tanh(x / softcap)
            e = math.exp(x + shown[n, h, i, j])
            total += e
            mixed += e * V[n, j, kv * E : (kv + 1) * E]
        if total:
            y[n, i, h * E : (h + 1) * E] = mixed / total
    return y


def attend(scheme=regular, **arguments):
    tape = Tape(scheme, dtype=np.float64)
    tensors = [tape.tensor(x, name) for x, name in ((Q, "q"), (K, "k"), (V, "v"))]
    return F.attention(*tensors, heads=HEADS, kv_heads=KV, **arguments), tensors


ARGUMENTS = {
    "plain": {},
    "boolean (s, t)": {"attn_mask": SEEN[0, 0]},
    "boolean (batch, s, t)": {"attn_mask": SEEN[:, 0]},
    "boolean (batch, heads, s, t)": {"attn_mask": SEEN},
    "boolean (batch, 1, 1, t)": {"attn_mask": SEEN[:, :1, :1]},
    "added (s, t)": {"attn_mask": ADDED[0, 0]},
    "added (batch, s, t), -inf": {"attn_mask": HIDING[:, 0]},
    "added (batch, heads, s, t), -inf": {"attn_mask": HIDING},
    "added and padding": {"attn_mask": HIDING, "mask": np.array([[True, True, False, True, True], [True] * 5])},
    "window": {"window": 2},
    "causal window": {"window": 2, "causal": True},
    "causal window of all": {"window": 5, "causal": True},
    "soft cap": {"softcap": 0.5},
    "soft cap, then mask": {"softcap": 0.5, "attn_mask": HIDING},
    "own scale": {"scores": 0.125},
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_attention_is_the_transcription(name):
    assert_near(attend(**ARGUMENTS[name])[0].value, transcription(**ARGUMENTS[name]), NEAR)


WRONG = [
    ({"window": 2}, {"window": 3}),
    ({"window": 2, "causal": True}, {"window": 2}),
    ({"softcap": 0.5}, {"softcap": 0.75}),
    ({"softcap": 0.5}, {}),
    ({"scores": 0.125}, {}),
    ({"attn_mask": SEEN}, {"attn_mask": SEEN[:, 0]}),
    ({"attn_mask": HIDING}, {"attn_mask": SEEN}),
    ({"attn_mask": ADDED}, {}),
]


@pytest.mark.parametrize(("arguments", "other"), WRONG)
def test_the_comparison_can_fail(arguments, other):
    with pytest.raises(AssertionError, match="off by"):
        assert_near(attend(**arguments)[0].value, transcription(**other), NEAR)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_inside_a_branch_every_factor_is_tied_and_a_plan_certifies(name):
    y, _ = attend(unit, **ARGUMENTS[name])
    assert set(gradient_factors(y).values()) == {1.0}

    def fn(q, k, v):
        return F.attention(q, k, v, heads=HEADS, kv_heads=KV, constraint=none, **ARGUMENTS[name])

    planned = plan(fn, Q, K, V)
    tape = Tape(planned)
    y = fn(*map(tape.tensor, (Q, K, V)))
    gradient_factors(y)
    assert predict(y).without_rule == ()
    backward(y, np.ones(y.shape))


@pytest.mark.parametrize("hide", [SEEN & False, np.full(SEEN.shape, -np.inf)])
def test_a_query_that_sees_nothing_gets_zero(hide):
    hide = hide.copy()
    hide[0] = True if hide.dtype == bool else 0.5
    y, tensors = attend(unit, attn_mask=hide)
    assert_same_bits(y.value[1], np.zeros(y.shape[1:]))
    backward(y, G)
    for x in tensors:
        assert not x.grad[1].any()
        assert x.grad[0].any()


@pytest.mark.parametrize("causal", [False, True])
def test_a_window_at_unit_scale(causal):
    """256 queries and keys, 16 or 31 of them seen: weights and mixtures near 1, gradients too; without, 4 times off."""
    rng, t, d, w = np.random.default_rng(0), 256, 16, 16
    tape = Tape(unit)
    q, k, v = (tape.tensor(x) for x in rng.standard_normal((3, 1, t, d)))
    y = F.attention(q, k, v, heads=1, causal=causal, window=w, values="independent", constraint=none)
    weights = next(n.output for n in tape.nodes if n.op.name == "masked_softmax")
    seen = w if causal else 2 * w - 1
    assert tape.nodes[-1].op.name == "reshape"
    backward(y, rng.standard_normal(y.shape))
    for x in (y.value, q.grad, k.grad, v.grad):
        assert 0.5 < np.sqrt(np.mean(np.square(x))) < 2
    predicted = predict(y)
    assert predicted.values[weights].rms == pytest.approx(math.sqrt(math.e * seen / t), rel=0.1)
    assert predicted.values[y.variable].rms == pytest.approx(float(np.sqrt(np.mean(y.value**2))), rel=0.1)
    assert predicted.gradients[v.variable].rms == pytest.approx(float(np.sqrt(np.mean(v.grad**2))), rel=0.1)


def test_interleaved_pairs_are_those_of_the_paper():
    """d = 4 at place 1, angles of cosine 0.6 and 0: (x_0, x_1) and (x_2, x_3) turn."""
    x = np.array([[[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]]])
    cos, sin = np.array([[1.0, 1.0], [0.6, 0.0]]), np.array([[0.0, 0.0], [0.8, 1.0]])
    expected = [[1.0, 2.0, 3.0, 4.0], [0.6 - 1.6, 1.2 + 0.8, -4.0, 3.0]]
    tape = Tape(regular, dtype=np.float64)
    y = apply(ops.Rotary(interleaved=True), tape.tensor(x), cos, sin)
    assert np.max(np.abs(y.value[0] - expected)) <= 2**-50
    rng = np.random.default_rng(0)
    q, k, v = (tape.tensor(a) for a in rng.standard_normal((3, 2, 6, 8)))
    order = [0, 2, 1, 3, 4, 6, 5, 7]  # of two heads of 4: pairs (0, 1), (2, 3) become (0, 2), (1, 3)
    sorted_q, sorted_k = (tape.tensor(a.value[..., order]) for a in (q, k))
    angles = F.rotary_angles(6, 4)
    one = F.attention(q, k, v, heads=2, rotary=angles, interleaved=True)
    other = F.attention(sorted_q, sorted_k, v, heads=2, rotary=angles)
    assert_near(one.value, other.value, NEAR)
    assert np.max(np.abs(one.value - F.attention(q, k, v, heads=2, rotary=angles).value)) > 0.1


def test_errors():
    cases = {
        "attention: attn_mask has shape (2, 4, 3, 4), expected one that broadcasts to (2, 4, 3, 5)": SEEN[..., :4],
        "attention: attn_mask has shape (1, 2, 4, 3, 5), expected one that broadcasts to (2, 4, 3, 5)": SEEN[None],
        "attention: attn_mask is int64, expected bool or floats": SEEN.astype(np.int64),
        "attention: attn_mask has an element that is NaN or +∞, expected numbers or −∞": np.full((S, T), np.inf),
    }
    cases["attention: attn_mask has an element that is NaN or +∞, expected numbers or −∞ "] = np.full((S, T), np.nan)
    for message, mask in cases.items():
        with pytest.raises((ShapeError, ArgumentError)) as error:
            attend(attn_mask=mask)
        assert str(error.value) == message.strip()
    with pytest.raises(
        ArgumentError, match=r"^AttentionScores\(rule=0\.0\): expected one of .*, or a positive number$"
    ):
        attend(scores=0.0)


# --- Under the name of PyTorch ---------------------------------------------------------------------------------------


def sdpa(q, k, v, *args, scheme=regular, **arguments):
    tape = Tape(scheme, dtype=np.float64)
    tensors = [tape.tensor(x) for x in (q, k, v)]
    y = F.scaled_dot_product_attention(*tensors, *args, **arguments)
    if scheme is regular:
        backward(y, np.cos(np.arange(y.value.size, dtype=float)).reshape(y.shape))
    return y, tensors


def by_head(heads=HEADS, kv=HEADS, s=S, t=T):
    rng = np.random.default_rng(1)
    return [rng.standard_normal(x) for x in ((BATCH, heads, s, D), (BATCH, kv, t, D), (BATCH, kv, t, E))]


SDPA = {
    "plain": (by_head(), {}),
    "boolean (s, t)": (by_head(), {"attn_mask": SEEN[0, 0]}),
    "boolean": (by_head(), {"attn_mask": SEEN}),
    "added": (by_head(), {"attn_mask": ADDED}),
    "added, −∞": (by_head(), {"attn_mask": HIDING}),
    "a row that sees nothing": (by_head(), {"attn_mask": np.tri(S, T, -1, dtype=bool)}),
    "causal, more keys": (by_head(), {"is_causal": True}),
    "causal, more queries": (by_head(s=T, t=S), {"is_causal": True}),
    "scale": (by_head(), {"scale": 0.125}),
    "grouped": (by_head(kv=KV), {"enable_gqa": True, "attn_mask": HIDING}),
    "no heads": ([x[0, 0] for x in by_head()], {"attn_mask": SEEN[0, 0]}),
    "three axes": ([x[:, 0] for x in by_head()], {"attn_mask": SEEN[:, 0]}),
}


@pytest.mark.parametrize("name", SDPA)
def test_pytorch_has_the_same(name):
    torch = pytest.importorskip("torch")
    arrays, arguments = SDPA[name]
    y, tensors = sdpa(*arrays, **arguments)
    theirs = [torch.tensor(x, requires_grad=True) for x in arrays]
    more = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    expected = torch.nn.functional.scaled_dot_product_attention(*theirs, **more)
    expected.backward(torch.tensor(np.cos(np.arange(y.value.size, dtype=float)).reshape(y.shape)))
    pairs = [(y.value, expected.detach()), *((x.grad, z.grad) for x, z in zip(tensors, theirs, strict=True))]
    for ours, other in pairs:
        assert np.max(np.abs(ours - other.numpy())) <= 1e-12 * max(1.0, float(np.max(np.abs(other.numpy()))))


@pytest.mark.parametrize("name", SDPA)
def test_under_unit_it_is_certified(name):
    arrays, arguments = SDPA[name]
    y, _ = sdpa(*arrays, scheme=unit, **arguments)
    assert set(gradient_factors(y).values()) == {1.0}


def test_it_is_attention_of_heads_side_by_side():
    q, k, v = (x.reshape(BATCH, x.shape[1], n, -1).swapaxes(1, 2) for x, n in ((Q, HEADS), (K, KV), (V, KV)))
    y, _ = sdpa(q, k, v, HIDING, enable_gqa=True, scheme=unit)
    side_by_side = y.value.swapaxes(1, 2).reshape(BATCH, S, -1)
    assert_same_bits(side_by_side, attend(unit, attn_mask=HIDING)[0].value)


def test_dropout_needs_a_generator():
    arrays = by_head()
    plain, dropped = sdpa(*arrays)[0].value, sdpa(*arrays, dropout_p=0.5, rng=np.random.default_rng(0))[0].value
    assert_same_bits(sdpa(*arrays, dropout_p=0.5)[0].value, plain)
    assert (dropped != plain).any()


def test_errors_of_it():
    name = "scaled_dot_product_attention"
    with pytest.raises(ArgumentError) as argument:
        sdpa(*by_head(), SEEN, is_causal=True)
    assert str(argument.value) == f"{name}(is_causal=True): got an attn_mask, too; expected one of them"
    for gqa in (False, True):
        with pytest.raises(ShapeError) as error:
            sdpa(*by_head(heads=4, kv=3), enable_gqa=gqa)
        assert str(error.value) == f"{name}: 4 heads of queries, 3 of keys, enable_gqa={gqa}"
    with pytest.raises(ShapeError) as error:
        sdpa(*by_head(heads=4, kv=2))
    assert str(error.value) == f"{name}: 4 heads of queries, 2 of keys, enable_gqa=False"
    with pytest.raises(ShapeError, match=rf"^{name}: Tensor.*, expected \(…, s, d\), \(…, t, d\), \(…, t, e\)$"):
        sdpa(by_head()[0][0], *by_head()[1:])
