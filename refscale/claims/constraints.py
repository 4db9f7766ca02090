"""Constraints: one value for α and the β of every edge that is not a cut-edge."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np

from refscale import functional as F  # noqa: N812
from refscale import layers, ops
from refscale.claims.claim import Figures, claim, near, none_wrong, same
from refscale.claims.one_op import GRID, columns, grid
from refscale.engine import Op, Tape, Tensor, apply, backward
from refscale.scales import (
    CONSTRAINTS,
    Call,
    Constraint,
    NormPlacement,
    Scales,
    Unit,
    constrain,
    fixed,
    geometric,
    get_scheme,
    none,
    to_grad_input_scale,
    to_left_grad_scale,
    to_output_scale,
    to_right_grad_scale,
    unit,
)
from refscale.testing import rms, signs, std
from refscale.testing.gradients import assert_gradient_factor
from refscale.testing.places import Place

MATMUL: Op = ops.Matmul()
GELU: Op = ops.Gelu()

PLACEMENTS: tuple[NormPlacement, ...] = ("pre", "branch")

ULPS = 1e-14
"""Relative tolerance: logarithm, sum, quotient and exponential of a few numbers near 1."""


@claim("definitions of the means; names: PyTorch library unit-scaling, constraints")
def claim_4_01_means(place: Place) -> Figures:
    """Every constraint is a mean of α and the constrained β, and leaves equal factors unchanged.

    harmonic ≤ geometric ≤ arithmetic. The k-th power of the geometric mean of k factors is their product; a constraint
    by name selects α or one β.
    """
    rng = place.rng()
    alpha, left, right = (float(f) for f in np.exp2(rng.uniform(-6, 6, 3)))
    mean = {name: f for name, f in CONSTRAINTS.items() if name in ("harmonic", "geometric", "arithmetic")}
    values = {name: f(alpha, (left, right)) or 0.0 for name, f in mean.items()}
    yield near("geometric³", values["geometric"] ** 3, alpha * left * right, ULPS)
    yield near("harmonic", 3 / values["harmonic"], 1 / alpha + 1 / left + 1 / right, ULPS)
    yield near("arithmetic", 3 * values["arithmetic"], alpha + left + right, ULPS)
    order = values["harmonic"] <= values["geometric"] <= values["arithmetic"]
    yield none_wrong("means out of order", not order)
    for name, f in mean.items():
        yield near(f"{name} of equals", f(alpha, (alpha, alpha)) or 0.0, alpha, ULPS)
    yield same("to_output_scale", to_output_scale(alpha, (left, right)), alpha)
    yield same("to_grad_input_scale", to_grad_input_scale(alpha, (left,)), left)
    yield same("to_left_grad_scale", to_left_grad_scale(alpha, (left, right)), left)
    yield same("to_right_grad_scale", to_right_grad_scale(alpha, (left, right)), right)
    yield none_wrong("none constrains", CONSTRAINTS["none"](alpha, (left,)) is not None)


@claim("paper, Theorem 5.2: α = β for a constrained edge")
def claim_4_02_only_what_is_constrained(place: Place) -> Figures:
    """A constraint changes α and the β of the constrained inputs, to one value; the other β are unchanged."""
    rng = place.rng()
    factors = [float(f) for f in np.exp2(rng.uniform(-4, 4, 4))]
    scales = Scales(factors[0], (*factors[1:], None))
    for tied in ((), (0,), (1, 2), (0, 1, 2), (3,), (0, 3)):
        found = constrain(scales, tied, geometric)
        expected = float(np.exp(np.mean(np.log([factors[0], *(factors[i + 1] for i in tied if i < 3)]))))
        yield near(f"α constrained by {tied}", found.alpha, expected, ULPS)
        for i, (before, after) in enumerate(zip(scales.beta, found.beta, strict=True)):
            if before is None or after is None:
                yield none_wrong("a gradient for an input without one", before is not after)
            elif i in tied:
                yield same(f"β of {i}, constrained by {tied}", after, found.alpha)
            else:
                yield same(f"β of {i}, free of {tied}", after, before)


@claim("authors' code, examples/listings.py (scaled_projection): α = β_x = (m·n)^-¼, β_w = b^-½", "bmn")
def claim_4_03_projection(place: Place) -> Figures:
    """A constrained linear layer has output RMS (m/n)^¼, input gradient RMS (n/m)^¼ and weight gradient RMS 1.

    In a branch m → n → m the deviations of its two layers cancel.
    """
    b, m, n = place.b, place.m, place.n
    scales = unit.scales(Call(MATMUL, ((b, m), (m, n)), geometric, (0,)))
    yield near("α", scales.alpha, (m * n) ** -0.25, ULPS)
    yield same("β of x", scales.beta[0] or 0, scales.alpha)
    yield near("β of w", scales.beta[1] or 0, b**-0.5, ULPS)
    x = columns(m)
    y = x @ signs((m, 3), place.rng())
    yield near("RMS of the output", scales.alpha * rms(y), (m / n) ** 0.25, 1e-12)
    g = columns(n)
    dx = g @ signs((n, 3), place.rng())
    yield near("RMS of the gradient", (scales.beta[0] or 0) * rms(dx), (n / m) ** 0.25, 1e-12)


@claim("paper, Table A.2: gelu, constrained, 1.587")
def claim_4_04_activations(place: Place) -> Figures:
    """A constrained gelu has α = β = √(1.70093·1.48111) = 1.58720: outputs of σ 0.933, gradients of RMS 1.0716."""
    forms: tuple[tuple[Op, float], ...] = ((GELU, 1.5872197), (ops.Gelu("tanh"), 1.5872440))
    for op, value in forms:
        scales = unit.scales(Call(op, ((4,),), geometric, (0,)))
        yield near(f"{op}: α", scales.alpha, value, 6e-8)
        yield same(f"{op}: β", scales.beta[0] or 0, scales.alpha)
    tape = Tape(unit, dtype=np.float64)
    x = tape.tensor(grid())
    y = apply(GELU, x, constraint=geometric, constrained=(0,))
    backward(y, signs(y.shape, place.rng()))
    yield near("σ of the output", std(y.value), 0.933150, GRID)
    yield near("RMS of the gradient", rms(np.asarray(x.grad)), 1.071639, GRID)


@dataclass(frozen=True)
class AnyFactors(Unit):
    """A scheme that draws random factors for every op that changes values, before constraints apply.

    Attributes:
        seed: random seed.
        by_shape: whether equal calls have equal factors, as under every scheme; needed if a loop reuses a weight.
    """

    name: str = "any factors"
    seed: int = 0
    by_shape: bool = False

    def unconstrained(self, call: Call) -> Scales:
        """Return random factors; identities and moves keep their own, additions those of their weights."""
        own = super().unconstrained(call)
        if isinstance(call.op, ops.WeightedAdd | ops.Fork | ops.Reshape | ops.Transpose | ops.Bias):
            return own
        place = crc32(repr((call.op, call.shapes)).encode()) if self.by_shape else call.index
        draw = np.random.default_rng([self.seed, place])
        alpha, *betas = (float(f) for f in np.exp2(draw.uniform(-1, 1, 1 + len(own.beta))))
        return Scales(alpha, tuple(None if b is None else new for b, new in zip(own.beta, betas, strict=True)))


def _block(constraint: Constraint) -> dict[str, Callable[..., Tensor]]:
    """Return residual branches of every kind that the package's models use."""

    def attention(x: Tensor, *w: Tensor, causal: bool = False, softcap: float | None = None) -> Tensor:
        def branch(h: Tensor) -> Tensor:
            h = F.layer_norm(h, w[3], w[4])
            q, k, v = (F.linear(h, part, constraint=constraint) for part in w[:3])
            return F.attention(q, k, v, heads=2, causal=causal, softcap=softcap, constraint=constraint)

        return F.residual(branch, x, fixed(0.3))

    def feed_forward(x: Tensor, *w: Tensor) -> Tensor:
        def branch(h: Tensor) -> Tensor:
            h = apply(ops.Gelu(), F.linear(h, w[0], constraint=constraint), constraint=constraint, constrained=(0,))
            return F.linear(h, w[1], w[4], constraint=constraint)

        return F.residual(branch, x, fixed(0.3))

    def gated(x: Tensor, *w: Tensor) -> Tensor:
        def branch(h: Tensor) -> Tensor:
            left, right = F.split(F.linear(h, w[0], constraint=constraint), 2)
            product = apply(ops.SiluGlu(), left, right, constraint=constraint, constrained=(0, 1))
            both = apply(ops.Concat(-1), product, left, constraint=constraint, constrained=(0, 1))
            return F.linear(both, w[1], constraint=constraint)

        return F.residual(branch, x, fixed(0.3))

    def causal(x: Tensor, *w: Tensor) -> Tensor:
        return attention(x, *w, causal=True)

    def capped(x: Tensor, *w: Tensor) -> Tensor:
        return attention(x, *w, softcap=2.0)

    return {
        "attention": attention,
        "causal attention": causal,
        "capped attention": capped,
        "feed-forward": feed_forward,
        "gated": gated,
    }


def _language_layers(constraint: Constraint) -> list[tuple[str, layers.Block, layers.Specs]]:
    """Return layers of the character models and of a decoder, of width 8."""
    plain = layers.Block(
        heads=4,
        depth=2,
        norm="pre",
        tau=fixed(0.3),
        activation=ops.Relu(),
        eps=1e-6,
        dropout=0.0,
        attention_dropout=0.0,
        scores=None,
        values="correlated",
        constraint=constraint,
        causal=True,
    )
    attention, ffn = "layer.attention", "layer.ffn"
    norms = {**layers.norm_specs(f"{attention}.norm", 8, bias=False), **layers.norm_specs(f"{ffn}.norm", 8, bias=False)}
    up = layers.feed_forward_specs(ffn, 8, 12)
    return [
        (
            "decoder layer",
            replace(plain, kv_heads=2, rotary=100.0),
            norms
            | layers.self_attention_specs(attention, 8, shared=2, biased=())
            | layers.feed_forward_specs(ffn, 8, 12, bias=False, gated=True),
        ),
        ("attention by distance", plain, norms | layers.self_attention_specs(attention, 8, frequencies=4) | up),
        (
            "convolution",
            replace(plain, mixer="convolution", norm="none"),
            layers.convolution_specs("layer.convolution", 8, 3, 2) | up,
        ),
        (
            "recurrence",
            replace(plain, mixer="recurrence", norm="none"),
            layers.recurrence_specs("layer.recurrence", 8) | up,
        ),
    ]


@claim("paper, Theorem 5.2", "bms")
def claim_4_05_branches(place: Place) -> Figures:
    """With arbitrary factors, constrained where the blocks require it, every gradient is a constant times the true one.

    So no block lacks a constraint on a non-cut edge.
    """
    p, rng = place.at_most(b=2, m=3, s=4), place.rng()
    width = 2 * p.m
    x = rng.standard_normal((p.b, p.s, width))
    weights = [rng.standard_normal((width, width)) for _ in range(3)] + [np.ones(width), np.zeros(width)]
    for name in ("geometric", "to_output_scale"):
        for what, block in _block(CONSTRAINTS[name]).items():
            scheme = AnyFactors(seed=place.seed)
            c = assert_gradient_factor(block, x, *weights, scheme=scheme, rng=rng)
            yield near(f"{what}, {name}: c of the stream", c["0"], 1.0, 1e-12)
        for norm in PLACEMENTS:
            shared = layers.Block(
                heads=2,
                depth=2,
                norm=norm,
                tau=fixed(0.3),
                activation=ops.Gelu(),
                eps=1e-12,
                dropout=0.0,
                attention_dropout=0.0,
                scores=None,
                values="correlated",
                constraint=CONSTRAINTS[name],
            )
            parameters = layers.initialize(layers.transformer_layer_specs("layer", width, 3 * width), unit, rng)

            def layer(x: Tensor, p: layers.Tensors, shared: layers.Block = shared) -> Tensor:
                return layers.transformer_layer(p, "layer", x, None, block=shared, number=0, rng=None)

            c = assert_gradient_factor(layer, x, parameters, scheme=AnyFactors(seed=place.seed), rng=rng)
            yield near(f"transformer layer, {norm}-norm, {name}: c of the stream", c["0"], 1.0, 1e-12)
        for what, shared, specs in _language_layers(CONSTRAINTS[name]):
            parameters = layers.initialize(specs, unit, rng)
            x8 = rng.standard_normal((p.b, p.s, 8))

            def layer(x: Tensor, p: layers.Tensors, shared: layers.Block = shared) -> Tensor:
                return layers.transformer_layer(p, "layer", x, None, block=shared, number=0, rng=None)

            scheme = AnyFactors(seed=place.seed, by_shape=shared.mixer == "recurrence")
            c = assert_gradient_factor(layer, x8, parameters, scheme=scheme, rng=rng)
            yield near(f"{what}, {name}: c of the stream", c["0"], 1.0, 1e-12)
        for cells, specs_of in ((layers.lstm, layers.lstm_specs), (layers.gru, layers.gru_specs)):
            parameters = layers.initialize(specs_of("cells", 8, 4, layers=2, bidirectional=True), unit, rng)

            def recurrent(x: Tensor, p: layers.Tensors, cells: Any = cells, name: str = name) -> Tensor:
                return F.residual(lambda h: cells(p, "cells", h, name), x, fixed(0.3))

            scheme = AnyFactors(seed=place.seed, by_shape=True)
            x8 = rng.standard_normal((p.b, p.s, 8))
            c = assert_gradient_factor(recurrent, x8, parameters, scheme=scheme, rng=rng)
            yield near(f"{cells.__name__}, {name}: c of the stream", c["0"], 1.0, 1e-12)


@claim("arXiv 2407.17465: to output scale; refscale.scales.UMup")
def claim_4_06_u_mup(place: Place) -> Figures:
    """u-μP uses α where unit scaling uses the geometric mean; unconstrained factors stay unconstrained."""
    call = Call(MATMUL, ((5, 12), (12, 7)), geometric, (0,))
    found = get_scheme("u-mup").scales(call)
    yield near("α", found.alpha, 12**-0.5, ULPS)
    yield same("β of x", found.beta[0] or 0, found.alpha)
    free = get_scheme("u-mup").scales(Call(MATMUL, ((5, 12), (12, 7)), none, (0,)))
    yield near("β of x, unconstrained", free.beta[0] or 0, 7**-0.5, ULPS)
    readout = get_scheme("u-mup").readout
    yield near("α of a readout", ops.Readout(readout).scale((5, 12), (12, 7)).alpha, 1 / 12, ULPS)
    yield near("α of 1/d scores", math.sqrt(ops.AttentionScores("1/d").scale((5, 4), (6, 4)).alpha), 1.0, ULPS)
