"""PyTorch modules come in value by value, or are refused by name."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refscale import ops  # noqa: E402
from refscale.bridge import from_torch  # noqa: E402
from refscale.bridge.evaluation import Evaluation  # noqa: E402
from refscale.bridge.parity import relative  # noqa: E402
from refscale.bridge.rules import RULES  # noqa: E402
from refscale.engine import Tape, ancestors, backward  # noqa: E402
from refscale.errors import ProgramError  # noqa: E402
from refscale.graph import gradient_factors, plan  # noqa: E402
from refscale.programs import first_loss  # noqa: E402
from tests.bridge.modules import CALLS, Calls, ConvNet, Gpt, Recurrent, RmsNorm, ids, normal  # noqa: E402

MODULES = {
    "gpt": (Gpt(), (ids(2, 12),)),
    "convolutions": (ConvNet(), (normal(2, 3, 8, 8),)),
    "encoder": (
        torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2),
        (normal(2, 5, 16),),
    ),
    "lstm": (Recurrent(torch.nn.LSTM, batch_first=True), (normal(3, 4, 5),)),
    "gru": (Recurrent(torch.nn.GRU, bidirectional=True), (normal(4, 3, 5),)),
    "rms norm": (RmsNorm(), (normal(3, 8),)),
}


def targets(program):
    return [step.target for step in program.exported.steps]


def tape_of(program, scheme="regular", dtype=np.float32):
    tape = Tape(scheme, dtype=dtype)
    return tape, first_loss(program, tape).total


@pytest.mark.parametrize("name", CALLS)
def test_an_op_is_torch_s(name):
    f, shape, x = CALLS[name]
    narrow, wide = from_torch(Calls(f, *shape), (x,)).parity
    assert (narrow.dtype, wide.dtype) == ("float32", "float64")
    assert narrow.trained == wide.trained == 1
    # 2^-24 and 2^-53, times the terms of the sums and the conditions of these functions, at most 64 together
    assert max(narrow.value.relative, narrow.gradient.relative) <= 64 * 2**-24
    assert max(wide.value.relative, wide.gradient.relative) <= 64 * 2**-53 or "hardswish" in name


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_torch_s_and_its_plan_is_certified(name):
    module, inputs = MODULES[name]
    module.train()
    program = from_torch(module, inputs)
    wide = program.parity[1]
    assert max(wide.value.relative, wide.gradient.relative) <= (1e-12 if name != "rms norm" else 1e-6)
    assert wide.trained == len({id(p) for p in module.parameters()})
    _, loss = tape_of(program, plan(program))
    assert gradient_factors(loss)
    backward(loss)


def test_a_plan_brings_the_scales_of_a_gpt_to_one():
    program = from_torch(Gpt(), (ids(2, 12),))

    def outside(scheme):
        sizes = []

        def probe(way, variable, x):
            if x.dtype.kind == "f" and x.any() and not variable.reports and x.ndim:
                sizes.append(float(np.sqrt(np.mean(x**2))))

        tape = Tape(scheme, probe=probe)
        backward(first_loss(program, tape).total)
        return sum(not 0.25 <= size <= 4 for size in sizes), len(sizes)

    regular, _ = outside("regular")
    planned, count = outside(plan(program))
    assert regular > 60
    assert planned <= 0.02 * count


def test_a_constant_in_float32_leaves_the_comparison_in_float32():
    class Square(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Linear(6, 4)

        def forward(self, x):
            return torch.mm(self.one(x), torch.eye(4))

    (parity,) = from_torch(Square(), (normal(3, 6),)).parity
    assert parity.dtype == "float32"
    assert parity.value.relative <= 1e-6


def test_the_first_tensor_may_follow_none():
    class Pair(torch.nn.Linear):
        def forward(self, x):
            return None, super().forward(x)

    assert from_torch(Pair(4, 2), (normal(3, 4),)).parity[1].trained == 2


def test_what_torch_cannot_differentiate_is_refused_in_one_line():
    def overwritten(w, x):
        return (w * x).relu_().mul_(x)

    with pytest.raises(ProgramError, match=r"torch cannot differentiate it: one of the variables") as raised:
        from_torch(Calls(overwritten, 3, 4), (normal(3, 4),))
    assert "\n" not in str(raised.value)


def test_tied_parameters_are_one():
    program = from_torch(Gpt(), (ids(2, 12),))
    assert "words.weight" in program.specs
    assert "head.weight" not in program.specs
    assert program.specs["words.weight"].role == "embedding"
    assert program.specs["norm.weight"].role == "gain"
    assert program.specs["norm.bias"].role == "bias"
    assert program.specs["blocks.0.qkv.weight"].role == "weight"


def test_composed_functions_are_recognized_by_their_values():
    assert targets(from_torch(Gpt(), (ids(2, 12),))).count("gelu") == 2
    assert "rms_norm" in targets(from_torch(RmsNorm(), (normal(3, 8),)))

    def silu(w, x):
        u = w + x
        return u * torch.sigmoid(u)

    assert "silu" in targets(from_torch(Calls(silu, 3, 4), (normal(3, 4),)))

    def nearly_silu(w, x):
        u = w + x
        return u * torch.sigmoid(1.0001 * u)

    program = from_torch(Calls(nearly_silu, 3, 4), (normal(3, 4),))
    assert "silu" not in targets(program)
    assert "custom_elementwise" in targets(program)


def test_moves_of_axes_that_cancel_are_left_out():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 5, 3), torch.nn.Conv2d(5, 2, 1))
    program = from_torch(module, (normal(2, 3, 8, 8),))
    _, loss = tape_of(program)
    moves = [node.op for node in ancestors(loss) if isinstance(node.op, ops.Transpose)]
    assert len(moves) == 4  # three weights, and the output; the input is a constant


def test_dropout_is_off_in_the_comparison_and_on_in_training():
    module = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Dropout(0.5)).train()
    program = from_torch(module, (normal(8, 4),))
    tape = Tape("regular")
    p = {name: tape.tensor(x, name) for name, x in program.initial_parameters(tape.scheme, None).items()}
    batch = next(program.batches(np.random.default_rng(0)))
    kept = program.output(p, batch[0])
    dropped = program.output(p, batch[0], np.random.default_rng(0))
    assert np.mean(kept.value == 0) == 0
    assert 0.4 < np.mean(dropped.value == 0) < 0.6
    assert program.loss(p, batch, np.random.default_rng(1)).value != program.loss(p, batch).value


def test_noise_of_torch_is_drawn_from_the_given_generator():
    program = from_torch(Calls(lambda w, x: w * torch.rand_like(x), 3, 4), (normal(3, 4),))
    tape = Tape("regular")
    p = {name: tape.tensor(x, name) for name, x in program.initial_parameters(tape.scheme, None).items()}
    first, again, other = (program.output(p, (normal(3, 4),), np.random.default_rng(s)).value for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_dropout_of_an_input_is_on_in_training_too():
    module = Calls(lambda w, x: w * torch.nn.functional.dropout(x, 0.5, training=True), 30, 40)
    program = from_torch(module, (torch.ones(30, 40),))
    tape = Tape("regular")
    p = {name: tape.tensor(x, name) for name, x in program.initial_parameters(tape.scheme, None).items()}
    whole, dropped = (program.output(p, (torch.ones(30, 40),), rng).value for rng in (None, np.random.default_rng(0)))
    assert not np.any(whole == 0)
    assert 0.4 < np.mean(dropped == 0) < 0.6


def test_an_input_that_the_module_overwrites_stays_as_it_was():
    x = normal(3, 4)
    program = from_torch(Calls(lambda w, x: w * x.add_(1.0), 3, 4), (x.clone(),))
    tape = Tape("regular")
    p = {name: tape.tensor(v, name) for name, v in program.initial_parameters(tape.scheme, None).items()}
    for _ in range(2):
        given = x.clone()
        assert np.array_equal(program.output(p, (given,)).value, p["w"].value * (x.numpy() + 1))
        assert torch.equal(given, x)


def test_modules_have_digests_of_their_own():
    def digest(f, x, scale=1.0):
        module = Calls(f, 3, 4)
        with torch.no_grad():
            module.w.mul_(scale)
        return from_torch(module, (x,)).digest

    def product(w, x):
        return w * x

    first = digest(product, normal(3, 4))
    assert digest(product, normal(3, 4)) == first
    others = [
        digest(product, normal(3, 4, seed=1)),
        digest(product, normal(3, 4), scale=2.0),
        digest(lambda w, x: w + x, normal(3, 4)),
        digest(lambda w, x: (w * x) * 0.3 * (w * x).tanh(), normal(3, 4)),
    ]
    assert len({first, *others}) == 5


def test_a_later_write_to_the_module_changes_nothing():
    module = torch.nn.Linear(4, 3)
    program = from_torch(module, (normal(2, 4),))
    before = float(tape_of(program)[1].value)
    with torch.no_grad():
        module.weight.zero_()
    assert float(tape_of(program)[1].value) == before


# --- Refusals ---------------------------------------------------------------------------------------------------------


def test_ops_without_a_rule_are_named_with_their_places():
    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.part = Calls(lambda w, x: torch.cumsum(w * x, 0), 3, 4)

        def forward(self, x):
            return self.part(x)

    with pytest.raises(ProgramError, match=r"1 step without a rule: aten.cumsum.default 'cumsum' in part"):
        from_torch(Outer(), (normal(3, 4),))


def test_gradients_scaled_by_the_frequency_of_an_id_are_refused():
    """They are torch's own only where each id occurs once, as it may in the example."""
    module = torch.nn.Sequential(torch.nn.Embedding(9, 4, scale_grad_by_freq=True), torch.nn.Linear(4, 3))
    with pytest.raises(ProgramError, match="embedding with scale_grad_by_freq=True: expected False"):
        from_torch(module, (torch.tensor([[1, 2, 3]]),))


WRONG = {
    "another function": ("aten.gelu.default", lambda run, self, approximate="none": run.apply(ops.Gelu("tanh"), self)),
    "a factor": (
        "aten.gelu.default",
        lambda run, self, approximate="none": run.apply(ops.ScalarMultiply(1.0001), run.apply(ops.Gelu(), self)),
    ),
    "a transposed result": ("aten.gelu.default", lambda run, self, approximate="none": run.transpose(self, (1, 0))),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_refused_at_its_step(name, monkeypatch):
    target, rule = WRONG[name]
    monkeypatch.setitem(RULES, target, rule)
    with pytest.raises(ProgramError, match=r"aten.gelu.default 'gelu' differs from torch by .* of its RMS"):
        from_torch(Calls(lambda w, x: torch.nn.functional.gelu(w * x), 3, 4), (normal(3, 4),))


def test_a_severed_gradient_is_refused(monkeypatch):
    def severed(run, self, **unused):
        y = run.apply(ops.Silu(), self)
        return run.apply(ops.ScalarMultiply(1.0), y.tape.tensor(run.detached(y), "constant", requires_grad=False))

    f = lambda w, x: w.sum() + torch.nn.functional.silu(w * x)  # noqa: E731
    monkeypatch.setitem(RULES, "aten.silu.default", severed)
    with pytest.raises(ProgramError, match="gradient of 'w' differs from torch's by"):
        from_torch(Calls(f, 3, 4), (normal(3, 4),))


def test_a_wrong_gradient_alone_is_refused(monkeypatch):
    monkeypatch.setattr(ops.Silu, "backward", lambda self, g, *kept: (1.01 * g * kept[0],))
    monkeypatch.setattr(ops.Silu, "fast_backward", None)
    monkeypatch.setattr(ops.Silu, "fast_forward", None)
    with pytest.raises(ProgramError, match="the gradient of 'w' differs from torch's by"):
        from_torch(Calls(lambda w, x: torch.nn.functional.silu(w * x), 3, 4), (normal(3, 4),))


@pytest.mark.parametrize(("error", "refused"), [(0.9e-6, False), (1.1e-6, True)])
def test_the_tolerance_is_a_millionth_in_float64(error, refused, monkeypatch):
    """A rule off by a factor: the RMS difference is that part of the RMS."""

    def silu(run, self, **unused):
        return run.apply(ops.ScalarMultiply(1 + error), run.apply(ops.Silu(), self))

    monkeypatch.setitem(RULES, "aten.silu.default", silu)
    module = Calls(lambda w, x: torch.nn.functional.silu(w * x), 3, 4)
    if refused:
        with pytest.raises(ProgramError, match=r"differs from torch by 1\.1e-06 of its RMS, expected at most 1e-06"):
            from_torch(module, (normal(3, 4),))
    else:
        assert from_torch(module, (normal(3, 4),)).parity[1].value.relative == pytest.approx(error, rel=1e-6)


def test_a_write_to_a_view_is_refused():
    """The gradient is right, and each value was when it was computed."""

    def f(w, x):
        y = w * x
        y[:, 0].add_(1.0)
        return y

    with pytest.raises(ProgramError, match="the output differs from torch by"):
        from_torch(Calls(f, 3, 4), (normal(3, 4),))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_parameters_in_another_format_are_refused(dtype):
    module = torch.nn.Linear(4, 3).to(getattr(torch, dtype))
    with pytest.raises(ProgramError, match=f"'weight' is torch.{dtype} on cpu, expected torch.float32 on the CPU"):
        from_torch(module, (normal(2, 4),))


def test_an_output_without_parameters_is_refused():
    with pytest.raises(ProgramError, match="depends on no parameter"):
        from_torch(Calls(lambda w, x: {"a": w * x, "b": x + 1}, 3, 4), (normal(3, 4),), output="b")


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda w, x: torch.add(w, x, alpha=2), "add with alpha=2: expected 1"),
        (lambda w, x: x / w, "div by a tensor that depends on parameters: expected a constant divisor"),
        (lambda w, x: (w * x)[::2], "slice with step 2: expected 1"),
        (lambda w, x: torch.nn.functional.layer_norm(w * x, (3, 4)), "layer_norm over 2 axes: expected 1, the last"),
    ],
)
def test_what_a_rule_does_not_cover_is_refused_by_name(f, message):
    with pytest.raises(ProgramError, match=message):
        from_torch(Calls(f, 3, 4), (normal(3, 4),))


def test_a_module_that_torch_cannot_export_is_refused_in_one_line():
    with pytest.raises(ProgramError, match=r"from_torch\(Calls\): torch.export raised") as raised:
        from_torch(Calls(lambda w, x: w if x.sum() > 0 else -w, 3), (normal(3),))
    assert "\n" not in str(raised.value)


def test_outputs_are_chosen_by_key_or_position():
    both = Calls(lambda w, x: {"a": w * x, "b": [w + x, w - x]}, 3, 4)
    assert float(tape_of(from_torch(both, (normal(3, 4),), output="b"))[1].value) != float(
        tape_of(from_torch(both, (normal(3, 4),)))[1].value
    )
    with pytest.raises(ProgramError, match="output='c', expected a tensor among"):
        from_torch(both, (normal(3, 4),), output="c")


def test_the_loss_is_one_of_two_or_a_function():
    module = torch.nn.Linear(4, 3)
    loss = from_torch(module, (normal(50, 4) * 0,), loss="cross_entropy")
    assert 0.9 < float(tape_of(loss)[1].value) < 1.4  # log 3, nearly
    with pytest.raises(ProgramError, match=r"loss='mean'\): expected 'projection', 'cross_entropy' or a function"):
        from_torch(module, (normal(2, 4),), loss="mean")


def test_differences_are_measured_by_hand():
    theirs = np.array([3.0, -4.0, 0.0, 5.0])  # RMS 5·√½
    unit = 5 * 2**-0.5
    assert relative(theirs, theirs) == 0
    assert relative(theirs + 1, theirs) == pytest.approx(1 / unit)
    one = theirs.copy()
    one[0] += 1
    assert relative(one, theirs) == pytest.approx(0.5 / unit)  # RMS difference ½
    many = np.ones(1024)
    spike = many.copy()
    spike[0] += 16
    assert relative(spike, many) == pytest.approx(1.0)  # 1/16 of the largest, above the RMS of ½
    assert relative(np.zeros(4), np.zeros(4)) == 0
    assert relative(np.ones(4), np.zeros(4), least=2.0) == 0.5
    assert relative(np.ones(3), np.ones(4)) == np.inf


def test_a_run_keeps_arrays_and_tensors_apart():
    tape, run = Tape("regular"), Evaluation()
    x = tape.tensor(np.ones((2, 3, 4), np.float32), "x")
    there = run.transpose(x, (2, 0, 1))
    assert there.shape == (4, 2, 3)
    assert run.transpose(there, (1, 2, 0)) is x
    assert run.transpose(np.ones((2, 3)), (1, 0)).shape == (3, 2)
    assert copy.copy(run).depends(x)
    assert not run.depends(np.ones(2))
