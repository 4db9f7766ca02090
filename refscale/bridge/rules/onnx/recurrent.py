"""LSTM and GRU layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refscale.bridge.evaluation import Evaluation
from refscale.bridge.rules.onnx.registry import aten, integers
from refscale.bridge.rules.registry import RULES, Rule, reshaped
from refscale.errors import ProgramError

__all__: list[str] = []


def _recurrent(name: str, order: Sequence[int], functions: Sequence[str]) -> Rule:
    """The rule of a layer by the ATen op.

    Args:
        name: of the ATen op.
        order: for each gate as torch orders them, its place in ONNX.
        functions: the activations.
    """
    gates = len(order)

    def rule(
        run: Evaluation,
        X: Any,
        W: Any,
        R: Any,
        hidden_size: int,
        direction: str,
        B: Any = None,
        sequence_lens: Any = None,
        initial_h: Any = None,
        initial_c: Any = None,
        P: Any = None,
        layout: int = 0,
        linear_before_reset: int = 1,
        input_forget: int = 0,
        activations: Sequence[str] | None = None,
        activation_alpha: Sequence[float] | None = None,
        activation_beta: Sequence[float] | None = None,
        clip: float | None = None,
    ) -> list[Any]:
        d, directions = hidden_size, W.shape[0]
        plain = activations is None or list(activations) == list(functions) * directions
        if sequence_lens is not None and set(integers(sequence_lens)) != {X.shape[0]}:
            raise ProgramError(f"{name}: sequence_lens {integers(sequence_lens)}, expected the whole length")
        if not plain or P is not None or layout or not linear_before_reset or input_forget or clip is not None:
            raise ProgramError(
                f"{name} with activations={activations}, peepholes={P is not None}, layout={layout}, "
                f"linear_before_reset={linear_before_reset}, input_forget={input_forget}, clip={clip}: "
                f"expected {list(functions)}, no peepholes, 0, 1, 0 and None"
            )
        if direction == "reverse":
            raise ProgramError(f"{name} with direction=reverse: expected forward or bidirectional")

        def part(x: Any, axis: int, start: int, stop: int) -> Any:
            return aten("slice.Tensor", run, self=x, dim=axis, start=start, end=stop)

        def one(x: Any, k: int, offset: int = 0) -> Any:
            """The gates of direction k, in torch's order."""
            whole = reshaped(run, part(x, 0, k, k + 1), x.shape[1:])
            blocks = [part(whole, 0, offset + i * d, offset + (i + 1) * d) for i in order]
            return aten("cat.default", run, tensors=blocks, dim=0)

        params = []
        for k in range(directions):
            params += [one(W, k), one(R, k)]
            params += [] if B is None else [one(B, k), one(B, k, gates * d)]
        zeros = np.zeros((directions, X.shape[1], d), np.float32)
        states = [zeros if h is None else h for h in (initial_h, initial_c)][: 2 if name == "lstm" else 1]
        y, *last = aten(
            f"{name}.input",
            run,
            input=X,
            hx=states if name == "lstm" else states[0],
            params=params,
            has_biases=B is not None,
            num_layers=1,
            dropout=0.0,
            train=False,
            bidirectional=directions == 2,
            batch_first=False,
        )
        y = reshaped(run, y, (*y.shape[:2], directions, d))
        return [run.transpose(y, (0, 2, 1, 3)), *last]

    return rule


RULES["onnx.LSTM"] = _recurrent("lstm", (0, 2, 3, 1), ("Sigmoid", "Tanh", "Tanh"))
RULES["onnx.GRU"] = _recurrent("gru", (1, 0, 2), ("Sigmoid", "Tanh"))
