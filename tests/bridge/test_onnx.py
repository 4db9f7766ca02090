"""ONNX models come in value by value, or are refused by name."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from refscale import ops  # noqa: E402
from refscale.adapt import adapt  # noqa: E402
from refscale.bridge import from_onnx  # noqa: E402
from refscale.bridge.onnx import importing  # noqa: E402
from refscale.bridge.onnx.elementwise import ELEMENTWISE, ComposedNodes  # noqa: E402
from refscale.bridge.rules import RULES  # noqa: E402
from refscale.bridge.steps import AtenCall, Ref  # noqa: E402
from refscale.engine import Tape, ancestors  # noqa: E402
from refscale.errors import ProgramError  # noqa: E402
from refscale.graph import gradient_factors, plan  # noqa: E402
from refscale.programs import first_loss  # noqa: E402
from tests.bridge.graphs import (  # noqa: E402
    AFFINE,
    COMPOSED,
    ERF,
    NODES,
    NORM,
    ONE,
    ONES,
    ROWS,
    W,
    X,
    i,
    model,
    normal,
    numbers,
)


def targets(program):
    return [step.target for step in program.exported.steps if step.name in program.exported.depends]


def output(program, dtype=np.float64):
    tape = Tape("regular", dtype=dtype)
    p = {n: tape.tensor(x.astype(dtype), n) for n, x in program._values.items()}
    return program.output(p, program._inputs).value


@pytest.mark.parametrize("name", NODES)
def test_a_node_is_onnxruntime_s(name):
    proto, inputs = NODES[name]
    (parity,) = from_onnx(proto, inputs).parity
    assert parity.source.startswith("onnxruntime 1.")
    assert parity.gradient is None
    assert parity.trained >= 1
    assert parity.value.relative <= 64 * 2**-24  # of the runtime, whose sums have at most 64 terms


@pytest.mark.parametrize("name", NODES)
def test_the_reference_recognizes_the_same_without_the_runtime(name, monkeypatch):
    proto, inputs = NODES[name]
    there = output(from_onnx(proto, inputs))
    monkeypatch.setattr(importing, "runtime_name", lambda: "")
    program = from_onnx(proto, inputs)
    assert program.parity == ()
    assert np.array_equal(output(program), there)


def test_a_group_norm_is_onnxruntime_s():
    """Not among the nodes above: ``onnx.reference`` cannot compute it."""
    x, constants = normal(2, 4, 3, 3), {"g": normal(4, seed=1), "b": normal(4, seed=2)}
    nodes = [("GroupNormalization", "x g b", "y", {"num_groups": 2, "epsilon": 1e-2})]
    assert from_onnx(model(nodes, {"x": x}, constants, opset=21), [x]).parity[0].value.relative <= 64 * 2**-24


def test_a_dense_layer_by_hand():
    """(1, 2)·((1, 0), (3, −1)) + (10, 20) = (7 + 10, −2 + 20)."""
    constants = {"w": np.array([[1, 0], [3, -1]], np.float32), "b": np.array([10, 20], np.float32)}
    x = np.array([[1, 2]], np.float32)
    proto = model([("MatMul", "x w", "h", {}), ("Add", "h b", "y", {})], {"x": x}, constants)
    program = from_onnx(proto, {"x": x})
    assert output(program).tolist() == [[17, 18]]
    assert {n: (s.role, s.shape) for n, s in program.specs.items()} == {"w": ("weight", (2, 2)), "b": ("bias", (2,))}
    assert program.guesses == ()
    assert program.name == "graph"


def test_a_file_is_read_by_its_path(tmp_path):
    proto, inputs = NODES["Gemm"]
    path = tmp_path / "dense.onnx"
    onnx.save(proto, path)
    program = from_onnx(path, inputs)
    assert program.name == "dense"
    assert np.array_equal(output(program), output(from_onnx(proto, inputs)))
    path.write_bytes(b"no model")
    with pytest.raises(ProgramError, match=r"dense.onnx'\): onnx.load raised DecodeError"):
        from_onnx(str(path), inputs)


# --- Composed functions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPOSED)
def test_composed_functions_are_recognized_by_their_values(name):
    proto, inputs, expected = COMPOSED[name]
    program = from_onnx(proto, inputs)
    plain = {"onnx.Mul", "onnx.MatMul", "onnx.Transpose"}
    assert [t for t in targets(program) if t not in plain] == expected
    assert program.parity[0].value.relative <= 64 * 2**-24


@pytest.mark.parametrize("runtime", [True, False])
def test_recognition_does_not_need_the_runtime(runtime, monkeypatch):
    if not runtime:
        monkeypatch.setattr(importing, "runtime_name", lambda: "")
    proto, inputs, _ = COMPOSED["layer norm of channels"]
    assert "layer_norm" in targets(from_onnx(proto, inputs))


def test_eps_is_part_of_a_norm():
    proto, inputs, _ = COMPOSED["layer norm of channels"]
    (op,) = [
        n.op
        for n in ancestors(first_loss(from_onnx(proto, inputs), Tape("regular")).total)
        if isinstance(n.op, ops.LayerNorm)
    ]
    assert op.eps == pytest.approx(1e-3, rel=1e-6)


def test_what_is_nearly_a_gelu_stays_a_function_of_its_own():
    constants = {**ONES, **numbers(2**0.5 * 1.0001, 1, 0.5)}
    program = from_onnx(model([*ONE, *ERF], {"x": X}, constants), [X])
    assert "gelu" not in targets(program)
    assert "custom_elementwise" in targets(program)
    _, loss = Tape("unit"), first_loss(program, Tape(plan(program))).total
    assert gradient_factors(loss)


def test_a_quotient_by_another_power_is_not_a_norm():
    """The root of the mean of fourth powers."""
    proto = model([*ONE, *NORM], {"x": X}, {**ONES, **AFFINE, **numbers(4, 1e-3)})
    with pytest.raises(ProgramError, match=r"onnx.Div 'n': div by a tensor that depends on parameters"):
        from_onnx(proto, [X])


def test_a_scale_of_queries_is_part_of_the_scores():
    proto, inputs, _ = COMPOSED["attention"]
    program = from_onnx(proto, inputs)
    found = [n.op for n in ancestors(first_loss(program, Tape("regular")).total)]
    (factor,) = [op.factor for op in found if isinstance(op, ops.ScalarMultiply)]
    assert factor == pytest.approx(0.3 * 6**0.5, rel=1e-6)
    assert any(isinstance(op, ops.MaskedSoftmax) for op in found)


@pytest.mark.parametrize(
    ("shown", "hidden", "masked"), [(0, -np.inf, True), (0, -1e4, True), (0, -9.9e3, False), (0.5, -np.inf, False)]
)
def test_a_mask_of_other_numbers_is_added(shown, hidden, masked):
    proto, inputs, _ = COMPOSED["attention"]
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    for tensor in other.graph.initializer:
        if tensor.name == "mask":
            mask = np.where(onnx.numpy_helper.to_array(tensor) == 0, shown, hidden).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(mask, "mask"))
    found = [n.op for n in ancestors(first_loss(from_onnx(other, inputs), Tape("regular")).total)]
    assert any(isinstance(op, ops.MaskedSoftmax) for op in found) == masked
    assert any(isinstance(op, ops.Softmax) for op in found) != masked


ATTRIBUTES = {
    "Elu": {"alpha": 0.7},
    "Celu": {"alpha": 0.7},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "LeakyRelu": {"alpha": 0.2},
}


@pytest.mark.parametrize("target", sorted(ELEMENTWISE))
def test_derivatives_are_differences_of_values(target):
    """Central differences of step 1e-5, away from kinks: errors of 1e-10 by truncation and by rounding."""
    kind = target.removeprefix("onnx.")
    schema = onnx.defs.get_schema(kind, 20, "")
    names = [formal.name for formal in schema.inputs]
    arguments = dict(zip(names, [Ref("x"), 0.8, 1.7], strict=False)) | ATTRIBUTES.get(kind, {})
    if kind in ("Max", "Min"):
        arguments = {"data_0": [Ref("x"), 0.8]}
    f = ComposedNodes("x", [AtenCall("y", target, "", None, arguments)])
    x = np.array([0.15, 0.4, 1.1, 2.3]) if kind in ("Log", "Sqrt", "Pow", "Reciprocal") else np.linspace(-3.7, 3.9, 30)
    differences = (f(x + 1e-5) - f(x - 1e-5)) / 2e-5
    assert np.allclose(f.slope(x), differences, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("target", "arguments", "expected"),
    [
        ("Clip", {"input": Ref("x"), "min": -0.5, "max": 2.0}, [-0.5, 2.0]),
        ("HardSigmoid", {"X": Ref("x"), "alpha": 0.25, "beta": 0.5}, [-2.0, 2.0]),
        ("Relu", {"X": Ref("x")}, [0.0]),
        ("HardSwish", {"X": Ref("x")}, [-3.0, 3.0]),
        ("Max", {"data_0": [Ref("x"), 1.5]}, [1.5]),
        ("Tanh", {"input": Ref("x")}, []),
    ],
)
def test_kinks_of_a_function_are_found(target, arguments, expected):
    f = ComposedNodes("x", [AtenCall("y", f"onnx.{target}", "", None, arguments)])
    assert f.kinks() == pytest.approx(expected, abs=1e-12)
    shifted = ComposedNodes(
        "x",
        [
            AtenCall("k", "onnx.Mul", "", None, {"A": Ref("x"), "B": 2.0}),
            AtenCall(
                "y",
                f"onnx.{target}",
                "",
                None,
                {
                    key: Ref("k") if a == Ref("x") else [Ref("k"), *a[1:]] if isinstance(a, list) else a
                    for key, a in arguments.items()
                },
            ),
        ],
    )
    assert shifted.kinks() == pytest.approx([e / 2 for e in expected], abs=1e-12)


# --- Guesses ----------------------------------------------------------------------------------------------------------


def test_what_a_file_does_not_say_is_listed():
    constants = {"w": W, "t": np.ascontiguousarray(W.T), "p": normal(4, 6, seed=3)}
    nodes = [("MatMul", "x w", "h", {}), ("MatMul", "h t", "k", {}), ("Add", "k p", "y", {})]
    ties, buffers = from_onnx(model(nodes, {"x": ROWS}, constants), [ROWS]).guesses
    assert ties == "w, t are equal, and may be one parameter"
    assert buffers == "p: added or multiplied as a whole, taken for parameters, may be buffers"
    proto, inputs = NODES["Conv"]
    assert from_onnx(proto, inputs).guesses == (
        "1 convolution with a bias and no norm in the model: batch norms may be folded into weights",
    )


def test_a_parameter_that_is_used_twice_is_one():
    nodes = [("MatMul", "x w", "h", {}), ("Transpose", "w", "t", {}), ("MatMul", "h t", "y", {})]
    program = from_onnx(model(nodes, {"x": ROWS}, {"w": W}), [ROWS])
    assert list(program.specs) == ["w"]


def test_means_variances_masks_and_numbers_are_no_parameters():
    proto, inputs = NODES["BatchNormalization"]
    program = from_onnx(proto, inputs)
    assert {n: s.role for n, s in program.specs.items()} == {"g": "gain", "b": "bias"}
    proto, inputs, _ = COMPOSED["attention"]
    assert list(from_onnx(proto, inputs).specs) == ["w", "v"]
    zeros = {"z": np.zeros((2, 1, 8, 8), np.float32), "p": np.zeros((1, 1, 8, 8), np.float32)}
    nodes = [*ONE, ("Add", "h z", "k", {}), ("Add", "k p", "y", {})]
    assert list(from_onnx(model(nodes, {"x": X}, {**ONES, **zeros}), [X]).specs) == ["w", "p"]
    proto, inputs = NODES["Gather of a table"]
    assert from_onnx(proto, inputs).specs["w"].role == "embedding"


def test_constants_are_folded():
    nodes = [("Add", "v w", "u", {}), ("MatMul", "x u", "y", {})]
    program = from_onnx(model(nodes, {"x": ROWS}, {"w": W, "v": W}), [ROWS])
    assert list(program.specs) == ["u"]
    assert np.array_equal(program._values["u"], 2 * W)


def test_models_have_digests_of_their_own():
    def digest(name, scale=1.0):
        proto, (x,) = NODES[name]
        return from_onnx(proto, [x * np.float32(scale)]).digest

    assert digest("Relu") == digest("Relu")
    assert len({digest("Relu"), digest("Relu", 2.0), digest("HardSwish")}) == 3


def test_an_imported_model_is_adapted_to_the_same_function():
    proto, inputs, _ = COMPOSED["attention"]
    assert adapt(from_onnx(proto, inputs)).difference <= 1e-12


# --- Refusals ---------------------------------------------------------------------------------------------------------


def refused(kind, taken="h", constants=(), opset=20, **settings):
    proto = model([*ONE, (kind, taken, "y", settings)], {"x": X}, {**ONES, **dict(constants)}, opset)
    with pytest.raises(ProgramError) as raised:
        from_onnx(proto, [X])
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_nodes_without_a_rule_are_named():
    assert refused("CumSum", "h n", {"n": np.array(1)}) == "from_onnx(graph): 1 step without a rule: onnx.CumSum 'y'"
    assert "onnx.ReduceMax 'y'" in refused("ReduceMax")


def test_control_flow_and_quantized_nodes_are_named():
    branch = onnx.helper.make_graph([], "none", [], [])
    text = refused("If", "x", then_branch=branch, else_branch=branch)
    assert text == "from_onnx(graph): If 'y': control flow, expected a graph without it"
    text = refused("QuantizeLinear", "h c0", numbers(0.5))
    assert text == "from_onnx(graph): QuantizeLinear 'y': quantized, expected float32"
    assert "quantized, expected float32" in refused("MatMulInteger", "x x")
    assert "of the domain 'com.microsoft', expected the standard's" in refused("Gelu", domain="com.microsoft")
    assert refused("Nothing").endswith("Nothing 'y': unknown in version 20 of the standard")


def test_values_that_nothing_computes_are_named():
    assert refused("Relu", "z") == "from_onnx(graph): Relu 'y': takes 'z', which no earlier node computes"
    nodes = [*ONE, ("Dropout", "h", "k m", {}), ("Where", "m k h", "y", {})]
    with pytest.raises(ProgramError, match=r"Where 'y': takes 'm', which no earlier node computes"):
        from_onnx(model(nodes, {"x": X}, ONES), [X])


def test_a_resize_of_some_axes_is_onnxruntime_s():
    nodes = [*ONE, ("Resize", "h - - s", "y", {"mode": "nearest", "axes": [3, 2]})]
    program = from_onnx(model(nodes, {"x": X}, {**ONES, "s": i(24, 16)}), [X])
    assert output(program).shape == (2, 3, 16, 24)
    assert program.parity[0].value.relative <= 1e-6


def test_rows_are_counted_from_the_end_of_a_table():
    program = from_onnx(model([("Gather", "w x", "y", {})], {"x": i(3, -1)}, {"w": W}), [i(3, -1)])
    assert np.array_equal(output(program), W[[3, 5]])


def test_a_part_without_elements_is_refused():
    nodes = [*ONE, ("Split", "h", "p q r s y", {"axis": -1, "num_outputs": 5})]  # 2, 2, 2, 2 and 0
    with pytest.raises(ProgramError, match=r"onnx.Split 'p and others': slice: 8:8 of axis 3"):
        from_onnx(model(nodes, {"x": X}, ONES), [X])


def test_constants_that_the_reference_computes_otherwise_are_refused():
    nodes = [("Softmax", "x", "s", {}), ("Mul", "s w", "y", {})]
    with pytest.raises(ProgramError, match=r"onnx.Softmax-1 's': onnx.reference computes it by another version"):
        from_onnx(model(nodes, {"x": X}, ONES, opset=11), [X])
    assert from_onnx(model(nodes, {"x": X}, ONES), [X]).parity[0].value.relative <= 1e-6


def test_what_the_reference_cannot_compute_is_refused_in_one_line():
    nodes = [("Reshape", "x s", "r", {}), ("MatMul", "r w", "y", {})]
    constants = {"w": W, "s": i(5, 5)}
    with pytest.raises(ProgramError) as raised:
        from_onnx(model(nodes, {"x": ROWS}, constants), [ROWS])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"value_float": 2.5}, 2.5), ({"value_floats": [2.5, 2.5, 2.5, 2.5, 2.5, 2.5]}, 2.5), ({"value_int": 3}, None)],
)
def test_constants_are_numbers_and_lists(settings, expected):
    nodes = [("Constant", "", "c", settings), ("MatMul", "x w", "h", {})]
    nodes += [("Mul", "h c", "y", {})] if expected else [("Cast", "c", "d", {"to": 1}), ("Mul", "h d", "y", {})]
    program = from_onnx(model(nodes, {"x": ROWS}, {"w": W}), [ROWS])
    assert output(program) == pytest.approx((expected or 3) * ROWS.astype(np.float64) @ W, rel=1e-6)
    assert ("c" in program.specs) == ("value_floats" in settings)


def test_a_constant_of_text_is_refused():
    with pytest.raises(ProgramError, match=r"Constant 'c': with value_string, expected value, numbers"):
        from_onnx(model([("Constant", "", "c", {"value_string": "a"})], {"x": ROWS}, outputs=("c",)), [ROWS])


def test_other_shapes_are_read_again():
    program = from_onnx(*NODES["Shape"])
    tape = Tape("regular")
    p = {n: tape.tensor(x, n) for n, x in program._values.items()}
    x = normal(5, 3, 4, 2)
    assert np.array_equal(program.output(p, [x]).value, (x * ONES["w"]).reshape(5, 3, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "Div", "taken": "x h"}, "div by a tensor that depends on parameters: expected a constant divisor"),
        ({"kind": "Cast", "to": 10}, "to type 10: expected float32 or float64"),
        ({"kind": "Gather", "taken": "h p", "constants": {"p": i()}}, "Gather of indices (0,) along axis 0 of"),
        (
            {"kind": "Slice", "taken": "h a b a c", "constants": {"a": i(0), "b": i(9), "c": i(2)}},
            "slice with step 2: expected 1",
        ),
        ({"kind": "MaxPool", "kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, "expected windows that fit"),
        (
            {"kind": "GroupNormalization", "taken": "h g b", "constants": {"g": ROWS[0, :1], "b": ROWS[0, :1]}}
            | {"num_groups": 1},
            "GroupNormalization with a scale (1,): expected one for each channel",
        ),
        (
            {"kind": "Resize", "taken": "h - - s", "constants": {"s": i(2, 3, 1, 9)}, "mode": "linear"}
            | {"coordinate_transformation_mode": "pytorch_half_pixel"},
            "Resize with mode=linear, pytorch_half_pixel",
        ),
        ({"kind": "LayerNormalization", "taken": "h w", "axis": -3}, "layer_norm over 3 axes: expected 1, the last"),
        (
            {
                "kind": "Resize",
                "taken": "h - s",
                "constants": {"s": np.array([1, 1, 2, 2], np.float32)},
                "mode": "cubic",
            },
            "Resize with mode=cubic, half_pixel, round_prefer_floor, factors [1.0, 1.0, 2.0, 2.0]: expected each",
        ),
        (
            {"kind": "Gather", "taken": "h p", "constants": {"p": i(2, 0)}, "axis": 1},
            "Gather of indices (2,) along axis 1 of (2, 3, 8, 8): expected rows of a table",
        ),
    ],
)
def test_what_a_rule_does_not_cover_is_refused_by_name(arguments, message):
    text = refused(**arguments)
    assert f"onnx.{arguments['kind']} 'y'" in text
    assert message in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"direction": "reverse"}, "lstm with direction=reverse: expected forward or bidirectional"),
        ({"clip": 1.0}, "clip=1.0"),
        ({"input_forget": 1}, "input_forget=1"),
        ({"activations": ["Sigmoid", "Relu", "Tanh"]}, "activations=['Sigmoid', 'Relu', 'Tanh']"),
    ],
)
def test_other_cells_are_refused(settings, message):
    x = normal(2, 2, 3)
    constants = {"W": normal(1, 16, 3), "R": normal(1, 16, 4)}
    proto = model([("LSTM", "x W R", "y", {"hidden_size": 4, **settings})], {"x": x}, constants)
    with pytest.raises(ProgramError, match=r"onnx.LSTM") as raised:
        from_onnx(proto, [x])
    assert message in str(raised.value)


def test_a_model_that_the_runtime_cannot_run_is_refused_in_one_line():
    x = normal(2, 2, 3)
    constants = {"W": normal(1, 16, 3), "R": normal(1, 16, 4)}
    proto = model([("LSTM", "x W R", "y", {"hidden_size": 4, "layout": 1})], {"x": x}, constants)
    with pytest.raises(ProgramError, match=r"onnxruntime .* cannot run the model: .*LSTMBase") as raised:
        from_onnx(proto, [x])
    assert "\n" not in str(raised.value)


def test_a_gru_that_resets_before_the_product_is_refused():
    x = normal(2, 2, 3)
    proto = model([("GRU", "x W R", "y", {"hidden_size": 4})], {"x": x}, {"W": normal(1, 12, 3), "R": normal(1, 12, 4)})
    with pytest.raises(ProgramError, match="linear_before_reset=0"):
        from_onnx(proto, [x])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], r"from_onnx\(graph\): 0 inputs, expected \['x'\]"),
        ({"z": X}, r"inputs \['z'\], expected \['x'\]"),
        ([X.astype(np.int64)], "input 'x' is int64, expected float32"),
    ],
)
def test_inputs_are_those_of_the_model(inputs, message):
    with pytest.raises(ProgramError, match=message):
        from_onnx(NODES["Relu"][0], inputs)


def test_what_is_no_model_is_refused():
    with pytest.raises(ProgramError, match=r"expected a path or an onnx.ModelProto"):
        from_onnx(3, [])
    with pytest.raises(ProgramError, match=r"output='z', expected one of \['y'\]"):
        from_onnx(*NODES["Relu"], output="z")
    half = model([("MatMul", "x w", "y", {})], {"x": ROWS}, {"w": W.astype(np.float64)})
    with pytest.raises(ProgramError, match="'w' is float64, expected float32"):
        from_onnx(half, [ROWS])


def test_files_with_parts_missing_are_refused_in_one_line(tmp_path):
    def read(proto):
        with pytest.raises(ProgramError) as raised:
            from_onnx(proto, [ROWS])
        assert "\n" not in str(raised.value)
        return str(raised.value).removeprefix("from_onnx(graph): ")

    def dense(nodes=()):
        return model([*nodes, ("MatMul", "x w", "y", {})], {"x": ROWS}, {"w": W})

    (tmp_path / "empty.onnx").touch()
    assert "a graph without outputs, as of an empty file" in read(tmp_path / "empty.onnx")
    cut, unknown, untyped = dense(), dense(), dense()
    cut.graph.initializer[0].raw_data = b"1234"
    assert read(cut).startswith("the values of 'w' cannot be read: ValueError: ")
    unknown.graph.initializer[0].data_type = 99
    assert read(unknown).startswith("the values of 'w' cannot be read: ")
    untyped.graph.input[0].ClearField("type")
    assert read(untyped) == "input 'x' has no type of a tensor, expected one"
    assert read(dense([("Constant", "", "c", {})])) == "Constant 'c': with 0 attributes, expected 1"
    assert read(dense([("Relu", "x", "", {})])) == "Relu '': without an output, expected one with a name"


WRONG = {
    "another function": lambda run, X, approximate="none": run.apply(ops.Gelu("erf"), X),
    "a factor": lambda run, X, approximate="none": run.apply(
        ops.ScalarMultiply(1.0001), run.apply(ops.Gelu("tanh"), X)
    ),
    "another order": lambda run, X, approximate="none": run.transpose(run.apply(ops.Gelu("tanh"), X), (1, 0, 2, 3)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_refused_at_its_node(name, monkeypatch):
    monkeypatch.setitem(RULES, "onnx.Gelu", WRONG[name])
    with pytest.raises(ProgramError, match=r"onnx.Gelu 'y' differs from onnxruntime .* of its RMS, expected"):
        from_onnx(*NODES["Gelu"])


@pytest.mark.parametrize(
    ("error", "rounding", "wrong"),
    [(0.9e-5, 0.0, False), (1.2e-5, 0.0, True), (0.9e-4, 1e-5, False), (1.2e-4, 1e-5, True)],
)
def test_the_tolerance_is_a_hundred_thousandth_or_ten_rounding_errors(error, rounding, wrong, monkeypatch):
    monkeypatch.setattr(importing, "_rounding_errors", lambda found: {"y": rounding})

    def rule(run, X, approximate):
        return run.apply(ops.ScalarMultiply(1 + error), run.apply(ops.Gelu(approximate), X))

    monkeypatch.setitem(RULES, "onnx.Gelu", rule)
    if wrong:
        allowed = "0.0001" if rounding else "1e-05"
        with pytest.raises(ProgramError, match=rf"by {error:.1e} of its RMS, expected at most {allowed}"):
            from_onnx(*NODES["Gelu"])
    else:
        assert from_onnx(*NODES["Gelu"]).parity[0].value.relative == pytest.approx(error, rel=0.1)


def test_cancellation_of_the_model_is_not_an_error_of_the_rule():
    """The variance as E[x²] − E[x]² around a mean of 30 loses about 900·2⁻²⁴ of 1, more than 1e-5."""
    nodes = [
        ("Add", "h c0", "k", {}),
        ("ReduceMean", "k a", "m", {}),
        ("Mul", "k k", "q", {}),
        ("ReduceMean", "q a", "s", {}),
        ("Mul", "m m", "n", {}),
        ("Sub", "s n", "v", {}),
        ("Add", "v c1", "e", {}),
        ("Sqrt", "e", "r", {}),
        ("Sub", "k m", "d", {}),
        ("Div", "d r", "y", {}),
    ]
    program = from_onnx(model([*ONE, *nodes], {"x": X}, {**ONES, "a": i(-1), **numbers(30, 1e-3)}), [X])
    assert targets(program)[-1] == "layer_norm"
    assert 1e-5 < program.parity[0].value.relative < 0.01


def test_a_wrong_constant_is_refused(monkeypatch):
    from refscale.bridge.onnx import reading

    monkeypatch.setitem(reading._OWN, "Greater", lambda A, B: A >= B + 0.5)
    with pytest.raises(ProgramError, match=r"onnx.Greater 'm' differs from onnxruntime"):
        from_onnx(*NODES["Where"])
