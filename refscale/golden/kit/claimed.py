"""The outputs of a vector under the accumulator that a backend claims, if the claim determines every bit.

A golden result is the exact sum, rounded once. A backend that claims ``float32``, ``truncated:13:32`` or ``h100:bf16``
computes a different, also defined number, and is checked with those bits. A bound (``bounds``) replaces them if the
order of the terms is not defined:

* under the claim ``any-order``;
* in convolutions, and in products that broadcast an operand and so sum its gradient over leading axes;
* in attention scores, whose damping may multiply an operand or the sum.

==============================  ======================================================================================
op                              the sum
==============================  ======================================================================================
``matmul``, ``scaled_matmul``   by the accumulator, over the inner index, on scaled operands, from c where it is given
``block_matmul``                as ``blocks.block_matmul`` sums: on scaled elements, or, under the claim
                                ``blocks:NAME``, each block by NAME, times its scales, added in order in float32
``op``                          matmul, readout, attention_mix: by the accumulator, over the inner index; the gradient
                                of a weight over the rows of the batch, in order
==============================  ======================================================================================

The float32 sum times the factor is rounded to the output format as a real number. A kernel may round the factor to
float32, and the product too, before it rounds to the format: ``variants`` are the results of these choices, which
differ only if the factor is not a power of two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.blocks import block_matmul
from refscale.exact import get_accumulator, matmul
from refscale.formats import Cast
from refscale.golden.inputs import cast_for
from refscale.golden.kit.backend import Claims
from refscale.golden.products import scaled_operands
from refscale.golden.records import block_operands
from refscale.golden.replay import input_names, make_op, policy, replay
from refscale.golden.schema import Codes, Vector
from refscale.scales import Scales

Array = NDArray[Any]

_FLOAT32 = Cast("float32", "nearest_even", "nonsaturate")


_ORDERED = ("matmul", "readout", "attention_mix")
"""Contractions of ``op`` that define the order of their terms."""


def determines(vector: Vector, claims: Claims) -> bool:
    """Return whether the claimed accumulator determines the bits of a vector, in place of the golden ones."""
    name = claims.accumulate.removeprefix("blocks:")
    by_block = vector.op == "block_matmul" or vector.attributes.get("block") is not None
    if name == "any-order" or (name == "exact" and not (by_block and claims.accumulate == "blocks:exact")):
        return False
    if vector.op == "op" and vector.attributes["name"] in _ORDERED:
        left, right = (x.shape for n, x in vector.inputs.items() if n != "gradient")
        return len(right) == 2 or left[:-2] == right[:-2]
    return vector.op in ("matmul", "scaled_matmul", "block_matmul")


def as_claimed(vector: Vector, claims: Claims) -> Vector:
    """Return the vector with the outputs that the claimed accumulator determines; else the vector itself."""
    if not determines(vector, claims):
        return vector
    with np.errstate(all="ignore"):
        outputs = _outputs(vector, claims.accumulate)
    codes = {name: Codes.of(y, vector.outputs[name].format) for name, y in outputs.items()}
    return replace(vector, outputs={**vector.outputs, **codes})


def variants(vector: Vector, claims: Claims) -> list[Mapping[str, Array]]:
    """Return the outputs of the claimed accumulator, for each choice of roundings to float32 beside the sum."""
    with np.errstate(all="ignore"):
        return [_outputs(vector, claims.accumulate, *which) for which in product((False, True), repeat=2)]


def _outputs(vector: Vector, accumulate: str, twice: bool = False, narrow: bool = False) -> dict[str, Array]:
    """Return outputs; ``twice``: sum times factor is first rounded to float32; ``narrow``: so is the factor."""
    if vector.op == "op":
        return _op(vector, accumulate.removeprefix("blocks:"), twice, narrow)
    v = vector.attributes
    cast = Cast(v["format"], v["rounding"], v["overflow"])
    if vector.op == "block_matmul":
        y = _block_product(vector, accumulate, _FLOAT32 if twice else cast)
        return {"y": cast(y) if twice else y}
    factor = v.get("factor", 1.0)
    scaled = _product(vector, accumulate).astype(np.float64) * (float(np.float32(factor)) if narrow else factor)
    return {"y": cast(scaled.astype(np.float32)) if twice else cast(scaled)}


def _product(vector: Vector, accumulate: str) -> Array:
    """Return the sums of ``matmul`` and ``scaled_matmul``, before the factor."""
    x = {name: c.values for name, c in vector.inputs.items()}
    model = get_accumulator(accumulate.removeprefix("blocks:"))
    if vector.op == "matmul":
        return model.matmul(x["a"], x["b"], x.get("c"))
    block = vector.attributes["block"]
    if block is None or not accumulate.startswith("blocks:"):
        return model.matmul(*scaled_operands(x["a"], x["b"], x["a_scale"], x["b_scale"], block))
    inner = x["a"].shape[-1]
    total = np.zeros((x["a"].shape[0], x["b"].shape[1]), np.float32)
    for i, (start, stop) in enumerate(pairwise([*range(0, inner, block), inner])):
        left, right = x["a"][:, start:stop], x["b"][start:stop]
        part = matmul(left, right, _FLOAT32) if model.name == "exact" else model.matmul(left, right)
        total = total + part * (x["a_scale"][:, i, None] * x["b_scale"][i])
    return total


def _block_product(vector: Vector, accumulate: str, cast: Cast) -> Array:
    x = {name: c.values for name, c in vector.inputs.items()}
    tensor = [float(x.get(f"{name}_tensor_scale", 1.0)) for name in "ab"]
    left, right = block_operands(vector.attributes, (x["a"], x["b"]), (x["a_scales"], x["b_scales"]), tensor)
    return block_matmul(left, right, cast, accumulate)


def _op(vector: Vector, accumulate: str, twice: bool, narrow: bool) -> dict[str, Array]:
    v = vector.attributes
    op = make_op(v["name"], v["attributes"])
    names = input_names(op, len(vector.inputs) - ("gradient" in vector.inputs))
    arrays = [vector.inputs[n].values for n in names]
    gradient = vector.inputs["gradient"].values if "gradient" in vector.inputs else None
    store = "float32" if twice else v["store"]
    precision = policy(op, store, v["operand"], v["operand_gradient"], accumulate)
    alpha, *beta = (float(np.float32(f)) if narrow and f is not None else f for f in (v["alpha"], *v["beta"]))
    outputs = replay(op, arrays, gradient, Scales(alpha, tuple(beta)), precision).outputs
    cast = cast_for(v["store"])
    return {n: cast(y) if twice else y for n, y in outputs.items() if n in vector.outputs}
