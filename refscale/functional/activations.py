"""Activations: functions of one tensor, and gated units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from refscale import ops
from refscale.engine import Op, Tensor, apply, tape_of
from refscale.scales import Constraint, gated_unit_factor, geometric, to_output_scale

__all__ = [
    "clip",
    "elementwise",
    "gelu",
    "glu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "silu_glu",
    "softcap",
    "softplus",
    "tanh",
]


def _tied(op: Op, x: Tensor, constraint: str | Constraint) -> Tensor:
    """A function of one tensor, α and β tied."""
    return apply(op, x, constraint=constraint, constrained=(0,))


def relu(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """Compute α·max(x, 0); see ``ops.Relu``.

    Args:
        x: tensor of any shape.
        constraint: constraint of α and β, or its name; default geometric.
    """
    return _tied(ops.Relu(), x, constraint)


def leaky_relu(x: Tensor, slope: float = 0.01, *, constraint: str | Constraint = geometric) -> Tensor:
    """Compute α·x where x > 0, else α·slope·x; see ``ops.LeakyRelu``.

    Args:
        x: tensor of any shape.
        slope: slope for x ≤ 0, 0 < slope < 1.
        constraint: constraint of α and β, or its name; default geometric.
    """
    return _tied(ops.LeakyRelu(slope), x, constraint)


def gelu(x: Tensor, form: Literal["erf", "tanh"] = "erf", *, constraint: str | Constraint = geometric) -> Tensor:
    """Compute α·x·Φ(x), or its tanh approximation; see ``ops.Gelu``.

    Args:
        x: tensor of any shape.
        form: "erf" (exact) or "tanh" (approximation).
        constraint: constraint of α and β, or its name; default geometric.
    """
    return _tied(ops.Gelu(form), x, constraint)


def silu(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """Compute α·x·sigmoid(x); see ``ops.Silu``.

    Args:
        x: tensor of any shape.
        constraint: constraint of α and β, or its name; default geometric.
    """
    return _tied(ops.Silu(), x, constraint)


def silu_glu(x: Tensor, gate: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """Compute α·x·silu(gate), the gated linear unit of SwiGLU; see ``ops.SiluGlu``.

    Under a scheme with an activation multiplier m ≠ 1 it is c·x·gate·sigmoid(m·gate) = (c/m)·x·silu(m·gate), with the
    factor c of ``scales.gated_unit_factor`` forward and backward.

    Args:
        x: tensor of any shape.
        gate: tensor of the shape of x.
        constraint: constraint of α and both β, or its name; default geometric.

    Returns:
        A tensor of the shape of x. Source: arXiv 2002.05202.
    """
    m = tape_of("silu_glu", x, gate).scheme.multipliers.activation
    if m == 1:
        return apply(ops.SiluGlu(), x, gate, constraint=constraint, constrained=(0, 1))
    y = apply(ops.SiluGlu(), x, apply(ops.Scaled(m, m), gate), constraint=to_output_scale, constrained=(0, 1))
    factor = gated_unit_factor(m) / (m * ops.SiluGlu().scale(x.shape, gate.shape).alpha)
    return apply(ops.Scaled(factor, factor), y)


def glu(
    x: Tensor,
    gate: Tensor,
    activation: str | ops.Elementwise = "sigmoid",
    *,
    constraint: str | Constraint = geometric,
) -> Tensor:
    """Compute α·x·f(gate), a gated linear unit with any activation; see ``ops.Glu``.

    Args:
        x: tensor of any shape. (torch's ``glu`` takes x and gate as one tensor: ``split`` it.)
        gate: tensor of the shape of x.
        activation: f, a name in ``ops.ACTIVATIONS`` or an elementwise op; "sigmoid" (default) as in torch; "silu" as in
            ``silu_glu``.
        constraint: constraint of α and both β, or its name; default geometric.

    Returns:
        A tensor of the shape of x. Source: arXiv 2002.05202.
    """
    if activation == "silu":  # with a fused form, and a multiplier
        return silu_glu(x, gate, constraint=constraint)
    op = ops.Glu(activation)
    return apply(op, x, gate, constraint=constraint, constrained=(0, 1))


def tanh(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """Compute α·tanh(x); see ``ops.Tanh``.

    Args:
        x: tensor of any shape.
        constraint: constraint of α and β, or its name; default geometric.
    """
    return _tied(ops.Tanh(), x, constraint)


def softcap(x: Tensor, cap: float, *, constraint: str | Constraint = geometric) -> Tensor:
    """Compute α·cap·tanh(x/cap): about α·x for small |x|, bounded by ±α·cap; see ``ops.SoftCap``.

    Args:
        x: tensor of any shape.
        cap: the bound, ≥ 1/16.
        constraint: constraint of α and β, or its name; default geometric.
    """
    return _tied(ops.SoftCap(cap), x, constraint)


def sigmoid(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """Compute α/(1 + e^−x); see ``ops.Sigmoid``.

    Args:
        x: tensor of any shape.
        constraint: constraint of α and β, or its name; default geometric.
    """
    return _tied(ops.Sigmoid(), x, constraint)


def softplus(
    x: Tensor, beta: float = 1.0, threshold: float | None = None, *, constraint: str | Constraint = geometric
) -> Tensor:
    """Compute α·log(1 + e^(beta·x))/beta; see ``ops.Softplus`` and ``ops.ThresholdedSoftplus``.

    Args:
        x: tensor of any shape.
        beta: steepness, 0 < beta ≤ 32.
        threshold: ≥ 0; where beta·x exceeds it, f(x) = x. None: no threshold (torch's default is 20).
        constraint: constraint of α and β, or its name; default geometric.
    """
    if beta == 1 and threshold is None:
        return _tied(ops.Softplus(), x, constraint)
    # 1024: from there on, the function is x in float64.
    return _tied(ops.ThresholdedSoftplus(beta, 1024.0 if threshold is None else threshold), x, constraint)


def hardsigmoid(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """Compute α·min(max(x + 3, 0), 6)/6; see ``ops.HardSigmoid``.

    Args:
        x: tensor of any shape.
        constraint: constraint of α and β, or its name; default geometric.
    """
    return _tied(ops.HardSigmoid(), x, constraint)


def hardswish(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """Compute α·x·min(max(x + 3, 0), 6)/6; see ``ops.HardSwish``.

    Args:
        x: tensor of any shape.
        constraint: constraint of α and β, or its name; default geometric.
    """
    return _tied(ops.HardSwish(), x, constraint)


def hardtanh(
    x: Tensor, min_val: float = -1.0, max_val: float = 1.0, *, constraint: str | Constraint = geometric
) -> Tensor:
    """Compute α·min(max(x, min_val), max_val); see ``ops.Clip``.

    Args:
        x: tensor of any shape.
        min_val, max_val: bounds, finite, min_val < max_val.
        constraint: constraint of α and β, or its name; default geometric.
    """
    return _tied(ops.Clip(min_val, max_val), x, constraint)


def clip(x: Tensor, min: float, max: float, *, constraint: str | Constraint = geometric) -> Tensor:
    """Compute α·min(max(x, min), max); see ``ops.Clip``.

    Args:
        x: tensor of any shape.
        min, max: bounds, finite, min < max.
        constraint: constraint of α and β, or its name; default geometric.
    """
    return _tied(ops.Clip(min, max), x, constraint)


def relu6(x: Tensor, *, constraint: str | Constraint = geometric) -> Tensor:
    """Compute α·min(max(x, 0), 6); see ``ops.Clip``.

    Args:
        x: tensor of any shape.
        constraint: constraint of α and β, or its name; default geometric.
    """
    return hardtanh(x, 0.0, 6.0, constraint=constraint)


def elementwise(
    x: Tensor,
    f: Callable[[Any], Any],
    derivative: Callable[[Any], Any],
    kinks: Sequence[float] = (),
    *,
    constraint: str | Constraint = geometric,
) -> Tensor:
    """Compute α·f(x) for any function of one number, given with its derivative; see ``ops.CustomElementwise``.

    Args:
        x: tensor of any shape.
        f: function of an array, elementwise, in NumPy functions.
        derivative: its derivative f′, likewise.
        kinks: points where f or f′ is discontinuous.
        constraint: constraint of α and β, or its name; default geometric.

    Returns:
        A tensor of the shape of x. Equal functions give equal ops: define f and its derivative once, not at every call.

    Raises:
        ArgumentError: the scheme has factors, and a moment of f(X) or f′(X), X ~ N(0, 1), diverges or is 0.
    """
    return _tied(ops.CustomElementwise(f, derivative, tuple(float(k) for k in kinks)), x, constraint)
