"""Products with weights: matrices and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from refscale import ops
from refscale.bridge.evaluation import Evaluation
from refscale.bridge.rules.onnx.elementwise import add, multiply
from refscale.bridge.rules.onnx.registry import aten, node, sides
from refscale.bridge.rules.registry import RULES, Rule
from refscale.errors import ProgramError

__all__: list[str] = []


@node("MatMul")
def _matmul(run: Evaluation, A: Any, B: Any) -> Any:
    return aten("matmul.default", run, self=A, other=B)


@node("Gemm")
def _gemm(
    run: Evaluation,
    A: Any,
    B: Any,
    alpha: float,
    beta: float,
    transA: int,
    transB: int,
    C: Any = None,
) -> Any:
    left = run.transpose(A, (1, 0)) if transA else A
    right = run.transpose(B, (1, 0)) if transB else B
    y = multiply(run, run.apply(ops.Matmul(), left, right), alpha)
    return y if C is None else add(run, y, multiply(run, C, beta) if run.depends(C) else C * beta)


def _convolution(transposed: bool) -> Rule:
    def rule(
        run: Evaluation,
        X: Any,
        W: Any,
        auto_pad: str,
        group: int,
        B: Any = None,
        dilations: Sequence[int] | None = None,
        kernel_shape: Sequence[int] | None = None,
        output_padding: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> Any:
        n = W.ndim - 2
        stride, dilation = tuple(strides or (1,) * n), tuple(dilations or (1,) * n)
        settings: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": group}
        both = sides(auto_pad, X.shape[2:], W.shape[2:], stride, dilation, pads)
        if not transposed:
            return aten(f"conv{n}d.default", run, input=X, weight=W, bias=B, padding=both, **settings)
        if auto_pad not in ("NOTSET", "VALID") or any(a != b for a, b in both):
            raise ProgramError(f"ConvTranspose with auto_pad={auto_pad}, pads={pads}: expected the same on both sides")
        settings["padding"] = tuple(a for a, _ in both)
        settings["output_padding"] = tuple(output_padding or (0,) * n)
        name = f"conv_transpose{n}d.{'default' if n == 1 else 'input'}"
        return aten(name, run, input=X, weight=W, bias=B, **settings)

    return rule


RULES["onnx.Conv"] = _convolution(transposed=False)
RULES["onnx.ConvTranspose"] = _convolution(transposed=True)
