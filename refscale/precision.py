"""Precision policies: which arrays are rounded, and to what.

A policy is a record of up to three casts, consulted by the engine (and by nothing else):

==================  ==============================================================  =======================
cast                applied to                                                      when
==================  ==============================================================  =======================
store               every leaf entering the tape (parameters, inputs)               ``Tape.tensor``
store               every op's output, after the factor α                           forward
operand             every input of a contraction (matmul, scores, convolution)      forward, before the op
operand_gradient    the gradient that a contraction receives                        backward, before the vjp
store               every gradient an op passes on, after the factor β              backward
store               every sum of gradients, where a tensor has several consumers    backward
==================  ==============================================================  =======================

So a contraction's backward pass sees the narrow operands that its forward pass saw, and the rounding itself is
passed by gradients unchanged (straight through).  Inside an op arithmetic is that of the carrier: a matmul accumulates
in float32.  Two things are not stored narrow: the value of a loss, which is a report and no operand, and whatever
an op keeps for its own backward pass.  Sources: paper, FP16 and FP8 experiments; Noune et al. 2022
(arXiv 2206.02915) for the fnuz formats; Micikevicius et al. 2022 (arXiv 2209.05433) for e4m3fn and e5m2.
"""

from __future__ import annotations

from dataclasses import dataclass

from refscale.errors import ArgumentError
from refscale.formats import Cast


@dataclass(frozen=True)
class Precision:
    """A precision policy.  None: not rounded, the carrier's own precision."""

    name: str
    store: Cast | None = None
    operand: Cast | None = None
    operand_gradient: Cast | None = None

    def __str__(self) -> str:
        parts = [f"{k}={getattr(self, k) or 'carrier'}" for k in ("store", "operand", "operand_gradient")]
        return f"{self.name} ({', '.join(parts)})"


def _ieee(name: str) -> Cast:
    """As processors convert to 16-bit formats: out of range becomes infinity."""
    return Cast(name, "nearest_even", "nonsaturate")


def _fp8(name: str) -> Cast:
    """As accelerators convert to FP8 for training: out of range becomes the largest value."""
    return Cast(name, "nearest_even", "saturate")


fp32 = Precision("fp32")
fp16 = Precision("fp16", store=_ieee("float16"))
bf16 = Precision("bf16", store=_ieee("bfloat16"))
fp8 = Precision("fp8", _ieee("float16"), _fp8("float8_e4m3fn"), _fp8("float8_e5m2"))
fp8_fnuz = Precision("fp8-fnuz", _ieee("float16"), _fp8("float8_e4m3fnuz"), _fp8("float8_e5m2fnuz"))

POLICIES: dict[str, Precision] = {p.name: p for p in (fp32, fp16, bf16, fp8, fp8_fnuz)}


def get_precision(text: str) -> Precision:
    """A policy by name, or a mix: ``store=bf16,operand=e4m3fn,operand_gradient=e5m2``.

    In a mix, formats of 8 bits or fewer saturate and wider ones do not, as in the named policies; for any other
    casts make a ``Precision`` of your own.

    Raises:
        ArgumentError: unknown policy or field, or a field named twice.
        FormatError: unknown format.
    """
    if text in POLICIES:
        return POLICIES[text]
    casts: dict[str, Cast] = {}
    for part in text.split(","):
        field, equals, name = part.partition("=")
        if not equals or field in casts or field not in ("store", "operand", "operand_gradient"):
            raise ArgumentError(
                f"get_precision({text!r}): expected one of {', '.join(POLICIES)}, or a mix such as "
                "store=bf16,operand=e4m3fn,operand_gradient=e5m2"
            )
        cast = _ieee(name)
        casts[field] = cast if cast.format.bits > 8 else _fp8(name)
    return Precision(text, **casts)
