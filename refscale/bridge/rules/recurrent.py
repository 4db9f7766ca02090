"""Rules of the recurrent ATen ops: layers, directions and steps of an LSTM or GRU, in refscale's cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from refscale import ops
from refscale.bridge.evaluation import Evaluation
from refscale.bridge.rules.registry import RULES
from refscale.errors import ProgramError

__all__: list[str] = []

_SUM = ops.WeightedAdd((1.0, 1.0))
Weights = tuple[Any, Any, Any, Any]
"""weight_ih and weight_hh, transposed, and their biases or None."""


def _linear(run: Evaluation, x: Any, weight: Any, bias: Any) -> Any:
    y = run.apply(ops.Matmul(), x, weight)
    return y if bias is None else run.apply(ops.Bias(), y, bias)


def _part(run: Evaluation, x: Any, axis: int, start: int, stop: int) -> Any:
    return run.apply(ops.Slice(axis, start, stop), x)


def _lstm_step(run: Evaluation, gates: Any, state: Sequence[Any], weights: Weights) -> tuple[Any, ...]:
    h, c = state
    gates = run.apply(_SUM, gates, _linear(run, h, weights[1], weights[3]))
    c = run.apply(ops.LstmState(), c, gates)
    return run.apply(ops.LstmOutput(), c, gates), c


def _gru_step(run: Evaluation, gates: Any, state: Sequence[Any], weights: Weights) -> tuple[Any, ...]:
    (h,) = state
    d = h.shape[-1]
    recurrent = _linear(run, h, weights[1], weights[3])
    of_gates, candidate = _part(run, gates, 2, 0, 2 * d), _part(run, gates, 2, 2 * d, 3 * d)
    of_h, carried = _part(run, recurrent, 2, 0, 2 * d), _part(run, recurrent, 2, 2 * d, 3 * d)
    return (run.apply(ops.GruState(), h, run.apply(_SUM, of_gates, of_h), candidate, carried),)


CellStep = Callable[[Evaluation, Any, Sequence[Any], Weights], tuple[Any, ...]]


def _direction(
    run: Evaluation, step: CellStep, x: Any, state: Sequence[Any], weights: Weights, back: bool
) -> tuple[Any, tuple[Any, ...]]:
    """The outputs (seq, batch, d) and the last state of one direction of one layer."""
    gates = _linear(run, x, weights[0], weights[2])
    places = range(x.shape[0])
    outputs = []
    for t in reversed(places) if back else places:
        state = step(run, _part(run, gates, 0, t, t + 1), state, weights)
        outputs.append(state[0])
    return run.apply(ops.Concat(0), *(outputs[::-1] if back else outputs)), tuple(state)


def _recurrent(step: CellStep, states: int) -> Callable[..., Any]:
    def rule(
        run: Evaluation,
        input: Any,
        hx: Any,
        params: Sequence[Any],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> list[Any]:
        if len(input.shape) != 3:
            raise ProgramError(f"input {tuple(input.shape)}: expected a batch of sequences, 3 axes")
        initial = [hx] if states == 1 else list(hx)
        y = run.transpose(input, (1, 0, 2)) if batch_first else input
        directions, count = 1 + bidirectional, 4 if has_biases else 2
        last: list[list[Any]] = [[] for _ in initial]
        for layer in range(num_layers):
            outputs = []
            for back in range(directions):
                k = layer * directions + back
                given = [*params[k * count : (k + 1) * count], None, None][:4]
                weights = (run.transpose(given[0], (1, 0)), run.transpose(given[1], (1, 0)), given[2], given[3])
                start = [h[k : k + 1] if not run.depends(h) else _part(run, h, 0, k, k + 1) for h in initial]
                h, final = _direction(run, step, y, start, weights, bool(back))
                outputs.append(h)
                for found, state in zip(last, final, strict=True):
                    found.append(state)
            y = outputs[0] if directions == 1 else run.apply(ops.Concat(2), *outputs)
            if train and layer < num_layers - 1:
                y = run.dropout(y, dropout)
        ends = [run.apply(ops.Concat(0), *found) for found in last]
        return [run.transpose(y, (1, 0, 2)) if batch_first else y, *ends]

    return rule


RULES["aten.lstm.input"] = _recurrent(_lstm_step, 2)
RULES["aten.gru.input"] = _recurrent(_gru_step, 1)
