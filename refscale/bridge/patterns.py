"""Functions that a module composes of several ATen ops, recognized as one.

An RMS norm is found by its steps.  A function of one number composed of element-wise steps (gelu by its formula,
x·sigmoid(x)) is recognized by its values: it is evaluated on a grid and compared with each named activation; a function
that is none of them becomes a ``CustomElementwise`` with torch's own value and derivative.  The check of every step
against torch covers the recognized ones, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import ops
from refscale.bridge.evaluation import Evaluation
from refscale.bridge.rules import RULES
from refscale.bridge.steps import AtenCall, Exported, Ref, resolve
from refscale.engine import Op

__all__ = ["Composed", "activations", "recognized"]

_ELEMENTWISE = frozenset(
    f"aten.{name}"
    for name in (
        *("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "add.Scalar", "mul.Scalar", "rsub.Scalar"),
        *("neg.default", "pow.Tensor_Scalar", "tanh.default", "sigmoid.default", "exp.default", "log.default"),
        *("sqrt.default", "rsqrt.default", "erf.default", "abs.default", "reciprocal.default", "square.default"),
        *("elu.default", "mish.default", "log1p.default", "softplus.default", "sin.default", "cos.default"),
        *("clamp.default", "clamp_min.default", "clamp_max.default", "pow.Scalar", "log_sigmoid.default"),
    )
)
_CASTS = frozenset({"aten.to.dtype", "aten.alias.default", "aten._to_copy.default", "aten.type_as.default"})
_KNOWN: tuple[Op, ...] = (
    *(ops.Gelu("erf"), ops.Gelu("tanh"), ops.Silu(), ops.Swish(1.702), ops.Square()),
    *(ops.HardSwish(), ops.HardSigmoid(), ops.Relu(), ops.Tanh(), ops.Sigmoid(), ops.Softplus()),
)
_GRID = np.linspace(-6.0, 6.0, 241)


def recognized(exported: Exported) -> Exported:
    """Return the same module, with one step for each function that it composes from simpler steps."""
    return activations(_rms_norms(exported), _ELEMENTWISE, Composed, 1e-12)


# --- RMS norms --------------------------------------------------------------------------------------------------------


def _rms_norms(exported: Exported) -> Exported:
    """x·rsqrt(mean(x²) + eps), and the gain that follows it, as one step."""
    by_name = {step.name: step for step in exported.steps}
    takers: dict[str, list[AtenCall]] = {}
    for step in exported.steps:
        for name in step.inputs:
            takers.setdefault(name, []).append(step)
    found: dict[str, AtenCall] = {}
    for step in exported.steps:
        if step.target != "aten.mul.Tensor":
            continue
        source, eps = _root_mean_square(step, by_name)
        if source is None:
            continue
        last, gain = step, None
        after = step
        while len(takers.get(after.name, ())) == 1:
            after = takers[after.name][0]
            if after.target not in _CASTS:
                break
        if after.target == "aten.mul.Tensor" and (names := set(after.inputs) & set(exported.parameters)):
            last, gain = after, Ref(names.pop())
        arguments = {"x": Ref(source), "gain": gain, "eps": eps}
        found[last.name] = replace(last, target="rms_norm", arguments=arguments, fused=(step, last), rule=_rms_norm)
    return exported.with_steps([found.get(step.name, step) for step in exported.steps])


def _rms_norm(run: Evaluation, x: Any, gain: Any, eps: float) -> Any:
    return run.apply(ops.RmsNorm(eps), x, run.filled(x.shape[-1:], 1.0, x) if gain is None else gain)


def _root_mean_square(step: AtenCall, by_name: Mapping[str, AtenCall]) -> tuple[str | None, float]:
    """The x and eps of x·rsqrt(mean(x²) + eps), if the step computes it."""
    nothing = None, 0.0
    sides = [_uncast(name, by_name) for name in step.inputs]
    for one, other in zip(sides, sides[::-1], strict=True):
        root = by_name.get(one)
        if root is None or root.target != "aten.rsqrt.default":
            continue
        added = by_name.get(root.inputs[0])
        if added is None or added.target not in ("aten.add.Tensor", "aten.add.Scalar"):
            return nothing
        eps, mean = added.arguments["other"], by_name.get(added.inputs[0])
        if not isinstance(eps, float) or mean is None or mean.target != "aten.mean.dim":
            return nothing
        power = by_name.get(mean.inputs[0])
        if mean.arguments.get("dim") != [-1] or not mean.arguments.get("keepdim") or power is None:
            return nothing
        squares = power.target == "aten.square.default" or (
            power.target == "aten.pow.Tensor_Scalar" and power.arguments["exponent"] == 2
        )
        return (other, eps) if squares and _uncast(power.inputs[0], by_name) == other else nothing
    return nothing


def _uncast(name: str, by_name: Mapping[str, AtenCall]) -> str:
    """The value behind casts, which are not part of a function."""
    while name in by_name and by_name[name].target in _CASTS:
        name = by_name[name].inputs[0]
    return name


# --- Functions of one number ------------------------------------------------------------------------------------------


def activations(
    exported: Exported,
    elementwise: frozenset[str],
    function: Callable[[str, Sequence[AtenCall]], Any],
    tolerance: float,
) -> Exported:
    """Element-wise steps that form a function of one tensor, as one step.

    They are joined where two of them meet in a sum or product of functions of the same tensor, where a step has no rule
    of its own, and where a step makes a named activation of a function without a name.

    Args:
        exported: the module.
        elementwise: targets of the steps that may be joined.
        function: a class, made of the name of its argument and its steps, with f(x) as its call, f′(x) as ``slope``,
            and ``kinks``.
        tolerance: largest difference from a named activation on the grid.
    """
    # By name of a value: the tensor that it is a function of, and by what steps.
    region: dict[str, tuple[str, tuple[AtenCall, ...]]] = {}
    unnamed: set[str] = set()
    steps = []
    for step in exported.steps:
        depends = [name for name in step.inputs if name in exported.depends]
        joined = step
        if step.target in elementwise and step.name in exported.depends and _scalars_only(step, exported):
            sources = {region.get(name, (name, ()))[0] for name in depends}
            if len(sources) == 1:
                source = sources.pop()
                inner = {s.name: s for name in depends for s in region.get(name, (name, ()))[1]}
                whole = (*inner.values(), step)
                region[step.name] = source, whole
                if len(set(depends)) > 1 or step.target not in RULES or _power(step):
                    joined = _as_function(step, source, whole, function, tolerance)
                elif unnamed.intersection(depends):
                    found = _as_function(step, source, whole, function, tolerance)
                    joined = joined if found.target == "custom_elementwise" else found
                if joined.target == "custom_elementwise":
                    unnamed.add(step.name)
        steps.append(joined)
    return exported.with_steps(steps)


def _power(step: AtenCall) -> bool:
    return step.target == "aten.pow.Tensor_Scalar"


def _scalars_only(step: AtenCall, exported: Exported) -> bool:
    """Return whether all constants among the arguments are numbers."""
    return all(name in exported.depends for name in step.inputs)


class Composed:
    """An element-wise function by the torch ops that compute it.

    Attributes:
        source: name of the argument in the steps.
        steps: the steps, in order; the last one has the result.
    """

    def __init__(self, source: str, steps: Sequence[AtenCall]) -> None:
        self.source, self.steps = source, tuple(steps)

    def on(self, x: Any) -> Any:
        """f(x) of a torch tensor, differentiable."""
        values = {self.source: x}
        for step in self.steps:
            values[step.name] = step.function(**resolve(step.arguments, lambda ref: values[ref.name]))
        return values[self.steps[-1].name]

    def __call__(self, x: NDArray[Any]) -> NDArray[Any]:
        """f(x) of an array."""
        import torch

        with torch.no_grad():
            return np.asarray(self.on(torch.tensor(np.asarray(x))).numpy())

    def kinks(self) -> tuple[float, ...]:
        """Places where f′ jumps: not known of torch's functions."""
        return ()

    def slope(self, x: NDArray[Any]) -> NDArray[Any]:
        """f′(x) of an array."""
        import torch

        t = torch.tensor(np.asarray(x)).requires_grad_()
        with torch.enable_grad():
            (g,) = torch.autograd.grad(self.on(t).sum(), t)
        return np.asarray(g.numpy())


def _as_function(
    step: AtenCall,
    source: str,
    whole: Sequence[AtenCall],
    function: Callable[[str, Sequence[AtenCall]], Any],
    tolerance: float,
) -> AtenCall:
    """The steps as a named activation, of the source or of one of the steps' values; else as a function of its own."""
    op: Op | None = None
    for start, steps in _cuts(source, whole):
        if op := _named(function(start, steps), tolerance):
            source, whole = start, steps
            break
    if op is None:
        f = function(source, whole)
        op = ops.CustomElementwise(f, f.slope, tuple(f.kinks()))
    return replace(
        step,
        target=op.name,
        arguments={"x": Ref(source)},
        fused=tuple(whole),
        rule=lambda run, x: run.apply(op, x),
    )


def _cuts(source: str, whole: Sequence[AtenCall]) -> Iterator[tuple[str, Sequence[AtenCall]]]:
    """Where a function may begin: its source, or the value of a step that all later steps depend on; longest first."""
    yield source, whole
    for i in range(len(whole) - 2):
        later = whole[i + 1 :]
        if {n for s in later for n in s.inputs} - {s.name for s in later} == {whole[i].name}:
            yield whole[i].name, later


def _named(f: Any, tolerance: float) -> Op | None:
    """The named activation with these values on a grid, within the tolerance; None: none."""
    with np.errstate(all="ignore"):
        values = f(_GRID)
        for op in _KNOWN:
            if np.abs(op.forward(_GRID)[0] - values).max() <= tolerance:
                return op
    return None
