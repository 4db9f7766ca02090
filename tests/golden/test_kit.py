"""The kit: claims, verdicts, bounds, waivers, reports, bisection, pipes, pytest."""

import json
from functools import cache

import numpy as np
import pytest

from refscale.cli import main
from refscale.errors import GoldenError
from refscale.exact import get_accumulator
from refscale.formats import Cast, get_format
from refscale.golden import load
from refscale.golden.backends import SHIPPED, find
from refscale.golden.backends.reference import Reference
from refscale.golden.kit import (
    Bisection,
    Claims,
    Result,
    bisect,
    judge,
    load_backend,
    run,
    select,
    summary,
    to_json,
)
from refscale.golden.kit.report import failed, matrix, row_of
from refscale.golden.schema import Codes, Vector

VECTORS = load()
TIES = "cast/float8_e4m3fn/nearest_even/saturate/float32/ties"
RIGHT = Reference()


class Mine(Reference):
    """The reference, except for the parts that a test changes."""

    name, version = "mine", "3"


def only(*patterns):
    return select(VECTORS.values(), patterns)


# --- claims and verdicts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        (Claims(formats=("float16",)), "format float8_e4m3fn is not claimed"),
        (Claims(roundings=("up",)), "rounding nearest_even is not claimed"),
        (Claims(overflows=("nonsaturate",)), "overflow saturate is not claimed"),
    ],
)
def test_what_is_not_claimed_is_not_implemented(claims, reason):
    backend = Mine()
    backend.claims = claims
    result = judge(backend, VECTORS[TIES])
    assert (result.verdict, result.reason) == ("not implemented", reason)


def test_what_is_missing_or_raises():
    class Few:
        name, version, claims = "few", "1", Claims()

        def unary(self, x, **_):
            raise NotImplementedError("no functions today")

        def matmul(self, a, b, **_):
            raise ZeroDivisionError("oh")

    some = [v for v in VECTORS.values() if not v.bulk and v.family != "convention" and "c" not in v.inputs]
    results = {v.op: judge(Few(), v) for v in some}
    assert results["cast"].reason == "no method cast"
    assert results["unary"].reason == "no functions today"
    assert (results["matmul"].verdict, results["matmul"].reason) == ("fail", "matmul raised ZeroDivisionError: oh")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda y: y[:-1], "shape"),
        (lambda y: y.astype(np.int32), "dtype int32"),
        (lambda y: y + np.float32(1e-4), "was not rounded"),
        (lambda y: None, "is of type NoneType"),
        (lambda y: np.ma.array(y, mask=y == 1), "is a masked array"),
        (lambda y: {"z": y, "w": y}, "output y is missing; the outputs are: z, w"),
        (lambda y: {"z": y}, "output y is missing; the outputs are: z"),
        (lambda y: {}, "output y is missing; the outputs are: none"),
    ],
)
def test_answers_of_another_form_say_so(answer, reason):
    class Odd(Mine):
        def cast(self, x, **v):
            return answer(Reference.cast(self, x, **v))

    result = judge(Odd(), VECTORS[TIES])
    assert result.verdict == "fail"
    assert reason in result.reason


def test_answers_may_be_codes_values_or_dtypes():
    import ml_dtypes

    from refscale.formats import encode

    for form in (
        lambda y: encode(y, "float8_e4m3fn"),
        lambda y: y.astype(np.float64),
        lambda y: y.astype(ml_dtypes.float8_e4m3fn),
        lambda y: {"y": y},
    ):

        class Other(Mine):
            def cast(self, x, form=form, **v):
                return form(Reference.cast(self, x, **v))

        assert judge(Other(), VECTORS[TIES]).verdict == "same bits"


@pytest.mark.parametrize(
    ("answer", "verdict", "outputs"),
    [
        (lambda y: y, "same bits", ("same bits", "same bits")),
        (lambda y: {"elements": y["elements"]}, "fail", ("same bits", "fail")),
        (lambda y: {"elements": y["elements"], "scale": y["scales"]}, "fail", ("same bits", "fail")),
        (lambda y: y | {"scales": None}, "not implemented", ("same bits", "not implemented")),
        (lambda y: {"elements": y["elements"] ^ 1, "scales": None}, "fail", ("fail", "not implemented")),
        (lambda y: {"elements": None, "scales": y["scales"] ^ 1}, "fail", ("not implemented", "fail")),
        (lambda y: {"elements": y["elements"][:1], "scales": None}, "fail", ("fail", "not implemented")),
        (lambda y: {**y, "scales": y["scales"] ^ 1}, "fail", ("same bits", "fail")),
        (lambda y: {}, "fail", ("fail", "fail")),
        (lambda y: dict.fromkeys(y), "not implemented", ("not implemented", "not implemented")),
    ],
)
def test_the_worst_output_decides(answer, verdict, outputs):
    """A wrong or missing output fails; one that is None is not implemented."""

    class Some(Mine):
        def block_quantize(self, x, random_bits=None, **attributes):
            y = Reference.block_quantize(self, x, random_bits, **attributes)
            return answer({"elements": y["elements"], "scales": y["scales"]})

    vector = VECTORS["block-cast/mxfp8_e4m3/usual"]
    result = judge(Some(), vector)
    assert (result.verdict, result.outputs) == (verdict, dict(zip(("elements", "scales"), outputs, strict=True)))
    assert failed([result]) == (verdict == "fail")


@pytest.mark.parametrize(
    ("expected", "actual", "ulps"),
    [
        (1.0, 1.25, 2),
        (-1.0, -1.25, 2),
        (-1.25, -1.0, 2),
        (2.0**-9, -(2.0**-9), 2),  # across both zeros, which are one place
        (0.0, -(2.0**-9), 1),
        (0.0, -0.0, 0),
        (448.0, np.nan, None),
    ],
)
def test_how_far_apart_two_codes_are(expected, actual, ulps):
    """E4M3 has eight values from 1 to 2; 2^-9 is the smallest."""

    class Off(Mine):
        def cast(self, x, **_):
            return np.float32([[448.0, actual]])

    attributes = {"format": "float8_e4m3fn", "rounding": "nearest_even", "overflow": "saturate"}
    x, y = (Codes.of(np.float32([[448.0, expected]]), format) for format in ("float32", "float8_e4m3fn"))
    m = judge(Off(), Vector("cast/hand", "cast", attributes, {"x": x}, {"y": y})).mismatch
    assert (m.index, m.wrong, m.size, m.ulps) == ((0, 1), 1, 2, ulps)
    assert str(m.source) == f"0x{int(x.codes[0, 1]):08x} ({expected:.9g})"


@pytest.mark.parametrize(("code", "verdict"), [(0xF, "fail"), (0x10, "fail"), (0x7, "same bits")])
def test_codes_that_a_format_does_not_have(code, verdict):
    class Gives(Mine):
        def cast(self, x, **_):
            return np.array([code], np.uint8)

    attributes = {"format": "float4_e2m1fn", "rounding": "nearest_even", "overflow": "saturate"}
    inputs, outputs = {"x": Codes.of([6.0], "float32")}, {"y": Codes.of([6.0], "float4_e2m1fn")}
    result = judge(Gives(), Vector("cast/hand", "cast", attributes, inputs, outputs))
    assert result.verdict == verdict
    assert ("code 0x10, expected less than 0x10" in result.reason) == (code == 0x10)
    assert (result.mismatch is not None) == (code == 0xF)


@pytest.mark.parametrize(
    ("format", "dtype"),
    [
        ("float16", "float16"),
        ("bfloat16", "bfloat16"),
        ("float32", "float32"),
        ("float64", "float64"),
        ("tf32", "float32"),
        ("float8_e4m3fn", "float32"),
        ("float4_e2m1fn", "float32"),
        ("int64", "int64"),
        ("bool", "bool"),
    ],
)
def test_arrays_as_a_backend_receives_them(format, dtype):
    x = Codes.of([0.0, 1.0], format)
    assert (x.native.dtype.name, x.native.astype(np.float64).tolist()) == (dtype, [0.0, 1.0])


@pytest.mark.parametrize(("in_nan_block", "verdict"), [(True, "same bits"), (False, "fail")])
def test_elements_of_a_block_that_is_nan_may_be_any(in_nan_block, verdict):
    vector = VECTORS["block-scale/mxfp4/rceil/nonfinite-nan"]
    nan = np.isnan(vector.outputs["scales"].values)[:, 0]
    assert 0 < nan.sum() < len(nan)

    class Other(Mine):
        def block_quantize(self, x, random_bits=None, **attributes):
            y = Reference.block_quantize(self, x, random_bits, **attributes)
            row = np.flatnonzero(nan == in_nan_block)[0]
            y["elements"][row, 3] ^= 1
            return y

    result = judge(Other(), vector)
    assert (result.verdict, result.outputs["scales"]) == (verdict, "same bits")


def test_a_training_step_is_of_the_arrays_that_are_given():
    vector = VECTORS["model/ffn/regular/fp32/whole"]
    arrays = {name: x.native for name, x in vector.inputs.items()}
    first = next(iter(vector.outputs))  # of a fork: the input itself
    for factor in (1, 2):
        found = RIGHT.model(**vector.attributes, **arrays | {"x": factor * arrays["x"]})
        assert np.array_equal(found[first], np.float32(factor * arrays["x"]))


def test_a_bound_that_one_output_needs_is_the_verdict():
    class Rounded(Mine):
        claims = Claims(op_ulps=64)

        def op(self, **v):
            right = RIGHT.op(**v)
            return right | {"grad_gain": right["grad_gain"] * np.float32(1 + 2.0**-23)}

    result = next(r for r in run(Rounded(), only("ops/*.rms_norm/unit/fp32")) if r.verdict != "same bits")
    assert result.verdict == "within bound"
    assert set(result.outputs.values()) == {"same bits", "within bound"}


def test_a_backend_cannot_spoil_a_vector():
    class Writes(Mine):
        def cast(self, x, **v):
            y = Reference.cast(self, x, **v)
            x[...] = 0
            return y

    before = VECTORS[TIES].inputs["x"].codes.copy()
    assert judge(Writes(), VECTORS[TIES]).verdict == "same bits"
    assert (VECTORS[TIES].inputs["x"].codes == before).all()


def test_a_bulk_vector_as_it_is_shipped_is_judged():
    vector = VECTORS["unary/gelu/float16/all"]
    assert vector.bulk
    assert judge(RIGHT, vector).verdict == "same bits"
    assert vector.id in {v.id for v in select(VECTORS.values(), ["unary/gelu/*"], full=True)}


def test_nan_payloads_are_open_unless_claimed():
    class Positive(Mine):
        def cast(self, x, **v):
            return np.abs(Reference.cast(self, x, **v))

    vector = VECTORS["cast/float8_e5m2/nearest_even/saturate/float32/nan"]
    backend = Positive()
    backend.claims = Claims(nan="same")
    assert judge(backend, vector).verdict == "fail"
    backend.claims = Claims(nan="any")
    assert judge(backend, vector).verdict == "same bits"


def test_the_first_deviating_element_is_shown():
    class Off(Mine):
        def cast(self, x, **v):
            y = Reference.cast(self, x, **v).copy()
            y[2:4] = -y[2:4] * 2
            return y

    m = judge(Off(), VECTORS[TIES]).mismatch
    assert (m.output, m.index, m.wrong) == ("y", (2,), 2)
    x = VECTORS[TIES].inputs["x"]
    assert str(m.source) == f"0x{int(x.codes[2]):08x} ({float(x.values[2]):.9g})"
    assert m.ulps > 2


# --- bounds ----------------------------------------------------------------------------------------------------------


class InFloat32(Mine):
    """Products, functions and ops in float32."""

    claims = Claims(accumulate="any-order", function_ulps=4, op_ulps=64, start=True)
    error = 0.0

    def matmul(self, a, b, c=None, *, format, rounding, overflow, factor, **_):
        y = get_accumulator("float32").matmul(a, b, c) * np.float32(factor)
        return Cast(format, rounding, overflow)(y * np.float32(1 + self.error))

    def unary(self, x, *, format, rounding, overflow, **v):
        y = RIGHT.unary(x, format="float32", rounding="nearest_even", overflow="nonsaturate", **v)
        return Cast(format, rounding, overflow)(y * np.float32(1 + self.error))

    def op(self, *, store, **v):
        outputs = RIGHT.op(store="float32", **v)
        cast = Cast(store, "nearest_even", "nonsaturate")
        scaled = {n: y * np.float32(1 + self.error) for n, y in outputs.items()}
        reports = v["name"].endswith(("loss", "entropy"))
        return {n: y if reports and n == "y" else cast(y) for n, y in scaled.items()}


class Near(InFloat32):
    error = 2.0**-23


class FarOff(InFloat32):
    error = 2.0**-12


@cache
def near(pattern):
    """The results of ``Near``, which two tests read."""
    return tuple(run(Near(), only(pattern)))


def fails(backend, vectors):
    """Whether some vector fails, up to the first."""
    return any(failed(run(backend, [v])) for v in vectors)


@pytest.mark.parametrize("pattern", ["matmul/*", "unary/*", "ops/*.matmul/*", "ops/*.conv1d/*", "ops/*.layer_norm/*"])
def test_bounds_hold_what_is_claimed_and_no_more(pattern):
    vectors = only(pattern)
    good = [r.verdict for r in near(pattern)]
    assert set(good) <= {"same bits", "within bound"}
    assert "within bound" in good
    assert fails(FarOff(), vectors)
    exact = Near()
    exact.claims = Claims()
    assert fails(exact, vectors)


def test_a_model_backend_is_held_to_its_own_accumulator():
    """Sums of another model have other bits than those of the one that is claimed."""

    class Twelve(InFloat32):
        def matmul(self, a, b, *, format, rounding, overflow, factor, **_):
            y = get_accumulator("truncated:12:16").matmul(a, b) * np.float32(factor)
            return Cast(format, rounding, overflow)(y)

    backend, vectors = Twelve(), [v for v in only("matmul/float8*/*") if v.op == "matmul"]
    assert failed(run(backend, vectors))
    backend.claims = Claims(accumulate="truncated:12:16")
    assert not failed(run(backend, vectors))


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e308])
def test_answers_of_nan_and_infinity_are_failures_in_words(value):
    class Lost(Mine):
        claims = Claims(accumulate="float32", function_ulps=4, op_ulps=64)

        def cast(self, x, **_):
            return np.full(x.shape, value)

        def unary(self, x, **_):
            return np.full(x.shape, value)

        def op(self, **v):
            return {n: np.full(y.shape, value) for n, y in RIGHT.op(**v).items()}

    vectors = only("cast/float8_e4m3fn/*", "cast/float4*/nearest_even/*", "unary/exp/*", "ops/*.layer_norm/*")
    results = [r for r in run(Lost(), vectors) if r.verdict != "not implemented"]
    failing = [r for r in results if r.verdict == "fail"]
    assert len(failing) > 0.9 * len(results)
    assert all(r.mismatch or "not rounded to" in r.reason for r in failing)
    assert summary(Lost(), results, failures=len(results))


# --- backends ---------------------------------------------------------------------------------------------------------


class TiesAway(Mine):
    def cast(self, x, *, rounding, **v):
        return Reference.cast(self, x, rounding="nearest_away" if rounding == "nearest_even" else rounding, **v)


def test_backends_that_are_none_are_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from refscale.golden.kit import Claims\n"
        "class Nothing: pass\n"
        "class Empty: name, version, claims = 'a', '1', Claims()\n"
        "class Raises:\n    def __init__(self): 1 / 0\n"
        "class Good(Empty):\n    def cast(self, x, **_): return x\n",
        encoding="utf-8",
    )
    for where, words in {
        "nothing": "expected module:Class or one of reference",
        "no.such.module:A": "importing no.such.module raised ModuleNotFoundError",
        f"{path}:Missing": "has no Missing",
        f"{path}:Nothing": "expected an attribute 'name'",
        f"{path}:Empty": "expected at least one method",
        f"{path}:Raises": "raised ZeroDivisionError",
        f"{tmp_path}/none.py:A": "no file",
    }.items():
        with pytest.raises(GoldenError, match=words):
            find(where)
    assert load_backend(f"{path}:Good").name == "a"
    for wrong in ({"accumulate": "fp32"}, {"roundings": ("even",)}, {"nan": "some"}, {"op_ulps": -1}):
        with pytest.raises(GoldenError):
            Claims(**wrong)


@pytest.mark.parametrize("name", ["function_ulps", "op_ulps"])
def test_a_claim_that_bounds_nothing_is_refused(name):
    """An ulp of bfloat16 is the coarsest that any arithmetic needs."""
    Claims(**{name: 2**16})
    for wrong in (2**16 + 1, 2**22, float("inf"), float("nan")):
        with pytest.raises(GoldenError, match=f"Claims\\({name}=.*expected 0 to 65536, an ulp of bfloat16"):
            Claims(**{name: wrong})


@pytest.mark.parametrize(
    ("pattern", "bound"),
    [
        ("matmul/*", "accumulate any-order"),
        ("ops/*.conv1d/*", "accumulate any-order"),
        ("unary/*", "functions within 4 ulp"),
        ("ops/*.layer_norm/*", "other ops with functions within 64 ulp"),
    ],
)
def test_the_bound_stands_beside_the_verdict(pattern, bound):
    results = near(pattern)
    assert {r.bound for r in results if r.verdict == "within bound"} == {bound}
    assert not any(r.bound for r in results if r.verdict != "within bound")
    count = sum(r.verdict == "within bound" for r in results)
    assert f"within bound: {count} by the claim '{bound}'" in summary(Near(), results)
    assert {v.get("bound", bound) for v in to_json(Near(), results, VECTORS)["vectors"]} == {bound}


# --- reports, bisection, the command ---------------------------------------------------------------------------------


def test_reports():
    results = run(TiesAway(), only("cast/float8_e4m3fn/nearest_even/*", "decode/float8_e4m3fn/*"))
    text = summary(TiesAway(), results, 1)
    assert "tie-even: a tie rounds to the neighbor with even significand" in text
    assert f"FAIL {TIES}".replace("/saturate", "/nonsaturate") in text or f"FAIL {TIES}" in text
    assert text.count("\nFAIL ") == 1
    document = json.loads(json.dumps(to_json(TiesAway(), results, VECTORS)))
    assert document["totals"]["fail"] == sum(v["verdict"] == "fail" for v in document["vectors"]) > 0
    assert len(document["vectors"]) == len(results)
    assert "| mine | 3 |" in matrix([(TiesAway(), results)])


def made(id, verdict, flags=(), said=None, format="float16", **more):
    """The result of a vector of one number; ``said`` of its output, if not the same."""
    family = id.partition("/")[0]
    attributes = {"format": format, "rounding": "nearest_even", "overflow": "saturate"}
    vector = Vector(id, family, attributes, {}, {"y": Codes.of([1.0], "float16")}, flags)
    return Result(vector, verdict, {"y": said or verdict}, **more)


MADE = [
    made("cast/1", "same bits"),
    made("cast/2", "fail", ("tie-even", "carry")),
    made("cast/3", "same bits"),
    made("cast/4", "waived", ("carry",), said="fail"),
    made("cast/5", "unexpectedly fixed", said="same bits", reason="old"),
    made("cast/6", "within bound", bound="accumulate float32"),
    made("cast/7", "not implemented"),
    made("cast/8", "fail", ("tie-even",), format="bfloat16"),
    made("decode/1", "not implemented"),
    made("decode/2", "not implemented"),
]


def test_the_table_by_hand():
    """Waived and fixed vectors count as such; a failing format has a row; unimplemented formats have none."""
    lines = summary(Mine(), MADE, failures=0).splitlines()
    assert [line.split() for line in lines[2:5]] == [
        ["op", "direction", "format", "same", "bound", "FAIL", "waived", "FIXED", "n/i"],
        ["cast", "-", "float16", "2", "1", "1", "1", "1", "1"],
        ["cast", "-", "bfloat16", "·", "·", "1", "·", "·", "·"],
    ]
    assert lines[5:] == [
        "",
        "not implemented at all: decode",
        "",
        "within bound: 1 by the claim 'accumulate float32'",
        "passes, remove the waiver: cast/5 (old)",
        "10 vectors: 2 same bits, 1 within bound, 1 waived, 3 not implemented, 1 unexpectedly fixed, 2 failed",
    ]
    some = summary(Mine(), [made("cast/1", "same bits"), made("cast/2", "not implemented")]).splitlines()
    assert [line.split() for line in some[2:4]] == [
        ["op", "direction", "format", "same", "n/i"],
        ["cast", "-", "float16", "1", "1"],
    ]
    assert some[5:] == ["2 vectors: 1 same bits, 0 within bound, 0 waived, 1 not implemented, 0 failed"]
    assert to_json(Mine(), MADE, VECTORS)["totals"] == {
        "same bits": 2,
        "within bound": 1,
        "fail": 2,
        "waived": 1,
        "unexpectedly fixed": 1,
        "not implemented": 3,
    }
    for verdict, fails in (("fail", True), ("unexpectedly fixed", True), ("waived", False), ("within bound", False)):
        assert failed([made("cast/1", "same bits"), made("cast/2", verdict)]) is fails


def test_the_matrix_by_hand():
    """Good of those that were run; a family of which nothing was run is a dot; flags of what fails, the usual first."""
    other = [made("cast/1", "not implemented"), made("decode/1", "same bits")]
    text = matrix([(Mine(), MADE), (RIGHT, other)])
    assert text.splitlines() == [
        "| backend | version | cast | decode |",
        "|---|---|---|---|",
        "| mine | 3 | 3 / 7 (1 waived) | · |",
        f"| reference | {RIGHT.version} | · | 1 / 1 |",
        "",
        "mine fails vectors with the flags: tie-even 2, carry 1",
    ]


@pytest.mark.parametrize(("count", "shown"), [(1, [1]), (2, [1, 4]), (3, [1, 4, 2]), (9, [1, 4, 2, 3])])
def test_failures_of_other_flags_are_shown_first(count, shown):
    flags = [("carry",), ("carry",), ("carry",), ("bias",)]
    results = [made(f"cast/{i}", "fail", flag) for i, flag in enumerate(flags, 1)]
    lines = summary(Mine(), results, count).splitlines()
    assert [line for line in lines if line.startswith("FAIL ")] == [f"FAIL cast/{i}" for i in shown]


def test_progress_is_told_after_each_vector():
    told = []
    vectors = only("cast/float16/nearest_even/saturate/float32/*")[:3]
    run(Mine(), vectors, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("pattern", "output", "row"),
    [
        (TIES, "y", ("cast", "-", "float8_e4m3fn")),
        ("unary/gelu/float16/usual", "y", ("gelu", "value", "float16")),
        ("unary/gelu.derivative/float16/usual", "y", ("gelu", "derivative", "float16")),
        ("matmul/float16.bfloat16/bfloat16/forward", "y", ("matmul", "forward", "float16 · bfloat16 → bfloat16")),
        ("matmul/float16.bfloat16/bfloat16/grad_w", "y", ("matmul", "grad_w", "float16 · bfloat16 → bfloat16")),
        ("matmul/float16.float16/float32/usual", "y", ("matmul", "forward", "float16 · float16 → float32")),
        ("block-scale/mxfp4/floor/edges", "scales", ("block_quantize floor", "scales", "float4_e2m1fn")),
        ("block-cast/layout/nibbles", "y", ("block_layout", "-", "nibbles")),
        ("ops/*.relu/unit/fp32", "y", ("op relu", "forward", "float32")),
        ("ops/*.relu/unit/fp32", "grad_x", ("op relu", "backward", "float32")),
        ("ops/*.matmul/unit/fp8", "grad_x", ("op matmul", "backward", "float8_e4m3fn, float8_e5m2 → float16")),
        ("model/ffn/unit/fp16/whole", "gradient ffn.up.weight", ("model ffn", "backward", "unit, fp16")),
        ("model/ffn/unit/fp16/whole", "value 000.fork", ("model ffn", "forward", "unit, fp16")),
        ("model/bert-micro/unit/fp32/step-1/mlm.norm.gain", "m", ("adamw", "step", "float32")),
    ],
)
def test_where_an_output_is_counted(pattern, output, row):
    assert row_of(only(pattern)[0], output) == row


def test_bisection_names_the_first_op_that_deviates():
    class BadGelu(Mine):
        def op(self, *, name, **v):
            right = RIGHT.op(name=name, **v)
            return {n: -y if n != "y" else y for n, y in right.items()} if name == "gelu" else right

    class BadBias(Mine):
        def op(self, *, name, **v):
            right = RIGHT.op(name=name, **v)
            return {**right, "y": -right["y"]} if name == "bias" else right

    where = "model/ffn/unit/fp16"
    assert bisect(RIGHT, where) == Bisection(where, None, 7)
    found = bisect(BadGelu(), where).culprit
    assert (found.result.vector.attributes["name"], found.output) == ("gelu", "grad_x")
    # fork, matmul, bias, gelu, matmul, bias, weighted_add; then, from behind, 2 + 2 + 2 + 1 gradients to gelu's.
    assert (found.position, found.checked) == (7 + 7, 7 + 12)
    found = bisect(BadBias(), where).culprit
    assert (found.result.vector.attributes["name"], found.output) == ("bias", "y")
    assert (found.position, found.checked) == (3, 19)

    class BadWeight(Mine):
        def op(self, *, name, **v):
            right = RIGHT.op(name=name, **v)
            return {**right, "grad_w": -right["grad_w"]} if name == "matmul" else right

    found = bisect(BadWeight(), where).culprit
    assert (found.position, found.output) == (7 + 6, "grad_w")
    assert found.result.vector.id == "model/ffn/unit/fp16/004.matmul"  # of two the one that backward meets first
    for wrong in ("model/ffn", "model/ffn/unit/fp4", "cast/a/b/c", "model/no/unit/fp8"):
        with pytest.raises(GoldenError, match="expected model/NAME"):
            bisect(RIGHT, wrong)


def test_the_command(tmp_path, capsys):
    report = tmp_path / "report.json"
    assert main(["conform", "reference", "--only", "cast/float16/*", "--json", str(report)]) == 0
    assert json.loads(report.read_text(encoding="utf-8"))["totals"]["fail"] == 0
    assert main(["conform", "tests.golden.test_kit:TiesAway", "--only", "cast/float16/*"]) == 1
    assert "FAIL" in capsys.readouterr().out
    assert main(["conform", "reference", "--only", "none/*"]) == 2
    assert main(["conform", "reference", "--bisect", "model/attention/regular/fp8"]) == 0
    assert "no judged call deviates; 21 of 21 calls judged" in capsys.readouterr().out
    assert main(["conform", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in SHIPPED)


def test_shipped_backends_that_are_here(capsys):
    assert main(["conform", "--all-installed", "--only", "cast/float8_e4m3fn/nearest_even/*"]) in (0, 1)
    assert "| reference |" in capsys.readouterr().out
    fails = {r.vector.id for r in run(find("ml_dtypes"), only("cast/*")) if r.verdict == "fail"}
    assert fails, "ml_dtypes rounds float64 twice"
    assert all("/float64/" in i or "e8m0" in i for i in fails)


def test_a_backend_that_fails_everywhere_has_a_short_table():
    class Zeros(Mine):
        def cast(self, x, *, format, **_):
            return np.zeros(x.shape, get_format(format).code_dtype)

    results = run(Zeros(), only("cast/*"))
    assert len({r.vector.attributes["format"] for r in results}) > 10
    table = summary(Zeros(), results, failures=0)
    assert len(table.splitlines()) == 6  # the claims, one row for all formats under its head, the totals
    assert f"{len({r.vector.attributes['format'] for r in results})} formats" in table


@pytest.mark.parametrize(("count", "rows"), [(4, 5), (5, 1)])
def test_up_to_four_formats_that_fail_have_a_row_each(count, rows):
    formats = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e3m4"]

    class Wrong(Mine):
        def cast(self, x, *, format, **v):
            y = super().cast(x, format=format, **v)
            return np.zeros_like(y) if format in formats[:count] else y

    wanted = [f"cast/{f}/nearest_even/saturate/float32/ties" for f in [*formats, "float8_e4m3fnuz", "float8_e5m2fnuz"]]
    lines = summary(Wrong(), run(Wrong(), only(*wanted)), failures=0).splitlines()
    assert sum(line.startswith("cast ") for line in lines) == rows
    assert all(any(f" {f} " in line for line in lines) == (count == 4) for f in formats[:count])


def test_outputs_of_other_names_are_missing():
    class Named(Mine):
        def cast(self, x, **v):
            return {"result": super().cast(x, **v)}

        def block_quantize(self, x, random_bits=None, **attributes):
            return {"codes": super().block_quantize(x, random_bits, **attributes)["elements"]}

    result = judge(Named(), VECTORS[TIES])
    assert (result.verdict, result.reason) == ("fail", "output y is missing; the outputs are: result")
    result = judge(Named(), next(v for v in VECTORS.values() if v.op == "block_quantize"))
    assert (result.verdict, result.reason) == ("fail", "output scales is missing; the outputs are: codes")
