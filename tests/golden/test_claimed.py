"""A claimed accumulator is judged bit by bit: right backends pass, each with one defect fails where it shows.

The first half is hand-made: sums whose result under each accumulator is known. The second runs backends on the golden
vectors of ``matmul``, whose own outputs are those of the exact sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from refscale.blocks import block_matmul
from refscale.errors import GoldenError
from refscale.exact import get_accumulator
from refscale.exact.hardware import model_of
from refscale.formats import Cast, quantize
from refscale.golden import load
from refscale.golden.kit import Claims, judge, run, select
from refscale.golden.products import scaled_operands
from refscale.golden.records import block_operands
from refscale.golden.replay import input_names, make_op, policy, replay
from refscale.golden.schema import Codes, Vector
from refscale.scales import Scales

VECTORS = load()
Sum = Callable[..., Any]


def product(format: str, a: Any, b: Any, c: Any = None, *, output: str = "float32", factor: float = 1.0) -> Vector:
    """The vector of one product, whose own output is a placeholder."""
    inputs = {"a": Codes.of(np.float32(a), format), "b": Codes.of(np.float32(b), format)}
    if c is not None:
        inputs["c"] = Codes.of(np.float32(c), "float32")
    attributes = {"a_format": format, "b_format": format, "format": output, "rounding": "nearest_even"}
    attributes |= {"overflow": "nonsaturate", "factor": factor}
    shape = inputs["a"].shape[0], inputs["b"].shape[1]
    return Vector("hand/matmul", "matmul", attributes, inputs, {"y": Codes.of(np.zeros(shape, np.float32), output)})


class Sums:
    """A backend that sums products by a function of a, b and c."""

    name, version = "sums", "1"

    def __init__(self, accumulate: str, matmul: Sum | None = None) -> None:
        self.claims = Claims(accumulate=accumulate, start=True)
        self.sum = matmul or get_accumulator(accumulate.removeprefix("blocks:")).matmul

    def matmul(self, a: Any, b: Any, c: Any = None, **v: Any) -> Any:
        total = self.sum(a, b) if c is None else self.sum(a, b, c)
        return Cast(v["format"], v["rounding"], v["overflow"])(total * np.float32(v["factor"]))


def truncates(a: Any, b: Any) -> Any:
    """float32 in order, each sum cut toward zero in place of rounded."""
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for k in range(a.shape[1]):
        exact = total + a[:, k, None].astype(np.float64) * b[k].astype(np.float64)
        total = quantize(exact, "float32", rounding="toward_zero", overflow="saturate")
    return total


def splits_k_through_bfloat16(a: Any, b: Any) -> Any:
    """Both halves of K by a tensor core, added after a rounding to bfloat16."""
    half = (a.shape[1] + 1) // 2
    parts = [get_accumulator("truncated:13:32").matmul(a[:, s], b[s]) for s in (slice(half), slice(half, None))]
    narrow = [quantize(p, "bfloat16", rounding="nearest_even", overflow="nonsaturate") for p in parts]
    return narrow[0] + narrow[1]


# --- by hand ---------------------------------------------------------------------------------------------------------


TINY = product("bfloat16", [[2.0**-74, -(2.0**-74)]], [[2.0**-75], [2.0**-83]])
"""2^-149 − 2^-157: 0 if 2^-157 is kept, 2^-149 if it is not."""
TINIER = product("bfloat16", [[2.0**-74, -(2.0**-74)]], [[2.0**-75], [2.0**-84]])
"""2^-149 − 2^-158."""
TINIEST = product("bfloat16", [[2.0**-74, -(2.0**-74)]], [[2.0**-75], [2.0**-85]])
"""2^-149 − 2^-159."""


@pytest.mark.parametrize(
    ("vector", "floors"),
    [(TINY, {-134: True, -133: True, -132: True}), (TINIER, {-132: False}), (TINIEST, {-134: False})],
)
def test_a_floor_that_is_off_by_one(vector, floors):
    """Claimed is h100:bf16, −133, which keeps multiples of 2^-158."""
    assert judge(Sums("h100:bf16"), vector).verdict == "same bits"
    for floor in (-134, -133, -132):
        backend = Sums("h100:bf16", get_accumulator(f"truncated:25:16:floor={floor}").matmul)
        result = judge(backend, vector)
        right = floors.get(floor, True)
        assert result.verdict == ("same bits" if right else "fail"), floor
        if not right:
            assert (result.mismatch.index, result.mismatch.ulps) == ((0, 0), 1)


def test_c_added_after_rounding():
    """1 − 2^-25 lies between 1 − 2^-24 and 1: cut it is the first, and rounded to nearest, even, the second."""
    vector = product("bfloat16", [[-(2.0**-12)]], [[2.0**-13]], [[1.0]])
    inside = get_accumulator("h100:bf16").matmul

    def after(a, b, c):
        return inside(a, b) + c

    assert judge(Sums("h100:bf16"), vector).verdict == "same bits"
    result = judge(Sums("h100:bf16", after), vector)
    assert result.verdict == "fail"
    found = str(result.mismatch.actual), str(result.mismatch.expected)
    assert found == ("0x3f800000 (1)", "0x3f7fffff (0.99999994)")
    assert judge(Sums("h100:bf16", lambda a, b, c: inside(a, b)), vector).verdict == "fail"


def test_c_in_fp8_is_cut_to_14_bits():
    vector = product("float8_e4m3fn", [[1.0]], [[1.0]], [[2.0**-14]])
    assert judge(Sums("truncated:13:32"), vector).verdict == "same bits"
    inside = get_accumulator("truncated:13:32").matmul
    result = judge(Sums("truncated:13:32", lambda a, b, c: inside(a, b) + c), vector)
    assert result.verdict == "fail"
    assert str(result.mismatch.expected) == "0x3f800000 (1)"


def test_the_factor_may_be_rounded_to_float32_and_no_more():
    """s = 3, factor 0.1: 0.3 is 0x3e99999a, and times float32's 0.1, 0x3e99999b at most."""
    vector = product("float32", [[1.0, 2.0]], [[1.0], [1.0]], factor=0.1)

    class Given(Sums):
        def matmul(self, a: Any, b: Any, **_: Any) -> Any:
            return np.uint32([[self.sum]])

    once, twice = np.float32(3 * 0.1), np.float32(3) * np.float32(0.1)
    assert [hex(x.view(np.uint32)) for x in (once, twice)] == ["0x3e99999a", "0x3e99999a"]
    narrow = product("float32", [[1.0, 4.0]], [[1.0], [1.0]], factor=0.7)
    once, twice = np.float32(5 * 0.7), np.float32(5) * np.float32(0.7)
    codes = sorted(int(x.view(np.uint32)) for x in (once, twice))
    for v, low, high in ((vector, 0x3E99999A, 0x3E99999A), (narrow, *codes)):
        for code in range(low - 2, high + 3):
            good = low <= code <= high
            assert (judge(Given("float32", code), v).verdict != "fail") is good, hex(code)


@pytest.mark.parametrize(
    ("total", "accepted", "beyond"),
    [
        # 0.7·s is just below the tie 517.75, and in float32 on it: 517.5 and 518.
        (739.642822265625, (517.5, 518.0), (517.0, 518.5)),
        # 0.7·s is just above the tie, float32's 0.7 times s below it.
        (0.357666015625, (0.250244140625, 0.25048828125), (0.25, 0.250732421875)),
    ],
)
def test_each_rounding_of_the_factor_and_of_the_product_is_accepted(total, accepted, beyond):
    vector = product("float32", [[total]], [[1.0]], output="float16", factor=0.7)

    class Given(Sums):
        def matmul(self, a: Any, b: Any, **_: Any) -> Any:
            return np.float16([[self.sum]])

    for answer in (*accepted, *beyond):
        good = answer in accepted
        assert (judge(Given("float32", answer), vector).verdict != "fail") is good, answer


def test_a_power_of_two_leaves_one_result():
    vector = product("float32", [[1.0, 2.0**-24]], [[1.0], [1.0]], factor=0.25)
    result = judge(Sums("float32", lambda a, b: np.float32([[1 + 2.0**-23]])), vector)
    assert result.verdict == "fail"
    assert judge(Sums("float32"), vector).verdict == "same bits"


def test_an_exact_sum_is_not_that_of_a_claimed_accumulator():
    """1 + 2^-24 + 2^-24: in order 1, the real number 1 + 2^-23."""
    vector = product("float16", [[1.0, 2.0**-12, 2.0**-12]], [[1.0], [2.0**-12], [2.0**-12]])
    exact = np.float32([[1 + 2.0**-23]])
    assert judge(Sums("float32", lambda a, b: exact), vector).verdict == "fail"
    assert judge(Sums("float32"), vector).verdict == "same bits"
    assert judge(Sums("rounded:4", lambda a, b: exact), vector).verdict == "same bits"


# --- on the golden vectors -------------------------------------------------------------------------------------------


def only(*patterns: str) -> list[Vector]:
    return select(VECTORS.values(), patterns)


FP8 = only("matmul/float8_e4m3fn.float8_e4m3fn/*")
HALF = only("matmul/float16.float16/float32/*")


def verdicts(backend: Any, vectors: list[Vector]) -> Mapping[str, str]:
    return {r.vector.id: r.verdict for r in run(backend, vectors) if r.verdict != "not implemented"}


@pytest.mark.parametrize(
    "name", ["float32", "float32:16", "rounded:1", "rounded:32", "truncated:13:32", "truncated:25:16", "h100:fp16"]
)
def test_each_accumulator_is_accepted_under_its_claim(name):
    for vectors in (FP8, HALF):
        assert set(verdicts(Sums(name), vectors).values()) <= {"same bits", "within bound"}


@pytest.mark.parametrize(
    ("claim", "vectors", "wrong"),
    [
        ("float32", HALF, truncates),
        ("truncated:13:32", FP8, splits_k_through_bfloat16),
        ("float32", HALF, get_accumulator("float32:16").matmul),
        ("float32", HALF, lambda a, b: get_accumulator("float32").matmul(a[:, ::-1], b[::-1])),
        ("rounded:1", HALF, get_accumulator("rounded:2").matmul),
        ("truncated:13:32", FP8, get_accumulator("truncated:14:32").matmul),
        ("truncated:13:32", FP8, get_accumulator("truncated:13:16").matmul),
        ("truncated:25:16", HALF, get_accumulator("truncated:24:16").matmul),
        ("h100:e4m3fn", FP8, get_accumulator("b200:e4m3fn").matmul),
    ],
)
def test_another_accumulator_fails(claim, vectors, wrong):
    found = verdicts(Sums(claim, wrong), vectors)
    assert "fail" in found.values()
    short = [v for id, v in found.items() if id.endswith(("/empty", "/k-1"))]
    assert set(short) == {"same bits"}  # no sum, no difference


def test_a_bound_admits_what_bits_do_not():
    """Why ``any-order`` is a claim of its own: both defects are within the bounds of float32 and of 13:32."""
    assert "fail" not in verdicts(Sums("any-order", truncates), only("matmul/float16.float16/float32/usual")).values()


STARTED = only("matmul/*/float32/start-*")


@pytest.mark.parametrize(
    "claim", ["float32", "float32:16", "rounded:4", "truncated:13:32", "truncated:25:16:floor=-133"]
)
def test_sums_from_a_start_value_are_judged_by_the_bits_of_the_claim(claim):
    inside = get_accumulator(claim).matmul
    assert len(STARTED) == 40
    assert set(verdicts(Sums(claim), STARTED).values()) == {"same bits"}
    after = verdicts(Sums(claim, lambda a, b, c: inside(a, b) + c), STARTED)
    assert "fail" in after.values()
    assert not [id for id, v in after.items() if v == "fail" and id.endswith("start-alone")]
    ignored = verdicts(Sums(claim, lambda a, b, c: inside(a, b)), STARTED)
    assert set(ignored.values()) == {"fail"}


def test_sums_from_a_start_value_in_any_order_are_within_a_bound():
    def last(a, b, c):
        return get_accumulator("float32").matmul(a, b) + c

    found = verdicts(Sums("any-order", last), STARTED)
    assert set(found.values()) == {"same bits", "within bound"}
    opposite = only("matmul/*/float32/start-opposite")
    half = verdicts(Sums("any-order", lambda a, b, c: np.float16(last(a, b, c)).astype(np.float32)), opposite)
    assert "fail" in half.values()


def test_a_claimed_start_value_must_be_answered():
    class Without(Sums):
        def matmul(self, a: Any, b: Any, c: Any = None, **v: Any) -> Any:
            if c is not None:
                raise NotImplementedError("no c")
            return super().matmul(a, b, **v)

    result = judge(Without("float32"), STARTED[0])
    assert (result.verdict, result.reason) == ("fail", "a start value of sums is claimed and not answered: no c")
    backend = Without("float32")
    backend.claims = Claims(accumulate="float32")
    assert judge(backend, STARTED[0]).verdict == "not implemented"


def test_scaled_products_are_summed_as_claimed():
    class Scaled(Sums):
        def scaled_matmul(self, a: Any, b: Any, a_scale: Any, b_scale: Any, *, block: Any, **_: Any) -> Any:
            return self.sum(*scaled_operands(a, b, a_scale, b_scale, block))

    vectors = only("matmul/float8_e4m3fn.float8_e5m2/*/scaled-*")
    assert set(verdicts(Scaled("truncated:13:32"), vectors).values()) == {"same bits"}
    wrong = get_accumulator("truncated:12:32").matmul
    assert set(verdicts(Scaled("truncated:13:32", wrong), vectors).values()) == {"fail"}


def test_blocks_are_summed_as_claimed():
    """``NAME`` as if there were no blocks, ``blocks:NAME`` block by block."""

    class InBlocks(Sums):
        def __init__(self, claim: str, accumulate: str) -> None:
            super().__init__(claim)
            self.accumulate = accumulate

        def block_matmul(self, a: Any, b: Any, a_scales: Any, b_scales: Any, **v: Any) -> Any:
            tensor = [float(v.get(f"{name}_tensor_scale", 1.0)) for name in "ab"]
            left, right = block_operands(v, (a, b), (a_scales, b_scales), tensor)
            return block_matmul(left, right, Cast(v["format"], v["rounding"], v["overflow"]), self.accumulate)

    pairs = ("mxfp8_e4m3.mxfp8_e4m3", "nvfp4.nvfp4")
    vectors = only(*(f"block-matmul/{pair}/float32/*" for pair in pairs))
    claims = ("float32", "truncated:13:32", "blocks:float32", "blocks:exact", "blocks:truncated:13:32")
    for claim in claims:
        for accumulate in claims:
            found = set(verdicts(InBlocks(claim, accumulate), vectors).values())
            assert ("fail" in found) is (claim != accumulate), (claim, accumulate)


def test_contractions_among_ops_are_summed_as_claimed():
    class Ops(Sums):
        def __init__(self, claim: str, accumulate: str) -> None:
            super().__init__(claim)
            self.accumulate = accumulate

        def op(self, *, name: str, attributes: Any, alpha: Any, beta: Any, gradient: Any = None, **v: Any) -> Any:
            op = make_op(name, attributes)
            casts = [v.pop(which) for which in ("store", "operand", "operand_gradient")]
            given = [v[n] for n in input_names(op, len(v))]
            precision = policy(op, *casts, self.accumulate)
            return replay(op, given, gradient, Scales(alpha, tuple(beta)), precision).outputs

    vectors = only("ops/*matmul/*", "ops/*readout/*", "ops/*attention_mix/*")
    assert set(verdicts(Ops("truncated:10:8", "truncated:10:8"), vectors).values()) == {"same bits"}
    for wrong in ("exact", "float32", "truncated:10:4"):
        assert "fail" in verdicts(Ops("truncated:10:8", wrong), vectors).values()
    # No order is defined for these: a bound.
    loose = only("ops/*conv1d/*", "ops/*attention_scores/*")
    assert "fail" not in verdicts(Ops("float32", "exact"), loose).values()


def test_a_gpu_alone_is_its_accumulator_for_each_format():
    class Gpu(Sums):
        def matmul(self, a: Any, b: Any, *, a_format: str, b_format: str, **v: Any) -> Any:
            model = get_accumulator(model_of("h100", a_format, b_format) or "exact")
            return Cast(v["format"], v["rounding"], v["overflow"])(model.matmul(a, b) * np.float32(v["factor"]))

    backend = Gpu("float32")
    backend.claims = Claims(accumulate="h100")
    vectors = only("matmul/float8_e4m3fn.*/*", "matmul/float16.*/*", "matmul/bfloat16.bfloat16/*")
    results = [r for r in run(backend, vectors) if r.vector.op == "matmul"]
    done = [r for r in results if r.verdict != "not implemented"]
    assert {r.verdict for r in done} <= {"same bits", "within bound"}
    pairs = {tuple(r.vector.attributes[f"{x}_format"] for x in "ab") for r in done}
    fp8 = ("float8_e4m3fn", "float8_e5m2")
    assert pairs == {(f, f) for f in (*fp8, "float16", "bfloat16", "tf32")} | {fp8}
    missing = [r for r in results if r.vector.attributes["b_format"] == "float32"]
    assert {r.reason for r in missing} == {"this product on h100 is not claimed"}
    backend.claims = Claims(accumulate="a100")
    assert "fail" in verdicts(backend, only("matmul/float16.float16/*")).values()
    assert model_of("h100", "float8_e5m2", "float8_e4m3fn") == "truncated:13:32:floor=-133:emin=-14/-6"
    assert model_of("h100", "float16", "bfloat16") is model_of("h100", "float32", "float32") is None
    assert model_of("b200", *fp8) == "rounded:32"
    assert model_of("v100", *fp8) is None


def test_claims_of_blocks():
    assert Claims(accumulate="blocks:truncated:13:32").accumulate == "blocks:truncated:13:32"
    for wrong in ("blocks:", "blocks:blocks:float32", "blocks:fp32", ""):
        with pytest.raises(GoldenError, match="get_accumulator"):
            Claims(accumulate=wrong)
