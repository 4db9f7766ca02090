"""Scale factors α and β, constraints between them, and schemes, which choose them.

A scaled op computes ``α·f(x)`` forward and ``β_i·(vjp of f)_i`` backward, with positive constants that depend on
shapes and attributes, never on data (paper, definition of a scaled op). An op defines the factors that give unit
variance. A *constraint* replaces factors by one common value where the gradient is correct only if they are equal. A
*scheme* chooses the factors of every call: for example all 1, or those of unit scaling.

In reading order: ``factors``, ``moments`` (factors of activations by quadrature), ``residuals``, ``multipliers`` (of
u-μP), ``schemes``, ``named`` (schemes by name), ``trained`` (constants of trained weights), ``second_moments`` (the
quantities that the ops' rules predict).
"""

from typing import TYPE_CHECKING

from refscale.names import lazily
from refscale.scales.factors import (
    CONSTRAINTS,
    Constraint,
    Scales,
    Shape,
    Statistic,
    arithmetic,
    close,
    constrain,
    geometric,
    get_constraint,
    harmonic,
    joint,
    none,
    to_grad_input_scale,
    to_left_grad_scale,
    to_output_scale,
    to_right_grad_scale,
)
from refscale.scales.moments import (
    Moments,
    gaussian_mean,
    gaussian_moments,
    piecewise_gaussian_mean,
)
from refscale.scales.multipliers import (
    Multipliers,
    attention_factor,
    gated_unit_factor,
)
from refscale.scales.named import SCHEMES, base_name, get_scheme
from refscale.scales.residuals import (
    CountedOn,
    PlainAdd,
    ResidualRule,
    branch_only,
    default,
    equal_parts,
    fixed,
    get_residual,
    mean_of_branches,
    ratio,
    running_mean,
)
from refscale.scales.schemes import (
    Authors,
    Call,
    EmbeddingRule,
    Munit,
    NormPlacement,
    RatesRule,
    ReadoutRule,
    Regular,
    Role,
    ScaledOp,
    Scheme,
    ScoresRule,
    UMup,
    Unit,
    authors,
    munit,
    of_likeness,
    regular,
    u_mup,
    unit,
)
from refscale.scales.trained import (
    constraint_at,
    exactly,
    residual_at,
)

__all__ = [
    "CONSTRAINTS",
    "SCHEMES",
    "Authors",
    "Call",
    "Constraint",
    "CountedOn",
    "EmbeddingRule",
    "Moments",
    "Multipliers",
    "Munit",
    "NormPlacement",
    "PlainAdd",
    "RatesRule",
    "ReadoutRule",
    "Regular",
    "ResidualRule",
    "Role",
    "ScaledOp",
    "Scales",
    "Scheme",
    "ScoresRule",
    "Shape",
    "Statistic",
    "UMup",
    "Unit",
    "arithmetic",
    "attention_factor",
    "authors",
    "base_name",
    "branch_only",
    "close",
    "constrain",
    "constraint_at",
    "default",
    "equal_parts",
    "exactly",
    "fixed",
    "gated_unit_factor",
    "gaussian_mean",
    "gaussian_moments",
    "geometric",
    "get_constraint",
    "get_residual",
    "get_scheme",
    "harmonic",
    "joint",
    "mean_of_branches",
    "munit",
    "none",
    "of_likeness",
    "piecewise_gaussian_mean",
    "ratio",
    "regular",
    "residual_at",
    "running_mean",
    "to_grad_input_scale",
    "to_left_grad_scale",
    "to_output_scale",
    "to_right_grad_scale",
    "u_mup",
    "unit",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, {}, {"ScaleRule": "ScaledOp"})
