"""The layers of transformers; each consists of a function that returns its specs, and one that computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.engine import Op, Tape, Tensor, apply, tape_of
from refscale.layers.parameters import Spec, Specs, Tensors
from refscale.ops import ValuesRule
from refscale.scales import (
    Constraint,
    CountedOn,
    NormPlacement,
    ResidualRule,
    Role,
    ScoresRule,
    constraint_at,
    geometric,
    get_constraint,
    get_residual,
    joint,
    none,
    residual_at,
    to_output_scale,
)

Mixer = Literal["attention", "convolution", "recurrence"]


def linear_specs(
    name: str, fan_in: int, fan_out: int, depth: int = 1, role: Role = "weight", bias: bool = True
) -> Specs:
    """Return the specs of ``linear``, or, with the role "readout", of ``functional.readout``."""
    specs: Specs = {f"{name}.weight": Spec(role, (fan_in, fan_out), depth)}
    return specs | {f"{name}.bias": Spec("bias", (fan_out,), depth)} if bias else specs


def linear(p: Tensors, name: str, x: Tensor, constraint: str | Constraint = geometric) -> Tensor:
    """Apply ``functional.linear`` with the parameters ``name.weight`` and, if it exists, ``name.bias``."""
    weight, bias = p[f"{name}.weight"], p.get(f"{name}.bias")
    tape = tape_of(f"linear({name!r})", x, weight)
    with tape.scope(name.rpartition(".")[2]):
        return F.linear(x, weight, bias, constraint=constraint_at(tape.scheme, name, constraint))


def norm_specs(name: str, d: int, depth: int = 1, bias: bool = True) -> Specs:
    """Return the specs of ``norm``: of a layer norm, or, without bias, of an RMS norm."""
    specs: Specs = {f"{name}.gain": Spec("gain", (d,), depth)}
    return specs | {f"{name}.bias": Spec("bias", (d,), depth)} if bias else specs


def norm(p: Tensors, name: str, x: Tensor, eps: float) -> Tensor:
    """Apply layer norm with the parameters ``name.gain`` and ``name.bias``, or RMS norm if there is only a gain.

    ``eps`` is in units of x.
    """
    gain, bias = p[f"{name}.gain"], p.get(f"{name}.bias")
    eps *= tape_of(f"norm({name!r})", x, gain).scheme.trained.get(name, 1.0)
    return F.rms_norm(x, gain, eps) if bias is None else F.layer_norm(x, gain, bias, eps)


def feed_forward_specs(
    name: str, d: int, hidden: int, depth: int = 1, *, bias: bool = True, gated: bool = False
) -> Specs:
    """Return the specs of ``feed_forward``."""
    specs = linear_specs(f"{name}.up", d, hidden, depth, bias=bias)
    if gated:
        specs |= linear_specs(f"{name}.gate", d, hidden, depth, bias=bias)
    return specs | linear_specs(f"{name}.down", hidden, d, depth, bias=bias)


_LINEAR = ("query", "key", "value", "output")

SHIFT = "gradients of key biases, as the softmax ignores a shift"
"""A bias added to every key adds one number to all scores of a query, unless positions rotate keys."""

START = "products of a state that starts at zero"


def self_attention_specs(
    name: str,
    d: int,
    depth: int = 1,
    *,
    shared: int = 1,
    biased: tuple[str, ...] = _LINEAR,
    frequencies: int = 0,
    rotary: bool = False,
) -> Specs:
    """Return the specs of ``self_attention``.

    Args:
        name: path of the parameters.
        d: width.
        depth: number of residual additions in the stack.
        shared: number of heads of queries that share a key and a value.
        biased: names of the linear layers with a bias.
        frequencies: number of sinusoids that represent distances; 0: scores do not depend on distances.
        rotary: rotate queries and keys by their positions.
    """
    specs: Specs = {}
    for part in _LINEAR:
        width = d // shared if part in ("key", "value") else d
        specs |= linear_specs(f"{name}.{part}", d, width, depth, bias=part in biased)
    if "key" in biased and not rotary:
        specs[f"{name}.key.bias"] = replace(specs[f"{name}.key.bias"], zero_gradient=SHIFT)
    return specs | linear_specs(f"{name}.distance", frequencies, d, depth, bias=False) if frequencies else specs


def convolution_specs(name: str, d: int, kernel: int, groups: int, depth: int = 1) -> Specs:
    """Return the specs of ``convolution``."""
    weight = Spec("weight", (kernel, d // groups, d), depth)
    return {f"{name}.weight": weight, f"{name}.bias": Spec("bias", (d,), depth)}


def recurrence_specs(name: str, d: int, depth: int = 1) -> Specs:
    """Return the specs of ``recurrence``."""
    return {
        **linear_specs(f"{name}.input", d, 2 * d, depth),
        **linear_specs(f"{name}.state", d, 2 * d, depth, bias=False),
        f"{name}.start": Spec("bias", (d,), depth, zero_products=START),
    }


@dataclass(frozen=True)
class Block:
    """The common settings of the residual blocks of a transformer.

    Attributes:
        heads: number of attention heads.
        depth: number of residual additions in the stack.
        norm: "post": norm(x + f(x)), as the original transformer; "pre": x + f(norm(x)); "branch": x + norm(f(x));
            "none": x + f(x).
        tau: residual rule.
        activation: activation of the feed-forward layer.
        eps: eps of the norms.
        dropout, attention_dropout: probabilities of dropout of a branch's output and of attention weights, used if a
            generator is given.
        scores: damping of the attention scores, "1/sqrt(d)" or "1/d"; None: that of the scheme.
        values: assumed correlation of the values of a sequence, see ``ops.AttentionMix``.
        constraint: constraint of factors inside residual branches; with ``none``, forks correct the difference.
        mixer: the op that mixes the tokens of a sequence: "attention", "convolution" or "recurrence".
        causal: hide later tokens.
        amplitude: amplitude of the sinusoids that represent distances.
        kv_heads: number of heads of keys and values; None: ``heads``.
        rotary: base of rotary positions; None: queries and keys are not rotated.

    ``tau`` and ``constraint`` may be given by name.
    """

    heads: int
    depth: int
    norm: NormPlacement
    tau: ResidualRule
    activation: Op
    eps: float
    dropout: float
    attention_dropout: float
    scores: ScoresRule | None
    values: ValuesRule
    constraint: Constraint
    mixer: Mixer = "attention"
    causal: bool = False
    amplitude: float = math.sqrt(2)
    kv_heads: int | None = None
    rotary: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tau", get_residual(self.tau))
        object.__setattr__(self, "constraint", get_constraint(self.constraint))


def self_attention(
    p: Tensors, name: str, x: Tensor, mask: F.Mask | None, block: Block, rng: np.random.Generator | None = None
) -> Tensor:
    """Compute output(attention(query(x), key(x), value(x))) of x (batch, seq, d), in the same shape.

    With a constraint the three uses of x have the same gradient factor c; without one, each use starts with a fork.
    """
    tape = tape_of(f"self_attention({name!r})", x)
    uses = F.fork(x, 3) if block.constraint is none else [x] * 3
    columns = {part: p[f"{name}.{part}.weight"].shape[1] for part in _LINEAR[:3]}
    q, k, v = (
        linear(p, f"{name}.{part}", use, _joined(tape, block.constraint, columns=sum(columns.values()) / columns[part]))
        for part, use in zip(columns, uses, strict=True)
    )
    seq = x.shape[1]
    distances = None
    if f"{name}.distance.weight" in p:
        table = p[f"{name}.distance.weight"]
        with tape.scope("distance"):
            waves = F.sinusoids(seq, table.shape[0]) * (block.amplitude / math.sqrt(2))
            distances = F.matmul(waves, table, constraint=none)
    mixed = F.attention(
        q,
        k,
        v,
        heads=block.heads,
        kv_heads=block.kv_heads,
        mask=mask,
        causal=block.causal,
        rotary=F.rotary_angles(seq, q.shape[2] // block.heads, block.rotary) if block.rotary else None,
        distances=distances,
        scores=block.scores,
        values=block.values,
        constraint=block.constraint,
        scores_constraint=constraint_at(tape.scheme, f"{name}.scores", block.constraint),
        dropout=block.attention_dropout,
        rng=rng,
    )
    return linear(p, f"{name}.output", mixed, block.constraint)


def _joined(tape: Tape, constraint: Constraint, rows: float = 1.0, columns: float = 1.0) -> Constraint:
    """The constraint of a product, or of the larger one that it is a part of, if the scheme joins them."""
    return joint(constraint, rows, columns) if tape.scheme.joins else constraint


def convolution(
    p: Tensors, name: str, x: Tensor, mask: F.Mask | None, block: Block, rng: np.random.Generator | None = None
) -> Tensor:
    """Compute activation(conv(x)) of x (batch, seq, d), causal, in groups, in the same shape.

    Source: paper, character models (conv).
    """
    weight, tied = p[f"{name}.weight"], block.constraint
    padding, groups = (weight.shape[0] - 1, 0), x.shape[2] // weight.shape[1]
    y = F.conv1d(x, weight, p[f"{name}.bias"], padding=padding, groups=groups, constraint=tied)
    return apply(block.activation, y, constraint=tied, constrained=(0,))


GATE_BIAS = -1.0
"""Bias of the gates of ``recurrence``, for persistent states at first. Source: authors' code, run_sweep.py (rebias)."""


def recurrence(
    p: Tensors, name: str, x: Tensor, mask: F.Mask | None, block: Block, rng: np.random.Generator | None = None
) -> Tensor:
    """Compute the states of a recurrent highway network of depth 1 for x (batch, seq, d), in the same shape.

    h_t = h_{t−1} + sigmoid(u_t − 1)·(tanh(c_t) − h_{t−1}),    (c_t, u_t) = input(x_t) + state(h_{t−1})

    All ops inside the loop are constrained, for any constraint of the model: each state depends on the previous one,
    and all steps use the same weights, so that a factor α/β ≠ 1 would grow along the sequence. The gradient of the
    state's weight sums seq times as many terms as one step, and has an additional factor of seq^-½ (seq^-1 for equal
    terms).

    Source: Zilly et al. 2017 (arXiv 1607.03474), depth 1, as in the paper's character models.
    """
    batch, seq, d = x.shape
    tied, tape = geometric if block.constraint is none else block.constraint, tape_of(f"recurrence({name!r})", x)
    product = _joined(tape, tied, rows=2)  # of [input, state], as wide as each other
    gates = linear(p, f"{name}.input", apply(ops.Transpose((1, 0, 2)), x), product)
    terms = seq * (1 + (seq - 1) * tape.scheme.rows)  # one for each step, alike or not
    weight = apply(ops.Fork(terms**-0.5), p[f"{name}.state.weight"])
    h = apply(ops.Bias(), np.zeros((1, batch, d)), p[f"{name}.start"])
    states = []
    for t in range(seq):
        parts = apply(ops.Slice(0, t, t + 1), gates, constraint=to_output_scale, constrained=(0,))
        both = ops.WeightedAdd((1.0, 1.0))
        parts = apply(
            both, parts, F.linear(h, weight, constraint=product), constraint=to_output_scale, constrained=(0, 1)
        )
        candidate, update = F.split(parts, 2)
        candidate = F.tanh(candidate, constraint=tied)
        cell = ops.Highway(GATE_BIAS)
        h = apply(cell, h, candidate, update, constraint=to_output_scale, constrained=(0, 1, 2))
        states.append(h)
    joined = apply(ops.Concat(0), *states, constraint=to_output_scale, constrained=tuple(range(seq)))
    return apply(ops.Transpose((1, 0, 2)), joined)


MIXERS: dict[Mixer, Callable[..., Tensor]] = {
    "attention": self_attention,
    "convolution": convolution,
    "recurrence": recurrence,
}
"""Layers that mix tokens, by name, with the arguments of ``self_attention``."""


def feed_forward(p: Tensors, name: str, x: Tensor, block: Block) -> Tensor:
    """Compute down(activation(up(x))), or down(up(x)·silu(gate(x))) with a gate: (…, d) → (…, hidden) → (…, d)."""
    if f"{name}.gate.weight" in p:
        up, gate = F.fork(x, 2) if block.constraint is none else (x, x)
        parts = linear(p, f"{name}.up", up, block.constraint), linear(p, f"{name}.gate", gate, block.constraint)
        hidden = F.silu_glu(*parts, constraint=block.constraint)
    else:
        hidden = linear(p, f"{name}.up", x, block.constraint)
        hidden = apply(block.activation, hidden, constraint=block.constraint, constrained=(0,))
    return linear(p, f"{name}.down", hidden, block.constraint)


def residual_block(
    p: Tensors,
    name: str,
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    block: Block,
    number: int,
    rng: np.random.Generator | None,
) -> Tensor:
    """Compute norm(x + fn(x)), x + fn(norm(x)), x + norm(fn(x)) or x + fn(x), with dropout.

    The norm has the parameters ``name.norm``.

    Args:
        p: parameters as tensors.
        name: path of the branch's parameters.
        fn: the residual branch.
        x: the residual stream.
        block: settings that choose the placement of the norm, which the scheme may change, and the residual rule.
        number: number of this addition in the model, ≥ 1; with post-norm each addition is the first after a norm,
            except for rules that count through the whole model.
        rng: generator for dropout; None in evaluation.
    """

    def normalized(h: Tensor) -> Tensor:
        return norm(p, f"{name}.norm", h, block.eps)

    def branch(h: Tensor) -> Tensor:
        h = fn(normalized(h)) if placement == "pre" else fn(h)
        return F.dropout(normalized(h) if placement == "branch" else h, block.dropout, rng)

    scheme = tape_of(f"residual_block({name!r})", x).scheme
    placement = scheme.norm_placement(block.norm)
    tau = residual_at(scheme, name, block.tau)
    if placement == "post":
        return normalized(F.residual(branch, x, tau, number if isinstance(tau, CountedOn) else 1))
    return F.residual(branch, x, tau, number, block.depth)


def transformer_layer_specs(name: str, d: int, hidden: int, depth: int = 1) -> Specs:
    """Return the specs of ``transformer_layer`` in a stack of ``depth`` residual additions."""
    return {
        **self_attention_specs(f"{name}.attention", d, depth),
        **norm_specs(f"{name}.attention.norm", d, depth),
        **feed_forward_specs(f"{name}.ffn", d, hidden, depth),
        **norm_specs(f"{name}.ffn.norm", d, depth),
    }


def transformer_layer(
    p: Tensors, name: str, x: Tensor, mask: F.Mask | None, block: Block, number: int, rng: np.random.Generator | None
) -> Tensor:
    """Compute one layer of a transformer: a branch that mixes tokens, and a feed-forward branch.

    Args:
        p: parameters as tensors.
        name: path of this layer's parameters.
        x: the residual stream (batch, seq, d).
        mask: (batch, seq), False for padding.
        block: common settings of all layers.
        number: number of this layer, ≥ 0.
        rng: generator for dropout; None in evaluation.

    Returns:
        The residual stream (batch, seq, d); with post-norm of unit variance, with pre-norm not yet normalized.
    """
    mixer, ffn = f"{name}.{block.mixer}", f"{name}.ffn"

    def mix(h: Tensor) -> Tensor:
        return MIXERS[block.mixer](p, mixer, h, mask, block, rng)

    tape = tape_of(f"transformer_layer({name!r})", x)
    with tape.scope(block.mixer):
        x = residual_block(p, mixer, mix, x, block, number=2 * number + 1, rng=rng)
    with tape.scope("ffn"):
        return residual_block(
            p, ffn, lambda h: feed_forward(p, ffn, h, block), x, block, number=2 * number + 2, rng=rng
        )
