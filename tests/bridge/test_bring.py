"""``refscale bring``: a module from a file, and its report."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from refscale.bridge.bring import example_inputs, gradient_error, load_module  # noqa: E402
from refscale.bridge.importing import from_torch  # noqa: E402
from refscale.cli import main  # noqa: E402
from refscale.errors import ProgramError  # noqa: E402
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
    raise OSError("no weights")

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
        (["raising", "--input", "2,8"], "raised OSError: no weights"),
        (["missing", "--input", "2,8"], "has no missing"),
        (["refused", "--input", "2,8"], "1 step without a rule: aten.celu.default 'celu' in 1"),
    ],
)
def test_what_cannot_be_imported_is_one_line(file, arguments, message, capsys):
    assert main(["bring", f"{file}:{arguments[0]}", *arguments[1:]]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


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
