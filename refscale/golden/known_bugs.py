"""Occurrences of the bugs behind some flags: libraries with versions, as lesson 9 reports them, and public issues."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SEEN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "double-rounding": ("ml_dtypes 0.6.0 and torch 2.13.0: float64 is rounded to float32 first",),
        "overflow": ("torch 2.13.0: float8_e4m3fn saturates at 448, where its other casts overflow",),
        "underflow": (
            "ml_dtypes 0.6.0: a float32 just below the tie of the two smallest float8_e8m0fnu is rounded up",
        ),
        "function-tail": ("torch 2.13.0 and JAX 0.10.2: gelu of -3.3 in float32",),
        "derivative": ("torch 2.13.0 and JAX 0.10.2: 1 − tanh² cancels",),
        "alpha": ("unit-scaling 0.3.5: gelu, silu and softmax have other factors than the paper",),
        "scale-threshold": ("torchao 0.18.0, RCEIL: torch.log2 in float32 rounds down one ulp above a power of two",),
        "scale-range": ("torchao 0.18.0: a block of scale 2^-127 is divided by 2^-126",),
        "scale-nonfinite": (
            "torchao 0.18.0: an infinity has the scale 2^127 under RCEIL, that of amax 2^128 under others",
            "TransformerEngine, PTX satfinite: an infinity has the scale code 254",
        ),
        "block-arithmetic": ("torchao 0.18.0, NVFP4: x·((1/T)/s) in place of x/(s·T); other codes beside ties",),
        "block-elements": (
            "transformers #47030, sglang #39193: whether a UE8M0 scale is rounded before elements are divided by it",
        ),
        "nibble-order": ("GGUF MXFP4 and NVFP4: codes j and j + 16 of a block share a byte",),
        "accumulator": (
            "NVIDIA tensor cores: sums of FP8 keep 14 significant bits on Hopper (DeepSeek-V3, arXiv 2412.19437)",
            "MATLAB-tensor-core #2 and #7: the exponent that terms are aligned to has a floor",
        ),
    }
)
"""Occurrences by flag. For a flag without an entry none is known here."""


def explain(flag: str, meaning: str) -> str:
    """Return the meaning of a flag and the occurrences of its bug."""
    lines = [f"{flag}: {meaning}"]
    lines += [f"  seen: {case}" for case in SEEN.get(flag, ())]
    return "\n".join(lines)
