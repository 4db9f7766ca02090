"""A program goes back as a torch module: the same values call by call, factors and casts in place."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refscale import ops  # noqa: E402
from refscale.adapt import adapt  # noqa: E402
from refscale.bridge import from_torch, to_torch  # noqa: E402
from refscale.bridge.functions import FUNCTIONS  # noqa: E402
from refscale.engine import Sizes, Tape, backward  # noqa: E402
from refscale.errors import ArgumentError, ProgramError  # noqa: E402
from refscale.golden.trace import Recorder, judge, load_trace  # noqa: E402
from refscale.graph import plan  # noqa: E402
from refscale.programs import checked_loss, leaves  # noqa: E402
from tests.bridge.modules import Calls, ConvNet, Gpt, ids, normal  # noqa: E402

GPT = (Gpt(words=20, width=16, heads=2, layers=1), (ids(2, 6, below=20),))


@pytest.mark.parametrize("kind", FUNCTIONS, ids=lambda kind: kind.__name__)
def test_a_function_is_that_of_its_op(kind):
    """On the examples of the op table, output and gradients in float64: 2^-53 times at most 64 terms and conditions."""
    if kind is ops.CustomElementwise:
        pytest.skip("its function comes from torch")
    for number, example in enumerate(kind.examples(Sizes(4, 5, 6, 8))):
        op, arrays = example.op, example.arrays(np.random.default_rng(number))
        arrays = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in arrays]
        y, kept = op.forward(*arrays)
        given = [torch.tensor(x, requires_grad=x.dtype.kind == "f") for x in arrays]
        theirs = FUNCTIONS[kind](op, *given)
        assert np.abs(theirs.detach().numpy() - y).max() <= 64 * 2**-53 * max(1, np.abs(y).max())
        g = np.random.default_rng(7).standard_normal(y.shape)
        theirs.backward(torch.tensor(g))
        for i, piece in enumerate(op.backward(g, *kept)):
            if i not in op.constants and piece is not None:
                worst = np.abs(given[i].grad.numpy() - np.asarray(piece)).max()
                assert worst <= 64 * 2**-53 * max(1, np.abs(piece).max())


def both(program, scheme, precision):
    """Gradients by refscale and by the module, by name; and the losses."""
    module = to_torch(program, scheme, precision)
    inputs, target = next(program.batches(np.random.default_rng(0)))
    tape = Tape(scheme, precision)
    p = leaves(tape, program, program.initial_parameters(tape.scheme, np.random.default_rng(0)))
    loss = checked_loss(program, p, (inputs, target)).total
    backward(loss)
    target = torch.tensor(target)
    theirs = module.loss(module(*inputs), target.float() if target.is_floating_point() else target)
    theirs.backward()
    ours = {name: np.asarray(t.grad) for name, t in p.items() if t.grad is not None}
    return ours, {name: t.grad.numpy() for name, t in module.named_parameters() if t.grad is not None}, loss, theirs


@pytest.mark.parametrize("loss", ["projection", "cross_entropy"])
@pytest.mark.parametrize("scheme", ["regular", "plan"])
def test_losses_and_gradients_are_refscale_s(scheme, loss):
    module, inputs = GPT
    program = from_torch(module.eval(), inputs, loss=loss)
    chosen = plan(program) if scheme == "plan" else scheme
    ours, theirs, value, other = both(program, chosen, "fp32")
    assert float(other.detach()) == pytest.approx(float(value.value), rel=1e-5, abs=1e-6)
    assert ours.keys() == theirs.keys() == set(program.specs)
    for name, g in ours.items():
        assert np.abs(theirs[name] - g).max() <= 1e-4 * max(np.sqrt(np.mean(g**2)), 1e-3), name


@pytest.mark.parametrize("kind", ["gpt", "convolutions"])
def test_an_adapted_module_is_the_same_function(kind):
    """With its own values, each divided by its σ; the loss is that of torch to float32's rounding."""
    module, inputs = GPT if kind == "gpt" else (ConvNet(), (normal(2, 3, 8, 8),))
    module.eval()
    program = from_torch(module, inputs)
    found = adapt(program)
    made = to_torch(program, found).eval()
    theirs = module(*inputs)
    target = torch.tensor(next(program.batches(np.random.default_rng(0)))[1], dtype=torch.float32)
    loss = made.loss(made(*inputs), target)
    assert float(loss.detach()) == pytest.approx(float((theirs * target).mean().detach()), rel=1e-4, abs=1e-5)
    sigma = {name: float(np.sqrt(np.mean(t.detach().numpy() ** 2))) for name, t in made.named_parameters()}
    weights = [name for name, spec in program.specs.items() if spec.role in ("weight", "embedding")]
    assert all(0.9 < sigma[name] < 1.1 for name in weights)
    own = {name: t.detach() for name, t in module.named_parameters()}
    again = to_torch(program, found, parameters=own)
    assert torch.equal(made.get_parameter(weights[0]), again.get_parameter(weights[0]))


def test_the_state_dict_has_the_names_of_the_module():
    module, inputs = GPT
    program = from_torch(module, inputs)
    made = to_torch(program, plan(program))
    assert set(made.state_dict()) == {n for n, _ in module.named_parameters()}
    back = Gpt(words=20, width=16, heads=2, layers=1)
    missing, unexpected = back.load_state_dict(made.state_dict(), strict=False)
    assert not unexpected
    assert missing == ["head.weight"]  # tied
    again = to_torch(program, plan(program), parameters=module.state_dict())
    assert torch.equal(again.get_parameter("words.weight"), module.words.weight)


def test_optimizers_get_the_rates_of_the_scheme():
    module, inputs = GPT
    program = from_torch(module, inputs)
    made = to_torch(program, plan(program))
    rates = {group["name"]: group["lr"] for group in made.parameter_groups(0.5)}
    assert rates["words.weight"] == 0.5
    assert rates["norm.bias"] == 0.5 * 16**-0.5
    torch.optim.Adam(made.parameter_groups(0.5))


@pytest.mark.parametrize("precision", ["fp32", "fp8"])
def test_every_call_is_within_its_bound(tmp_path, precision):
    module, inputs = GPT
    program = from_torch(module.eval(), inputs, loss="cross_entropy")
    made = to_torch(program, plan(program), precision)
    target = torch.tensor(next(program.batches(np.random.default_rng(0)))[1])
    with Recorder(tmp_path / "trace", precision) as recorder:
        made.record(recorder)
        made.loss(made(*inputs), target).backward()
    verdict = judge(load_trace(tmp_path / "trace"))
    assert verdict.passed, verdict.first
    assert len(recorder.calls) > 30


def test_a_wrong_factor_is_found_at_its_call(tmp_path, monkeypatch):
    module, inputs = GPT
    program = from_torch(module.eval(), inputs)
    made = to_torch(program, plan(program))
    monkeypatch.setitem(FUNCTIONS, ops.Gelu, lambda op, x: 1.001 * torch.nn.functional.gelu(x, approximate="tanh"))
    with Recorder(tmp_path / "trace", "fp32") as recorder:
        made.record(recorder)
        made(*inputs).sum().backward()
    verdict = judge(load_trace(tmp_path / "trace"))
    assert not verdict.passed
    assert "gelu" in str(verdict.first)


def test_it_trains_in_torch():
    """A decoder in FP8 learns to repeat its input, from loss log 20 ≈ 3.0 to below 1."""
    module, inputs = GPT
    program = from_torch(module.eval(), inputs, loss="cross_entropy")
    made = to_torch(program, plan(program), "fp8")
    optimizer = torch.optim.Adam(made.parameter_groups(0.05))
    for _ in range(40):
        optimizer.zero_grad()
        loss = made.loss(made(*inputs), inputs[0])
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1


def test_batches_of_other_sizes_run():
    program = from_torch(ConvNet(), (normal(2, 3, 8, 8),))
    made = to_torch(program)
    assert made(normal(3, 3, 8, 8)).shape == (3, 5)


@pytest.mark.parametrize("precision", ["fp32,accumulate=float32", "mxfp8", "fp8;head.*=bf16"])
def test_policies_that_torch_cannot_simulate_are_refused(precision):
    program = from_torch(torch.nn.Linear(4, 3), (normal(2, 4),))
    with pytest.raises(ArgumentError, match="expected a policy without blocks, accumulators, rules and tr"):
        to_torch(program, precision=precision)


def test_an_op_without_a_function_is_named(monkeypatch):
    program = from_torch(Calls(lambda w, x: torch.relu(w * x), 3, 4), (normal(3, 4),))
    monkeypatch.delitem(FUNCTIONS, ops.Relu)
    with pytest.raises(ProgramError, match=r"Relu.* has no torch function, expected one of"):
        to_torch(program)(normal(3, 4))
