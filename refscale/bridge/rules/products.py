"""Products with weights, and attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from refscale import ops
from refscale.bridge.evaluation import Evaluation
from refscale.bridge.rules.registry import RULES, Rule, for_each_axis, is_one, rule_of
from refscale.engine import Op
from refscale.errors import ProgramError

__all__: list[str] = []

# --- Products ---------------------------------------------------------------------------------------------------------


@rule_of("linear.default")
def _linear(run: Evaluation, input: Any, weight: Any, bias: Any = None) -> Any:
    y = run.apply(ops.Matmul(), input, run.transpose(weight, (1, 0)))
    return y if bias is None else run.apply(ops.Bias(), y, bias)


@rule_of("matmul.default", "mm.default", "bmm.default")
def _matmul(run: Evaluation, self: Any, other: Any = None, mat2: Any = None) -> Any:
    right = mat2 if other is None else other
    return run.apply(ops.Matmul(), self, right)


@rule_of("addmm.default")
def _addmm(run: Evaluation, self: Any, mat1: Any, mat2: Any, beta: float = 1, alpha: float = 1) -> Any:
    if not (is_one(beta) and is_one(alpha)):
        raise ProgramError(f"addmm with beta={beta}, alpha={alpha}: expected 1 and 1")
    return run.apply(ops.Bias(), run.apply(ops.Matmul(), mat1, mat2), self)


def _convolution(kind: type[ops.Conv1d | ops.Conv2d | ops.Conv3d]) -> Rule:
    def rule(
        run: Evaluation,
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Sequence[int] = (1,),
        padding: Sequence[int] | str = (0,),
        dilation: Sequence[int] = (1,),
        groups: int = 1,
    ) -> Any:
        n = weight.ndim - 2
        stride, dilation = for_each_axis(stride, n), for_each_axis(dilation, n)
        if isinstance(padding, str):
            total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            pads: list[Any] = [(t // 2, t - t // 2) if padding == "same" else (0, 0) for t in total]
        else:
            pads = list(for_each_axis(padding, n))
        settings: list[Any] = [s[0] if n == 1 else tuple(s) for s in (stride, pads, dilation)]
        op: Op = kind(stride=settings[0], padding=settings[1], dilation=settings[2], groups=groups)
        y = run.apply(op, run.last(input), run.transpose(weight, (*range(2, n + 2), 1, 0)))
        return run.first(y if bias is None else run.apply(ops.Bias(), y, bias))

    return rule


RULES["aten.conv1d.default"] = RULES["aten.conv1d.padding"] = _convolution(ops.Conv1d)
RULES["aten.conv2d.default"] = RULES["aten.conv2d.padding"] = _convolution(ops.Conv2d)
RULES["aten.conv3d.default"] = RULES["aten.conv3d.padding"] = _convolution(ops.Conv3d)


@rule_of("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")
def _conv_transpose(
    run: Evaluation,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Any:
    if groups != 1:
        raise ProgramError(f"transposed convolution with groups={groups}: expected 1")
    n = weight.ndim - 2
    stride, padding, output_padding, dilation = (
        for_each_axis(v, n) for v in (stride, padding, output_padding, dilation)
    )
    op = ops.ConvTranspose(stride=stride, padding=padding, dilation=dilation, output_padding=output_padding)
    y = run.apply(op, run.last(input), run.transpose(weight, (*range(2, n + 2), 0, 1)))
    return run.first(y if bias is None else run.apply(ops.Bias(), y, bias))


@rule_of("upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec")
def _upsample_nearest(
    run: Evaluation, input: Any, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None
) -> Any:
    space = input.shape[2:]
    goal = output_size or [int(s * f) for s, f in zip(space, scale_factors or (), strict=True)]
    if any(g % s for g, s in zip(goal, space, strict=True)):
        raise ProgramError(f"upsample_nearest of {tuple(space)} to {tuple(goal)}: expected multiples")
    factor = tuple(g // s for g, s in zip(goal, space, strict=True))
    return run.first(run.apply(ops.NearestResize(factor), run.last(input)))


@rule_of("upsample_linear1d.vec", "upsample_bilinear2d.vec", "upsample_trilinear3d.vec")
def _upsample_linear(
    run: Evaluation,
    input: Any,
    output_size: Sequence[int] | None,
    align_corners: bool,
    scale_factors: Sequence[float] | None,
) -> Any:
    space = input.shape[2:]
    goal = list(output_size or [s * f for s, f in zip(space, scale_factors or (), strict=True)])
    if any(g != int(g) for g in goal):
        raise ProgramError(f"upsample of {tuple(space)} by {scale_factors}: expected whole numbers of places")
    op = ops.LinearResize(tuple(int(g) for g in goal), bool(align_corners))
    return run.first(run.apply(op, run.last(input)))


# --- Attention, tables, dropout ---------------------------------------------------------------------------------------


@rule_of("scaled_dot_product_attention.default")
def _attention(
    run: Evaluation,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if enable_gqa:
        raise ProgramError("scaled_dot_product_attention with enable_gqa=True: expected a key for each query head")
    scores = run.apply(ops.AttentionScores(), query, key)
    if scale is not None and scale != (damping := query.shape[-1] ** -0.5):
        scores = run.apply(ops.ScalarMultiply(scale / damping), scores)
    if attn_mask is not None and (run.depends(attn_mask) or not run.is_mask(attn_mask)):
        scores, attn_mask = run.apply(ops.Add(), scores, attn_mask), None
    if attn_mask is None and not is_causal:
        weights = run.apply(ops.Softmax(), scores)
    else:
        everything = run.filled((1,) * (len(scores.shape) - 1) + scores.shape[-1:], True, scores)
        weights = run.apply(ops.MaskedSoftmax(is_causal), scores, everything if attn_mask is None else attn_mask)
    return run.apply(ops.AttentionMix(), run.dropout(weights, dropout_p), value)


@rule_of("embedding.default")
def _embedding(
    run: Evaluation,
    weight: Any,
    indices: NDArray[Any],
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    **unused: object,
) -> Any:
    if scale_grad_by_freq:
        raise ProgramError("embedding with scale_grad_by_freq=True: expected False")
    rows = run.apply(ops.Embedding(), weight, indices)
    if padding_idx < 0:
        return rows
    # The row of padding has no gradient.  Also without padding in this batch: the calls do not depend on data.
    padding = (indices == padding_idx)[..., None]
    return run.apply(ops.Where(), padding, run.detached(rows), rows)


@rule_of("dropout.default")
def _dropout(run: Evaluation, p: float, train: bool, input: Any = None, self: Any = None) -> Any:
    x = self if input is None else input
    return run.dropout(x, p) if train else x
