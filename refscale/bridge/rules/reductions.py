"""Reductions and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refscale import ops
from refscale.bridge.evaluation import Evaluation
from refscale.bridge.rules.registry import RULES, Rule, for_each_axis, reshaped, rule_of
from refscale.errors import ProgramError

__all__: list[str] = []


def _reduction(kind: type[ops.Mean | ops.Sum]) -> Rule:
    def rule(
        run: Evaluation, self: Any, dim: Sequence[int] | None = None, keepdim: bool = False, **unused: object
    ) -> Any:
        over = tuple(range(self.ndim)) if dim is None or dim == [] else tuple(np.atleast_1d(np.asarray(dim)).tolist())
        y = run.apply(kind(tuple(a % self.ndim for a in over)), self)
        if not keepdim:
            return y
        return reshaped(run, y, [1 if a in {o % self.ndim for o in over} else s for a, s in enumerate(self.shape)])

    return rule


RULES["aten.mean.dim"] = RULES["aten.mean.default"] = _reduction(ops.Mean)
RULES["aten.sum.dim_IntList"] = RULES["aten.sum.default"] = _reduction(ops.Sum)


@rule_of("adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default")
def _adaptive_avg_pool(run: Evaluation, self: Any, output_size: Sequence[int]) -> Any:
    space, goal = self.shape[2:], for_each_axis(output_size, self.ndim - 2)
    if any(s % g for s, g in zip(space, goal, strict=True)):
        raise ProgramError(f"adaptive_avg_pool of {space} to {goal}: expected sides that divide")
    kernel = tuple(s // g for s, g in zip(space, goal, strict=True))
    if kernel == space:
        over = tuple(range(2, self.ndim))
        return reshaped(run, run.apply(ops.Mean(over), self), (*self.shape[:2], *goal))
    return run.first(run.apply(ops.AvgPool(kernel), run.last(self)))


def _pooling(kind: type[ops.MaxPool | ops.AvgPool], n: int) -> Rule:
    def rule(
        run: Evaluation,
        self: Any,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        kernel = for_each_axis(kernel_size, n)
        pads = for_each_axis(padding, n)
        steps = for_each_axis(stride, n) if stride else kernel
        rest = [(s + 2 * p - k) % step for s, p, k, step in zip(self.shape[-n:], pads, kernel, steps, strict=True)]
        if (
            (ceil_mode and any(rest))
            or set(for_each_axis(dilation, n)) != {1}
            or divisor_override
            or (any(pads) and not count_include_pad)
        ):
            raise ProgramError(
                f"pooling with ceil_mode={ceil_mode}, dilation={dilation}, count_include_pad={count_include_pad}, "
                f"divisor_override={divisor_override}: expected False or windows that fit, 1, True and None"
            )
        op = kind(kernel, for_each_axis(stride, n) if stride else None, pads if any(pads) else None)
        return run.first(run.apply(op, run.last(self)))

    return rule


for _n in (1, 2):
    RULES[f"aten.max_pool{_n}d.default"] = _pooling(ops.MaxPool, _n)
    RULES[f"aten.avg_pool{_n}d.default"] = _pooling(ops.AvgPool, _n)
