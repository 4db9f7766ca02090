"""Parameters as data, and the blocks that models are made of.

Parameters are a flat mapping from path name to array; a ``Spec`` says what each is.  A block comes in two halves: a
function that lists its specs, and one that takes the parameters as tensors and computes.  Nothing holds state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import functional as F  # noqa: N812
from refscale.engine import Op, Tape, Tensor, apply
from refscale.errors import ShapeError
from refscale.ops import ValuesRule
from refscale.scales import (
    Constraint,
    NormPlacement,
    ResidualRule,
    Role,
    Scheme,
    ScoresRule,
    Shape,
    constraint_at,
    geometric,
    none,
    residual_at,
)

Parameters = Mapping[str, NDArray[Any]]
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Spec:
    """What one parameter is.

    Attributes:
        role: weight, embedding, readout, bias or gain.
        shape: (fan_in, fan_out) of a weight or readout, (rows, d) of an embedding, (n,) of a bias or gain.
        depth: number of additions of the residual stack that it belongs to; 1 outside.
    """

    role: Role
    shape: Shape
    depth: int = 1


Specs = dict[str, Spec]


def initialize(specs: Specs, scheme: Scheme, rng: np.random.Generator, std: float = 0.02) -> dict[str, NDArray[Any]]:
    """Initial parameters: weights, embeddings and readouts N(0, σ²) with the scheme's σ, biases 0, gains 1.

    Args:
        specs: what to make, in order; the order and ``rng`` fix the values.
        scheme: decides σ (regular: ``std``; unit: 1).
        rng: source of randomness.
        std: customary σ of the model under the regular scheme.

    Returns:
        float32 arrays by name.  Source: paper, recipe, step 1.
    """
    sigma = np.float32(scheme.initial_std(std))
    values: dict[str, NDArray[Any]] = {}
    for name, spec in specs.items():
        if spec.role in ("weight", "embedding", "readout"):
            values[name] = rng.standard_normal(spec.shape, np.float32)
            values[name] *= sigma
        else:
            values[name] = np.full(spec.shape, spec.role == "gain", np.float32)
    return values


def on_tape(tape: Tape, parameters: Parameters, specs: Specs) -> dict[str, Tensor]:
    """Parameters as leaves of a tape.

    Raises:
        ShapeError: a name is missing or unknown, or a shape is not that of its spec.
    """
    if parameters.keys() != specs.keys():
        wrong = sorted(parameters.keys() ^ specs.keys())
        raise ShapeError(f"on_tape: parameters missing or unknown: {', '.join(wrong[:5])} ({len(wrong)} in all)")
    for name, spec in specs.items():
        if parameters[name].shape != spec.shape:
            raise ShapeError(f"on_tape: {name} has shape {parameters[name].shape}, expected {spec.shape}")
    return {name: tape.tensor(parameters[name], name) for name in specs}


def count(specs: Specs) -> int:
    """Number of scalar parameters."""
    return sum(math.prod(spec.shape) for spec in specs.values())


# --- Blocks -----------------------------------------------------------------------------------------------------------


def linear_specs(name: str, fan_in: int, fan_out: int, depth: int = 1, role: Role = "weight") -> Specs:
    """Of ``linear``; with the role "readout", of ``functional.readout``."""
    return {
        f"{name}.weight": Spec(role, (fan_in, fan_out), depth),
        f"{name}.bias": Spec("bias", (fan_out,), depth),
    }


def linear(p: Tensors, name: str, x: Tensor, constraint: Constraint = geometric) -> Tensor:
    """``functional.linear`` with the parameters ``name.weight`` and ``name.bias``."""
    tied = constraint_at(x.tape.scheme, name, constraint)
    with x.tape.scope(name.rpartition(".")[2]):
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"], constraint=tied)


def norm_specs(name: str, d: int, depth: int = 1) -> Specs:
    """Of ``norm``."""
    return {f"{name}.gain": Spec("gain", (d,), depth), f"{name}.bias": Spec("bias", (d,), depth)}


def norm(p: Tensors, name: str, x: Tensor, eps: float) -> Tensor:
    """``functional.layer_norm`` with the parameters ``name.gain`` and ``name.bias``; eps in units of x."""
    eps *= x.tape.scheme.trained.get(name, 1.0)
    return F.layer_norm(x, p[f"{name}.gain"], p[f"{name}.bias"], eps)


def feed_forward_specs(name: str, d: int, hidden: int, depth: int = 1) -> Specs:
    """Of ``feed_forward``."""
    return linear_specs(f"{name}.up", d, hidden, depth) | linear_specs(f"{name}.down", hidden, d, depth)


def self_attention_specs(name: str, d: int, depth: int = 1) -> Specs:
    """Of ``self_attention``."""
    specs: Specs = {}
    for part in ("query", "key", "value", "output"):
        specs |= linear_specs(f"{name}.{part}", d, d, depth)
    return specs


@dataclass(frozen=True)
class Block:
    """What the residual blocks of a transformer have in common.

    Attributes:
        heads: attention heads.
        depth: residual additions in the stack.
        norm: "post": norm(x + f(x)), as the original transformer; "pre": x + f(norm(x)); "branch": x + norm(f(x)).
        tau: residual rule.
        activation: of the feed-forward layer.
        eps: of the norms.
        dropout, attention_dropout: probabilities for a branch's output and for attention weights, used where a
            generator is given.
        scores: damping of the attention scores, "1/sqrt(d)" or "1/d"; None: the scheme's.
        values: correlated or independent, see ``ops.AttentionMix``.
        constraint: ties factors inside residual branches; with ``none``, forks repay what differs (``graph.balance``).
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


def self_attention(
    p: Tensors,
    name: str,
    x: Tensor,
    mask: F.Mask | None,
    block: Block,
    rng: np.random.Generator | None = None,
) -> Tensor:
    """output(attention(query(x), key(x), value(x))): (batch, seq, d) → the same.

    Constrained, the three uses of x agree on c; unconstrained, each starts with a fork.
    """
    uses = F.fork(x, 3) if block.constraint is none else [x] * 3
    q, k, v = (
        linear(p, f"{name}.{part}", use, block.constraint)
        for part, use in zip(("query", "key", "value"), uses, strict=True)
    )
    mixed = F.attention(
        q,
        k,
        v,
        heads=block.heads,
        mask=mask,
        scores=block.scores,
        values=block.values,
        constraint=block.constraint,
        scores_constraint=constraint_at(x.tape.scheme, f"{name}.scores", block.constraint),
        dropout=block.attention_dropout,
        rng=rng,
    )
    return linear(p, f"{name}.output", mixed, block.constraint)


def feed_forward(p: Tensors, name: str, x: Tensor, block: Block) -> Tensor:
    """down(activation(up(x))): (…, d) → (…, hidden) → (…, d)."""
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
    """norm(x + fn(x)), x + fn(norm(x)) or x + norm(fn(x)), with the parameters ``name.norm`` and dropout on the branch.

    Args:
        p: parameters as tensors.
        name: path of the branch's parameters.
        fn: the branch.
        x: the stream.
        block: says which of them (the scheme may say another), and how to add.
        number: of this addition in the model, from 1; post-norm, the norm starts the stream anew and each is the first.
        rng: for dropout; None in evaluation.
    """

    def normalized(h: Tensor) -> Tensor:
        return norm(p, f"{name}.norm", h, block.eps)

    def branch(h: Tensor) -> Tensor:
        h = fn(normalized(h)) if placement == "pre" else fn(h)
        return F.dropout(normalized(h) if placement == "branch" else h, block.dropout, rng)

    placement = x.tape.scheme.norm_placement(block.norm)
    tau = residual_at(x.tape.scheme, name, block.tau)
    if placement == "post":
        return normalized(F.residual(branch, x, tau, 1))
    return F.residual(branch, x, tau, number, block.depth)


def transformer_layer_specs(name: str, d: int, hidden: int, depth: int = 1) -> Specs:
    """Of ``transformer_layer``, in a stack of ``depth`` residual additions."""
    return {
        **self_attention_specs(f"{name}.attention", d, depth),
        **norm_specs(f"{name}.attention.norm", d, depth),
        **feed_forward_specs(f"{name}.ffn", d, hidden, depth),
        **norm_specs(f"{name}.ffn.norm", d, depth),
    }


def transformer_layer(
    p: Tensors, name: str, x: Tensor, mask: F.Mask | None, block: Block, number: int, rng: np.random.Generator | None
) -> Tensor:
    """One encoder layer: an attention branch and a feed-forward branch on the residual stream.

    Args:
        p: parameters as tensors.
        name: path of this layer's parameters.
        x: (batch, seq, d).
        mask: (batch, seq), True at real tokens.
        block: what all layers share.
        number: of this layer, from 0.
        rng: for dropout; None in evaluation.

    Returns:
        (batch, seq, d).  Post-norm: unit variance; pre-norm: the stream, to be normalized at the end.
    """

    attention, ffn = f"{name}.attention", f"{name}.ffn"

    def attend(h: Tensor) -> Tensor:
        return self_attention(p, attention, h, mask, block, rng)

    with x.tape.scope("attention"):
        x = residual_block(p, attention, attend, x, block, 2 * number + 1, rng)
    with x.tape.scope("ffn"):
        return residual_block(p, ffn, lambda h: feed_forward(p, ffn, h, block), x, block, 2 * number + 2, rng)
