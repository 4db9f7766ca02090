"""The allowed deviation of a backend from the golden result, derived from its claims, element by element.

* products whose bits the claimed accumulator determines (``claimed``): from the least to the greatest of
  ``claimed.variants``, which have the same bits for a power-of-two factor;
* other ``matmul`` and ``scaled_matmul`` (``any-order``): ``exact.interval``;
* other ``block_matmul``: likewise, with the roundings of the scales;
* ``op``: the bound that the op derives from its own formulas (``Op.bound``), as for traces and for refscale's own
  kernels; sums of products have the bound of the accumulator, functions an error of ``op_ulps`` ulp;
* ``model``: likewise, each call on the backend's own results of the other calls (``steps.step_intervals``), if it
  returns all of them;
* ``unary``: the exact result ± ``function_ulps`` ulp of float32, rounded;
* ``adamw``: likewise, from its formulas (``golden.schema.OPS``), with p·(1 − lr·weight_decay) − lr·u for the parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.engine import Op
from refscale.exact import FUNCTIONS, Accumulator, ErrorModel, as_bounded, ends, get_accumulator, interval
from refscale.formats import Cast
from refscale.golden import call_bounds
from refscale.golden.inputs import cast_for
from refscale.golden.kit.backend import Claims
from refscale.golden.kit.claimed import determines, variants
from refscale.golden.products import scaled_operands
from refscale.golden.records import block_operands
from refscale.golden.replay import input_names, make_op, policy
from refscale.golden.schema import Vector
from refscale.golden.steps import step_intervals
from refscale.scales import Scales

Array = NDArray[Any]
Interval = tuple[Array, Array]

_ULP = 2.0**-23
_SMALLEST = 2.0**-149


def intervals(vector: Vector, claims: Claims, answers: Mapping[str, Array]) -> Mapping[str, Interval]:
    """Return (low, high) of each output that has a bound; an output without one must have the same bits.

    Args:
        vector: vector as ``claimed.as_claimed`` returns it.
        claims: claims of the backend.
        answers: its outputs by name, possibly incomplete.
    """
    with np.errstate(all="ignore"):
        if determines(vector, claims):
            return _between(variants(vector, claims))
        if vector.op in ("matmul", "scaled_matmul") and claims.accumulate != "exact":
            return {"y": _product(vector, claims)}
        if vector.op == "block_matmul" and claims.accumulate != "exact":
            return {"y": _block_product(vector, claims)}
        if vector.op == "unary" and claims.function_ulps:
            return {"y": _function(vector, claims.function_ulps)}
        if vector.op == "op":
            return _op(vector, claims)
        if vector.op == "adamw" and claims.op_ulps:
            return _adamw(vector, claims.op_ulps)
        if vector.op == "model" and answers.keys() == vector.outputs.keys():
            return _step(vector, claims, answers)
    return {}


def _between(found: Sequence[Mapping[str, Array]]) -> Mapping[str, Interval]:
    bounds = {}
    for name in found[0]:
        values = np.stack([y[name] for y in found])
        bounds[name] = values.min(0), values.max(0)
    return bounds


def bound_in_words(vector: Vector, claims: Claims) -> str:
    """Describe the deviation that ``intervals`` allows a vector, by the claim that it follows from."""
    if determines(vector, claims):
        return f"accumulate {claims.accumulate}, the factor in float32"
    if vector.op == "unary":
        return f"functions within {claims.function_ulps:g} ulp"
    if vector.op == "model":
        return (
            f"calls of the step: accumulate {claims.accumulate}, other ops with functions within {claims.op_ulps:g} ulp"
        )
    v = vector.attributes
    if "matmul" in vector.op or (vector.op == "op" and make_op(v["name"], v["attributes"]).contraction):
        return f"accumulate {claims.accumulate}"
    return f"other ops with functions within {claims.op_ulps:g} ulp"


def _model(claims: Claims) -> Accumulator:
    return get_accumulator(claims.accumulate.removeprefix("blocks:"))


def _product(vector: Vector, claims: Claims) -> Interval:
    v = vector.attributes
    a, b = vector.inputs["a"].values, vector.inputs["b"].values
    if vector.op == "scaled_matmul":
        a, b = scaled_operands(a, b, vector.inputs["a_scale"].values, vector.inputs["b_scale"].values, v["block"])
    cast = Cast(v["format"], v["rounding"], v["overflow"])
    c = vector.inputs["c"].values if "c" in vector.inputs else None
    return interval(a, b, _model(claims), cast, v.get("factor", 1.0), c)


def _block_product(vector: Vector, claims: Claims) -> Interval:
    """Return the interval of a product of scaled elements; each term has three more roundings (s_a·s_b, T_a·T_b)."""
    v, x = vector.attributes, {name: c.values for name, c in vector.inputs.items()}
    tensor = [float(x.get(f"{name}_tensor_scale", 1.0)) for name in "ab"]
    left, right = block_operands(v, (x["a"], x["b"]), (x["a_scales"], x["b_scales"]), tensor)
    a, b = left.scaled(), right.scaled()
    y, total, n = a @ b, np.abs(a) @ np.abs(b), a.shape[1]
    relative = _model(claims).relative(n) + 4 * _ULP
    alpha = tensor[0] * tensor[1]
    cast = Cast(v["format"], v["rounding"], v["overflow"])
    return ends(y * alpha, total * alpha * relative + (n + 1) * _SMALLEST, cast)


def _function(vector: Vector, ulps: float) -> Interval:
    v = vector.attributes
    function = FUNCTIONS[v["function"]]
    curve = function.derivative if v["derivative"] else function.value
    y = curve(vector.inputs["x"].values.astype(np.float64))
    error = ulps * np.maximum(np.abs(y) * _ULP, _SMALLEST)
    return ends(y, error, Cast(v["format"], v["rounding"], v["overflow"]))


def _adamw(vector: Vector, ulps: float) -> Mapping[str, Interval]:
    v, model = vector.attributes, ErrorModel(functions=ulps)
    p, g, m, s = (as_bounded(vector.inputs[n].values, model) for n in ("parameter", "gradient", "m", "v"))
    m = m * v["b1"] + g * (1 - v["b1"])
    s = s * v["b2"] + g * g * (1 - v["b2"])
    divisor = np.sqrt(s) * (1 - v["b2"] ** v["t"]) ** -0.5 + v["eps"]
    u = m / divisor * (1 / (1 - v["b1"] ** v["t"]))
    p = p * (1 - v["lr"] * v["weight_decay"]) - u * v["lr"]
    return {n: call_bounds.interval_of(y, cast_for("float32")) for n, y in (("parameter", p), ("m", m), ("v", s))}


def _step(vector: Vector, claims: Claims, answers: Mapping[str, Array]) -> Mapping[str, Interval]:
    def model_of(op: Op) -> ErrorModel | None:
        return _error_model(op, claims)

    if claims.accumulate == "exact" and not claims.op_ulps:
        return {}
    arrays: dict[str, Array] = {name: x.values for name, x in vector.inputs.items()}
    return step_intervals(arrays, answers, model_of, **vector.attributes)


def _error_model(op: Op, claims: Claims) -> ErrorModel | None:
    """Return the claimed errors of an op; None for the same bits."""
    if claims.accumulate == "exact" if op.contraction else not claims.op_ulps:
        return None
    return ErrorModel.of(claims.accumulate.removeprefix("blocks:"), claims.op_ulps)


def _op(vector: Vector, claims: Claims) -> Mapping[str, Interval]:
    v = vector.attributes
    op = make_op(v["name"], v["attributes"])
    model = _error_model(op, claims)
    if model is None:
        return {}
    names = input_names(op, len(vector.inputs) - ("gradient" in vector.inputs))
    arrays = [vector.inputs[n].values for n in names]
    gradient = vector.inputs["gradient"].values if "gradient" in vector.inputs else None
    precision = policy(op, v["store"], v["operand"], v["operand_gradient"], accumulate=None)
    return call_bounds.intervals(op, arrays, gradient, Scales(v["alpha"], tuple(v["beta"])), precision, model)
