"""What the rules of nodes share: the table, the rules of ATen ops, and padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refscale.bridge.evaluation import Evaluation
from refscale.bridge.rules.registry import RULES, Rule

__all__ = ["aten", "integers", "node", "sides"]


def node(*names: str) -> Callable[[Rule], Rule]:
    """Put a function in the table as the rule of these nodes."""

    def add(rule: Rule) -> Rule:
        RULES.update({f"onnx.{name}": rule for name in names})
        return rule

    return add


def aten(name: str, run: Evaluation, **arguments: Any) -> Any:
    """The value of a node by the rule of an ATen op."""
    return RULES[f"aten.{name}"](run, **arguments)


def integers(x: Any) -> list[int]:
    """The elements of a constant, such as axes or sizes."""
    return [int(n) for n in np.asarray(x).ravel()]


def sides(
    kind: str, space: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], pads: Any
) -> list[tuple[int, int]]:
    """Padding before and after each axis.

    Args:
        kind: the attribute ``auto_pad``.
        space: sides of the input, without batch and channels.
        kernel, stride, dilation: one number for each axis.
        pads: the attribute, all starts and then all ends; None: no padding.
    """
    n = len(space)
    if kind == "NOTSET":
        pads = [0] * (2 * n) if pads is None else integers(pads)
        return list(zip(pads[:n], pads[n:], strict=True))
    found = []
    for s, k, step, d in zip(space, kernel, stride, dilation, strict=True):
        total = 0 if kind == "VALID" else max(0, (-(-s // step) - 1) * step + d * (k - 1) + 1 - s)
        less = total // 2
        found.append((less, total - less) if kind == "SAME_UPPER" else (total - less, less))
    return found
