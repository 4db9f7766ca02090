"""Traces: their records, their verdicts, and the rejection of wrong programs."""

import json

import numpy as np
import pytest

from refscale import ops
from refscale.cli import main
from refscale.errors import ArgumentError, GoldenError
from refscale.exact import bounded
from refscale.files import json_text
from refscale.formats import quantize
from refscale.golden.call_bounds import rounded
from refscale.golden.inputs import cast_for
from refscale.golden.models import models, parameters
from refscale.golden.trace import SCHEMA, Recorder, in_words, judge, load_trace, record_run, to_content
from refscale.layers import on_tape
from refscale.scales import get_scheme
from tests.golden.test_store import schema, violations

MODELS = {m.name: m for m in models()}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --- By hand ----------------------------------------------------------------------------------------------------------

X, W, G = np.float32([[1, 2], [3, -1]]), np.float32([[0.5], [0.25]]), np.float32([[1], [-2]])
RIGHT = {  # α = 2, β = (½, 4): y = 2·x·w, gx = ½·g·wᵀ, gw = 4·xᵀ·g
    "y": np.float32([[2.0], [2.5]]),
    "x": np.float32([[0.25, 0.125], [-0.5, -0.25]]),
    "w": np.float32([[-20.0], [16.0]]),
}


def one_call(directory, policy="fp32", accumulate="any-order", **changed):
    """A trace of one product, with some of its results changed."""
    results = RIGHT | changed
    with (
        Recorder(directory, policy, accumulate) as recorder,
        recorder.call("layer.0", ops.Matmul(), alpha=2.0, beta=(0.5, 4.0)) as call,
    ):
        call.inputs(X, W)
        call.output(results["y"])
        call.gradient(G, [results["x"], results["w"]])
    return judge(load_trace(directory))


def test_a_right_call(tmp_path):
    result = one_call(tmp_path)
    assert result.passed
    assert result.first is None
    assert result.calls[0].compared == ("output out", "gradient x", "gradient w")
    assert in_words(result) == (
        "every recorded result of this step equals the specification within its bound "
        "(1 call, 0 without backward pass, 3 arrays compared)"
    )


@pytest.mark.parametrize(("steps", "passed"), [(8, True), (10, False), (-8, True), (-9, False)])
def test_the_bound_just_inside_and_just_outside(tmp_path, steps, passed):
    """y_0 = 2·(½ + ½): (2 + 1)·2^-23 of the product, doubled, and 2·2^-23 of the factor: 8·2^-23."""
    assert one_call(tmp_path, y=RIGHT["y"] + np.float32([[steps * 2.0**-23], [0]])).passed is passed


def test_where_a_call_deviates(tmp_path):
    result = one_call(tmp_path, w=np.float32([[-20.0], [16.5]]))
    (deviation,) = result.calls[0].deviations
    assert (deviation.array, deviation.index, deviation.actual) == ("gradient w", (1, 0), 16.5)
    assert deviation.low < 16 < deviation.high < 16.001
    assert deviation.ulps == pytest.approx((16.5 - deviation.high) / 2**-19)
    assert (deviation.outside, deviation.elements) == (1, 2)
    assert "FAIL  layer.0 (matmul): gradient w[1, 0] is 16.5, expected 15.99" in in_words(result)
    assert in_words(result).endswith("the first is layer.0 (1 call, 0 without backward pass, 3 arrays compared)")
    content = to_content(result)
    assert violations(json.loads(json_text(content)), schema("trace_result.schema.json")) == []
    assert json.loads(json.dumps(content))["calls"][0]["deviations"][0]["index"] == [1, 0]
    assert content["passed"] is False
    assert content["first"] == "layer.0"


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"y": np.float32([2.0, 2.5])}, r"output out is float32\[2\], expected floats of shape \[2, 1\]"),
        ({"x": np.int64([[1, 2], [3, 4]])}, r"gradient x is int64"),
    ],
)
def test_what_is_no_result(tmp_path, changed, problem):
    result = one_call(tmp_path, **changed)
    assert not result.passed
    (call,) = result.calls
    assert call.problem is not None
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(call.problem)


def test_every_verdict_follows_its_schema(tmp_path):
    """A call that passes, one that cannot be judged, and one where only NaN is right."""
    content = [to_content(one_call(tmp_path / "right")), to_content(one_call(tmp_path / "int", x=np.int64([[1]])))]
    with Recorder(tmp_path / "nan") as recorder, recorder.call("a", ops.Add()) as call:
        call.inputs(np.float32([np.inf]), np.float32([-np.inf]))
        call.output(np.float32([np.inf]))
    content.append(to_content(judge(load_trace(tmp_path / "nan"))))
    form = schema("trace_result.schema.json")
    for one in content:
        assert violations(json.loads(json_text(one)), form) == []
    deviation = json.loads(json_text(content[2]))["calls"][0]["deviations"][0]
    assert (deviation["actual"], deviation["low"], deviation["ulps"]) == ("inf", "nan", "inf")
    for changed in ({"passed": 1}, {"schema": "refscale.trace-result/2"}, {"calls": [{"name": "a"}]}, {"more": 1}):
        assert violations({**content[0], **changed}, form), changed
    deviation["ulps"] = "many"
    assert violations({**content[2], "calls": [{**content[2]["calls"][0], "deviations": [deviation]}]}, form)


def test_factors_that_are_left_out_are_seen(tmp_path):
    for i, name in enumerate(RIGHT):
        factor = {"y": 2.0, "x": 0.5, "w": 4.0}[name]
        assert not one_call(tmp_path / str(i), **{name: RIGHT[name] / np.float32(factor)}).passed


def test_results_are_representable_where_they_are_stored(tmp_path):
    """Under a policy that stores in float16, float32 numbers are wrong, however near."""
    assert one_call(tmp_path / "right", "fp16").passed
    y = RIGHT["y"] + np.float32(2.0**-20)
    assert not one_call(tmp_path / "wide", "fp16", y=y).passed


def test_inputs_are_representable_where_they_are_stored(tmp_path):
    with Recorder(tmp_path, "fp16") as recorder, recorder.call("exp", ops.Exp()) as call:
        call.inputs(np.float32([1.0 + 2**-12]))
        call.output(np.float32([2.71875]))
    (call,) = judge(load_trace(tmp_path)).calls
    assert "which float16 cannot represent" in str(call.problem)


def test_operands_are_cast_by_the_policy(tmp_path):
    """e4m3: 1.06 → 1; the program that multiplies 1.06 is wrong."""
    x = quantize(np.float32([[1.06]]), "float16", rounding="nearest_even", overflow="nonsaturate")
    for name, y in (("cast", np.float32([[1.0]])), ("not-cast", x)):
        with Recorder(tmp_path / name, "fp8") as recorder, recorder.call(name, ops.Matmul()) as call:
            call.inputs(x, np.float32([[1.0]]))
            call.output(y)
        result = judge(load_trace(tmp_path / name))
        assert result.passed is (name == "cast")
        assert in_words(result).endswith("(1 call, 1 without backward pass, 1 array compared)")


def test_a_claimed_accumulator_narrows_or_widens_the_bound(tmp_path):
    y = RIGHT["y"] * np.float32(1 + 2**-14)
    assert not one_call(tmp_path / "float32", y=y).passed
    assert one_call(tmp_path / "fp8", accumulate="truncated:13:32", y=y).passed


@pytest.mark.parametrize(("y", "passed"), [(0.0, True), (3.01 * 2.0**-8 + 2.0**-10, False)])
def test_a_claimed_accumulator_has_its_floor(tmp_path, y, passed):
    """2^-10·1, cut to multiples of 2^-8, is 0; beyond 3·2^-8 from it nothing is right."""
    with Recorder(tmp_path, accumulate="truncated:8:4:floor=0") as recorder, recorder.call("a", ops.Matmul()) as call:
        call.inputs(np.float32([[2.0**-10]]), np.float32([[1.0]]))
        call.output(np.float32([[y]]))
    assert judge(load_trace(tmp_path)).passed is passed


@pytest.mark.parametrize(("y", "passed"), [(np.nan, True), (0.0, False), (np.inf, False)])
def test_where_nan_is_right_nothing_else_is(tmp_path, y, passed):
    with Recorder(tmp_path) as recorder, recorder.call("a", ops.Add()) as call:
        call.inputs(np.float32([np.inf]), np.float32([-np.inf]))
        call.output(np.float32([y]))
    result = judge(load_trace(tmp_path))
    assert result.passed is passed
    assert passed or "expected nan … nan: inf ulp outside" in in_words(result)


# --- Whole runs -------------------------------------------------------------------------------------------------------


def run_of(name):
    model = MODELS[name]
    return lambda tape: model.run(on_tape(tape, parameters(model, get_scheme("unit")), model.specs), model.arrays)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("policy", ["fp32", "fp8"])
def test_a_run_of_refscale(tmp_path, policy, fast):
    count = record_run(tmp_path, run_of("ffn"), policy=policy, gradient=normal(8, 16), fast=fast)
    result = judge(load_trace(tmp_path))
    assert len(result.calls) == count == 7
    assert result.passed, in_words(result)


@pytest.mark.parametrize("part", ["forward", "backward"])
def test_a_run_with_a_wrong_op_names_its_first_call(tmp_path, monkeypatch, part):
    right = getattr(ops.Gelu, f"fast_{part}")

    def wrong(op, *args):
        results = right(op, *args)
        factor = np.float32(1.001)
        return (results[0] * factor, results[1]) if part == "forward" else tuple(r * factor for r in results)

    monkeypatch.setattr(ops.Gelu, f"fast_{part}", wrong)
    record_run(tmp_path, run_of("ffn"), gradient=normal(8, 16))
    monkeypatch.undo()
    result = judge(load_trace(tmp_path))
    assert [c.ops for c in result.calls if not c.passed] == [("gelu",)]
    assert "gelu" in result.first.name


# --- Fused kernels ----------------------------------------------------------------------------------------------------


def attention(q, k, v, damping=None, drop=0):
    """softmax(q·kᵀ·d^-½)·v in one float32 kernel, and its gradients."""
    s = q @ k.swapaxes(-1, -2) * np.float32(q.shape[-1] ** -0.5 if damping is None else damping)
    e = np.exp(s - s.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    p[..., p.shape[-1] - drop :] = 0
    return p @ v, p


def attention_backward(g, q, k, v, p):
    gp = g @ v.swapaxes(-1, -2)
    gs = p * (gp - (gp * p).sum(-1, keepdims=True)) * np.float32(q.shape[-1] ** -0.5)
    return gs @ k, gs.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ g


def fused(directory, policy="fp32", **wrong):
    q, k, v, g = (normal(2, 5, 8, seed=i) for i in range(4))
    with Recorder(directory, policy) as recorder:
        steps = [
            recorder.step(ops.AttentionScores(), ["q", "k"], "scores"),
            recorder.step(ops.Softmax(), ["scores"], "weights"),
            recorder.step(ops.AttentionMix(), ["weights", "v"], "mix"),
        ]
        with recorder.call("attention", steps) as call:
            call.inputs(q=q, k=k, v=v)
            y, p = attention(q, k, v, **wrong)
            call.output(y)
            call.gradient(g, attention_backward(g, q, k, v, p))
    return judge(load_trace(directory))


def test_a_fused_kernel_is_one_call(tmp_path):
    result = fused(tmp_path)
    assert result.passed, in_words(result)
    assert result.calls[0].ops == ("attention_scores", "softmax", "attention_mix")
    assert result.calls[0].compared == ("output mix", "gradient q", "gradient k", "gradient v")


@pytest.mark.parametrize("wrong", [{"damping": 8**-0.5 * 1.001}, {"drop": 1}])
def test_a_wrong_fused_kernel_is_rejected(tmp_path, wrong):
    assert not fused(tmp_path, **wrong).passed


@pytest.mark.parametrize("stored", [True, False])
def test_a_stored_step_is_rounded_inside(tmp_path, stored):
    """exp(2^-12) − 1: 0 if exp is rounded to float16 first, which makes it 1; else 2^-12 + 2^-25, about 2.4417e-4."""
    right, wrong = (0.0, 2.0**-12) if stored else (2.0**-12, 0.0)
    for y, passed in ((right, True), (wrong, False)):
        directory = tmp_path / str(passed)
        with Recorder(directory, "fp16") as recorder:
            steps = [
                recorder.step(ops.Exp(), ["x"], "e", stored=stored),
                recorder.step(ops.Subtract(), ["e", "one"], "y"),
            ]
            with recorder.call("both", steps) as call:
                call.inputs(np.float32([2.0**-12]), np.float32([1.0]))
                call.output(np.float32([y]))
        assert judge(load_trace(directory)).passed is passed


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (1.0, 0.0, (1.0, 0.0)),
        (1.0, 0.75 * 2**-10, (1.0, 2**-10)),  # up to 1 + 2^-10, down to 1 − 2^-10, by ties to even
        (1.0, 0.4 * 2**-11, (1.0, 0.0)),
        (1 + 2**-11, 2**-20, (1.0, 2**-10)),  # a tie: the bound has both neighbors
    ],
)
def test_a_bound_after_a_cast(value, error, expected):
    y = rounded(bounded(np.array(value), np.array(error)), cast_for("float16"))
    assert (float(y.view(np.ndarray)), float(y.error)) == expected


@pytest.mark.parametrize("steps", [1, 3])
def test_a_result_between_two_neighbors_is_not_representable(tmp_path, steps):
    """The bound allows both neighbors of 1 + steps·2^-11, but no number between them."""
    factor = 1 + steps * 2.0**-11
    for i, y in enumerate((factor - 2.0**-11, factor + 2.0**-11, factor)):
        with (
            Recorder(tmp_path / str(i), "fp16") as recorder,
            recorder.call("tie", ops.ScalarMultiply(factor)) as call,
        ):
            call.inputs(np.float32([1.0]))
            call.output(np.float32([y]))
        assert judge(load_trace(tmp_path / str(i))).passed is (y != factor)


# --- Sums of gradients ------------------------------------------------------------------------------------------------


def two_uses(directory, total, complete=True, second=True):
    """e = exp(x) is read by two products; its gradient is the sum of theirs."""
    x, z, g = (normal(3, seed=i) for i in range(3))
    e = np.exp(x)
    piece = g * z
    with Recorder(directory, complete=complete) as recorder:
        with recorder.call("exp", ops.Exp()) as call:
            call.inputs(x)
            call.output(e)
            call.gradient(total(piece), [total(piece) * e])
        for i in range(2):
            with recorder.call(f"product {i}", ops.Multiply()) as call:
                call.inputs(e, z)
                call.output(e * z)
                call.gradient(g, [piece if second or not i else None, g * e])
    return judge(load_trace(directory))


def test_a_gradient_is_the_sum_over_the_calls_that_read_the_output(tmp_path):
    result = two_uses(tmp_path, lambda piece: piece + piece)
    assert result.passed, in_words(result)
    assert "gradient out, the sum over 2 calls," in result.calls[0].compared


@pytest.mark.parametrize("wrong", [lambda piece: piece, lambda piece: piece * np.float32(2.001)])
def test_a_lost_gradient_is_seen(tmp_path, wrong):
    result = two_uses(tmp_path / "complete", wrong)
    assert result.first.name == "exp"
    assert "gradient out, the sum over 2 calls,[" in in_words(result)
    assert two_uses(tmp_path / "not-complete", wrong, complete=False).passed
    assert two_uses(tmp_path / "not-known", wrong, second=False).passed


def test_an_input_that_equals_a_later_output_is_not_taken_for_it(tmp_path):
    """A table read row by row, in order, equals the rows read: the gradient has no verdict."""
    table, g = normal(3, 2), normal(3, 2, seed=1)
    with Recorder(tmp_path, complete=True) as recorder:
        with recorder.call("positions", ops.Embedding()) as call:
            call.inputs(table, np.arange(3))
            call.output(table)
            call.gradient(g, [g, None])
        with recorder.call("exp", ops.Exp()) as call:
            call.inputs(table)
            call.output(np.exp(table))
            call.gradient(g / np.exp(table), [g])
    assert judge(load_trace(tmp_path)).passed


# --- The command and the schema --------------------------------------------------------------------------------------


def test_the_command_and_its_exit_status(tmp_path, capsys):
    one_call(tmp_path / "right")
    one_call(tmp_path / "wrong", w=np.float32([[-20.0], [16.5]]))
    assert main(["conform", "--trace", str(tmp_path / "right")]) == 0
    assert capsys.readouterr().out.startswith("every recorded result of this step equals the specification")
    report = tmp_path / "report.json"
    assert main(["conform", "--trace", str(tmp_path / "wrong"), "--json", str(report)]) == 1
    assert "FAIL  layer.0 (matmul): gradient w[1, 0] is 16.5" in capsys.readouterr().out
    assert json.loads(report.read_text(encoding="utf-8")) == to_content(judge(load_trace(tmp_path / "wrong")))
    assert main(["conform", "--trace", str(tmp_path / "nowhere")]) == 2
    (tmp_path / "right" / "00000.x.npy").unlink()
    assert main(["conform", "--trace", str(tmp_path / "right")]) == 2
    assert capsys.readouterr().err.splitlines()[1].endswith("00000.x.npy: No such file or directory")


@pytest.mark.parametrize("option", [["--only", "*"], ["--require", "*"], ["--full"], ["--set", "x"], ["--budget", "1"]])
def test_options_of_vectors_are_refused(tmp_path, capsys, option):
    assert main(["conform", "--trace", str(tmp_path), *option]) == 2
    assert f"{option[0]} applies to vectors, expected no option but --json" in capsys.readouterr().err


def test_names_are_printed_on_one_line(tmp_path):
    with Recorder(tmp_path) as recorder, recorder.call("a\x1b[2J\nb", ops.Exp()) as call:
        call.inputs(np.float32([0.0]))
        call.output(np.float32([2.0]))
    text = in_words(judge(load_trace(tmp_path)))
    assert "FAIL  a\\x1b[2J\\nb (exp): output out[0] is 2" in text
    assert "\x1b" not in text


def test_an_index_follows_its_schema(tmp_path):
    one_call(tmp_path / "call")
    fused(tmp_path / "fused")
    record_run(tmp_path / "run", run_of("ffn"), gradient=normal(8, 16))
    for name in ("call", "fused", "run"):
        content = json.loads((tmp_path / name / "trace.json").read_text(encoding="utf-8"))
        assert violations(content, schema("trace.schema.json")) == []
    assert violations(index(), schema("trace.schema.json")) == []
    for changed in (
        {"schema": "other/1"},
        {"complete": 1},
        {"calls": []},
        {"steps": []},
        {"steps": [{"inputs": ["x"], "output": "y"}]},
        {"steps": [{"op": "exp", "inputs": ["x"], "output": "y", "beta": ["1"]}]},
        {"steps": [{"op": "exp", "inputs": ["x"], "output": "y", "factor": 1}]},
        {"inputs": {"x": ""}},
        {"inputs": ["x"]},
        {"other": 1},
    ):
        assert violations(index(**changed), schema("trace.schema.json")), changed


@pytest.mark.parametrize(("steps", "passed"), [(2047, True), (2048, False), (-2047, True), (-2048, False)])
def test_a_sum_just_inside_and_just_outside(tmp_path, steps, passed):
    """1024 − 1023, rounded to float32 at any time: 2^-23·(1024 + 1023)."""
    one, total = np.ones(1, np.float32), np.float32([1 + steps * 2.0**-23])
    with Recorder(tmp_path, complete=True) as recorder:
        with recorder.call("exp", ops.Exp()) as call:
            call.inputs(np.zeros(1, np.float32))
            call.output(one)
            call.gradient(total, [total])
        for z in np.float32([[1024], [-1023]]):
            with recorder.call("product", ops.Multiply()) as call:
                call.inputs(one, z)
                call.output(z)
                call.gradient(one, [z, one])
    result = judge(load_trace(tmp_path))
    assert "gradient out, the sum over 2 calls," in result.calls[0].compared
    assert result.passed is passed


# --- Refusals ---------------------------------------------------------------------------------------------------------


def index(**changed):
    step = {"op": "exp", "inputs": ["x"], "output": "y"}
    call = {"name": "a", "steps": [step], "inputs": {"x": "x.npy"}, "outputs": {"y": "y.npy"}}
    call |= {k: v for k, v in changed.items() if k in (*call, "gradient", "gradients", "policy")}
    return {"schema": SCHEMA, "calls": [call]} | {k: v for k, v in changed.items() if k not in call}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"schema": "other/1"}, r"schema is 'other/1', expected 'refscale.trace/1'"),
        ({"complete": 1}, r"complete is 1, expected true or false"),
        ({"calls": []}, r"expected a list of at least one call"),
        ({"calls": [1]}, r"call 0: expected an object with a name"),
        ({"accumulate": "sideways"}, r"sideways"),
        ({"steps": []}, r"call 0, 'a': steps is list, expected a list of at least one step"),
        ({"steps": [{"op": "exq", "inputs": ["x"], "output": "y"}]}, r"golden op 'exq': no such op"),
        ({"steps": [{"inputs": ["x"], "output": "y"}]}, r"'op' is missing"),
        ({"steps": [{"op": "exp", "inputs": ["x", "x"], "output": "y"}]}, r"exp: inputs \('x', 'x'\), expected one"),
        ({"steps": [{"op": "exp", "inputs": ["x"], "output": "y", "beta": [1, 2]}]}, r"2 factors beta for 1 inputs"),
        ({"steps": [{"op": "exp", "inputs": [["x"]], "output": "y"}]}, r"exp: inputs \(\['x'\],\), expected names"),
        ({"steps": [{"op": "exp", "inputs": ["z"], "output": "y"}]}, r"exp reads 'z', expected one of \['x'\]"),
        ({"steps": [{"op": "exp", "inputs": ["x"], "output": "x"}]}, r"exp writes 'x', which exists already"),
        ({"steps": [{"op": "exp", "inputs": ["x"], "output": "y", "attributes": {"a": 1}}]}, r"unexpected|argument"),
        ({"inputs": {"x": "../x.npy"}}, r"inputs names '../x.npy', expected a file of the directory"),
        ({"inputs": ["x"]}, r"inputs is \['x'\], expected an object of file names"),
        ({"outputs": {}}, r"no outputs, expected at least one of \['y'\]"),
        ({"outputs": {"z": "z.npy"}}, r"outputs has 'z', expected names among \['y'\]"),
        ({"gradients": {"x": "g.npy"}}, r"gradients of inputs without the gradient of an output"),
        ({"policy": "fp9"}, r"fp9"),
    ],
)
def test_an_index_that_does_not_fit(tmp_path, changed, message):
    (tmp_path / "trace.json").write_text(json.dumps(index(**changed)))
    with pytest.raises(GoldenError, match=message):
        load_trace(tmp_path)


def test_no_trace_and_no_arrays(tmp_path):
    with pytest.raises(GoldenError, match=r"no trace.json, expected a directory that Recorder writes"):
        load_trace(tmp_path / "nowhere")
    (tmp_path / "trace.json").write_text(json.dumps(index()))
    trace = load_trace(tmp_path)
    with pytest.raises(GoldenError, match=r"x.npy: No such file"):
        judge(trace)
    (tmp_path / "x.npy").write_bytes(b"not an array")
    with pytest.raises(GoldenError, match=r"x.npy: .*expected a .npy file"):
        judge(trace)
    np.save(tmp_path / "x.npy", np.array([1j]))
    with pytest.raises(GoldenError, match=r"x.npy contains complex128, expected floats"):
        judge(trace)


def test_the_recorder_refuses(tmp_path):
    one_call(tmp_path)
    with pytest.raises(GoldenError, match=r"it already contains a trace"):
        Recorder(tmp_path)
    with pytest.raises(ArgumentError, match=r"fp9"):
        Recorder(tmp_path / "new", "fp9")
    recorder = Recorder(tmp_path / "other")
    with recorder.call("a", ops.Matmul()) as call, pytest.raises(ArgumentError, match=r"expected x, w, got 1"):
        call.inputs(X)


def test_an_error_of_the_program_leaves_no_index(tmp_path):
    with pytest.raises(ZeroDivisionError), Recorder(tmp_path):
        raise ZeroDivisionError
    assert not (tmp_path / "trace.json").exists()


def test_a_policy_in_blocks(tmp_path):
    """E4M3 holds every operand of the example, so its results are those of float32."""
    assert one_call(tmp_path / "right", "mxfp8").passed
    assert one_call(tmp_path / "wrong", "mxfp8", y=RIGHT["y"] * np.float32(1.125)).first.name == "layer.0"


@pytest.mark.parametrize("policy", ["mxfp8", "nvfp4"])
def test_a_run_of_refscale_in_blocks(tmp_path, policy):
    """nvfp4 rounds gradients stochastically, after a transform of both operands."""
    record_run(tmp_path, run_of("ffn"), policy=policy, gradient=normal(8, 16), rng=np.random.default_rng(0))
    result = judge(load_trace(tmp_path))
    assert result.passed, in_words(result)


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def torch_layer(directory, bug=None):
    """A post-norm BERT layer in PyTorch under the fp8 policy, forward and backward, recorded; with a planted bug."""
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    e4m3, e5m2 = torch.float8_e4m3fn, torch.float8_e5m2

    def half(x):
        return x.to(torch.float16).float()

    class Call(torch.autograd.Function):
        """A scaled op: casts, factors, casts; its gradient by autograd of the unscaled function."""

        @staticmethod
        def forward(ctx, function, narrow, alpha, beta, *inputs):
            casts = [x.to(e4m3).float() if narrow else x for x in inputs]
            ctx.save_for_backward(*casts)
            ctx.function, ctx.narrow, ctx.beta = function, narrow, beta
            return half(alpha * function(*casts))

        @staticmethod
        def backward(ctx, g):
            inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
            if ctx.narrow:
                g = g.to(e4m3 if bug == "gradients in e4m3" else e5m2).float()
            with torch.enable_grad():
                pieces = torch.autograd.grad(ctx.function(*inputs), inputs, g)
            return (None, None, None, None, *(half(b * p) for b, p in zip(ctx.beta, pieces, strict=True)))

    width, heads, hidden, batch, s = 16, 2, 32, 2, 4
    rng = np.random.default_rng(0)

    def parameter(*shape):
        return half(torch.tensor(rng.standard_normal(shape), dtype=torch.float32)).requires_grad_()

    with Recorder(directory, policy="fp8", complete=True) as recorder:

        def call(name, op, function, *inputs, alpha=1.0, beta=None):
            beta = beta or (1.0,) * len(inputs)
            with recorder.call(name, op, alpha=alpha, beta=beta, count=len(inputs)) as c:
                used = c.inputs(*inputs)
                used = used if isinstance(used, tuple) else (used,)
                return c.output(Call.apply(function, op.contraction, alpha, beta, *used))

        def linear(name, x, m, n):
            w, bias = parameter(m, n), parameter(n)
            y = call(name, ops.Matmul(), torch.matmul, x, w, alpha=m**-0.5, beta=(n**-0.5, (batch * s) ** -0.5))
            return call(f"{name}.bias", ops.Bias(), torch.add, y, bias, beta=(1.0, (batch * s) ** -0.5))

        def norm(name, x):
            n = width - 1 if bug == "variance of n − 1" else width
            gain, bias = parameter(width), parameter(width)

            def normalized(x, gain, bias):
                return f.layer_norm(x, (width,)) * (n / width) ** 0.5 * gain + bias

            return call(name, ops.LayerNorm(1e-5), normalized, x, gain, bias, beta=(1.0, 0.5, 0.5))

        def split(x):
            return x.reshape(batch, s, heads, width // heads).transpose(1, 2)

        def scores(q, k):
            return q @ k.transpose(-1, -2) * (width // heads) ** (-1.0 if bug == "damping 1/d" else -0.5)

        x = parameter(batch, s, width)
        q, k, v = (split(linear(n, x, width, width)) for n in ("query", "key", "value"))
        a = call("scores", ops.AttentionScores(), scores, q, k)
        p = call("weights", ops.Softmax(), lambda t: f.softmax(t, -1), a, alpha=s, beta=(s,))
        mix = call("mix", ops.AttentionMix(), torch.matmul, p, v, alpha=1 / s)
        out = linear("output", mix.transpose(1, 2).reshape(batch, s, width), width, width)
        x = norm("norm.0", call("add.0", ops.Add(), torch.add, x, out, alpha=2**-0.5))
        h = call("gelu", ops.Gelu(), f.gelu, linear("up", x, width, hidden), alpha=1.7, beta=(1.48,))
        y = norm("norm.1", call("add.1", ops.Add(), torch.add, x, linear("down", h, hidden, width), alpha=2**-0.5))
        y.backward(half(torch.tensor(rng.standard_normal(y.shape), dtype=torch.float32)))
    return judge(load_trace(directory))


def test_a_bert_layer_of_pytorch(tmp_path):
    result = torch_layer(tmp_path)
    assert result.passed, in_words(result)
    assert len(result.calls) == 20
    assert not any(c.missing for c in result.calls)
    assert all(c.backward for c in result.calls)


@pytest.mark.parametrize(
    ("bug", "first"),
    [("gradients in e4m3", "query"), ("variance of n − 1", "norm.0"), ("damping 1/d", "scores")],
)
def test_a_bug_in_the_layer_is_found_where_it_is(tmp_path, bug, first):
    result = torch_layer(tmp_path, bug)
    assert result.first.name == first
    wrong = {c.ops[0] for c in result.calls if not c.passed}
    expected = {
        "query": {"matmul", "attention_scores", "attention_mix"},
        "norm.0": {"layer_norm"},
        "scores": {"attention_scores"},
    }
    assert wrong <= expected[first]
