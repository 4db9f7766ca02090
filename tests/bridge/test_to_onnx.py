"""A program goes out as an ONNX model: the same values call by call, factors as nodes."""

from __future__ import annotations

import json

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from refscale import ops  # noqa: E402
from refscale.adapt import adapt  # noqa: E402
from refscale.bridge import from_onnx, to_onnx  # noqa: E402
from refscale.bridge.onnx import nodes, writing  # noqa: E402
from refscale.cli import main  # noqa: E402
from refscale.engine import Tape  # noqa: E402
from refscale.errors import ProgramError  # noqa: E402
from refscale.graph import plan  # noqa: E402
from tests.bridge.graphs import COMPOSED, NODES, ONE, ONES, ROWS, W, X, i, model, normal  # noqa: E402

ALL = {**NODES, **{name: case[:2] for name, case in COMPOSED.items()}}


def run(path, *inputs):
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip([x.name for x in session.get_inputs()], inputs, strict=True)))[0]


@pytest.mark.parametrize("name", ALL)
def test_every_node_comes_back(name, tmp_path):
    proto, inputs = ALL[name]
    path = tmp_path / "out.onnx"
    parity = to_onnx(from_onnx(proto, inputs), "regular", path)
    assert parity.value.relative <= 64 * 2**-24
    assert parity.steps >= 1
    original = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (theirs,) = original.run(["y"], dict(zip([x.name for x in original.get_inputs()], inputs, strict=True)))
    assert run(path, *inputs) == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    assert not [n for n in onnx.load(path).graph.node if n.name.startswith("alpha_")]


def dense():
    constants = {"w": normal(4, 16, seed=1), "v": normal(16, 2, seed=2)}
    x = normal(3, 4)
    proto = model([("MatMul", "x w", "h", {}), ("Relu", "h", "r", {}), ("MatMul", "r v", "y", {})], {"x": x}, constants)
    return from_onnx(proto, [x]), x


def test_factors_are_nodes_by_hand(tmp_path):
    """α of a product of 4 terms is ½; of 16 terms, ¼; of ReLU by its spread, (½ − 1/(2π))^-½ = 1.7126."""
    program, x = dense()
    path = tmp_path / "out.onnx"
    values = {"w": np.ones((4, 16), np.float32), "v": np.full((16, 2), 2.0, np.float32)}
    to_onnx(program, "unit", path, parameters=values)
    graph = onnx.load(path).graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    factors = {n.name: float(constants[n.input[1]]) for n in graph.node if n.name.startswith("alpha_")}
    assert factors["alpha_0"] == 0.5
    assert factors["alpha_1"] == pytest.approx((0.5 - 0.5 / np.pi) ** -0.5, rel=1e-6)
    assert factors["alpha_2"] == 0.25
    assert list(factors) == ["alpha_0", "alpha_1", "alpha_2"]
    h = np.maximum(0.5 * x.sum(1, keepdims=True), 0) * factors["alpha_1"]
    assert run(path, x) == pytest.approx(np.repeat(0.25 * 32 * h, 2, 1), rel=1e-5)
    assert {t for t in constants if t in program.specs} == {"w", "v"}


@pytest.mark.parametrize("name", ["attention", "layer norm of channels"])
def test_plans_and_adaptations_go_out(name, tmp_path):
    proto, inputs, _ = COMPOSED[name]
    program = from_onnx(proto, inputs)
    planned, path = plan(program), tmp_path / "out.onnx"
    assert to_onnx(program, planned, path).value.relative <= 1e-5
    tape = Tape(planned, dtype=np.float64)
    start = program.initial_parameters(planned, np.random.default_rng(0))
    p = {n: tape.tensor(x.astype(np.float64), n) for n, x in start.items()}
    assert run(path, *inputs) == pytest.approx(program.output(p, inputs).value, rel=1e-3, abs=1e-5)
    assert to_onnx(program, adapt(program), path).value.relative <= 1e-5
    assert [n for n in onnx.load(path).graph.node if n.name.startswith("alpha_")]


def test_inputs_stay_inputs(tmp_path):
    """Nodes between an input and the first parameter are copied; other inputs give other outputs."""
    nodes_ = [("Transpose", "x", "t", {"perm": [1, 0]}), ("Relu", "t", "r", {}), ("MatMul", "w r", "y", {})]
    proto = model(nodes_, {"x": ROWS}, {"w": W})
    path = tmp_path / "out.onnx"
    to_onnx(from_onnx(proto, [ROWS]), "regular", path)
    assert run(path, -ROWS) == pytest.approx(W @ np.maximum(-ROWS.T, 0), rel=1e-4, abs=1e-5)
    assert not np.allclose(run(path, -ROWS), run(path, ROWS))


def test_parts_of_a_split_input_stay_inputs(tmp_path):
    proto = model(
        [("Split", "x", "p q", {"axis": 0, "num_outputs": 2}), ("MatMul", "q w", "y", {})], {"x": ROWS}, {"w": W}
    )
    path = tmp_path / "out.onnx"
    to_onnx(from_onnx(proto, [ROWS]), "regular", path)
    assert run(path, 2 * ROWS) == pytest.approx(2 * ROWS[2:] @ W, rel=1e-4, abs=1e-5)


def test_names_of_the_program_are_kept(tmp_path):
    constants = {"alpha_0": W, "constant_0": W[0], "output": W[1]}
    graph = [("Relu", "mul_3", "matmul_0", {}), ("MatMul", "matmul_0 alpha_0", "h", {})]
    graph += [("Mul", "h constant_0", "k", {}), ("Add", "k output", "y", {})]
    program = from_onnx(model(graph, {"mul_3": ROWS}, constants), [ROWS])
    path = tmp_path / "out.onnx"
    to_onnx(program, plan(program), path)
    written = onnx.load(path).graph
    assert {"alpha_0", "constant_0", "output"} <= {t.name for t in written.initializer}
    assert [x.name for x in written.output] == ["output_"]
    again = from_onnx(path, [ROWS])
    assert to_onnx(again, "regular", path).value.relative <= 1e-5


def test_an_op_without_nodes_is_refused(tmp_path, monkeypatch):
    monkeypatch.delitem(nodes.NODES, ops.Relu)
    program, _ = dense()
    with pytest.raises(ProgramError, match=r"to_onnx: Relu\(\) has no nodes, expected one of "):
        to_onnx(program, "regular", tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


WRONG = {
    "another function": (ops.Relu, lambda g, op, x: g.node("Abs", x)),
    "a factor": (ops.Relu, lambda g, op, x: g.node("Mul", g.node("Relu", x), g.constant(1.0001))),
    "another product": (ops.Matmul, lambda g, op, x, w: g.node("MatMul", x, g.node("Neg", w))),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_nodes_are_refused(name, tmp_path, monkeypatch):
    kind, made = WRONG[name]
    monkeypatch.setitem(nodes.NODES, kind, made)
    program, _ = dense()
    with pytest.raises(ProgramError, match=r"to_onnx: .* differs from onnxruntime .* of its RMS, expected at most"):
        to_onnx(program, "regular", tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_a_call_that_is_not_a_number_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(nodes.NODES, ops.Relu, lambda g, op, x: g.node("Sqrt", g.node("Neg", g.node("Exp", x))))
    program, _ = dense()
    with pytest.raises(ProgramError, match=r"to_onnx: sqrt_3 differs from onnxruntime .* by inf of its RMS"):
        to_onnx(program, "regular", tmp_path / "out.onnx")


def test_a_forgotten_factor_is_refused(tmp_path, monkeypatch):
    plain = nodes.GraphWriter.node

    def node(self, kind, *inputs, output="", **settings):
        return inputs[0] if output == "alpha_0" else plain(self, kind, *inputs, output=output, **settings)

    monkeypatch.setattr(nodes.GraphWriter, "node", node)
    program, _ = dense()
    with pytest.raises(ProgramError, match=r"to_onnx: .* differs from onnxruntime"):
        to_onnx(program, "unit", tmp_path / "out.onnx")


def test_an_input_that_became_a_constant_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_constant", lambda run, step, written, constants: constants[step.name])
    proto = model([("Relu", "x", "r", {}), ("MatMul", "r w", "y", {})], {"x": ROWS}, {"w": W})
    with pytest.raises(ProgramError, match=r"to_onnx: output on other inputs differs from onnxruntime"):
        to_onnx(from_onnx(proto, [ROWS]), "regular", tmp_path / "out.onnx")


def test_without_the_runtime_nothing_is_compared(tmp_path, monkeypatch):
    program, x = dense()
    monkeypatch.setattr(writing, "runtime_name", lambda: "")
    assert to_onnx(program, "regular", tmp_path / "out.onnx") is None
    assert run(tmp_path / "out.onnx", x).shape == (3, 2)


def test_modules_of_torch_go_out_too(tmp_path):
    torch = pytest.importorskip("torch")
    from refscale.bridge import from_torch
    from tests.bridge.modules import Calls, Gpt, ids

    tokens = ids(2, 12)
    program = from_torch(Gpt(), (tokens,))
    path = tmp_path / "out.onnx"
    assert to_onnx(program, plan(program), path).value.relative <= 1e-5
    assert {t.name for t in onnx.load(path).graph.initializer} >= set(program.specs)
    for f in (lambda w, x: torch.where(x > 0, w, x), lambda w, x: w / (1 + x * x)):
        with pytest.raises(ProgramError, match=r"aten.(where.self 'where': to_onnx: aten.gt|div.Tensor 'div')"):
            to_onnx(from_torch(Calls(f, 3, 4), (torch.ones(3, 4),)), "regular", path)


def test_sums_of_integers_stay_integers(tmp_path):
    torch = pytest.importorskip("torch")
    from refscale.bridge import from_torch
    from tests.bridge.modules import Calls

    def next_rows(w, x):
        return torch.nn.functional.embedding(x + 1, w)

    program = from_torch(Calls(next_rows, 7, 4), (torch.tensor([[0, 3], [5, 1]]),))
    assert to_onnx(program, "regular", tmp_path / "out.onnx").steps == 1


# --- The command ------------------------------------------------------------------------------------------------------


def test_a_model_is_brought_and_written(tmp_path, capsys):
    proto, _, _ = COMPOSED["gelu"]
    source, target = tmp_path / "mine.onnx", tmp_path / "out.onnx"
    onnx.save(proto, source)
    arguments = ["bring", str(source), "--input", "2,3,8,8", "--onnx", str(target), "--json", str(tmp_path / "f.json")]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "equal to onnxruntime 1." in out
    assert "recognized from several steps: gelu 1" in out
    assert "certificate: " in out
    assert "gradients not compared\n" in out
    assert f"{target}: equal to onnxruntime" in out
    assert onnx.load(target).producer_name == "refscale"
    assert json.loads((tmp_path / "f.json").read_text())["parity"][0]["gradient"] is None


def test_a_model_with_guesses_gets_no_plan(tmp_path, capsys):
    constants = {"w": W, "t": W}
    source = tmp_path / "mine.onnx"
    onnx.save(model([("MatMul", "x w", "h", {}), ("MatMul", "h t", "y", {})], {"x": ROWS}, constants), source)
    assert main(["bring", str(source), "--input", "4,6"]) == 0
    out = capsys.readouterr().out
    assert "no plan for training: the file leaves parameters undetermined" in out
    assert "guess: w, t are equal, and may be one parameter" in out
    assert "plan(" not in out
    assert "adapted: " in out


@pytest.mark.parametrize(
    ("nodes_", "arguments", "message"),
    [
        ([*ONE, ("CumSum", "h n", "y", {})], ["--input", "2,3,8,8"], "1 step without a rule: onnx.CumSum 'y'"),
        ([*ONE, ("Relu", "h", "y", {})], [], "from_onnx(mine): 0 inputs, expected ['x']"),
        ([*ONE, ("Relu", "h", "y", {})], ["--module", "out.py"], "--module of "),
    ],
)
def test_what_is_refused_is_one_line(nodes_, arguments, message, tmp_path, capsys):
    source = tmp_path / "mine.onnx"
    onnx.save(model(nodes_, {"x": X}, {**ONES, "n": i(0)[0]}), source)
    assert main(["bring", str(source), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_the_command_says_what_it_needs(monkeypatch, capsys):
    from refscale.cli import bring

    monkeypatch.setattr(bring, "find_spec", lambda name: None)
    assert main(["bring", "mine.onnx"]) == 2
    assert "bring: it needs onnx, pip install onnx" in capsys.readouterr().err
    assert main(["bring", "mine.py:make"]) == 2
    assert "bring: it needs PyTorch, pip install torch" in capsys.readouterr().err
