"""Rules of a precision: other policies for some calls and parameters, chosen by name."""

from __future__ import annotations

import numpy as np
import pytest

from refscale import ops
from refscale.analysis import from_json, render, report, to_json
from refscale.engine import Tape, apply, backward
from refscale.errors import ArgumentError
from refscale.formats import Cast
from refscale.precision import Precision, Rule, bf16, fp8, fp16, fp32, get_precision
from refscale.testing import assert_same_bits
from tests.adapt.programs import PROGRAMS

E4M3, E5M2 = fp8.operand, fp8.operand_gradient
FP16, BF16 = fp8.store, bf16.store


def arrays():
    rng = np.random.default_rng(0)
    return rng.standard_normal((4, 8)), rng.standard_normal((8, 8)), rng.standard_normal((8, 3))


def run(precision, fast=True):
    """x·w in the scope "body", then ·v in the scope "head"; all values and gradients."""
    x, w, v = arrays()
    tape = Tape("unit", precision, fast=fast, count_casts=True)
    a, b, c = tape.tensor(x, "x"), tape.tensor(w, "w"), tape.tensor(v, "head.v")
    with tape.scope("body"):
        h = apply(ops.Matmul(), a, b)
    with tape.scope("head"):
        y = apply(ops.Matmul(), h, c)
    backward(y, np.ones(y.shape))
    return tape, [h.value, y.value, a.grad, b.grad, c.grad]


@pytest.mark.parametrize("fast", [True, False])
def test_casts_by_hand(fast):
    """The head and its parameter in bfloat16, no operand narrow; the gradient of h is stored as h is, in float16."""
    tape, (h, y, *_) = run("fp8;head.*=bf16", fast)
    x, w, v = (np.asarray(z, np.float32) for z in arrays())
    body = np.float32(8**-0.5) * (E4M3(FP16(x)) @ E4M3(FP16(w)))
    assert_same_bits(h, FP16(body.astype(np.float32)).astype(np.float32))
    head = np.float32(8**-0.5) * (h @ BF16(v).astype(np.float32))
    assert_same_bits(y, BF16(head.astype(np.float32)).astype(np.float32))
    found = [(r.variable.name, r.place, r.cast, r.rule) for r in tape.casts]
    head = "head.*"
    forward = [
        *(("x", "leaf", FP16, ""), ("w", "leaf", FP16, ""), ("head.v", "leaf", BF16, head)),
        *(("x", "operand", E4M3, ""), ("w", "operand", E4M3, ""), ("body.matmul", "output", FP16, "")),
        ("head.matmul", "output", BF16, head),
    ]
    back = [
        *(("head.matmul", "gradient", BF16, head), ("body.matmul", "gradient", FP16, "")),
        *(("head.v", "gradient", BF16, head), ("body.matmul", "operand_gradient", E5M2, "")),
        *(("x", "gradient", FP16, ""), ("w", "gradient", FP16, "")),
    ]
    assert found == forward + back
    assert tape.rounder.calls_by_rule == {head: 1}


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("fp8;nothing.*=fp32", "fp8"),
        ("fp32;*=fp8", "fp8"),
        ("fp8;*=bf16;head.*=fp32", "bf16"),  # the first that matches
        ("fp32;*=mxfp8", "mxfp8"),
    ],
)
def test_policies_that_are_the_same(text, same, fast):
    _, one = run(text, fast)
    _, other = run(same, fast)
    for a, b in zip(one, other, strict=True):
        assert_same_bits(a, b)


def test_by_op_and_by_parameter():
    """A pattern matches a call's op, which ends its name, or a parameter that it uses, wherever the call is."""
    assert run("fp8;*matmul=fp32")[0].rounder.calls_by_rule == {"*matmul": 2}
    tape, _ = run("fp8;w=fp32")
    assert tape.rounder.calls_by_rule == {"w": 1}
    assert [r.variable.name for r in tape.casts if r.place == "operand"] == ["body.matmul", "head.v"]
    assert "body.matmul" not in {r.variable.name for r in tape.casts if r.place in ("output", "operand_gradient")}
    assert run("fp8;head.?=fp32;HEAD.*=bf16")[0].rounder.calls_by_rule == {"head.?": 1, "HEAD.*": 0}


def test_blocks_beside_others():
    tape, _ = run("mxfp8;head.*=fp32")
    assert {(r.variable.name, r.rule) for r in tape.casts if r.blocks} == {
        *(("x", ""), ("w", ""), ("body.matmul", "")),
    }


def test_an_operand_that_two_policies_cast():
    """One array, two products in two formats: the copy of the first is not that of the second."""
    x, w, _ = arrays()
    tape = Tape("unit", "fp8;head.*=store=fp16,operand=e5m2")
    a = tape.tensor(x, "x")
    apply(ops.Matmul(), a, tape.tensor(w, "w"))
    with tape.scope("head"):
        y = apply(ops.Matmul(), a, tape.tensor(w, "v"))
    casts = [(r.variable.name, r.cast.format.name) for r in tape.casts if r.place == "operand"]
    assert casts == [("x", "float8_e4m3fn"), ("w", "float8_e4m3fn"), ("x", "float8_e5m2"), ("head.v", "float8_e5m2")]
    e5m2 = Cast("e5m2", "nearest_even", "saturate")
    exact = np.float32(8**-0.5) * (e5m2(FP16(np.float32(x))) @ e5m2(FP16(np.float32(w))))
    assert_same_bits(y.value, FP16(exact.astype(np.float32)).astype(np.float32))


def test_stored_weights():
    weights = {"body.w": np.full(3, 1 + 2**-9, np.float32), "head.w": np.full(3, 1 + 2**-9, np.float32)}
    kept = Precision("kept", weights=Cast("bfloat16", "nearest_even", "saturate"), rules=(Rule("head.*", fp32),))
    stored = kept.store_weights(weights)
    assert (stored["body.w"] == 1).all()
    assert stored["head.w"] is weights["head.w"]


def test_names_and_texts():
    policy = get_precision(" fp8 ; head.* = bf16 ;*.router.*=store=fp16,operand=e4m3fn")
    assert [(rule.pattern, rule.policy.name) for rule in policy.rules] == [
        ("head.*", "bf16"),
        ("*.router.*", "store=fp16,operand=e4m3fn"),
    ]
    assert policy.at("body.matmul") == ("", policy)
    assert policy.at("body.matmul", "head.w") == ("head.*", bf16)
    assert "head.*: bf16 (store=bfloat16" in str(policy)
    assert get_precision("fp8;x=fp32").name == "fp8;x=fp32"
    assert get_precision("fp8;x=fp32", accumulate="exact").rules[0].policy.accumulate == "exact"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fp8;head.*", r"'head.\*', expected PATTERN=POLICY, such as head.\*=bf16, after each semicolon"),
        ("fp8;=bf16", "expected PATTERN=POLICY"),
        ("fp8;a=", "expected PATTERN=POLICY"),
        ("fp8;", "expected PATTERN=POLICY"),
        ("fp8;a=bf16;a=fp32", "'a' occurs twice, expected one policy for it"),
        ("fp8;a=fp8,accumulate=exact", "the policy of 'a' has rules, or sums in another way"),
        ("fp8;a=fp9", r"get_precision\('fp9'\): expected one of"),
        ("fp9;a=fp8", r"get_precision\('fp9'\): expected one of"),
    ],
)
def test_texts_that_are_none(text, message):
    with pytest.raises(ArgumentError, match=message):
        get_precision(text)


def test_rules_within_rules():
    inner = Precision("inner", rules=(Rule("a", fp16),))
    with pytest.raises(ArgumentError, match="the policy of 'b' has rules, or sums in another way"):
        Precision("outer", rules=(Rule("b", inner),))
    with pytest.raises(ArgumentError, match="the policy of 'b' has rules, or sums in another way"):
        Precision("outer", accumulate="exact", rules=(Rule("b", fp16),))


def test_reports_name_the_rules():
    found = report(PROGRAMS["mlp"], "unit", "fp8;out=bf16;nothing=fp32")
    assert found.rules == {"out": 1, "nothing": 0}
    assert {(c.place, c.rule) for c in found.casts if c.rule} == {
        *(("leaf", "out"), ("output", "out"), ("gradient", "out")),
    }
    text = render([found])
    assert "RULES of the precision, the first that matches" in text
    assert "by the rule out" in text
    assert from_json(to_json([found])) == [found]
