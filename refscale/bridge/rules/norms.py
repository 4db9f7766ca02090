"""Norms: of rows, of channels, of groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from refscale import ops
from refscale.bridge.evaluation import Evaluation
from refscale.bridge.rules.registry import rule_of
from refscale.errors import ProgramError

__all__: list[str] = []


@rule_of("layer_norm.default")
def _layer_norm(
    run: Evaluation,
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    **unused: object,
) -> Any:
    if len(normalized_shape) != 1:
        raise ProgramError(f"layer_norm over {len(normalized_shape)} axes: expected 1, the last")
    gain, shift = _affine(run, input, weight, bias, input.shape[-1])
    return run.apply(ops.LayerNorm(eps), input, gain, shift)


@rule_of("rms_norm.default")
def _rms_norm(run: Evaluation, input: Any, normalized_shape: Sequence[int], eps: float, weight: Any = None) -> Any:
    if len(normalized_shape) != 1:
        raise ProgramError(f"rms_norm over {len(normalized_shape)} axes: expected 1, the last")
    return run.apply(ops.RmsNorm(eps), input, _affine(run, input, weight, None, input.shape[-1])[0])


@rule_of("batch_norm.default")
def _batch_norm(
    run: Evaluation,
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    **unused: object,
) -> Any:
    gain, shift = _affine(run, input, weight, bias, input.shape[1])
    statistics = None if running_mean is None else (running_mean, running_var)
    return run.first(run.batch_norm(run.last(input), gain, shift, statistics, training, momentum, eps))


@rule_of("group_norm.default")
def _group_norm(
    run: Evaluation,
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    **unused: object,
) -> Any:
    gain, shift = _affine(run, input, weight, bias, input.shape[1])
    return run.first(run.apply(ops.GroupNorm(num_groups, eps), run.last(input), gain, shift))


def _affine(run: Evaluation, x: Any, weight: Any, bias: Any, n: int) -> tuple[Any, Any]:
    """Gain and bias (n,); a missing one is constant: 1 and 0."""
    gain = run.filled((n,), 1.0, x) if weight is None else weight
    return gain, run.filled((n,), 0.0, x) if bias is None else bias
