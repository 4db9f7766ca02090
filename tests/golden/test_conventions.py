"""Conventions: a claimed name is checked with its own vectors, a wrong claim fails, mandated elements always count."""

from collections import defaultdict
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from refscale.blocks import dequantize_blocks, encode_blocks
from refscale.errors import GoldenError
from refscale.formats import CONVENTIONS, Cast, encode_by
from refscale.formats.conventions import without_subnormals
from refscale.golden import load
from refscale.golden.backends.reference import Reference
from refscale.golden.conventions import SETS, TOPICS, claimed, concerned
from refscale.golden.kit import Claims, judge, run, summary
from refscale.golden.kit.pipe import _claims
from refscale.golden.records import block_operands, cast_of, dequantize_operand
from refscale.golden.schema import Codes, Vector

VECTORS = load()
CHOICES = [v for v in VECTORS.values() if v.family == "convention"]


class Follows(Reference):
    """A backend that claims some conventions and follows some, the same or others."""

    def __init__(self, claims, follows=None):
        self.claims = Claims(conventions=claims)
        self.follows = claimed(claims) if follows is None else follows

    def cast(self, x, *, format, rounding, overflow, random_bits=None):
        names = {t: n for t, n in self.follows.items() if t in CONVENTIONS}
        return encode_by(x, Cast(format, rounding, overflow), names, random_bits)

    def block_quantize(self, x, random_bits=None, *, arithmetic, nonfinite, **v):
        x = without_subnormals(x) if self.follows.get("float32_subnormals") == "flushed" else x
        kind = "nvfp4" if v["tensor_scale"] else "tile"
        scale, element = (self.follows.get(f"{kind}_{part}") for part in ("scale", "element"))
        if scale and v["rule"] == "amax":
            arithmetic = f"{scale}+{element}"
        nonfinite = self.follows.get("block_infinity") or self.follows.get("block_nan") or nonfinite
        y = encode_blocks(x, cast_of(**v, arithmetic=arithmetic, nonfinite=nonfinite), random_bits)
        scales = y.scales
        if self.follows.get("block_zero") == "one":
            scales = np.where(scales == 0, 127, scales).astype(np.uint8)
        return {"elements": y.codes, "scales": scales, "tensor_scale": np.float32(y.tensor_scale)}

    def block_matmul(self, *, a_scales, b_scales, **v):
        if self.follows.get("scale_sign") == "ignored":
            a_scales, b_scales = np.abs(a_scales), np.abs(b_scales)
        return super().block_matmul(a_scales=a_scales, b_scales=b_scales, **v)

    def block_dequantize(self, elements, scales, tensor_scale=1.0, **v):
        blocks = dequantize_operand(v, elements, scales, float(tensor_scale))
        if self.follows.get("scale_sign") == "ignored":
            blocks = blocks.without_scale_signs()
        cast = Cast(v["format"], v["rounding"], v["overflow"])
        return dequantize_blocks(blocks, cast, self.follows.get("dequantize", "exact"))


def test_every_name_of_every_topic_has_vectors():
    found = defaultdict(set)
    for v in VECTORS.values():
        for topic, name in v.conventions.items():
            found[topic].add(name)
    without = {"nan_without": {"error"}, "tile_scale": {"inverse", "product"}, "tile_element": {"inverse", "steps"}}
    for topic, t in TOPICS.items():
        assert set(t.names) - found[topic] == without.get(topic, set())
        assert t.clause


def test_who_follows_what_it_claims_fails_nowhere():
    for v in CHOICES:
        result = judge(Follows(v.conventions), v)
        assert result.verdict == "same bits", (v.id, result)


def test_another_claim_leaves_the_vector_out_and_no_claim_too():
    for v in CHOICES:
        for topic, name in v.conventions.items():
            other = next(n for n in TOPICS[topic].names if n != name)
            result = judge(Follows({**v.conventions, topic: other}, {}), v)
            assert result.verdict == "not implemented", v.id
            assert f"convention {topic}:{name}" in result.reason
        if not any(TOPICS[t].asked for t in v.conventions):
            recommended = all(TOPICS[t].default == n for t, n in v.conventions.items())
            assert judge(Follows({}), v).verdict == ("same bits" if recommended else "not implemented")


SAME = {  # names that are one in a format or for a rounding, so that no vector can tell them apart
    ("nan_code", "canonical", "ones"): ("float8_e4m3fn",),
    ("nan_code", "positive", "positive_ones"): ("float8_e4m3fn",),
    ("nan_code", "canonical", "payload"): ("float8_e4m3fn",),
    ("nan_code", "ones", "payload"): ("float8_e4m3fn",),
    ("nan_without", "zero", "opposite_zero"): ("int8_q6",),
    ("dequantize", "exact", "element_first"): ("float32",),  # float32 holds s·e
    ("dequantize", "scale_first", "element_first"): ("bfloat16",),  # of tiles, where T is 1
    ("block_infinity", "saturate", "largest"): ("int8_q6",),  # 2^127, which is within the range of E8M0
}


def test_a_wrong_claim_fails_in_every_format():
    """Of any two names of a topic, in each format of its vectors: who claims one and follows the other fails."""
    groups = defaultdict(list)
    for v in CHOICES:
        for topic, name in v.conventions.items():
            groups[topic, name, v.attributes.get("format", v.op)].append(v)
    for (topic, name, format), vectors in groups.items():
        for other in TOPICS[topic].names:
            same = [fs for (t, *pair), fs in SAME.items() if t == topic and set(pair) == {name, other}]
            if other in (name, "error") or (same and format in same[0]):
                continue
            if topic.startswith("tile_") or (topic == "block_nan" and other == "ignore" and "float4" in format):
                continue  # recorded beside another topic; elements without NaN refuse one
            wrong = (judge(Follows(v.conventions, {**v.conventions, topic: other}), v) for v in vectors)
            assert any(r.verdict == "fail" for r in wrong), (topic, name, other, format)


def test_what_is_mandated_is_judged_beside_what_is_not():
    vector = VECTORS["cast/float8_e8m0fnu/up/saturate/float32/inside"]
    assert judge(Follows("cuda"), vector).verdict == "same bits"
    assert judge(Follows("cuda"), vector).unjudged == ("e8m0_negative:nan",)
    edges = judge(Follows("cuda"), VECTORS["cast/float8_e8m0fnu/up/saturate/float32/edges"])
    assert set(edges.unjudged) == {"e8m0_zero:nan", "e8m0_negative:nan"}
    assert judge(Follows("refscale"), vector).unjudged == ()
    assert judge(Follows("refscale", claimed("cuda")), vector).verdict == "fail"

    class Wrong(Follows):
        def cast(self, x, **v):
            return np.where(x > 2.0**20, 0, super().cast(x, **v)).astype(np.uint8)

    result = judge(Wrong("cuda"), vector)
    assert result.verdict == "fail"
    x = vector.inputs["x"].values[result.mismatch.index]
    assert x > 2.0**20, "the first wrong element is a judged one"


def test_the_first_wrong_element_is_a_judged_one():
    x = Codes.of(np.float32([0.0, -1.0, 1.0, 2.0]), "float32")
    y = Codes("float8_e8m0fnu", np.uint8([255, 255, 127, 128]))
    attributes = {"format": "float8_e8m0fnu", "rounding": "nearest_even", "overflow": "saturate"}
    names = {"e8m0_zero": "nan", "e8m0_negative": "nan"}
    vector = Vector("cast/hand", "cast", attributes, {"x": x}, {"y": y}, conventions=names)
    masks = concerned(vector, ("e8m0_zero",))
    assert masks["y"].tolist() == [True, False, False, False]
    assert concerned(vector, ("e8m0_negative",))["y"].tolist() == [False, True, False, False]

    class Off(Reference):
        claims = Claims(conventions="cuda")

        def cast(self, x, **_):
            return np.uint8([0, 127, 127, 129])

    mismatch = judge(Off(), vector).mismatch
    assert (mismatch.index, mismatch.wrong) == ((3,), 1)


def test_a_nan_is_always_a_nan():
    vector = VECTORS["cast/float8_e5m2/nearest_even/nonsaturate/float32/nan"]
    assert judge(Follows("cuda"), vector).verdict == "same bits"
    assert judge(Follows({"nan_code": "canonical"}, {"nan_code": "ones"}), vector).verdict == "fail"
    assert judge(Follows({}, {"nan_code": "ones"}), vector).verdict == "same bits"

    class Infinite(Follows):
        def cast(self, x, **v):
            return np.full(x.shape, 0x7C, np.uint8)

    assert judge(Infinite({}), vector).verdict == "fail"


def test_blocks_are_judged_apart():
    """A block with an infinity is chosen; those beside it are mandated."""
    vector = VECTORS["block-scale/mxfp8_e4m3/rceil/nonfinite-saturate"]
    x = vector.inputs["x"].values
    masks = concerned(vector, ("block_infinity",))
    assert masks["scales"][:, 0].tolist() == np.isinf(x).any(-1).tolist()
    assert masks["elements"].sum() == 32 * np.isinf(x).any(-1).sum()
    assert judge(Follows("cuda"), vector).verdict == "same bits"
    asked = judge(Follows({}, {"block_infinity": "largest"}), vector)
    assert asked.verdict == "fail", "without a claim the requested convention is required"


@pytest.mark.parametrize("topic", ["e8m0_zero", "e8m0_negative", "e8m0_small"])
def test_ml_dtypes_agrees_with_its_set(topic):
    x = {"e8m0_zero": [0.0], "e8m0_negative": [-0.0, -1.0, -3.0], "e8m0_small": [2.0**-149, 2.0**-128]}[topic]
    x = np.float32(x)
    with np.errstate(all="ignore"):
        right = x.astype(ml_dtypes.float8_e8m0fnu).view(np.uint8)
    cast = Cast("float8_e8m0fnu", "nearest_even", "nonsaturate")
    assert encode_by(x, cast, {topic: SETS["ml_dtypes"][topic]}).tolist() == right.tolist()


NAN = np.array([0x7FC00000, 0xFFC00000, 0x7FE00000, 0xFFFFFFFF], np.uint32).view(np.float32)


@pytest.mark.parametrize(
    ("format", "name", "codes"),
    [
        ("float8_e5m2", "canonical", [0x7E, 0xFE, 0x7E, 0xFE]),
        ("float8_e5m2", "positive", [0x7E] * 4),
        ("float8_e5m2", "ones", [0x7F, 0xFF, 0x7F, 0xFF]),
        ("float8_e5m2", "positive_ones", [0x7F] * 4),
        ("float8_e5m2", "payload", [0x7E, 0xFE, 0x7F, 0xFF]),
        ("float8_e4m3fn", "positive_ones", [0x7F] * 4),
        ("float16", "payload", [0x7E00, 0xFE00, 0x7F00, 0xFFFF]),
        ("float32", "payload", [0x7FC00000, 0xFFC00000, 0x7FE00000, 0xFFFFFFFF]),
        ("bfloat16", "positive_ones", [0x7FFF] * 4),
    ],
)
def test_codes_of_nan_by_hand(format, name, codes):
    cast = Cast(format, "nearest_even", "nonsaturate")
    assert encode_by(NAN, cast, {"nan_code": name}).tolist() == codes


@pytest.mark.parametrize(
    ("format", "name", "codes"),
    [
        ("float4_e2m1fn", "largest", [7, 7]),
        ("float4_e2m1fn", "zero", [0, 0]),
        ("float4_e2m1fn", "opposite_zero", [8, 0]),
        ("float6_e2m3fn", "largest", [0x1F, 0x1F]),
        ("int8_q6", "largest", [127, 127]),
    ],
)
def test_nan_without_nan_by_hand(format, name, codes):
    cast = Cast(format, "nearest_even", "saturate")
    assert encode_by(NAN[:2], cast, {"nan_without": name}).tolist() == codes


@pytest.mark.parametrize(
    ("names", "overflow", "codes"),
    [
        ({}, "saturate", [255, 255, 255, 255, 0, 128]),
        ({"e8m0_zero": "smallest"}, "nonsaturate", [0, 255, 255, 255, 0, 128]),
        ({"e8m0_zero": "saturating"}, "nonsaturate", [255, 255, 255, 255, 0, 128]),
        ({"e8m0_zero": "saturating"}, "saturate", [0, 255, 255, 255, 0, 128]),
        ({"e8m0_negative": "magnitude"}, "saturate", [255, 0, 128, 254, 0, 128]),
        ({"e8m0_negative": "smallest"}, "saturate", [255, 0, 0, 0, 0, 128]),
        ({"e8m0_small": "nan"}, "nonsaturate", [255, 255, 255, 255, 255, 128]),
        ({"e8m0_small": "nan"}, "saturate", [255, 255, 255, 255, 0, 128]),
    ],
)
def test_powers_by_hand(names, overflow, codes):
    x = np.float32([0.0, -0.0, -2.0, -(2.0**127), 2.0**-140, 2.0])
    assert encode_by(x, Cast("float8_e8m0fnu", "up", overflow), names).tolist() == codes


def test_magnitudes_of_powers_rounded_stochastically():
    """3 = 2·1½: a word below 2^31 rounds down to 2, one from there on up to 4; of −3 likewise."""
    words, x = np.uint32([0, 2**31 - 1, 2**31, 2**32 - 1]), np.full(4, -3, np.float32)
    cast = Cast("float8_e8m0fnu", "stochastic", "saturate")
    assert encode_by(x, cast, {"e8m0_negative": "magnitude"}, words).tolist() == [128, 128, 129, 129]
    assert encode_by(-x, cast, {}, words).tolist() == [128, 128, 129, 129]


def test_subnormals_by_hand():
    x, cast = np.float32([2.0**-149, -(2.0**-127), 2.0**-126]), Cast("float32", "nearest_even", "saturate")
    assert encode_by(x, cast, {}).tolist() == [1, 0x80400000, 0x00800000]
    assert encode_by(x, cast, {"float32_subnormals": "flushed"}).tolist() == [0, 0x80000000, 0x00800000]
    up = Cast("float8_e4m3fn", "up", "saturate")
    assert encode_by(x, up, {}).tolist() == [1, 0x80, 1]
    assert encode_by(x, up, {"float32_subnormals": "flushed"}).tolist() == [0, 0x80, 1]
    wide = x.astype(np.float64)
    assert encode_by(wide, up, {"float32_subnormals": "flushed"}).tolist() == [1, 0x80, 1], (
        "float64 is not such a source"
    )


def test_a_flush_is_a_claim():
    vector = VECTORS["cast/bfloat16/nearest_even/saturate/float32/subnormals"]
    flushes = {"float32_subnormals": "flushed"}
    assert judge(Follows({}, flushes), vector).verdict == "fail"
    assert judge(Follows(flushes), vector).verdict in ("same bits", "not implemented")
    own = VECTORS["convention/float32_subnormals/flushed/float32/nearest_even/saturate/float32"]
    assert judge(Follows(flushes), own).verdict == "same bits"
    assert judge(Follows(flushes, {}), own).verdict == "fail"


def test_sets_and_text():
    assert claimed("cuda")["nan_code"] == "positive_ones"
    assert claimed("cuda, nan_code:payload")["nan_code"] == "payload"
    assert claimed("") == {}
    assert claimed("onnx,scale_sign:ignored") == {**SETS["onnx"], "scale_sign": "ignored"}
    for wrong, text in (
        ("amd", "unknown conventions 'amd'"),
        ("e8m0_zero:one", "unknown convention e8m0_zero:one"),
        ("zero:nan", "unknown topic 'zero'"),
        ({"nan_code/fp8": "ones"}, "unknown format 'fp8'"),
    ):
        with pytest.raises(GoldenError, match=text):
            claimed(wrong)
    for names in SETS.values():
        assert claimed(names) == names


def test_a_claim_for_one_format():
    backend = Follows({"nan_code/float8_e5m2": "ones"}, {"nan_code": "ones"})
    where = "convention/nan_code/ones/{}/nearest_even/saturate/float32"
    assert judge(backend, VECTORS[where.format("float8_e5m2")]).verdict == "same bits"
    assert judge(backend, VECTORS[where.format("float16")]).verdict == "not implemented"


def test_the_summary_counts_what_is_not_judged():
    vectors = [VECTORS["cast/float8_e8m0fnu/up/saturate/float32/inside"]]
    backend = Follows("cuda")
    results = run(backend, vectors)
    assert "e8m0_negative:nan in 1 vector" in " ".join(summary(backend, results).split())
    silent = Follows("refscale")
    assert "not judged" not in summary(silent, run(silent, vectors))


def test_block_products_without_the_sign_of_scales():
    vector = VECTORS["convention/scale_sign/ignored/block_matmul"]
    x = {n: c.values for n, c in vector.inputs.items()}
    t = float(x["a_tensor_scale"]), float(x["b_tensor_scale"])
    a, b = block_operands(vector.attributes, (x["a"], x["b"]), (x["a_scales"], x["b_scales"]), t)
    assert (a.scales < 0).all()
    expected = (np.abs(a.scale_of_each(np.float64)) * a.elements) @ b.scaled() * t[0] * t[1]
    np.testing.assert_allclose(vector.outputs["y"].values, expected, rtol=1e-6)


def test_conventions_are_in_a_vector_of_the_set():
    vector = VECTORS["cast/float8_e8m0fnu/up/saturate/float32/inside"]
    assert vector.conventions == {"e8m0_negative": "nan", "float32_subnormals": "kept"}
    with pytest.raises(KeyError):
        judge(Reference(), replace(vector, conventions={"zero": "nan"}))


@pytest.mark.parametrize("name", ["nvfp4", "nvfp4_16x16", "fp8_1x128", "fp8_128x128"])
@pytest.mark.parametrize("source", ["float32", "bfloat16"])
def test_an_amax_without_nan_fails_in_every_format(name, source):
    """fmax: NVFP4 and tiles, whose inputs were finite in earlier sets."""
    vector = VECTORS[f"convention/block_nan/nan/{name}/{source}"]
    x = vector.inputs["x"].values
    assert np.isnan(x[..., ::2]).any()
    assert np.isnan(x[..., 1::2]).any()

    class Fmax(Reference):
        def block_quantize(self, x, random_bits=None, **v):
            return super().block_quantize(np.nan_to_num(np.float32(x), nan=0.0), random_bits, **v)

    assert judge(Reference(), vector).verdict == "same bits"
    assert judge(Fmax(), vector).verdict == "fail"


def test_a_program_claims_in_its_greeting():
    found = _claims({"conventions": "cuda,e8m0_zero:nan"}, "2")
    assert found.conventions == {**SETS["cuda"], "e8m0_zero": "nan"}
    assert _claims({}, "2").conventions == {}
    with pytest.raises(GoldenError, match="unknown conventions 'amd'"):
        _claims({"conventions": "amd"}, "2")
