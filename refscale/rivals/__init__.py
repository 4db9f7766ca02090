"""The techniques that unit scaling replaces: loss scaling and per-tensor scaling, as records.

In reading order:

1. ``operands``: the powers of two that per-tensor scaling applies around the cast of an operand.
2. ``technique``: the interface of a technique, the costs of a step, and a table of the techniques.
3. ``techniques``: no, static and automatic loss scaling, and per-tensor scaling; ``get_scaling`` by name.

    >>> from refscale.rivals import get_scaling
    >>> get_scaling("static:2^15")
    StaticLossScale(scale=32768.0)
"""

from refscale.rivals.operands import Measured, OperandScales, operand_scale
from refscale.rivals.technique import Outcome, Scaling, State, all_finite
from refscale.rivals.techniques import (
    SCALINGS,
    AutomaticLossScale,
    NoScaling,
    StaticLossScale,
    TensorScaling,
    get_scaling,
)

__all__ = [
    "SCALINGS",
    "AutomaticLossScale",
    "Measured",
    "NoScaling",
    "OperandScales",
    "Outcome",
    "Scaling",
    "State",
    "StaticLossScale",
    "TensorScaling",
    "all_finite",
    "get_scaling",
    "operand_scale",
]
