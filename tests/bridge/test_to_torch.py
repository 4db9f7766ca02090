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
from tests.bridge.modules import Calls, ConvNet, Gpt, Recurrent, ids, normal  # noqa: E402

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
    assert set(made.state_dict()) == set(module.state_dict())
    assert made.get_parameter("head.weight") is made.get_parameter("words.weight")
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


def test_inputs_and_masks_are_stored_before_a_call_reads_them(tmp_path):
    """1/3 in the input and 1/0.9 in the mask of dropout are rounded to FP16, as a tape stores its leaves."""
    x = torch.full((2, 4), 1 / 3)
    program = from_torch(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.1)).train(), (x,))
    made = to_torch(program, plan(program), "fp16")
    with Recorder(tmp_path / "trace", "fp16") as recorder:
        made.record(recorder)
        made(x).sum().backward()
    trace = load_trace(tmp_path / "trace")
    verdict = judge(trace)
    assert verdict.passed, verdict.first


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


# --- Other shapes than the example's ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt", "convolutions"])
def test_batches_of_other_sizes_are_torch_s(name):
    """Also with a plan; a decoder reshapes by its batch, which its export holds as a number."""
    module, inputs = GPT if name == "gpt" else (ConvNet(), (normal(2, 3, 8, 8),))
    others = (ids(5, 6, below=20),) if name == "gpt" else (normal(3, 3, 8, 8),)
    module.train()
    program = from_torch(module, inputs)
    assert torch.allclose(to_torch(program)(*others), module(*others), rtol=0, atol=1e-5)
    planned = to_torch(program, plan(program))
    loss = planned.loss(planned(*others), torch.ones(planned(*others).shape))
    loss.backward()
    assert all(t.grad is not None for t in planned.parameters())
    assert len(program._exported) == 2
    module.eval()  # later: the program keeps its mode
    program.at((normal(4, 3, 8, 8),) if name == "convolutions" else (ids(4, 6, below=20),))
    module.train()


def test_a_plan_of_one_batch_gives_another_the_factors_of_its_own():
    module, inputs = GPT
    others = (ids(5, 6, below=20),)
    program, other = from_torch(module.eval(), inputs), from_torch(module, others)
    one, direct = to_torch(program, plan(program)), to_torch(other, plan(other))
    one.load_state_dict(direct.state_dict())
    g = torch.ones(5, 6, 20)
    for made in (one, direct):
        made.loss(made(*others), g).backward()
    for name, t in direct.named_parameters():
        assert torch.allclose(one.get_parameter(name).grad, t.grad, rtol=1e-4, atol=1e-5 * float(t.grad.abs().max())), (
            name
        )


def test_another_length_runs_where_the_calls_are_the_same():
    module, inputs = GPT
    module.eval()
    longer = (ids(2, 9, below=20),)
    assert torch.allclose(to_torch(from_torch(module, inputs))(*longer), module(*longer), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scheme", ["regular", "plan", "adapted"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_batch_with_padding_follows_one_without(scheme, first):
    """And the other way: the calls are those of the example, and the row of padding has no gradient."""
    module = torch.nn.Sequential(torch.nn.Embedding(9, 4, padding_idx=0), torch.nn.Linear(4, 4), torch.nn.Tanh())
    torch.nn.init.ones_(module[0].weight[0].detach())
    batches = [torch.tensor([[1, 2, 3]]), torch.tensor([[1, 0, 3]])]
    program = from_torch(module, (batches[first],))
    chosen = plan(program) if scheme == "plan" else adapt(program) if scheme == "adapted" else "regular"
    made = to_torch(program, chosen)
    for ids_ in batches:
        made.zero_grad()
        y = made(ids_)
        y.square().sum().backward()
        row = made.get_parameter("0.weight").grad.abs().sum(1) > 0
        assert row.tolist() == [i in ids_.tolist()[0] and i > 0 for i in range(9)]
        if scheme == "regular":
            assert torch.allclose(y, module(ids_), rtol=0, atol=1e-6)
        if scheme == "adapted":
            ratio = y / module(ids_)
            assert torch.allclose(ratio, ratio[0, 0, 0].expand(ratio.shape), rtol=1e-4, atol=0)


def test_a_factor_that_depends_on_the_data_is_that_of_each_batch():
    """The mean of the inputs, an attribute of the call: of the second batch, too; under a plan it is refused."""

    class Scaled(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) * x.abs().mean()

    module, batches = Scaled(4, 3), (normal(2, 4), 3 * normal(2, 4, seed=2))
    program = from_torch(module, batches[:1])
    made, planned = to_torch(program), to_torch(program, plan(program))
    for x in batches:
        assert torch.allclose(made(x), module(x), rtol=0, atol=1e-6)
    planned(batches[0])
    with pytest.raises(ProgramError, match=r"plan: call 3 is ScalarMultiply\(factor=.* the plan has ScalarMultiply"):
        planned(batches[1])


def test_shapes_that_cannot_be_computed_are_named():
    module, inputs = GPT
    program = from_torch(module.eval(), inputs)
    made = to_torch(program, plan(program))
    convolutions = to_torch(from_torch(ConvNet(), (normal(2, 3, 8, 8),)))
    named = r"ConvNet: inputs \(2, 4, 8, 8\), imported with \(2, 3, 8, 8\): .*torch.export raised"
    with pytest.raises(ProgramError, match=named):
        convolutions(normal(2, 4, 8, 8))
    with pytest.raises(ProgramError, match=r"Gpt: inputs \(2, 6\), \(2, 6\), expected \(2, 6\)$"):
        made(*inputs, *inputs)
    cells = from_torch(Recurrent(torch.nn.LSTM), (normal(3, 2, 5),))
    with pytest.raises(ProgramError, match=r"Recurrent: inputs \(4, 2, 5\), imported with \(3, 2, 5\): .*plan: call"):
        to_torch(cells, plan(cells))(normal(4, 2, 5))


def test_dropout_is_on_in_train_mode_only_under_a_plan_and_a_precision():
    torch.manual_seed(1)  # with one seed in ten a sum is exactly 0 in float16, without any dropout
    module = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Dropout(0.5), torch.nn.Linear(64, 64)).train()
    torch.nn.init.eye_(module[2].weight)
    torch.nn.init.zeros_(module[2].bias)
    program = from_torch(module, (normal(8, 4),))
    for scheme in ("regular", plan(program)):
        made = to_torch(program, scheme, "fp16", parameters=module.state_dict())
        on, off = made(normal(8, 4)), made.eval()(normal(8, 4))
        dropped = on == 0
        assert 0.4 < dropped.float().mean() < 0.6
        assert not (off == 0).any()
        assert torch.allclose(on[~dropped], 2 * off[~dropped], rtol=2**-9)
    losses = set()
    for rng in (None, np.random.default_rng(1)):
        tape = Tape(plan(program))
        p = leaves(tape, program, program.initial_parameters(tape.scheme, np.random.default_rng(0)))
        losses.add(float(program.loss(p, next(program.batches(np.random.default_rng(0))), rng).value))
    assert len(losses) == 2


def test_dropout_of_everything_is_refused():
    with pytest.raises(ProgramError, match=r"dropout with p=1.0: expected 0 ≤ p < 1"):
        from_torch(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Dropout(1.0)).train(), (normal(2, 4),))


# --- Running statistics -----------------------------------------------------------------------------------------------


def batches(count=3):
    return [normal(4 + i, 3, 8, 8, seed=i) * 2 + 1 for i in range(count)]


@pytest.mark.parametrize("scheme", ["regular", "adapted"])
def test_running_statistics_are_those_of_torch(scheme):
    """After training on three batches: buffers, and outputs in eval mode; in the units of the original."""
    torch.manual_seed(0)
    module = ConvNet().train()
    program = from_torch(module, (batches(1)[0],), loss="cross_entropy")
    made = to_torch(program, adapt(program) if scheme == "adapted" else scheme)
    for x in batches():
        module(x)
        made(x)
    theirs, ours = module.state_dict(), made.state_dict()
    assert ours.keys() == theirs.keys()
    assert int(ours["norm.num_batches_tracked"]) == 3
    for name in ("norm.running_mean", "norm.running_var"):
        assert torch.allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6), name
    assert not torch.allclose(theirs["norm.running_var"], torch.ones(8), atol=0.01)
    x = normal(5, 3, 8, 8, seed=9)
    before = {name: v.clone() for name, v in made.state_dict().items()}
    assert torch.allclose(made.eval()(x), module.eval()(x), rtol=0, atol=1e-5)
    assert all(torch.equal(v, before[name]) for name, v in made.state_dict().items())  # eval mode writes nothing


@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_of_the_input_is_torch_s(affine):
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(6, affine=affine), torch.nn.Linear(6, 3))
    x = normal(8, 6) + 3
    made = to_torch(from_torch(module, (x,)), parameters=module.state_dict())
    assert torch.allclose(made(x), module(x), rtol=0, atol=1e-5)
    assert torch.allclose(made.get_buffer("0.running_mean"), module[0].running_mean, rtol=0, atol=1e-6)
    assert torch.allclose(made.eval()(x), module.eval()(x), rtol=0, atol=1e-5)
    assert torch.allclose(made.get_buffer("0.running_mean"), module[0].running_mean, rtol=0, atol=1e-6)


def test_one_update_of_running_statistics_by_hand():
    """Of 4 rows 0, 0, 4, 4: mean 2, unbiased variance 16/3; momentum 0.1 from 0 and 1."""
    module = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1)).train()
    torch.nn.init.ones_(module[0].weight)
    x = torch.tensor([[0.0], [0.0], [4.0], [4.0]])
    made = to_torch(from_torch(module, (x,)))
    made(x)
    assert float(made.state_dict()["1.running_mean"]) == pytest.approx(0.2)
    assert float(made.state_dict()["1.running_var"]) == pytest.approx(0.9 + 1.6 / 3)
    assert float(module[1].running_mean) == 0  # the module's own stay


def test_state_dicts_go_both_ways_with_buffers_and_ties():
    for module, inputs in (GPT, (ConvNet(), (normal(2, 3, 8, 8),))):
        program = from_torch(module.train(), inputs)
        made = to_torch(program)
        made(*inputs)
        assert sorted(made.state_dict()) == sorted(module.state_dict())
        module.load_state_dict(made.state_dict())
        made.load_state_dict(module.state_dict())
        again = to_torch(program, parameters=module.state_dict())
        assert all(torch.equal(x, again.state_dict()[name]) for name, x in module.state_dict().items())
    adapted = to_torch(program, adapt(program), parameters=module.state_dict())
    assert torch.equal(adapted.get_buffer("norm.running_var"), module.norm.running_var)


def test_the_eval_form_uses_running_statistics_that_are_loaded_later():
    module = ConvNet()
    for x in batches():
        module(x)
    program = from_torch(ConvNet().eval(), (batches(1)[0],))
    made = to_torch(program)
    made.load_state_dict(module.state_dict())
    x = batches(1)[0]
    assert torch.allclose(made(x), module.eval()(x), rtol=0, atol=1e-5)


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


# --- Buffers that the module writes to --------------------------------------------------------------------------------


class Averaging(torch.nn.Module):
    """A layer, and an average of its inputs that ``update`` writes to the buffer."""

    def __init__(self, update):
        super().__init__()
        self.layer, self.update = torch.nn.Linear(4, 4), update
        self.register_buffer("average", torch.ones(4))

    def forward(self, x):
        self.update(self, x.mean(0))
        return self.layer(x) * self.average


def in_two_steps(module, mean):
    module.average.mul_(0.9)
    module.average.add_(mean)


def in_a_chain(module, mean):
    module.average.mul_(0.9).add_(mean)


def by_assignment(module, mean):
    module.average = 0.9 * module.average + mean


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("update", [in_two_steps, in_a_chain, by_assignment])
def test_a_buffer_keeps_all_that_the_module_writes_to_it(update, train):
    """In the mode of the import, whichever it is: outputs and buffers of three calls."""
    module = Averaging(update).train(train)
    made = to_torch(from_torch(module, (normal(3, 4),))).train(train)
    for seed in range(3):
        x = normal(3, 4, seed=seed)
        assert torch.allclose(made(x), module(x), rtol=0, atol=1e-6)
        assert torch.allclose(made.average, module.average, rtol=0, atol=1e-6)


def test_a_write_to_a_view_of_a_buffer_is_kept_by_the_module_alone():
    """The program starts each evaluation from the buffer of the import."""

    class Viewed(Averaging):
        def forward(self, x):
            view = self.average.view(4)
            view.add_(x.mean(0))
            return self.layer(x) * view

    module, x = Viewed(None), normal(3, 4)
    program = from_torch(module, (x,))
    made = to_torch(program)
    tape = Tape("regular")
    p = leaves(tape, program, program.initial_parameters(tape.scheme, np.random.default_rng(0)))
    first = program.output(p, (x,)).value
    assert np.array_equal(program.output(p, (x,)).value, first)
    for _ in range(2):
        assert torch.allclose(made(x), module(x), rtol=0, atol=1e-6)


def test_a_buffer_that_depends_on_parameters_is_refused():
    class Running(Averaging):
        def forward(self, x):
            y = self.layer(x)
            self.average.add_(y.mean(0))
            return y

    with pytest.raises(ProgramError, match="the module writes to its buffer 'average' a value that depends on"):
        from_torch(Running(None), (normal(3, 4),))


def test_inputs_that_the_module_overwrites_stay_as_they_were():
    x = normal(3, 4)
    program = from_torch(Calls(lambda w, x: w * x.add_(1.0), 3, 4), (x,))
    assert torch.equal(x, normal(3, 4))
    made = to_torch(program)
    assert torch.equal(made(x), made(x))
    assert torch.equal(x, normal(3, 4))


def test_dropout_of_an_input_s_channels_is_on_in_train_mode_only():
    class Dropped(torch.nn.Linear):
        def forward(self, x):
            return super().forward(torch.nn.functional.dropout1d(x, 0.5, self.training))

    module, x = Dropped(4, 3), torch.ones(2, 64, 4)
    made = to_torch(from_torch(module, (x,)))
    assert not torch.allclose(made(x), made(x))
    assert torch.allclose(made.eval()(x), module.eval()(x), rtol=0, atol=1e-6)


def test_dropout_within_attention_or_a_recurrent_layer_is_seen_too():
    class Attention(torch.nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return torch.nn.functional.scaled_dot_product_attention(y, y, y, dropout_p=0.1)

    assert not to_torch(from_torch(Recurrent(torch.nn.LSTM, dropout=0.5), (normal(3, 2, 5),))).eval().training
    made = to_torch(from_torch(Attention(4, 4), (normal(2, 3, 4),)))
    with pytest.raises(ProgramError, match="'scaled_dot_product_attention' stays on in torch's eval mode"):
        made.eval()


def test_dropout_that_torch_keeps_on_in_eval_mode_is_refused_there():
    def dropped(training):
        class Dropped(torch.nn.Linear):
            def forward(self, x):
                return torch.nn.functional.dropout(super().forward(x), 0.5, training or self.training)

        return to_torch(from_torch(Dropped(4, 3), (normal(2, 4),)))

    assert not dropped(False).eval().training
    with pytest.raises(ProgramError, match=r"Dropped: aten.dropout.default 'dropout' stays on in torch's eval mode"):
        dropped(True).eval()


class Moded(torch.nn.Module):
    """A layer, a batch norm and a dropout, before a function of the output and of the mode."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.norm, self.dropout = torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5)
        self.function = function
        self.register_buffer("average", torch.ones(4))

    def forward(self, x):
        return self.function(self, self.dropout(self.norm(self.layer(x))))


def halved(module, y):
    return y * 0.5 if module.training else y


def with_a_constant(module, y):
    return y * torch.tensor([0.5 if module.training else 1.0])


def through_a_view(module, y):
    view = module.average.view(2, 2)
    if module.training:
        module.average.mul_(0.5)
    return y * view.reshape(4)


def with_the_statistics_of_the_batch(module, y):
    mean, variance = module.average, module.average.clone()
    return torch.nn.functional.batch_norm(y, mean, variance, training=True)


def with_noise(module, y):
    return y + 0.1 * torch.ones(4).bernoulli() if module.training else y


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (halved, r"aten.mul.Tensor 'mul' is another in eval mode; import the module in eval mode"),
        (with_a_constant, r"aten.lift_fresh_copy.default '.*' of eval mode is not among the imported steps"),
        (through_a_view, r"aten.reshape.default 'reshape' of eval mode is not among the imported steps"),
        (with_the_statistics_of_the_batch, r"aten.batch_norm.default 'batch_norm_1' of eval mode is not among"),
        (with_noise, r"aten.* is another in eval mode"),
    ],
)
def test_eval_mode_with_other_steps_is_refused_before_it_computes(function, message):
    """Imported in eval mode, the same module is torch's, if its batch norms use their running statistics there."""
    module, x = Moded(function), normal(3, 4)
    made = to_torch(from_torch(module.train(), (x,)))
    assert made(x).shape == (3, 4)
    for _ in range(2):
        with pytest.raises(ProgramError, match="Moded: " + message):
            made.eval()
    assert made.training
    again = to_torch(from_torch(module.eval(), (x,)))
    if function is with_the_statistics_of_the_batch:
        with pytest.raises(ProgramError, match=message):
            again.eval()
    else:
        assert torch.allclose(again.eval()(x), module(x), rtol=0, atol=1e-6)


def test_eval_mode_of_an_exported_program_is_refused_if_it_was_exported_in_train_mode():
    module, x = Moded(lambda module, y: y), normal(3, 4)
    for train, message in ((True, "aten.dropout.default 'dropout' in dropout stays on"), (False, None)):
        made = to_torch(from_torch(torch.export.export(module.train(train), (x,)).module(), (x,)))
        if message is None:
            assert torch.allclose(made.eval()(x), module(x), rtol=0, atol=1e-6)
        else:
            with pytest.raises(ProgramError, match=message):
                made.eval()


def test_eval_mode_that_writes_to_a_buffer_is_refused_after_an_import_in_train_mode():
    made = to_torch(from_torch(Averaging(in_two_steps).train(), (normal(3, 4),)))
    with pytest.raises(ProgramError, match="Averaging: eval mode writes to the buffer 'average', expected writes in"):
        made.eval()


def test_eval_mode_is_checked_if_only_a_submodule_was_imported_in_train_mode():
    module, x = torch.nn.Sequential(Moded(halved)).eval(), normal(3, 4)
    module[0].train()
    made = to_torch(from_torch(module, (x,)))
    assert made.program.original.training
    with pytest.raises(ProgramError, match="'mul' in 0 is another in eval mode"):
        made.eval()


def test_eval_mode_that_torch_cannot_export_is_refused():
    def by_value(module, y):
        return y if module.training or float(module.average.sum()) > 0 else -y

    made = to_torch(from_torch(Moded(by_value).train(), (normal(3, 4),)))
    with pytest.raises(ProgramError, match=r"Moded: eval mode: from_torch\(Moded\): torch.export raised"):
        made.eval()


def test_eval_mode_of_layers_that_only_drop_in_train_mode_is_torch_s():
    """Dropout as a layer, in attention with and without its weights, in a recurrent layer; a frozen batch norm."""

    class Layers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = Moded(lambda module, y: y)
            self.attention = torch.nn.MultiheadAttention(4, 2, dropout=0.1, batch_first=True)
            self.encoder = torch.nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
            self.cells = torch.nn.LSTM(4, 4, 2, dropout=0.3)

        def forward(self, x):
            y = self.first(x)[None]
            return self.cells(self.encoder(self.attention(y, y, y)[0]))[0]

    module, x = Layers().train(), normal(6, 4)
    module.first.norm.eval()
    made = to_torch(from_torch(module, (x,)))
    assert torch.allclose(made.eval()(x), module.eval()(x), rtol=0, atol=1e-5)


# --- torch.compile ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # of torch about its own functions
def test_linear_layers_without_casts_are_one_graph_of_torch_compile():
    """After one ordinary call, which finds the factors; the same bits. Larger modules become several graphs."""
    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
    x = normal(4, 8)
    program = from_torch(module, (x,))
    made = to_torch(program, plan(program))
    expected = made(x)
    expected.square().mean().backward()
    gradients = {name: t.grad.clone() for name, t in made.named_parameters()}
    made.zero_grad()
    y = torch.compile(made, backend="eager", fullgraph=True)(x)
    y.square().mean().backward()
    assert torch.equal(y, expected)
    assert all(torch.equal(made.get_parameter(name).grad, g) for name, g in gradients.items())
