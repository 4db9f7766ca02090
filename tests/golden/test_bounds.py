"""Each bound, tried: the farthest answer that it allows passes, one value farther fails.

The distances are derived by hand. u = 2^-24 is the unit roundoff of float32, whose values are 2u apart from 1 to 2
and u apart from ½ to 1. A sum of n products in float32, in any order, errs by at most γ(n + 1)·Σ|terms|, where γ(k)
is k·u and a little more; what is rounded to float32 on the way adds 8u of it, in an ``op`` 2u (bounded arithmetic) and
2u more for a factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from refscale import ops
from refscale.golden import load, steps
from refscale.golden.backends.reference import Reference
from refscale.golden.kit import Claims, judge
from refscale.golden.replay import policy
from refscale.golden.schema import Codes, Vector

ANY_ORDER = Claims(accumulate="any-order")


def by_hand(op: str, attributes: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Vector:
    """A vector of values; a non-float32 value is a pair with its format."""

    def codes(x: Any) -> Codes:
        values, format = x if isinstance(x, tuple) else (x, "float32")
        return Codes.of(np.asarray(values, np.float64), format)

    return Vector(
        f"hand/{op}",
        op,
        attributes,
        {n: codes(x) for n, x in inputs.items()},
        {n: codes(x) for n, x in outputs.items()},
    )


ROUND = {"format": "float32", "rounding": "nearest_even", "overflow": "nonsaturate"}


def product(factor: float, y: float) -> Vector:
    """(1, 1) · (1, 1)ᵀ."""
    attributes = {"a_format": "float32", "b_format": "float32", **ROUND, "factor": factor}
    return by_hand("matmul", attributes, {"a": [[1, 1]], "b": [[1], [1]]}, {"y": [[y]]})


def scaled_product() -> Vector:
    """(1, 1) · (1, 1)ᵀ, the row times 4, the column times ½."""
    attributes = {"a_format": "float32", "b_format": "float32", "block": None, **ROUND}
    inputs = {"a": [[1, 1]], "b": [[1], [1]], "a_scale": [4], "b_scale": [0.5]}
    return by_hand("scaled_matmul", attributes, inputs, {"y": [[4]]})


def block_product(tensor_scales: tuple[float, float] | None, y: float) -> Vector:
    """(1, 1) · (1, 1)ᵀ, or of zeros where y is 0, with scales of 2 and ½ for the blocks."""
    a = float(y != 0)
    scale = "float8_e4m3fn" if tensor_scales else "float8_e8m0fnu"
    inputs: dict[str, Any] = {"a": ([[a, a]], "float8_e4m3fn"), "b": ([[1], [1]], "float8_e4m3fn")}
    inputs |= {"a_scales": ([[2]], scale), "b_scales": ([[0.5]], scale)}
    for name, t in zip("ab", tensor_scales or (), strict=False):
        inputs[f"{name}_tensor_scale"] = t
    attributes = {f"{n}_{k}": v for n in "ab" for k, v in (("format", "float8_e4m3fn"), ("block", [32]))}
    attributes |= {f"{n}_scale_format": scale for n in "ab"}
    return by_hand("block_matmul", {**attributes, **ROUND}, inputs, {"y": [[y]]})


def function(name: str, derivative: bool, y: float, format: str = "float32") -> Vector:
    """At 0."""
    attributes = {"function": name, "derivative": derivative, **ROUND, "format": format}
    return by_hand("unary", attributes, {"x": [0]}, {"y": ([y], format)})


def op(
    name: str,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    alpha: float = 1.0,
    beta: tuple[float, ...] = (1.0, 1.0),
    store: str = "float32",
) -> Vector:
    """A call of an op."""
    casts = {"store": store, "operand": None, "operand_gradient": None}
    return by_hand("op", {"name": name, "attributes": {}, "alpha": alpha, "beta": beta, **casts}, inputs, outputs)


MATMUL = op(
    "matmul",
    {"x": [[1, 1]], "w": [[1], [1]], "gradient": [[1]]},
    {"y": [[1]], "grad_x": [[0.25, 0.25]], "grad_w": [[0.125], [0.125]]},
    alpha=0.5,
    beta=(0.25, 0.125),
)
ADD = op("add", {"x": [4, 1], "y": [4, 0]}, {"y": [8, 1]})
ADAMW = by_hand(
    "adamw",
    {"t": 1, "lr": 0.0, "b1": 0.5, "b2": 0.5, "eps": 1.0, "weight_decay": 0.0},
    {"parameter": [4, 1], "gradient": [1, 1], "m": [1, 1], "v": [0.5, 0.5]},
    {"parameter": [4, 1], "m": [1, 1], "v": [0.75, 0.75]},
)
"""m = ½·1 + ½·1; v = ½·½ + ½·1; the parameter is multiplied by 1, and 0 is subtracted."""


class Gives:
    """A backend with given answers."""

    name, version = "gives", "1"

    def __init__(self, claims: Claims, answers: Mapping[str, Any]) -> None:
        self.claims, self.answers = claims, answers

    def answer(self, vector: Vector) -> Mapping[str, Any]:
        return self.answers


def verdict(vector: Vector, claims: Claims, output: str, index: int, places: int) -> str:
    """On the expected outputs, one element of which is so many values of its format too far up, or down."""
    answers = {name: y.codes.copy() for name, y in vector.outputs.items()}
    flat = answers[output].reshape(-1)
    flat[index] = int(flat[index]) + places  # codes of positive numbers are in the order of the numbers
    return judge(Gives(claims, answers), vector).verdict


ULPS = Claims(accumulate="any-order", function_ulps=3, op_ulps=2)


@pytest.mark.parametrize(
    ("vector", "claims", "output", "index", "up", "down"),
    [
        # 2 ± (γ(3)·2 + 4u·2), 14u and a little: between the third and the fourth value, 4u apart, nearer to the fourth.
        (product(1.0, 2.0), ANY_ORDER, "y", 0, 4, 7),
        (product(0.25, 0.5), ANY_ORDER, "y", 0, 4, 7),
        (scaled_product(), ANY_ORDER, "y", 0, 4, 7),
        # y·(1 ± (γ(3) + 8u)), 11u: 5½ values up and a little, 11 down.
        (block_product(None, 2.0), ANY_ORDER, "y", 0, 6, 11),
        (block_product((0.5, 4.0), 4.0), ANY_ORDER, "y", 0, 6, 11),
        # y·(1 ± (γ(3) + 2u + 2u)), 7u: 3½ values up and a little, 7 down.
        (MATMUL, ANY_ORDER, "y", 0, 4, 7),
        # One term: γ(2) + 4u.
        (MATMUL, ANY_ORDER, "grad_x", 1, 3, 6),
        (MATMUL, ANY_ORDER, "grad_w", 0, 3, 6),
        # Of zeros, the smallest number for each of two terms and the sum.
        (block_product(None, 0.0), ANY_ORDER, "y", 0, 3, None),
        (op("matmul", {"x": [[0, 0]], "w": [[1], [1]]}, {"y": [[0]]}), ANY_ORDER, "y", 0, 3, None),
        # 3 ulp of float32; of a number below the normal ones, 3·2^-149.
        (function("exp", False, 1.0), ULPS, "y", 0, 3, 6),
        (function("tanh", True, 1.0), ULPS, "y", 0, 3, 6),
        (function("tanh", False, 0.0), ULPS, "y", 0, 3, None),
        # Half a value of float16 is 2^12 ulp of float32: a tie, to the even one.
        (function("exp", False, 1.0, "float16"), Claims(function_ulps=2**12), "y", 0, 0, 1),
        (function("exp", False, 1.0, "float16"), Claims(function_ulps=2**12 + 1), "y", 0, 1, 1),
        # An addition, 2u of the element itself: functions within 2 ulp do not occur in it.
        (ADD, ULPS, "y", 0, 1, 2),
        (ADD, ULPS, "y", 1, 1, 2),
        (op("add", {"x": [np.inf, 1], "y": [4, 0]}, {"y": [np.inf, 1]}), ULPS, "y", 1, 1, 2),
        (op("add", {"x": [np.inf, 1], "y": [4, 0]}, {"y": [np.inf, 1]}), ULPS, "y", 0, None, 0),
        (op("add", {"x": [0], "y": [0]}, {"y": [0]}), ULPS, "y", 0, 1, None),
        # exp(0) = 1 within 2 ulp, and not within 8.
        (op("exp", {"x": [0]}, {"y": [1]}, beta=(1.0,)), ULPS, "y", 0, 2, 4),
        # A loss is not rounded to the store format.
        (
            op("mse_loss", {"x": ([2], "float16"), "target": ([0], "float16")}, {"y": 4.0}, store="float16"),
            ULPS,
            "y",
            0,
            4,  # 2 − 0 errs by 4u, its square by 16u + 8u, the mean by 8u: 32u
            8,
        ),
        # A product and a difference, 2u each of the element itself.
        (ADAMW, ULPS, "parameter", 0, 2, 4),
        (ADAMW, ULPS, "parameter", 1, 2, 4),
        # Two products of ½, u each, and the sum, 2u of 1.
        (ADAMW, ULPS, "m", 0, 2, 4),
        # g·g errs by 2u, half of it by u + u; ½·½ by ½u, and the sum by 1½u: 4u, of ¾, whose spacing is u.
        (ADAMW, ULPS, "v", 0, 4, 4),
        # No claim, no bound: none of the others stands for it.
        (product(1.0, 2.0), Claims(function_ulps=3, op_ulps=2), "y", 0, 0, 0),
        (MATMUL, Claims(function_ulps=3, op_ulps=2), "y", 0, 0, 0),
        (block_product(None, 2.0), Claims(function_ulps=3, op_ulps=2), "y", 0, 0, 0),
        (function("exp", False, 1.0), Claims(accumulate="any-order", op_ulps=2), "y", 0, 0, 0),
        (ADD, Claims(accumulate="any-order", function_ulps=3), "y", 0, 0, 0),
        (ADAMW, Claims(accumulate="any-order", function_ulps=3), "m", 0, 0, 0),
    ],
)
def test_a_bound_is_where_it_is_derived(vector, claims, output, index, up, down):
    for sign, most in ((1, up), (-1, down)):
        if most is not None:
            for places in {0, min(1, most), most}:
                wanted = "within bound" if places else "same bits"
                assert verdict(vector, claims, output, index, sign * places) == wanted, (sign * places, "of", most)
            assert verdict(vector, claims, output, index, sign * (most + 1)) == "fail", sign * (most + 1)


NAN_PRODUCT = by_hand(
    "matmul",
    {"a_format": "float32", "b_format": "float32", **ROUND, "factor": 1.0},
    {"a": [[np.inf, 1]], "b": [[0], [1]]},
    {"y": [[np.nan]]},
)
NAN_OP = op("add", {"x": [np.inf], "y": [-np.inf]}, {"y": [np.nan]})


@pytest.mark.parametrize("vector", [NAN_PRODUCT, NAN_OP])
@pytest.mark.parametrize("y", [0.0, np.inf, -np.inf])
def test_a_bound_of_nan_allows_nan_alone(vector, y):
    shape = vector.outputs["y"].shape
    assert judge(Gives(ULPS, {"y": np.full(shape, -np.nan, np.float32)}), vector).verdict == "same bits"
    result = judge(Gives(ULPS, {"y": np.full(shape, y, np.float32)}), vector)
    assert result.verdict == "fail"
    assert np.isnan(result.mismatch.allowed).all()


# --- AdamW ------------------------------------------------------------------------------------------------------------


def as_torch(x, *, t, lr, b1, b2, eps, weight_decay, wrong=""):
    """torch.optim.AdamW in float32: other roundings than the vector's."""
    f = np.float32
    p, g, m, v = (x[n] for n in ("parameter", "gradient", "m", "v"))
    if wrong != "decay within the gradient":
        p = p * f(1 - lr * weight_decay)
    else:
        g = g + f(weight_decay) * p
    m = m + f(1 - b1) * (g - m)
    v = v * f(b2) + g * g * f(1 - b2)
    corrections = (1.0, 1.0) if wrong == "no correction" else (1 - b1**t, 1 - b2**t)
    if wrong == "eps within the root":
        divisor = np.sqrt(v / f(corrections[1]) + f(eps))
    else:
        divisor = np.sqrt(v) / f(corrections[1] ** 0.5) + f(eps)
    return {"parameter": p - f(lr / corrections[0]) * (m / divisor), "m": m, "v": v}


STEPS = [v for v in load().values() if v.op == "adamw" and "/unit/fp32/step-2/" in v.id]


@pytest.mark.parametrize("wrong", ["", "decay within the gradient", "no correction", "eps within the root"])
def test_a_step_of_adamw_in_another_order_is_within_its_bound(wrong):
    found = set()
    for vector in STEPS:
        arrays = {n: x.values for n, x in vector.inputs.items()}
        answers = as_torch(arrays, **vector.attributes, wrong=wrong)
        found.add(judge(Gives(Claims(op_ulps=2), answers), vector).verdict)
    assert len(STEPS) > 20
    assert found <= {"same bits", "within bound"} if not wrong else "fail" in found


# --- whole training steps ---------------------------------------------------------------------------------------------


class Float32(Reference):
    """Whole steps in float32 arithmetic, whose roundings are not those of the vectors; with a planted bug."""

    claims = Claims(accumulate="any-order", op_ulps=8)

    def __init__(self, bug: str = "") -> None:
        self.bug = bug

    def model(self, *, calls: Any, **given: Any) -> Any:
        arrays = {n: x for n, x in given.items() if isinstance(x, np.ndarray)}
        casts = {n: given[n] for n in ("store", "operand", "operand_gradient")}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, "policy", lambda op, *names: policy(op, *names, accumulate=None))
            if self.bug == "gelu":
                right = ops.Gelu.fast_backward
                patch.setattr(ops.Gelu, "fast_backward", lambda *a: tuple(g * np.float32(1.01) for g in right(*a)))
            if self.bug == "factor":
                calls = [
                    c | {"beta": [1.0 if b else b for b in c["beta"]]} if c["op"] == "matmul" else c for c in calls
                ]
            found = steps.training_step(arrays, calls=calls, **casts)
        if self.bug == "lost":  # one of the gradients of the tensor with several uses
            name = max((n for n in found if n.startswith("gradient")), key=lambda n: found[n].size)
            found[name] = found[name] * np.float32(0.5)
        return found if self.bug != "missing" else {n: x for n, x in found.items() if n != "value 003.gelu"}


@pytest.mark.parametrize("where", ["ffn/unit/fp8", "ffn/regular/fp32", "attention/unit/fp16", "attention/unit/fp32"])
def test_a_step_in_float32_is_judged_through_its_intermediates(where):
    """Errors grow from call to call, so that its bits are not those of the vector; each call is within its bound."""
    vector = load()[f"model/{where}/whole"]
    result = judge(Float32(), vector)
    assert result.verdict in ("within bound", "same bits"), result.mismatches[:2]
    if where == "attention/unit/fp32":
        assert result.verdict == "within bound"
        assert result.bound == "calls of the step: accumulate any-order, other ops with functions within 8 ulp"
        backend = Float32()
        backend.claims = Claims()
        assert judge(backend, vector).verdict == "fail"


@pytest.mark.parametrize(
    ("bug", "outputs"),
    [
        ("gelu", {"gradient 002.up.bias"}),
        ("factor", {"gradient 003.gelu", "gradient 000.fork", "gradient ffn.up.weight", "gradient ffn.down.weight"}),
        ("lost", None),
    ],
)
def test_a_wrong_step_fails_where_it_is_wrong_and_nowhere_after(bug, outputs):
    result = judge(Float32(bug), load()["model/ffn/unit/fp32/whole"])
    assert result.verdict == "fail"
    failed = {m.output for m in result.mismatches}
    assert failed == outputs if outputs else failed


def test_a_step_without_an_intermediate_is_judged_by_its_bits():
    result = judge(Float32("missing"), load()["model/ffn/unit/fp32/whole"])
    assert result.verdict == "fail"
    assert "output value 003.gelu is missing" in result.reason
    assert all(m.allowed is None for m in result.mismatches)
