"""What passes through an optimizer: purity, dtypes, checkpoints, blocks, groups, errors."""

from __future__ import annotations

import io
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale import optim
from refscale.arrays import kept as kept_as_it_is
from refscale.errors import ArgumentError, CarrierError, DivergedError, ShapeError
from refscale.optim import OPTIMIZERS, Group, Rate, at_regular_rates, get_optimizer, groups, update
from refscale.scales import Regular
from tests.optim import published

VARIANTS = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("adam", {"weight_decay": 0.1}),
    ("adamw", {}),
    ("adamw", {"independent": True}),
    ("lamb", {}),
]
ADAM = {"b1": 0.9, "b2": 0.99, "eps": 0.0123, "weight_decay": 0.1}
each_variant = pytest.mark.parametrize(("name", "hyper"), VARIANTS)


def bits(arrays):
    """What two mappings must share to be the same: names in order, dtypes, shapes, bytes."""
    return [(key, a.dtype.str, a.shape, a.tobytes()) for key, a in arrays.items()]


def advance(optimizer, case, p, state, steps):
    for step in steps:
        p, state = optimizer.update(case.gradients[step], state, p, case.rates[step], case.groups)
    return p, state


@each_variant
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
class TestPure:
    def test_inputs_are_never_written_and_outputs_are_fresh(self, name, hyper, dtype):
        case, made = published.problem().to(dtype), get_optimizer(name, **hyper)
        p, state = advance(made, case, case.parameters, made.init(case.parameters), range(2))
        g = case.gradients[2]
        before = bits(p), bits(state), bits(g)
        for array in (*p.values(), *state.values(), *g.values()):
            array.flags.writeable = False
        new, kept = made.update(g, state, p, case.rates[2], case.groups)
        assert (bits(p), bits(state), bits(g)) == before
        outputs = [*new.values(), *kept.values()]
        for out in outputs:
            assert kept_as_it_is(out) is out  # read-only, so that the next step need not copy it
            assert not any(np.may_share_memory(out, a) for a in (*p.values(), *state.values(), *g.values()))
        assert sum(np.may_share_memory(a, b) for a in outputs for b in outputs) == len(outputs)

    def test_dtypes_and_shapes_stay(self, name, hyper, dtype):
        case, made = published.problem().to(dtype), get_optimizer(name, **hyper)
        first = made.init(case.parameters)
        p, state = advance(made, case, case.parameters, first, range(3))
        assert {k: (a.dtype, a.shape) for k, a in p.items()} == {
            k: (dtype, a.shape) for k, a in case.parameters.items()
        }
        assert [(k, a.dtype, a.shape) for k, a in state.items()] == [(k, a.dtype, a.shape) for k, a in first.items()]
        assert state["step"].dtype == np.int64
        assert state["step"] == 3

    def test_a_checkpoint_changes_no_bit(self, name, hyper, dtype):
        case, made = published.problem().to(dtype), get_optimizer(name, **hyper)
        p, state = advance(made, case, case.parameters, made.init(case.parameters), range(7))
        file = io.BytesIO()
        np.savez(file, **state)
        file.seek(0)
        with np.load(file) as loaded:
            restored = {key: loaded[key] for key in loaded.files}
        assert bits(restored) == bits(state)
        for array in restored.values():
            array.flags.writeable = False
        straight, resumed = (advance(made, case, p, s, range(7, published.STEPS)) for s in (state, restored))
        assert bits(straight[0]) == bits(resumed[0])
        assert bits(straight[1]) == bits(resumed[1])

    def test_the_order_of_the_state_does_not_matter(self, name, hyper, dtype):
        case, made = published.problem().to(dtype), get_optimizer(name, **hyper)
        state = made.init(case.parameters)
        p = advance(made, case, case.parameters, state, range(2))[0]
        q = advance(made, case, case.parameters, dict(reversed(state.items())), range(2))[0]
        assert bits(p) == bits(q)


@each_variant
def test_the_size_of_a_block_changes_no_bit(name, hyper, monkeypatch):
    case, made = published.problem().to(np.float32), get_optimizer(name, **hyper)
    results = set()
    for block in (1, 3, 7, 16, 1 << 14):
        monkeypatch.setattr(update, "BLOCK", block)
        p, state = advance(made, case, case.parameters, made.init(case.parameters), range(4))
        results.add(repr((bits(p), bits(state))))
    assert len(results) == 1


@each_variant
def test_parameters_of_several_blocks(name, hyper):
    """As if each element stood alone; LAMB's ratio alone sees the whole."""
    rng = np.random.default_rng(3)
    p, g = ({"w": rng.standard_normal((3, update.BLOCK)).astype(np.float32)[:, :-5]} for _ in range(2))
    made, rate, group = get_optimizer(name, **hyper), Rate(0.1), {"w": Group(decayed=name != "lamb")}
    new, _ = made.update(g, made.init(p), p, rate, group)
    part_p, part_g = ({"w": a["w"][1:2, -9:]} for a in (p, g))
    part, _ = made.update(part_g, made.init(part_p), part_p, rate, group)
    np.testing.assert_array_equal(new["w"][1:2, -9:], part["w"])


@each_variant
def test_empty_parameters(name, hyper):
    made, p = get_optimizer(name, **hyper), {"w": np.zeros((0, 3), np.float32)}
    new, state = made.update(p, made.init(p), p, Rate(0.1))
    assert new["w"].shape == (0, 3)
    new, state = made.update({}, made.init({}), {}, Rate(0.1))
    assert (new, list(state)) == ({}, ["step"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_squares_that_underflow_are_no_error(name):
    p, g = {"w": np.ones(3, np.float32)}, {"w": np.full(3, 1e-30, np.float32)}
    made = get_optimizer(name)
    with np.errstate(all="raise"):
        new, _ = made.update(g, made.init(p), p, Rate(0.0))
    np.testing.assert_array_equal(new["w"], p["w"])


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb"])
class TestTheDomainOfAdam:
    """Extreme values in float32 of the divisor and of the squared number."""

    P = {"w": np.ones(2, np.float32)}  # noqa: RUF012

    @pytest.mark.parametrize(("eps", "found"), [(1e-50, "0"), (7e-46, "0"), (1e39, "inf")])
    def test_an_eps_that_the_dtype_does_not_represent(self, name, eps, found):
        """2^-150 = 7.006e-46 is the tie between 0 and the smallest float32: it goes to 0."""
        made = get_optimizer(name, eps=eps)
        said = f"eps={eps} is {found} in float32, the dtype of w; expected 0 < eps < ∞"
        with pytest.raises(ArgumentError) as error:
            made.init(self.P)
        assert str(error.value) == f"{name}.init: {said}"
        state = get_optimizer(name).init(self.P)
        with pytest.raises(ArgumentError) as error:
            made.update(self.P, state, self.P, Rate(0.1))
        assert str(error.value) == f"{name}.update: {said}"
        made.init({"w": np.ones(2)})  # float64 represents all of them

    def test_the_smallest_eps_that_it_does(self, name):
        """Without a gradient there is no step: 0/eps is 0, where 0/0 would be NaN."""
        made, zero = get_optimizer(name, eps=7.1e-46, weight_decay=0.0), {"w": np.zeros(2, np.float32)}
        new, _ = made.update(zero, made.init(self.P), self.P, Rate(0.1))
        assert new["w"].tolist() == [1.0, 1.0]

    def test_the_largest_gradient(self, name):
        """Squares fit up to √(2^128) = 2^64; there the first step is lr, times the trust ratio √2/√2."""
        made = get_optimizer(name, weight_decay=0.0)
        below, above = np.nextafter(np.float32(2**64), np.float32(0)), np.float32(2**64)
        new, state = made.update({"w": np.array([below, -below])}, made.init(self.P), self.P, Rate(0.125))
        np.testing.assert_allclose(new["w"], [0.875, 1.125], rtol=2**-22)
        assert np.isfinite(state["v/w"]).all()
        with pytest.raises(DivergedError) as error:
            made.update({"w": np.array([1, -above], np.float32)}, made.init(self.P), self.P, Rate(0.125))
        assert str(error.value) == (
            f"{name}.update: w: overflow encountered in multiply in float32, from a gradient of largest magnitude "
            "1.84e+19; expected moments and a step that are finite"
        )


def test_a_momentum_that_overflows_is_no_step():
    """2e38 twice: the moment of the second step is 0.9·2e38 + 2e38, beyond float32."""
    p, g = {"w": np.ones(2, np.float32)}, {"w": np.full(2, 2e38, np.float32)}
    made = get_optimizer("sgd:momentum=0.9")
    p, state = made.update(g, made.init(p), p, Rate(1e-38))
    np.testing.assert_allclose(p["w"], [-1, -1], rtol=1e-5)
    with pytest.raises(DivergedError, match=r"^sgd\.update: w: overflow encountered in add in float32"):
        made.update(g, state, p, Rate(1e-38))


@each_variant
def test_numpy_hyperparameters_widen_nothing(name, hyper):
    case = published.problem().to(np.float32)
    hyper = ADAM | hyper if name != "sgd" else hyper
    results = []
    for number in (float, np.float64):
        made = get_optimizer(name, **{k: v if type(v) is bool else number(v) for k, v in hyper.items()})
        rate = Rate(number(0.1), number(0.5))
        group = {k: Group(number(g.lr_scale), g.decayed) for k, g in case.groups.items()}
        assert type(rate.peak) is type(rate.multiplier) is type(group["bias"].lr_scale) is float
        new, state = made.update(case.gradients[0], made.init(case.parameters), case.parameters, rate, group)
        results.append((bits(new), bits(state)))
    assert results[0] == results[1]


def test_a_kernel_that_widens_is_not_narrowed_in_silence():
    with pytest.raises(TypeError, match="Cannot cast array data from dtype"):
        update.walk(lambda x: (x * np.float64(0.1),), 1, np.ones(3, np.float32))


def test_the_names_of_the_state():
    p = {"a.weight": np.ones((2, 3)), "b": np.ones(3, np.float32)}
    assert list(get_optimizer("sgd").init(p)) == ["step"]
    assert list(get_optimizer("sgd", momentum=0.5).init(p)) == ["step", "m/a.weight", "m/b"]
    for name in ("adam", "adamw", "lamb"):
        assert list(get_optimizer(name).init(p)) == ["step", "m/a.weight", "m/b", "v/a.weight", "v/b"]
        assert get_optimizer(name).name == name


# --- Groups and rates -------------------------------------------------------------------------------------------------


@given(st.floats(0, 1e3), st.floats(0, 1), st.floats(0, 10))
def test_the_rate_of_a_parameter(peak, multiplier, lr_scale):
    assert Rate(peak, multiplier).of(Group(lr_scale)) == peak * multiplier * lr_scale


def test_groups_ask_the_scheme_and_the_role():
    roles = ("weight", "embedding", "readout", "bias", "gain")
    specs = {role: SimpleNamespace(role=role, shape=(4, i + 1), depth=i) for i, role in enumerate(roles)}
    asked = []

    class Scheme(Regular):
        def lr_scale(self, role, shape, depth):
            asked.append((role, shape, depth))
            return 1 / (1 + depth)

    got = groups(specs, Scheme())
    assert asked == [(role, (4, i + 1), i) for i, role in enumerate(roles)]
    assert got == {
        "weight": Group(1.0, True),
        "embedding": Group(1 / 2, True),
        "readout": Group(1 / 3, True),
        "bias": Group(1 / 4, False),
        "gain": Group(1 / 5, False),
    }
    assert all(type(group.decayed) is bool for group in got.values())


def test_without_groups_all_are_alike():
    case, made = published.problem(), get_optimizer("adamw")
    state, alike = made.init(case.parameters), dict.fromkeys(case.parameters, Group(1.0, True))
    plain = made.update(case.gradients[0], state, case.parameters, case.rates[0], None)
    assert bits(plain[0]) == bits(made.update(case.gradients[0], state, case.parameters, case.rates[0], alike)[0])


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Group(lr_scale=-1.0), "Group(lr_scale=-1.0): expected 0 ≤ lr_scale < ∞"),
        (lambda: Group(lr_scale=math.nan), "Group(lr_scale=nan): expected 0 ≤ lr_scale < ∞"),
        (lambda: Rate(math.inf, 1.0), "Rate(peak=inf): expected 0 ≤ peak < ∞"),
        (lambda: Rate(-0.1, 1.0), "Rate(peak=-0.1): expected 0 ≤ peak < ∞"),
        (lambda: Rate(0.1, math.nan), "Rate(multiplier=nan): expected 0 ≤ multiplier ≤ 1"),
        (lambda: Rate(0.1, 1.5), "Rate(multiplier=1.5): expected 0 ≤ multiplier ≤ 1"),
        (lambda: optim.sgd(momentum=1.0), "sgd(momentum=1.0): expected 0 ≤ momentum < 1"),
        (
            lambda: optim.sgd(nesterov=True),
            "sgd(momentum=0.0, nesterov=True): expected momentum > 0 with nesterov",
        ),
        (lambda: optim.sgd(weight_decay=-1), "sgd(weight_decay=-1): expected 0 ≤ weight_decay < ∞"),
        (lambda: optim.adam(b1=1), "adam(b1=1): expected 0 ≤ b1 < 1"),
        (lambda: optim.adam(b2=-0.1), "adam(b2=-0.1): expected 0 ≤ b2 < 1"),
        (lambda: optim.adamw(eps=0), "adamw(eps=0): expected 0 < eps < ∞"),
        (lambda: optim.adamw(eps=math.nan), "adamw(eps=nan): expected 0 < eps < ∞"),
        (lambda: optim.lamb(weight_decay=math.inf), "lamb(weight_decay=inf): expected 0 ≤ weight_decay < ∞"),
        (lambda: get_optimizer("lion"), "get_optimizer('lion'): expected one of sgd, adam, adamw, lamb"),
        (
            lambda: get_optimizer("sgd", b1=0.9),
            "get_optimizer('sgd', b1=0.9): expected some of momentum, nesterov, weight_decay",
        ),
    ],
)
def test_arguments_out_of_range(make, text):
    with pytest.raises(ArgumentError) as error:
        make()
    assert str(error.value) == text


P = {"a": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}
STATE = optim.adam().init(P)


@pytest.mark.parametrize(
    ("gradients", "state", "parameters", "groups_", "error", "text"),
    [
        ({"a": P["a"]}, STATE, P, None, ShapeError, "gradients missing or unknown: b (1 in all)"),
        (P | {"c": P["b"]}, STATE, P, None, ShapeError, "gradients missing or unknown: c (1 in all)"),
        (P | {"a": P["a"].T}, STATE, P, None, ShapeError, "gradient of a has shape (3, 2), expected (2, 3)"),
        (P | {"a": np.ones((2, 3))}, STATE, P, None, CarrierError, "gradient of a is float64, expected float32"),
        (P, optim.sgd().init(P), P, None, ShapeError, "state missing or unknown: m/a, m/b, v/a, v/b (4 in all)"),
        (P, STATE | {"x/a": P["a"]}, P, None, ShapeError, "state missing or unknown: x/a (1 in all)"),
        (P, STATE | {"v/b": P["a"]}, P, None, ShapeError, "v/b has shape (2, 3), expected (3,)"),
        (P, STATE | {"m/b": np.ones(3)}, P, None, CarrierError, "m/b is float64, expected float32"),
        (
            P,
            STATE | {"step": np.zeros(1, np.int64)},
            P,
            None,
            ShapeError,
            "step is int64 of shape (1,), expected an int64 scalar",
        ),
        (P, STATE | {"step": np.array(-1)}, P, None, ArgumentError, "step is -1, expected step ≥ 0"),
        (
            P,
            STATE,
            P | {"a": np.ones((2, 3), np.float16)},
            None,
            CarrierError,
            "a is float16, expected float32 or float64",
        ),
        (P, STATE, P, {"a": Group()}, ShapeError, "groups missing or unknown: b (1 in all)"),
    ],
)
def test_what_does_not_fit(gradients, state, parameters, groups_, error, text):
    with pytest.raises(error) as raised:
        optim.adam().update(gradients, state, parameters, Rate(0.1), groups_)
    assert str(raised.value) == f"adam.update: {text}"


def test_init_refuses_integers():
    with pytest.raises(CarrierError, match=r"^lamb\.init: w is int64, expected float32 or float64$"):
        optim.lamb().init({"w": np.arange(3)})


class TestNames:
    @pytest.mark.parametrize(
        ("text", "name", "hyper"),
        [
            ("sgd:momentum=0.9,nesterov", "sgd", {"momentum": 0.9, "nesterov": True}),
            (
                "adamw:independent,b2=0.95,weight_decay=1e-4",
                "adamw",
                {"independent": True, "b2": 0.95, "weight_decay": 1e-4},
            ),
            ("lamb:eps=1e-3", "lamb", {"eps": 1e-3}),
            ("adam", "adam", {}),
        ],
    )
    def test_hyperparameters_in_the_name(self, text, name, hyper):
        case = published.problem()
        a, b = (published.run(made, case) for made in (get_optimizer(text), OPTIMIZERS[name](**hyper)))
        assert all(a[key].tobytes() == b[key].tobytes() for key in a)

    def test_the_name_goes_before(self):
        case = published.problem()
        a = published.run(get_optimizer("sgd:weight_decay=0.5", weight_decay=0.1), case)
        b = published.run(OPTIMIZERS["sgd"](weight_decay=0.5), case)
        assert all(a[key].tobytes() == b[key].tobytes() for key in a)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("adagrad", "expected one of sgd, adam, adamw, lamb"),
            ("sgd:", "'', expected some of momentum=NUMBER, nesterov, weight_decay=NUMBER"),
            ("sgd:speed=1", "'speed=1', expected some of momentum=NUMBER, nesterov, weight_decay=NUMBER"),
            ("sgd:nesterov=1", "'nesterov=1', expected some of momentum=NUMBER, nesterov, weight_decay=NUMBER"),
            ("sgd:momentum", "'momentum', expected some of momentum=NUMBER, nesterov, weight_decay=NUMBER"),
            ("sgd:momentum=much", "'momentum=much', expected a number"),
        ],
    )
    def test_other_names(self, text, said):
        with pytest.raises(ArgumentError, match=re.escape(f"get_optimizer({text!r}): {said}")):
            get_optimizer(text)


def test_the_scale_of_a_decay_by_hand():
    """λ·decay_scale where the decay has the learning rate; the independent one has none. p = 1, g = 0."""
    p, zero = {"w": np.ones(1, np.float32)}, {"w": np.zeros(1, np.float32)}
    group = {"w": Group(4.0, True, None, 0.25)}
    for spelling, left in (
        ("sgd", 1 - 0.5 * 4 * 0.25 * 0.5),
        ("adamw", 1 - 0.5 * 4 * 0.25 * 0.5),
        ("adamw:independent", 1 - 0.5),
    ):
        optimizer = get_optimizer(spelling, weight_decay=0.5)
        new, _ = optimizer.update(zero, optimizer.init(p), p, Rate(0.5), group)
        assert float(new["w"][0]) == left, spelling
    for scale in (-1.0, np.inf, np.nan):
        with pytest.raises(ArgumentError, match="expected 0 ≤ decay_scale < ∞"):
            Group(1.0, True, None, scale)


def test_at_regular_rates_by_hand():
    """1/(σ²·c) and its inverse for SGD, 1/σ and σ for AdamW; the decay of a group stays."""
    found = {"w": Group(3.0, True, 0.5), "b": Group(0.1, False)}
    divisors, factors = {"w": 0.25, "b": 2.0}, {"w": 8.0, "b": 1.0}
    sgd = at_regular_rates(found, divisors, "sgd", factors)
    assert sgd == {"w": Group(2.0, True, 0.5, 0.5), "b": Group(0.25, False, None, 4.0)}
    adamw = at_regular_rates(found, divisors, "adamw", {})
    assert adamw == {"w": Group(4.0, True, 0.5, 0.25), "b": Group(0.5, False, None, 2.0)}
