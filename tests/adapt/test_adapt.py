"""The same function at unit scale, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from refscale import adapt as package
from refscale import ops
from refscale.adapt import Parity, adapt, adapted_program
from refscale.analysis import fidelity, report
from refscale.analysis.report.first_step import first_step
from refscale.engine import Tape, apply
from refscale.errors import FactorError, ProgramError
from refscale.graph import plan
from refscale.layers import Spec
from refscale.models import NAMES
from refscale.programs import checked_loss, leaves, next_batch
from refscale.scales import Call, regular, unit
from refscale.testing import assert_gradient_factor
from tests.adapt.folded import alike, folded, normed
from tests.adapt.programs import BIAS, OUT, PROGRAMS, Trained, W, classified


def start(program, seed=0):
    return program.initial_parameters(regular, np.random.default_rng(seed))


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_of_every_kind(name):
    """``adapt`` itself compares, to 1e-12; here, that matrices have unit RMS and other parameters are unchanged."""
    program = PROGRAMS[name]
    parameters = start(program)
    adapted = adapt(program, parameters)
    for key, x in adapted.unit(parameters).items():
        if x.ndim > 1:
            assert rms(x) == pytest.approx(1, abs=1e-12), key
    for key, x in adapted.regular(adapted.unit(parameters)).items():
        np.testing.assert_array_max_ulp(x, parameters[key], 2)


@pytest.mark.parametrize("name", ["bert-tiny", "decoder-tiny", "charlm-conv", "charlm-rnn", "charlm-attention"])
def test_built_in_models(name):
    assert name in NAMES
    program = first_step("test", name, "regular", batch=2, seq=8).program
    adapted = adapt(program)
    assert len(adapted.scheme.steps) > 50


def test_scales_by_hand():
    """x·w has α = 8^-½: its scale is σ_w·√8, as of the bias; relu passes it on, the readout takes the rest."""
    program = PROGRAMS["mlp"]
    parameters = start(program)
    adapted = adapt(program, parameters)
    w, out = rms(parameters["w"]), rms(parameters["out"])
    s = w * 8**0.5
    assert adapted.divisors == pytest.approx({"w": w, "b": s, "out": out}, rel=1e-14)
    product, bias, relu, readout, loss = adapted.scheme.solved
    assert (product.alpha, bias.alpha, loss.alpha) == pytest.approx((8**-0.5, 1.0, 1.0), rel=1e-14)
    assert relu.alpha == pytest.approx((2 / (1 - 1 / np.pi)) ** 0.5, rel=1e-14)
    assert readout.alpha == pytest.approx(s / relu.alpha * out, rel=1e-14)
    assert [call.fixed for call in adapted.scheme.solved] == [False, False, False, True, True]


def test_a_program_without_constraints_takes_those_of_the_recipe():
    """Its own factors are not legal, so β = α on the loop; with ``base=unit`` it is refused."""
    program = PROGRAMS["residual"]
    tied = {step.op.name: call.tied for step, call in zip(*vars_of(adapt(program)), strict=True)}
    assert (tied["gelu"], tied["layer_norm"]) == ((0,), (0,))
    with pytest.raises(ProgramError, match=r"adapt: Trained under 'unit': consumers of .* disagree"):
        adapt(program, base=unit)
    assert vars_of(adapt(program, base=plan(program)))[1] == vars_of(adapt(program))[1]


def vars_of(adapted):
    return adapted.scheme.steps, adapted.scheme.solved


def test_another_batch_has_the_same_loss():
    """α is a number; another size, a ragged batch, changes β only."""
    small, large = (Trained(PROGRAMS["image"].specs, PROGRAMS["image"].fn, n, (4, 4, 8)) for n in (3, 7))
    parameters = start(small)
    adapted = adapt(small, parameters)
    batch = next_batch(large, large.batches(np.random.default_rng(5)))

    def loss(scheme, values):
        return float(checked_loss(large, leaves(Tape(scheme, dtype=np.float64), large, values), batch).total)

    assert loss(adapted.scheme, adapted.unit(parameters)) == pytest.approx(loss(regular, parameters), rel=1e-13)


def test_another_program_is_refused():
    adapted = adapt(PROGRAMS["mlp"])
    program = PROGRAMS["gated"]
    with pytest.raises(FactorError, match=r"adapted: call 1 is Tanh\(\) of \(\(6, 8\),\), expected Bias\(\)"):
        checked_loss(program, leaves(Tape(adapted.scheme), program, start(program)), next_batch(program, batches()))


@pytest.mark.parametrize("name", ["residual", "image"])
def test_true_gradients_are_those_of_the_adapted_ops(name):
    """Norms have another eps and sums other weights, also in the run of plain backpropagation."""
    program = PROGRAMS[name]
    adapted = adapt(program)
    values = {k: np.asarray(x, np.float64) for k, x in adapted.unit(start(program)).items()}
    batch = next_batch(program, program.batches(np.random.default_rng(0)))
    assert_gradient_factor(lambda p: checked_loss(program, p, batch).total, values, scheme=adapted.scheme)


def test_factors_of_a_call_leave_it_as_it_was():
    scheme = adapt(PROGRAMS["residual"]).scheme
    index = next(i for i, solved in enumerate(scheme.solved) if solved.op is not None)
    step = scheme.steps[index]
    call = Call(step.op, step.shapes, index=index)
    assert scheme.scales(call).alpha == scheme.solved[index].alpha
    assert call == Call(step.op, step.shapes, index=index)
    assert scheme.op(call) == scheme.solved[index].op != step.op


def batches():
    return PROGRAMS["mlp"].batches(np.random.default_rng(0))


def test_the_tolerance_of_a_comparison():
    """1e-12; 64 times the change by rounding, where that is more; at most 1e-8."""
    for rounding, tolerance in ((0.0, 1e-12), (1e-15, 1e-12), (1e-12, 6.4e-11), (1e-6, 1e-8)):
        for loss, gradient in ((1, 0), (0, 1)):
            just, beyond = (Parity(loss * x, gradient * x, "", "", rounding) for x in (tolerance, 1.01 * tolerance))
            assert just.tolerance == pytest.approx(tolerance, rel=1e-14)
            assert not beyond.holds
            assert Parity(0.99 * just.loss, 0.99 * just.gradient, "", "", rounding).holds


# --- Refused by name --------------------------------------------------------------------------------------------------


def test_a_bias_that_is_needed_at_two_scales():
    def loss(p, x, classes):
        h = apply(ops.Bias(), x @ p["w"], p["b"])
        return classified(p, apply(ops.Bias(), apply(ops.Tanh(), h) @ p["v"], p["b"]), classes)

    program = Trained({"w": W, "v": W, "b": BIAS, "out": OUT}, loss)
    with pytest.raises(
        ProgramError, match=r"adapt: bias \(call 4\) needs .* at the scale .*, which another use gives 1"
    ):
        adapt(program)


class Cube(ops.Square):
    homogeneity = ()

    def forward(self, x):
        return x**3, (3 * x**2,)

    def backward(self, g, slope):
        return (g * slope,)


def test_an_op_without_a_rule():
    program = Trained({"w": W, "out": OUT}, lambda p, x, classes: classified(p, apply(Cube(), x @ p["w"]), classes))
    with pytest.raises(ProgramError, match=r"adapt: cube \(call 1\) has no rule, expected an op that declares"):
        adapt(program)


def test_a_matrix_that_is_not_finite():
    parameters = start(PROGRAMS["mlp"]) | {"w": np.full((8, 8), np.inf)}
    with pytest.raises(ProgramError, match="adapt: w has an RMS of inf, expected a finite one"):
        adapt(PROGRAMS["mlp"], parameters)


def test_a_program_with_a_scheme():
    program = adapted_program(PROGRAMS["mlp"])
    with pytest.raises(ProgramError, match="adapt: Trained runs under 'adapted', expected 'regular'"):
        adapt(program)


# --- Wrong rules are seen ---------------------------------------------------------------------------------------------


def test_a_wrong_degree(monkeypatch):
    monkeypatch.setattr(ops.Square, "homogeneity", (1,))
    with pytest.raises(ProgramError, match=r"differs after adaptation.*square is the first tensor that differs"):
        adapt(PROGRAMS["gated"])


@pytest.mark.parametrize(
    ("program", "op"), [("residual", ops.LayerNorm), ("residual", ops.RmsNorm), ("image", ops.BatchNorm)]
)
def test_an_eps_as_it_was(program, op, monkeypatch):
    monkeypatch.setattr(op, "at_scales", lambda self, *s: (self, s[1]))
    with pytest.raises(ProgramError, match=f"{op.name} is the first tensor that differs"):
        adapt(PROGRAMS[program])


def test_weights_as_they_were(monkeypatch):
    monkeypatch.setattr(ops.Add, "at_scales", lambda self, *s: (self, s[0]))
    with pytest.raises(ProgramError, match="add is the first tensor that differs"):
        adapt(PROGRAMS["residual"])


def test_a_wrong_divisor(monkeypatch):
    """The bias as it was: the tensor is named; a divisor that only the gradient has: the parameter is."""
    module = __import__("sys").modules["refscale.adapt.adaptation"]
    right = module.divisors

    def wrong(*args):
        return right(*args) | {"b": 1.0}

    monkeypatch.setattr(module, "divisors", wrong)
    with pytest.raises(ProgramError, match="bias is the first tensor that differs"):
        adapt(PROGRAMS["mlp"])


# --- As a program -----------------------------------------------------------------------------------------------------


def test_a_report_of_an_adapted_program():
    """All tensors of a program whose weights are random at unit scale, its loss that of the regular one."""
    program = PROGRAMS["residual"]
    regular_report, adapted = report(program, "regular"), report(program, "adapted")
    assert adapted.scheme == "adapted"
    assert list(adapted.losses.values()) == pytest.approx(list(regular_report.losses.values()), rel=1e-6)
    assert adapted.summary().outside_count < regular_report.summary().outside_count
    assert adapted.summary().outside["weight"] == 0


def test_public_names():
    assert {"adapt", "parity", "solve"} <= set(package.__all__)
    assert Spec("bias", (1,)).role == "bias"


# --- What formats gain and lose ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("program", "less"), [(folded, False), (normed, True)])
def test_a_net_with_channels_of_many_scales_loses_in_fp8_unless_it_has_norms(program, less):
    """One scale for a tensor: σ of a folded weight is that of its largest channels, which meet the smallest inputs."""
    rows = fidelity(program, policies=("fp8",)).policies
    errors = {e.scheme: e for e in rows if e.policy == "fp8" and e.loss_scale is None}
    regular_error, adapted = (errors[scheme].gradient for scheme in ("regular", "adapted"))
    assert (adapted < regular_error) == less
    assert less or (adapted > 2 * regular_error and errors["adapted"].output > 5 * errors["regular"].output)


def test_scales_drift_where_channels_differ():
    """Layers of the folded net become smaller, by up to e^(2·1²) = 7.4 each; those of the other two do not."""
    last = {}
    for name, program in (("alike", alike), ("folded", folded), ("normed", normed)):
        relus = [t.rms for t in report(program, "adapted").of_kind("activation") if t.role == "relu"]
        last[name] = relus[-1] / relus[0]
    assert 0.5 < last["alike"] < 4
    assert 0.5 < last["normed"] < 4
    assert 7.4**-5 < last["folded"] < 2.0**-8
