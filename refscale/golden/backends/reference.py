"""The reference as a backend: it receives attributes and arrays only, and shares no state with the generators."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import __version__, exact
from refscale.blocks import block_matmul, dequantize_blocks, encode_blocks, pack_nibbles, tile_scales
from refscale.formats import Cast, decode
from refscale.golden import replay, steps
from refscale.golden.kit.backend import Claims
from refscale.golden.products import scaled_operands
from refscale.golden.records import block_operands, cast_of, dequantize_operand
from refscale.optim import Group, Rate, adamw
from refscale.scales import Scales

Array = NDArray[Any]


class Reference:
    """Backend of refscale's own arithmetic."""

    name = "reference"
    version = __version__
    claims = Claims(nan="same", conventions="refscale", start=True)

    def cast(self, x: Array, *, format: str, rounding: str, overflow: str, random_bits: Array | None = None) -> Array:
        """Round to the format."""
        return Cast(format, rounding, overflow)(x, random_bits)  # type: ignore[arg-type]

    def decode(self, codes: Array, *, format: str) -> Array:
        """Return the values of codes."""
        return decode(codes, format)

    def unary(self, x: Array, *, function: str, derivative: bool, format: str, rounding: str, overflow: str) -> Array:
        """Compute a function of one number."""
        return exact.evaluate(function, x, Cast(format, rounding, overflow), derivative)  # type: ignore[arg-type]

    def matmul(
        self,
        a: Array,
        b: Array,
        c: Array | None = None,
        *,
        format: str,
        rounding: str,
        overflow: str,
        factor: float,
        **_: Any,
    ) -> Array:
        """Compute a product, correctly rounded."""
        return exact.matmul(a, b, Cast(format, rounding, overflow), factor, c)  # type: ignore[arg-type]

    def scaled_matmul(
        self,
        a: Array,
        b: Array,
        a_scale: Array,
        b_scale: Array,
        *,
        block: int | None,
        format: str,
        rounding: str,
        overflow: str,
        **_: Any,
    ) -> Array:
        """Compute a product of scaled operands."""
        left, right = scaled_operands(a, b, a_scale, b_scale, block)
        return exact.matmul(left, right, Cast(format, rounding, overflow))  # type: ignore[arg-type]

    def block_quantize(self, x: Array, random_bits: Array | None = None, **attributes: Any) -> dict[str, Array]:
        """Convert to a block-scaled format."""
        y = encode_blocks(x, cast_of(**attributes), random_bits)
        return {"elements": y.codes, "scales": y.scales, "tensor_scale": np.asarray(y.tensor_scale, np.float32)}

    def block_matmul(
        self,
        a: Array,
        b: Array,
        a_scales: Array,
        b_scales: Array,
        *,
        format: str,
        rounding: str,
        overflow: str,
        a_tensor_scale: Array | float = 1.0,
        b_tensor_scale: Array | float = 1.0,
        **v: Any,
    ) -> Array:
        """Compute a product of block-scaled matrices."""
        scales = (a_scales, b_scales), (float(a_tensor_scale), float(b_tensor_scale))
        left, right = block_operands(v, (a, b), *scales)
        return block_matmul(left, right, Cast(format, rounding, overflow))  # type: ignore[arg-type]

    def block_dequantize(self, elements: Array, scales: Array, tensor_scale: Array | float = 1.0, **v: Any) -> Array:
        """Return the values of block-scaled codes."""
        blocks = dequantize_operand(v, elements, scales, float(tensor_scale))
        return dequantize_blocks(blocks, Cast(v["format"], v["rounding"], v["overflow"]))

    def block_layout(self, codes: Array, *, layout: str) -> Array:
        """Return codes in another memory layout."""
        return pack_nibbles(codes) if layout == "nibbles" else tile_scales(codes)

    def op(
        self,
        *,
        name: str,
        attributes: dict[str, Any],
        alpha: float,
        beta: list[float | None],
        store: str,
        operand: str | None,
        operand_gradient: str | None,
        gradient: Array | None = None,
        **arrays: Array,
    ) -> dict[str, Array]:
        """Compute an op, forward and backward."""
        op = replay.make_op(name, attributes)
        given = [arrays[n] for n in replay.input_names(op, len(arrays))]
        policy = replay.policy(op, store, operand, operand_gradient)
        return replay.replay(op, given, gradient, Scales(alpha, tuple(beta)), policy).outputs

    def model(
        self,
        *,
        name: str,
        scheme: str,
        precision: str,
        store: str,
        operand: str | None,
        operand_gradient: str | None,
        calls: list[dict[str, Any]],
        **arrays: Array,
    ) -> dict[str, Array]:
        """Compute a training step."""
        casts = {"store": store, "operand": operand, "operand_gradient": operand_gradient}
        return steps.training_step(arrays, calls=calls, **casts)  # type: ignore[arg-type]

    def adamw(
        self,
        parameter: Array,
        gradient: Array,
        m: Array,
        v: Array,
        *,
        t: int,
        lr: float,
        b1: float,
        b2: float,
        eps: float,
        weight_decay: float,
    ) -> dict[str, Array]:
        """Compute one step of AdamW."""
        rule = adamw(b1, b2, eps, weight_decay)
        state = {"step": np.asarray(t - 1), "m/p": m, "v/p": v}
        new, after = rule.update({"p": gradient}, state, {"p": parameter}, Rate(lr), {"p": Group(1.0)})
        return {"parameter": new["p"], "m": after["m/p"], "v": after["v/p"]}
