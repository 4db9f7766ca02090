"""Where rounding happens, and the rivals of unit scaling.

In reading order:

1. ``policy``: a ``Precision`` says which arrays are rounded, and to what; ``POLICIES`` are the named ones.
2. ``operands``: the powers of two that per-tensor scaling puts around the cast of an operand.
3. ``scaling``: what a technique is, what a step of it took, and a table of them.
4. ``rivals``: no, static and automatic loss scaling and per-tensor scaling, as records; ``get_scaling`` by name.

    >>> from refscale.precision import get_precision, get_scaling
    >>> print(get_precision("bf16"))
    bf16 (store=bfloat16/nearest_even/nonsaturate, operand=carrier, operand_gradient=carrier)
    >>> get_scaling("static:2^15")
    StaticLossScale(scale=32768.0)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from refscale.precision.operands import Measured, OperandScales, operand_scale
from refscale.precision.policy import (
    POLICIES,
    Precision,
    bf16,
    fp8,
    fp8_fnuz,
    fp8_hidden,
    fp8_sr,
    fp16,
    fp16_sr,
    fp32,
    get_precision,
    random_bits,
)

if TYPE_CHECKING:
    from refscale.precision.rivals import (
        SCALINGS,
        AutomaticLossScale,
        NoScaling,
        StaticLossScale,
        TensorScaling,
        get_scaling,
    )
    from refscale.precision.scaling import Outcome, Scaling, State, all_finite

__all__ = [
    "POLICIES",
    "SCALINGS",
    "AutomaticLossScale",
    "Measured",
    "NoScaling",
    "OperandScales",
    "Outcome",
    "Precision",
    "Scaling",
    "State",
    "StaticLossScale",
    "TensorScaling",
    "all_finite",
    "bf16",
    "fp8",
    "fp8_fnuz",
    "fp8_hidden",
    "fp8_sr",
    "fp16",
    "fp16_sr",
    "fp32",
    "get_precision",
    "get_scaling",
    "operand_scale",
    "random_bits",
]


def __getattr__(name: str) -> Any:
    """What ``scaling`` and ``rivals`` define, imported when it is asked for: unit scaling needs none of it."""
    for part in ("scaling", "rivals"):
        module = import_module(f"{__name__}.{part}")
        if name == part:
            return module
        if name in __all__ and hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
