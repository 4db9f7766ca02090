"""Weighted additions and residual rules over depth: a stream of unit variance, branches with unit gradients."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.claims.claim import Figures, claim, near, none_wrong
from refscale.engine import Array, Tape, Tensor, Variable, apply, backward
from refscale.scales import (
    ResidualRule,
    Scheme,
    default,
    equal_parts,
    fixed,
    get_scheme,
    ratio,
    regular,
    running_mean,
    unit,
)
from refscale.testing import hadamard, rms, signs
from refscale.testing.gradients import assert_gradient_factor
from refscale.testing.places import Place

DEPTH = 48
ROUNDINGS = 1e-13
"""Relative tolerance: six roundings of 1e-16 for each of 48 additions."""


def _stream(scheme: Scheme, rule: ResidualRule, depth: int) -> tuple[Array, Array]:
    """Return a stream after each of ``depth`` additions of branches, all orthogonal to each other, and their rows."""
    rows = hadamard(64)
    tape = Tape(scheme, dtype=np.float64)
    x = tape.tensor(rows[0])
    values = []
    for layer in range(1, depth + 1):
        x = F.residual(partial(_whatever, tape.tensor(rows[layer])), x, rule, layer, depth)
        values.append(x.value)
    return np.array(values), rows


def _whatever(result: Tensor, h: Tensor) -> Tensor:
    """Return a branch with a known result."""
    return result


def _rules(place: Place) -> dict[str, ResidualRule]:
    tau = float(place.rng().uniform(0.05, 0.95))
    return {"default": default, "running mean": running_mean, "fixed": fixed(tau), "ratio": ratio(tau)}


@claim("paper, residual rules: a² + b² = 1")
def claim_6_01_depth(place: Place) -> Figures:
    """Under unit scaling a stream has RMS 1 after any number of residual additions, by every rule, to depth 48."""
    for name, rule in _rules(place).items():
        values, _ = _stream(unit, rule, DEPTH)
        for layer in (1, 2, 7, DEPTH):
            yield near(f"{name}: RMS after {layer}", rms(values[layer - 1]), 1.0, ROUNDINGS)


@claim("paper, residual rules (default): variance grows with depth")
def claim_6_02_plain_add(place: Place) -> Figures:
    """Without weights the stream's RMS after l additions is √(l + 1)."""
    values, _ = _stream(regular, default, DEPTH)
    for layer in (1, 3, 8, DEPTH):
        yield near(f"RMS after {layer}", rms(values[layer - 1]), math.sqrt(layer + 1), ROUNDINGS)


@claim("paper, residual rules (running mean)")
def claim_6_03_running_mean(place: Place) -> Figures:
    """The running mean gives the input and every branch the same part, (l + 1)^-½: it equals normalized x + f."""
    for name, rule in (("running mean", running_mean), ("default", default)):
        values, rows = _stream(unit, rule, DEPTH)
        for layer in (1, 5, DEPTH):
            parts = rows @ values[layer - 1] / 64
            expected = (layer + 1) ** -0.5
            yield near(f"{name}: least part of {layer + 1}", parts[: layer + 1].min(), expected, ROUNDINGS)
            yield near(f"{name}: largest part of {layer + 1}", parts[: layer + 1].max(), expected, ROUNDINGS)


@claim("paper, residual rules (fixed); arXiv 2407.17465 (ratio)")
def claim_6_04_fixed_and_ratio(place: Place) -> Figures:
    """fixed(τ) has weights √(1−τ), √τ; ratio(τ) has 1/√(1+τ²), τ/√(1+τ²). Older parts decrease by the skip's weight."""
    tau = float(place.rng().uniform(0.05, 0.95))
    weights = {
        "fixed": (math.sqrt(1 - tau), math.sqrt(tau)),
        "ratio": (1 / math.hypot(1, tau), tau / math.hypot(1, tau)),
    }
    for name, rule in (("fixed", fixed(tau)), ("ratio", ratio(tau))):
        skip, branch = weights[name]
        values, rows = _stream(unit, rule, 5)
        parts = rows @ values[-1] / 64
        for layer, expected in enumerate([skip**5, *(branch * skip ** (5 - k) for k in range(1, 6))]):
            yield near(f"{name}: part of branch {layer}", parts[layer], expected, ROUNDINGS)


@claim("arXiv 2407.17465, Appendix G, all multipliers 1")
def claim_6_05_equal_parts(place: Place) -> Figures:
    """u-μP's depth rule: in a stack of 2L additions the input counts as √L parts, every branch as one, normalized."""
    for layers_ in (1, 4, 24):
        depth = 2 * layers_
        values, rows = _stream(get_scheme("u-mup"), default, depth)
        parts = rows @ values[-1] / 64
        total = math.sqrt(depth / 2 + depth)
        yield near(f"{depth} additions: the input", parts[0], math.sqrt(depth / 2) / total, ROUNDINGS)
        for layer in (1, depth):
            yield near(f"{depth} additions: branch {layer}", parts[layer], 1 / total, ROUNDINGS)
        yield near("τ of the last", equal_parts(depth, depth), (depth / 2 + depth - 1) ** -0.5, ROUNDINGS)


@claim("authors' code, examples/listings.py (ScaledFFN)", "bm")
def claim_6_06_unit_gradients_inside(place: Place) -> Figures:
    """A ``Fork`` at the start of a branch applies its weight: gradients inside have RMS 1, the stream's are true."""
    p, rng = place.at_most(b=64, m=64), place.rng()
    shape = (p.b, p.m)
    for name, rule in _rules(place).items():
        for layer in (1, 2, 12):
            seen: dict[Variable, Array] = {}
            inside: list[Variable] = []

            def probe(way: str, variable: Variable, value: Array, seen: dict[Variable, Array] = seen) -> None:
                if way == "backward":
                    seen[variable] = value

            def branch(h: Tensor, inside: list[Variable] = inside) -> Tensor:
                end = apply(ops.Scaled(), h)
                inside += [h.variable, end.variable]
                return end

            tape = Tape(unit, dtype=np.float64, probe=probe)
            x = tape.tensor(signs(shape, rng))
            y = F.residual(branch, x, rule, layer, 12)
            g = signs(shape, rng)
            backward(y, g)
            for where, variable in zip(("start", "end"), inside, strict=True):
                yield near(f"{name}, layer {layer}: gradient at the {where}", rms(seen[variable]), 1.0, ROUNDINGS)
            skip, weight = next(n.op.weights for n in tape.nodes if isinstance(n.op, ops.WeightedAdd))
            total = (skip + weight) / math.hypot(skip, weight)
            error = rms(np.asarray(x.grad) - total * g) / total
            yield near(f"{name}, layer {layer}: the stream's gradient", 1 + error, 1.0, ROUNDINGS)


@claim("paper, Theorem 5.2; authors' code, examples/listings.py (ScaledFFN)", "bms")
def claim_6_07_blocks_in_a_row(place: Place) -> Figures:
    """Through a stack of residual blocks, by any rule, the gradient of the stream is the true one."""
    p, rng = place.at_most(b=3, m=6, s=6), place.rng()
    x = rng.standard_normal((p.b, p.m))
    weights = rng.standard_normal((p.s, p.m, p.m))
    for name, rule in _rules(place).items():

        def stack(x: Tensor, *w: Tensor, rule: ResidualRule = rule) -> Tensor:
            for layer, one in enumerate(w, start=1):
                x = F.residual(partial(F.linear, weight=one), x, rule, layer, len(w))
            return x

        c = assert_gradient_factor(stack, x, *weights, rng=rng)
        yield near(f"{name}: c of the stream over {p.s} blocks", c["0"], 1.0, 1e-11)
        yield none_wrong("weights without a constant", len(weights) + 1 - len(c))


@claim("paper, BERT: a weighted add with equal weights", "bms")
def claim_6_08_embeddings(place: Place) -> Figures:
    """The sum of k embeddings is a weighted add: for orthogonal embeddings the RMS is exactly 1, each a k^-½ part."""
    rows = hadamard(8)[1:4]
    tape = Tape(unit, dtype=np.float64)
    tables = [tape.tensor(row[None]) for row in rows]
    y = F.embedding_sum(*((t, np.zeros((place.at_most(b=4).b, 2), np.int64)) for t in tables))
    yield near("RMS", rms(y.value), 1.0, ROUNDINGS)
    yield near("part of the first", float(y.value[0, 0] @ rows[0]) / 8, 3**-0.5, ROUNDINGS)
