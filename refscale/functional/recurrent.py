"""Recurrent networks: cells of LSTM and GRU, and their application to sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from refscale import ops
from refscale.arrays import plain
from refscale.engine import Tensor, apply, tape_of
from refscale.errors import ShapeError
from refscale.functional.branches import split
from refscale.functional.products import linear, matmul
from refscale.scales import Constraint, geometric, get_constraint, none, to_output_scale

__all__ = ["gru", "gru_cell", "lstm", "lstm_cell"]

Weights = Sequence[Tensor | None]
"""weight_ih (m, k·d), weight_hh (d, k·d), and, optionally, bias_ih and bias_hh (k·d,) or None."""

_SUM = ops.WeightedAdd((1.0, 1.0))


def lstm_cell(
    x: Tensor,
    state: tuple[Tensor | ArrayLike, Tensor | ArrayLike],
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    constraint: str | Constraint = geometric,
) -> tuple[Tensor, Tensor]:
    """Compute one step of an LSTM: (h, c) → (h′, c′), see ``ops.LstmState`` and ``ops.LstmOutput``.

    Args:
        x: (…, m).
        state: h and c, (…, d) each.
        weight_ih: (m, 4·d), the gates i, f, g, o side by side: PyTorch's ``weight_ih``, transposed.
        weight_hh: (d, 4·d), likewise.
        bias_ih: (4·d,) or None.
        bias_hh: (4·d,) or None.
        constraint: constraint of α and β, or its name. It applies to all ops, because the steps of a sequence form a
            loop; ``none`` is treated as ``geometric``.

    Returns:
        h′ and c′, (…, d) each. Under unit scaling h′ is α·σ(o)·tanh(c′), and the two sums of the gates are divided by
        √2.

    Raises:
        ShapeError: the shapes do not fit.
    """
    tied = _tied(constraint)
    _check("lstm_cell", 4, x.shape[-1], (weight_ih, weight_hh, bias_ih, bias_hh))
    gates = linear(x, weight_ih, bias_ih, constraint=tied)
    return _lstm_step(gates if bias_hh is None else apply(ops.Bias(), gates, bias_hh), state, weight_hh, tied)


def gru_cell(
    x: Tensor,
    h: Tensor | ArrayLike,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    constraint: str | Constraint = geometric,
) -> Tensor:
    """Compute one step of a GRU: h → h′, see ``ops.GruState``.

    Args:
        x: (…, m).
        h: (…, d).
        weight_ih: (m, 3·d), the gates r and z and the candidate n side by side: PyTorch's ``weight_ih``, transposed.
        weight_hh: (d, 3·d), likewise.
        bias_ih: (3·d,) or None.
        bias_hh: (3·d,) or None.
        constraint: constraint of α and β of all ops, see ``lstm_cell``.

    Returns:
        h′ (…, d).

    Raises:
        ShapeError: the shapes do not fit.
    """
    tied = _tied(constraint)
    _check("gru_cell", 3, x.shape[-1], (weight_ih, weight_hh, bias_ih, bias_hh))
    d = weight_hh.shape[0]
    gates, candidate = split(linear(x, weight_ih, bias_ih, constraint=tied), (2 * d, d))
    return _gru_step(gates, candidate, h, weight_hh, bias_hh, tied)


def lstm(
    x: Tensor,
    layers: Sequence[Weights],
    state: Sequence[tuple[Tensor | ArrayLike, Tensor | ArrayLike]] | None = None,
    *,
    bidirectional: bool = False,
    constraint: str | Constraint = geometric,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Run an LSTM over sequences, as ``torch.nn.LSTM(batch_first=True)`` without dropout.

    The products with x are computed for all steps at once. Each weight_hh is used by all steps: its gradient sums seq
    times as many terms as the gradient of one step, and has an additional factor of seq^-½.

    Args:
        x: (batch, seq, m), seq ≥ 1.
        layers: weight_ih (m, 4·d), weight_hh (d, 4·d) and, optionally, bias_ih and bias_hh (4·d,) of each layer, gates
            i, f, g, o: PyTorch's, transposed. A bidirectional layer has two entries, forward and reverse. A layer above
            a bidirectional one has m = 2·d.
        state: initial (h, c) of each entry of ``layers``, (batch, d) each; None: zeros.
        bidirectional: use two entries per layer; the outputs of the two directions are side by side.
        constraint: constraint of α and β of all ops, see ``lstm_cell``.

    Returns:
        h of all steps of the last layer, (batch, seq, d or 2·d); and for each entry (h, c), (batch, d), after its last
        step.

    Raises:
        ShapeError: the shapes, or the numbers of layers or states, do not fit.
    """
    tied = _tied(constraint)

    def run(
        x: Tensor, weights: Weights, start: Sequence[Tensor | ArrayLike], back: bool
    ) -> tuple[Tensor, list[Tensor]]:
        weight_ih, weight_hh, bias_ih, bias_hh = _check("lstm", 4, x.shape[-1], weights)
        gates = linear(x, weight_ih, bias_ih, constraint=tied)
        if bias_hh is not None:
            gates = apply(ops.Bias(), gates, bias_hh)
        weight = apply(ops.Fork(x.shape[0] ** -0.5), weight_hh)
        found: list[tuple[Tensor, Tensor]] = []
        for t in _places(x, back):
            found.append(_lstm_step(_at(gates, t), found[-1] if found else start, weight, tied))
        return _joined([h for h, _ in found], back), list(found[-1])

    y, states = _sequence("lstm", x, layers, state, 2, bidirectional, run)
    return y, [(h, c) for h, c in states]


def gru(
    x: Tensor,
    layers: Sequence[Weights],
    state: Sequence[Tensor | ArrayLike] | None = None,
    *,
    bidirectional: bool = False,
    constraint: str | Constraint = geometric,
) -> tuple[Tensor, list[Tensor]]:
    """Run a GRU over sequences, as ``torch.nn.GRU(batch_first=True)`` without dropout.

    Args:
        x: (batch, seq, m), seq ≥ 1.
        layers: see ``lstm``, with 3·d in place of 4·d: the gates r and z and the candidate n.
        state: initial h (batch, d) of each entry of ``layers``; None: zeros.
        bidirectional: use two entries per layer; the outputs of the two directions are side by side.
        constraint: constraint of α and β of all ops, see ``lstm_cell``.

    Returns:
        h of all steps of the last layer, (batch, seq, d or 2·d); and h after the last step, (batch, d), of each entry.

    Raises:
        ShapeError: the shapes, or the numbers of layers or states, do not fit.
    """
    tied = _tied(constraint)

    def run(
        x: Tensor, weights: Weights, start: Sequence[Tensor | ArrayLike], back: bool
    ) -> tuple[Tensor, list[Tensor]]:
        weight_ih, weight_hh, bias_ih, bias_hh = _check("gru", 3, x.shape[-1], weights)
        d, seq = weight_hh.shape[0], x.shape[0]
        gates, candidates = split(linear(x, weight_ih, bias_ih, constraint=tied), (2 * d, d))
        weight, (h,) = apply(ops.Fork(seq**-0.5), weight_hh), start
        bias = None if bias_hh is None else apply(ops.Fork(seq**-0.5), bias_hh)
        outputs: list[Tensor] = []
        for t in _places(x, back):
            h = _gru_step(_at(gates, t), _at(candidates, t), h, weight, bias, tied)
            outputs.append(h)
        return _joined(outputs, back), outputs[-1:]

    starts = None if state is None else [(h,) for h in state]
    y, states = _sequence("gru", x, layers, starts, 1, bidirectional, run)
    return y, [h for (h,) in states]


def _lstm_step(
    gates: Tensor, state: Sequence[Tensor | ArrayLike], weight: Tensor, tied: Constraint
) -> tuple[Tensor, Tensor]:
    """h′ and c′, with the part of the gates that x makes."""
    h, c = state
    recurrent = matmul(h, weight, constraint=tied)
    gates = apply(_SUM, gates, recurrent, constraint=to_output_scale, constrained=(0, 1))
    c = apply(ops.LstmState(), c, gates, constraint=to_output_scale, constrained=(0, 1))
    return apply(ops.LstmOutput(), c, gates, constraint=tied, constrained=(0, 1)), c


def _gru_step(
    gates: Tensor, candidate: Tensor, h: Tensor | ArrayLike, weight: Tensor, bias: Tensor | None, tied: Constraint
) -> Tensor:
    """h′, with the parts of the gates and of the candidate that x makes."""
    d = weight.shape[0]
    recurrent = matmul(h, weight, constraint=tied)
    if bias is not None:
        recurrent = apply(ops.Bias(), recurrent, bias)
    of_gates, of_candidate = split(recurrent, (2 * d, d))
    gates = apply(_SUM, gates, of_gates, constraint=to_output_scale, constrained=(0, 1))
    inputs = h, gates, candidate, of_candidate
    return apply(ops.GruState(), *inputs, constraint=to_output_scale, constrained=(0, 1, 2, 3))


def _tied(constraint: str | Constraint) -> Constraint:
    found = get_constraint(constraint)
    return geometric if found is none else found


def _check(name: str, parts: int, m: int, weights: Weights) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The weights of one layer, None for biases that it has not; or a ShapeError."""
    given = [w if w is None else w.shape for w in weights]
    if len(weights) in (2, 4) and weights[0] is not None and weights[1] is not None:
        biases = (*weights[2:], None, None)
        d = weights[1].shape[0] if weights[1].ndim else 0
        wide = parts * d
        if all(a in (None, b) for a, b in zip(given, ((m, wide), (d, wide), (wide,), (wide,)), strict=False)):
            return weights[0], weights[1], biases[0], biases[1]
    expected = f"weight_ih ({m}, {parts}·d), weight_hh (d, {parts}·d), and bias_ih and bias_hh ({parts}·d,) or neither"
    raise ShapeError(f"{name}: x (…, {m}) and weights {', '.join(map(str, given))}, expected {expected}")


Run = Callable[[Tensor, Weights, Sequence[Tensor | ArrayLike], bool], tuple[Tensor, list[Tensor]]]
"""A function of x (seq, batch, m), weights, initial states and reverse order; returns outputs and last states."""


def _sequence(
    name: str,
    x: Tensor,
    layers: Sequence[Weights],
    state: Sequence[Sequence[Tensor | ArrayLike]] | None,
    states: int,
    bidirectional: bool,
    run: Run,
) -> tuple[Tensor, list[list[Tensor]]]:
    """Layer after layer, both directions of each on the same input."""
    directions = 2 if bidirectional else 1
    if x.ndim != 3 or not x.shape[1]:
        raise ShapeError(f"{name}: x {x}, expected (batch, seq, m) with seq ≥ 1")
    if not layers or len(layers) % directions or (state is not None and len(state) != len(layers)):
        given = "" if state is None else f" and {len(state)} states"
        expected = f"{'pairs' if bidirectional else 'one or more'}, and as many states"
        raise ShapeError(f"{name}: {len(layers)} layers{given}, expected {expected}")
    tape_of(name, x, *[w for weights in layers for w in weights if w is not None])
    batch = x.shape[0]
    y, last = apply(ops.Transpose((1, 0, 2)), x), []
    for first in range(0, len(layers), directions):
        outputs = []
        for k in range(first, first + directions):
            start = _starts(name, batch, layers[k], None if state is None else state[k], states)
            h, final = run(y, layers[k], start, k > first)
            outputs.append(h)
            last.append([apply(ops.Reshape(z.shape[1:]), z) for z in final])
        y = outputs[0]
        if bidirectional:
            y = apply(ops.Concat(-1), *outputs, constraint=to_output_scale, constrained=(0, 1))
    return apply(ops.Transpose((1, 0, 2)), y), last


def _starts(
    name: str, batch: int, weights: Weights, state: Sequence[Tensor | ArrayLike] | None, states: int
) -> list[Tensor | ArrayLike]:
    """The states to start with, (1, batch, d) each."""
    d = weights[1].shape[0] if len(weights) > 1 and weights[1] is not None else 0
    if state is None:
        return [np.zeros((1, batch, d), np.float32)] * states
    found: list[Tensor | ArrayLike] = []
    for z in state:
        value = z if isinstance(z, Tensor) else plain(name, "state", z)
        if value.shape != (batch, d):
            raise ShapeError(f"{name}: a state has shape {value.shape}, expected {(batch, d)}")
        shape = (1, batch, d)
        found.append(apply(ops.Reshape(shape), value) if isinstance(value, Tensor) else value.reshape(shape))
    return found


def _places(x: Tensor, back: bool) -> range:
    seq = x.shape[0]
    return range(seq - 1, -1, -1) if back else range(seq)


def _at(x: Tensor, t: int) -> Tensor:
    """Place t of (seq, …), as (1, …)."""
    return apply(ops.Slice(0, t, t + 1), x, constraint=to_output_scale, constrained=(0,))


def _joined(outputs: Sequence[Tensor], back: bool) -> Tensor:
    """(1, …) of each step → (seq, …)."""
    ordered = outputs[::-1] if back else outputs
    return apply(ops.Concat(0), *ordered, constraint=to_output_scale, constrained=tuple(range(len(ordered))))
