"""The meaning of a ``model`` vector: its calls, one after the other, computed from its inputs alone.

``attributes["calls"]`` lists the calls of a training step in the order of the forward pass, each an object:

* ``op``, ``attributes``: as in an ``op`` vector.
* ``alpha``, ``beta``: factors; null for an input without a gradient.
* ``inputs``: names of inputs of the vector, and of outputs of earlier calls.
* ``output``: name of its output.

A call computes the same as an ``op`` vector, with the casts ``store``, ``operand`` and ``operand_gradient`` of the
step. Losses stay float32, and so do calls on losses. The gradient of the last output is the input ``gradient``. The
backward pass visits the calls in reverse; the gradients of a tensor with several uses are added one by one, and each
sum is rounded to ``store``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.engine import Op
from refscale.exact import Bounded, ErrorModel, as_bounded
from refscale.golden.call_bounds import OUTPUT, Interval, interval_of, one_call, rounded, summed
from refscale.golden.inputs import cast_for
from refscale.golden.replay import input_names, make_op, policy, replay
from refscale.scales import Scales

Array = NDArray[Any]


def training_step(
    arrays: Mapping[str, Array],
    *,
    calls: Sequence[Mapping[str, Any]],
    store: str,
    operand: str | None,
    operand_gradient: str | None,
    **_: object,
) -> dict[str, Array]:
    """Compute the outputs of a ``model`` vector.

    Args:
        arrays: inputs by name, ``gradient`` among them.
        calls: calls, as in the module's docstring.
        store, operand, operand_gradient: names of formats.

    Returns:
        "value NAME" and "gradient NAME" of the output of every call, "gradient NAME" of every parameter.
    """
    values = dict(arrays)
    gradients = {calls[-1]["output"]: arrays["gradient"]}
    narrow = cast_for(store)
    losses = {call["output"] for call in calls if make_op(call["op"], call["attributes"]).reports}
    for call in calls:
        op = make_op(call["op"], call["attributes"])
        given = [values[n] for n in call["inputs"]]
        scales = Scales(call["alpha"], tuple(call["beta"]))
        casts = policy(op, _stored(call, losses, store), operand, operand_gradient)
        values[call["output"]] = replay(op, given, None, scales, casts).outputs["y"]
    for call in reversed(calls):
        op = make_op(call["op"], call["attributes"])
        given = [values[n] for n in call["inputs"]]
        scales = Scales(call["alpha"], tuple(call["beta"]))
        gradient = gradients[call["output"]]
        needed = [b is not None for b in call["beta"]]
        casts = policy(op, _stored(call, losses, store), operand, operand_gradient)
        pieces = replay(op, given, gradient, scales, casts, needed)
        for name, leaf in zip(call["inputs"], pieces.inputs, strict=True):
            piece = pieces.outputs.get(f"grad_{leaf}")
            if piece is not None:
                before = gradients.get(name)
                gradients[name] = piece if before is None else narrow(before.astype(np.float64) + piece)
    names = [call["output"] for call in calls]
    ordered = {k: x for n in names for k, x in ((f"value {n}", values[n]), (f"gradient {n}", gradients[n]))}
    return ordered | {f"gradient {n}": x for n, x in gradients.items() if n in arrays and n != "gradient"}


def _stored(call: Mapping[str, Any], losses: set[str], store: str) -> str:
    """Return the format in which a call stores its inputs and results."""
    return "float32" if losses & set(call["inputs"]) else store


def step_intervals(
    arrays: Mapping[str, Array],
    answers: Mapping[str, Array],
    model_of: Callable[[Op], ErrorModel | None],
    *,
    calls: Sequence[Mapping[str, Any]],
    store: str,
    operand: str | None,
    operand_gradient: str | None,
    **_: object,
) -> dict[str, Interval]:
    """Return the bounds on a backend's training step: each call on the backend's own results of the others.

    If every output is within its interval, every call is within the bound of its op, and so the step equals the
    specification. A gradient with several uses is their sum, rounded to ``store`` after each addition, in any order.

    Args:
        arrays: inputs of the vector by name.
        answers: every output of the backend by name.
        model_of: function from an op to the errors of its arithmetic; None: the bits that this package computes.
        calls, store, operand, operand_gradient: attributes of the vector.

    Returns:
        (low, high) by name of the output; the gradient of the last call is an input, and has none.
    """
    outputs = {call["output"]: answers[f"value {call['output']}"] for call in calls}
    values, last = {**arrays, **outputs}, calls[-1]["output"]
    narrow = cast_for(store)
    losses = {call["output"] for call in calls if make_op(call["op"], call["attributes"]).reports}
    found: dict[str, Interval] = {}
    pieces: dict[str, list[Bounded]] = {}
    for call in calls:
        op, output = make_op(call["op"], call["attributes"]), call["output"]
        scales, given = Scales(call["alpha"], tuple(call["beta"])), [values[n] for n in call["inputs"]]
        gradient = arrays["gradient"] if output == last else answers[f"gradient {output}"]
        model, kept = model_of(op), _stored(call, losses, store)
        names = input_names(op, len(given))
        if model is None:
            casts = policy(op, kept, operand, operand_gradient)
            made = replay(op, given, gradient, scales, casts, [b is not None for b in call["beta"]]).outputs
            found[f"value {output}"] = made["y"], made["y"]
            results = {n: as_bounded(made[f"grad_{n}"]) for n in names if f"grad_{n}" in made}
        else:
            within = one_call(op, given, gradient, scales, policy(op, kept, operand, operand_gradient), model)
            found[f"value {output}"] = interval_of(within.values[OUTPUT], within.cast_of(OUTPUT))
            results = dict(within.gradients)
        for name, leaf in zip(call["inputs"], names, strict=True):
            if leaf in results:
                pieces.setdefault(name, []).append(results[leaf])
    for name, some in pieces.items():
        total = some[0] if len(some) == 1 else summed([rounded(p, narrow) for p in some], narrow)
        found[f"gradient {name}"] = interval_of(total, narrow)
    return {name: interval for name, interval in found.items() if name in answers}
