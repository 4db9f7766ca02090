"""Layer, RMS, batch, instance and group norms."""

from __future__ import annotations

from typing import Any

from refscale.bridge.evaluation import Evaluation
from refscale.bridge.rules.onnx.registry import aten, node
from refscale.errors import ProgramError

__all__: list[str] = []


@node("LayerNormalization")
def _layer_norm(run: Evaluation, X: Any, Scale: Any, axis: int, epsilon: float, stash_type: int, B: Any = None) -> Any:
    normalized = X.shape[axis % X.ndim :]
    return aten("layer_norm.default", run, input=X, normalized_shape=normalized, weight=Scale, bias=B, eps=epsilon)


@node("RMSNormalization")
def _rms_norm(run: Evaluation, X: Any, scale: Any, axis: int, epsilon: float, stash_type: int) -> Any:
    return aten("rms_norm.default", run, input=X, normalized_shape=X.shape[axis % X.ndim :], weight=scale, eps=epsilon)


@node("BatchNormalization")
def _batch_norm(
    run: Evaluation,
    X: Any,
    scale: Any,
    B: Any,
    mean: Any,
    var: Any,
    epsilon: float,
    momentum: float,
    training_mode: int = 0,
    spatial: int = 1,
) -> Any:
    if training_mode or not spatial:
        raise ProgramError(f"BatchNormalization with training_mode={training_mode}, spatial={spatial}: expected 0, 1")
    return aten(
        "batch_norm.default",
        run,
        input=X,
        weight=scale,
        bias=B,
        running_mean=mean,
        running_var=var,
        training=False,
        eps=epsilon,
    )


@node("InstanceNormalization")
def _instance_norm(run: Evaluation, input: Any, scale: Any, B: Any, epsilon: float) -> Any:
    return aten("group_norm.default", run, input=input, num_groups=input.shape[1], weight=scale, bias=B, eps=epsilon)


@node("GroupNormalization")
def _group_norm(
    run: Evaluation, X: Any, scale: Any, bias: Any, num_groups: int, epsilon: float, stash_type: int = 1
) -> Any:
    if scale.shape != X.shape[1:2]:
        raise ProgramError(f"GroupNormalization with a scale {scale.shape}: expected one for each channel")
    return aten("group_norm.default", run, input=X, num_groups=num_groups, weight=scale, bias=bias, eps=epsilon)
