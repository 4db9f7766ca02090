"""``refscale bring``: a module from a file, and its report."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refscale.adapt import adapt  # noqa: E402
from refscale.bridge import from_torch, to_torch  # noqa: E402
from refscale.bridge.bring import errors_by_op, gradient_error  # noqa: E402
from refscale.bridge.sources import example_arrays, example_inputs, load_exported, load_module  # noqa: E402
from refscale.cli import main  # noqa: E402
from refscale.errors import ProgramError  # noqa: E402
from refscale.graph import plan  # noqa: E402
from tests.bridge.modules import Gpt, ids  # noqa: E402

FILE = """
import torch

def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))

def with_inputs():
    return make(), (torch.ones(2, 8),)

def wrong():
    return 3

def raising():
    raise OSError("no\\nweights")

def with_a_list():
    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.linspace(1, 2, 8))

        def forward(self, xs):
            return self.gain * (xs[0] + xs[1])

    return Sum(), ([torch.ones(2, 8), torch.ones(2, 8)],)

def with_dropout():
    class Dropped(torch.nn.Linear):
        def forward(self, x):
            return torch.nn.functional.dropout(super().forward(x), 0.5)

    return Dropped(8, 4), (torch.ones(2, 8),)

def refused():
    return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.CELU())
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_a_module_is_imported_planned_and_measured(file, tmp_path, capsys):
    assert main(["bring", f"{file}:make", "--input", "64,8", "--json", str(tmp_path / "found.json")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Sequential: 4 parameter tensors, 3 steps that depend on them\n  linear.default 2, gelu")
    assert "equal to torch in float64: 3 values, worst" in out
    assert "certificate: " in out
    assert "plan(geometric): 0 of " in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["parameters"]["0.weight"] == ["weight", [16, 8]]
    assert found["outside"]["plan(geometric)"][0] == 0 < found["outside"]["regular"][0]
    assert found["gradient_error"]["plan(geometric)"] < 0.2


def test_inputs_may_come_with_the_module_and_the_plan_is_printed(file, capsys):
    assert main(["bring", f"{file}:with_inputs", "--plan", "--loss", "cross_entropy"]) == 0
    assert "unconstrained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make"], "bring: no inputs, expected --input SHAPE for each, or a factory that returns them"),
        (["make", "--input", "2;8"], "input '2;8': expected a shape such as 2,8,32, or 2,12<100 for integers"),
        (["make", "--input", "2,0"], "input '2,0': expected a shape"),
        (["wrong", "--input", "2,8"], "returned int, expected torch.nn.Module"),
        (["raising", "--input", "2,8"], "raised OSError: no\\nweights"),
        (["missing", "--input", "2,8"], "has no missing"),
        (["with_inputs", "--module", "scaled.txt"], "--module 'scaled.txt': expected a Python file such as scaled.py"),
        (["with_inputs", "--module", "a-b.py"], "--module 'a-b.py': expected a Python file such as scaled.py"),
        (["with_inputs", "--module", "class.py"], "--module 'class.py': expected a Python file such as scaled.py"),
        (
            ["with_dropout", "--eval", "--module", "a.py"],
            "aten.dropout.default 'dropout' stays on in torch's eval mode",
        ),
        (["with_a_list", "--module", "scaled.py"], "--module 'scaled.py': an input is not a tensor, expected tensors"),
        (["with_inputs", "--html", "none/a.html"], "cannot write 'none/a.html': there is no directory 'none'"),
        (["with_inputs", "--module", "mine.py"], "cannot write 'mine.py': it is the source or another result"),
        (["with_inputs", "--json", "a.npz", "--module", "a.py"], "cannot write 'a.npz': it is the source or another"),
        (["make", "--input", "2,8", "--seed", "-1"], "--seed -1, expected 0 … 2^63 − 1"),
        (["make", "--input", "99999999999999,99999999"], "input '99999999999999,99999999': "),
        (["make", "--input", "2,8<99999999999999999999"], "input '2,8<99999999999999999999': "),
        (["refused", "--input", "2,8"], "1 step without a rule: aten.celu.default 'celu' in 1"),
    ],
)
def test_what_cannot_be_imported_is_one_line(file, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bring", f"{file}:{arguments[0]}", *arguments[1:]]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert [path.name for path in tmp_path.iterdir()] == [file.name] or "missing" in arguments


def test_the_file_of_an_importable_source_is_not_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "importable_source.py"
    path.write_text(FILE)
    assert main(["bring", "importable_source:with_inputs", "--module", path.name]) == 2
    assert "cannot write 'importable_source.py': it is the source or another result" in capsys.readouterr().err
    assert path.read_text() == FILE


def test_a_module_that_overwrites_its_input_is_rebuilt(tmp_path):
    source, path = tmp_path / "mine.py", tmp_path / "scaled.py"
    source.write_text(
        """
import torch

class Shifted(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x.add_(1.0))

def make():
    return Shifted(8, 4), (torch.ones(2, 8),)
"""
    )
    assert main(["bring", f"{source}:make", "--module", str(path)]) == 0
    assert made(path)(torch.ones(2, 8)).shape == (2, 4)


@pytest.fixture
def exported(tmp_path):
    """A decoder with tied embeddings as an exported program; and it."""
    module, inputs = Gpt(words=20, width=16, heads=2, layers=1), (ids(2, 6, below=20),)
    path = tmp_path / "gpt.pt2"
    torch.export.save(torch.export.export(module, inputs), path)
    return path, module


def made(path, precision="fp32"):
    """The module of a written file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make(precision)


@pytest.mark.parametrize("weights", ["fresh", "own"])
def test_the_module_is_written_and_rebuilt(file, tmp_path, weights):
    path = tmp_path / "scaled.py"
    assert (
        main(["bring", f"{file}:with_inputs", "--weights", weights, "--eval", "--seed", "3", "--module", str(path)])
        == 0
    )
    module, inputs = load_module(f"{file}:with_inputs")
    program = from_torch(module.eval(), inputs)
    expected = to_torch(program, plan(program) if weights == "fresh" else adapt(program), seed=3)
    found = made(path)
    assert not found.training
    assert expected.state_dict().keys() == found.state_dict().keys()
    assert all(torch.equal(x, found.state_dict()[name]) for name, x in expected.state_dict().items())
    assert torch.equal(expected(*inputs), found(*inputs))
    assert not torch.equal(expected(*inputs), made(path, "fp8")(*inputs))


def test_a_changed_factory_is_refused(file, tmp_path):
    path = tmp_path / "scaled.py"
    assert main(["bring", f"{file}:with_inputs", "--module", str(path)]) == 0
    file.write_text(file.read_text().replace("GELU()", "SiLU()"))
    with pytest.raises(ProgramError, match=r"rebuild\(.*: digest [0-9a-f]{64}, expected [0-9a-f]{64}: the source or"):
        made(path)
    file.write_text(file.read_text().replace("16", "17"))
    with pytest.raises(ProgramError, match=r"rebuild\(.*size mismatch"):
        made(path)


def test_the_values_of_a_rebuilt_module_are_those_of_the_file(file, tmp_path):
    """A factory that draws other values at each call gives the same adapted module."""
    path = tmp_path / "scaled.py"
    file.write_text(file.read_text().replace("torch.manual_seed(0)", "torch.seed()"))
    assert main(["bring", f"{file}:with_inputs", "--weights", "own", "--module", str(path)]) == 0
    one, other = (made(path).state_dict() for _ in range(2))
    assert all(torch.equal(x, other[name]) for name, x in one.items())


def test_an_exported_program_is_imported_with_its_inputs_and_ties(exported, tmp_path, capsys):
    path, module = exported
    assert main(["bring", str(path), "--loss", "cross_entropy", "--module", str(tmp_path / "scaled.py")]) == 0
    out = capsys.readouterr().out
    assert "GraphModule: 16 parameter tensors" in out
    assert "equal to torch in float64: 22 values" in out
    found, inputs = load_exported(path)
    program = from_torch(found, inputs)
    assert set(program.specs) == {name for name, _ in module.named_parameters()}
    assert program.specs["words.weight"].role == "embedding"
    assert torch.equal(inputs[0], ids(2, 6, below=20))
    assert made(tmp_path / "scaled.py")(*inputs).shape == (2, 6, 20)


def test_an_exported_program_that_cannot_be_loaded_is_one_line(exported, tmp_path, capsys):
    path, _ = exported
    wrong = tmp_path / "wrong.pt2"
    wrong.write_bytes(b"not a file of torch")
    for arguments, message in (
        ([str(path), "--eval"], "an exported program has the mode in which it was exported, expected no eval mode"),
        ([str(wrong)], "torch.export.load: "),
        ([str(tmp_path / "none.pt2")], "no such file"),
    ):
        assert main(["bring", *arguments]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1


def test_the_module_s_own_values_are_adapted(file, tmp_path, capsys):
    page = tmp_path / "page.html"
    arguments = ["bring", f"{file}:with_inputs", "--weights", "own", "--plan", "--html", str(page)]
    assert main([*arguments, "--json", str(tmp_path / "found.json")]) == 0
    out = capsys.readouterr().out
    assert "adapted: its own function, loss and gradients in float64 within " in out
    assert "certificate: 1" in out
    assert "under the adaptation, each a known multiple" in out
    assert "\n0 0.transpose" in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["adapted"] <= 1e-12
    assert set(found["outside"]) == {"regular", "adapted"}
    assert "Scales of Sequential" in page.read_text()


def test_the_casts_of_one_class_of_ops_are_a_part_of_the_error():
    program = from_torch(Gpt(), (ids(2, 12),))
    found = errors_by_op(program, "regular", "fp8")
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert set(found) == {"matmul", "attention_scores", "attention_mix", "stored"}
    whole = gradient_error(program, "regular", "fp8")
    # independent errors add by their squares; 1.5: they are not quite independent
    assert whole / 1.5 < np.sqrt(sum(e**2 for e in found.values())) < 1.5 * whole
    assert set(errors_by_op(program, "regular", "fp8-hidden")) == {"matmul", "stored"}
    assert set(errors_by_op(program, "regular", "fp16")) == {"stored"}
    assert errors_by_op(program, "regular", "fp32") == {}
    at_the_head = errors_by_op(program, "regular", "fp32;head.*=fp8")
    assert at_the_head["attention_mix"] == 0 < at_the_head["matmul"] < found["matmul"]


def test_what_the_module_does_not_determine_is_listed(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        """
import torch

class Tokens(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.layer = torch.nn.Parameter(torch.zeros(1, 1, 8)), torch.nn.Linear(8, 8)
        self.register_buffer("shift", torch.ones(8))

    def forward(self, x):
        h = torch.nn.functional.dropout(self.layer(x + self.token) + self.shift, 0.1)
        return h, h.mean()

def make():
    return Tokens()
"""
    )
    assert main(["bring", f"{path}:make", "--input", "2,3,8"]) == 0
    guesses = [line for line in capsys.readouterr().out.splitlines() if line.startswith("guess: ")]
    assert guesses == [
        "guess: role of 'token' (1, 1, 8): bias, by its shape and values",
        "guess: loss: mean of output·r for r ~ N(0, 1)",
        "guess: output: the first of 2 tensors, 'dropout'",
        "guess: 1 buffer or constants of the module: not trained",
        "guess: dropout (1 step): off in all figures",
    ]


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ProgramError, match=r"^input '99999999999999,99999999': "):
        example_arrays(["99999999999999,99999999"])
    with pytest.raises(ProgramError, match=r"^input '3<99999999999999999999': "):
        example_arrays(["3<99999999999999999999"])


def test_example_inputs_by_shape_and_kind():
    x, tokens = example_inputs(["2,3", "4<10"])
    assert x.shape == (2, 3)
    assert x.dtype == torch.float32
    assert tokens.shape == (4,)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < 10
    assert torch.equal(x, example_inputs(["2,3"])[0])
    assert not torch.equal(x, example_inputs(["2,3"], seed=1)[0])
    with pytest.raises(ProgramError, match="input '2<0'"):
        example_inputs(["2<0"])


def test_a_factory_is_called(file):
    module, inputs = load_module(f"{file}:with_inputs")
    assert isinstance(module, torch.nn.Module)
    assert inputs[0].shape == (2, 8)


def test_a_gradient_that_is_0_but_for_rounding_does_not_count():
    """b adds the same to all logits of a row; by its own RMS its error would be millions."""

    class Shifted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
            self.b = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return torch.softmax(x @ self.w + self.b, -1)

    program = from_torch(Shifted(), (torch.linspace(-2, 2, 15).reshape(5, 3),))
    assert 0.01 < gradient_error(program, "regular", "fp8") < 1


def test_a_loss_scale_divides_out():
    program = from_torch(Gpt(), (ids(2, 12),))
    assert gradient_error(program, "regular", "fp32", 2.0**10) == 0


def test_the_error_of_float32_is_0_and_grows_with_narrower_formats():
    program = from_torch(Gpt(), (ids(2, 12),))
    errors = [gradient_error(program, "regular", precision) for precision in ("fp32", "fp16", "fp8")]
    assert errors[0] == 0 < errors[1] < errors[2]
