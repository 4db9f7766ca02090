"""Construction of an optimizer from the rule of one parameter: checks, step count, processing of arrays in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.arrays import freeze, plain
from refscale.errors import ArgumentError, CarrierError, DivergedError, ShapeError
from refscale.layers import Parameters
from refscale.optim.records import Group, Optimizer, Rate, State

Array = NDArray[Any]

Step = Callable[..., tuple[Array, ...]]
"""``step(gradient, parameter, *moments)`` → (new parameter, *new moments)."""

Rule = Callable[[int, Rate, Group], Step]
"""``rule(t, rate, group)`` → the step of one parameter; t = 1, 2, …"""

BLOCK = 1 << 14
"""Elements per pass: AdamW's arrays then take 0.6 MiB in float32, and stay in cache."""


def walk(kernel: Callable[..., tuple[Array, ...]], results: int, *arrays: Array) -> list[Array]:
    """Apply an elementwise kernel to arrays of one shape, block by block, so that temporaries stay in cache.

    Args:
        kernel: function from flat blocks of ``arrays`` to a flat block of each result.
        results: number of results.
        arrays: arrays of one shape and dtype, which are not changed.

    Returns:
        New read-only arrays of that shape and dtype; their bits do not depend on the size of a block.
    """
    shape, dtype, size = arrays[0].shape, arrays[0].dtype, arrays[0].size
    flat = [array.reshape(-1) for array in arrays]
    outs = [np.empty(size, dtype) for _ in range(results)]
    for start in range(0, size, BLOCK):
        part = slice(start, start + BLOCK)
        for out, result in zip(outs, kernel(*(array[part] for array in flat)), strict=True):
            np.copyto(out[part], result, casting="no")
    return [freeze(out.reshape(shape)) for out in outs]


def elementwise(kernel: Step) -> Step:
    """Make a step that applies a kernel to (gradient, parameter, *moments) in blocks."""
    return lambda *arrays: tuple(walk(kernel, len(arrays) - 1, *arrays))


def optimizer(name: str, moments: tuple[str, ...], rule: Rule, eps: float = 1.0) -> Optimizer:
    """Make the optimizer that applies ``rule`` to each parameter.

    Args:
        name: name of the optimizer, also for messages.
        moments: names of the arrays stored for each parameter, initially 0.
        rule: function that returns the step of a parameter.
        eps: number that the rule adds to a divisor; must be positive and finite in the dtype of every parameter.
    """

    def init(parameters: Parameters) -> State:
        for key, p in parameters.items():
            _check_carrier(f"{name}.init", key, p, eps)
        state: State = {"step": np.zeros((), np.int64)}
        state |= {f"{m}/{key}": np.zeros(p.shape, p.dtype) for m in moments for key, p in parameters.items()}
        return {slot: freeze(x) for slot, x in state.items()}

    def update(
        gradients: Parameters,
        state: State,
        parameters: Parameters,
        rate: Rate,
        groups: Mapping[str, Group] | None = None,
        /,
    ) -> tuple[dict[str, Array], State]:
        _check(f"{name}.update", moments, gradients, state, parameters, eps)
        if groups is None:
            groups = dict.fromkeys(parameters, Group())
        _check_names(f"{name}.update", "groups", groups, parameters)
        t = int(state["step"]) + 1
        new: dict[str, Array] = {}
        kept: State = {"step": freeze(np.array(t, np.int64))}
        try:
            with np.errstate(over="raise", divide="raise", invalid="raise", under="ignore"):  # small squares underflow
                for key, p in parameters.items():
                    slots = [f"{m}/{key}" for m in moments]
                    step = rule(t, rate, groups[key])
                    new[key], *values = step(gradients[key], p, *(state[slot] for slot in slots))
                    kept |= zip(slots, values, strict=True)
        except FloatingPointError as error:
            largest = np.abs(gradients[key]).max()
            raise DivergedError(
                f"{name}.update: {key}: {error} in {p.dtype}, from a gradient of largest magnitude {largest:.3g}; "
                "expected moments and a step that are finite"
            ) from error
        return new, {slot: kept[slot] for slot in state}  # in one order, so that checkpoints are the same files

    return Optimizer(name, init, update)


def _check(
    call: str, moments: tuple[str, ...], gradients: Parameters, state: State, parameters: Parameters, eps: float
) -> None:
    """Raise unless gradients and state have the names, shapes and dtypes that the parameters ask for."""
    expected = {f"{m}/{key}": p for m in moments for key, p in parameters.items()}
    _check_names(call, "gradients", gradients, parameters)
    _check_names(call, "state", state, {"step", *expected})
    step = state["step"]
    if step.shape != () or step.dtype != np.int64:
        raise ShapeError(f"{call}: step is {step.dtype} of shape {step.shape}, expected an int64 scalar")
    if step < 0:
        raise ArgumentError(f"{call}: step is {step}, expected step ≥ 0")
    for key, p in parameters.items():
        _check_carrier(call, key, p, eps)
        _check_like(call, f"gradient of {key}", gradients[key], p)
    for slot, p in expected.items():
        _check_like(call, slot, state[slot], p)


def _check_names(call: str, what: str, given: Mapping[str, object], expected: Mapping[str, object] | set[str]) -> None:
    wrong = sorted(set(given) ^ set(expected))
    if wrong:
        raise ShapeError(f"{call}: {what} missing or unknown: {', '.join(wrong[:5])} ({len(wrong)} in all)")


def _check_carrier(call: str, key: str, p: Array, eps: float) -> None:
    p = plain(call, key, p)
    if p.dtype not in (np.float32, np.float64):
        raise CarrierError(f"{call}: {key} is {p.dtype}, expected float32 or float64")
    if not 0 < _rounded(eps, p.dtype) < math.inf:
        raise ArgumentError(
            f"{call}: eps={eps} is {_rounded(eps, p.dtype):g} in {p.dtype}, the dtype of {key}; expected 0 < eps < ∞"
        )


@cache
def _rounded(x: float, dtype: np.dtype[Any]) -> float:
    """A number in a dtype: 0 or infinite beyond its range."""
    with np.errstate(over="ignore", under="ignore"):
        return float(dtype.type(x))


def _check_like(call: str, key: str, array: Array, p: Array) -> None:
    array = plain(call, key, array)
    if array.shape != p.shape:
        raise ShapeError(f"{call}: {key} has shape {array.shape}, expected {p.shape}")
    if array.dtype != p.dtype:
        raise CarrierError(f"{call}: {key} is {array.dtype}, expected {p.dtype}")
