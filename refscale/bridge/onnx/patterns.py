"""Functions that a model composes of several nodes, recognized by their values.

A region of nodes with one source is evaluated on random data of the source's shape, with random gains and biases, and
compared with layer norm, RMS norm and softmax along each axis. A region with two sources is compared with a product of
queries and keys.
The check of every value against onnxruntime covers the recognized steps, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import ops
from refscale.bridge.evaluation import Evaluation
from refscale.bridge.onnx.elementwise import ELEMENTWISE, ComposedNodes
from refscale.bridge.onnx.reading import HIDDEN
from refscale.bridge.parity import relative
from refscale.bridge.patterns import activations
from refscale.bridge.rules.registry import over_axis, reshaped
from refscale.bridge.steps import AtenCall, Exported, Ref, resolve
from refscale.engine import Op

__all__ = ["recognized_nodes"]

Array = NDArray[Any]
Shape = tuple[int, ...]

_TOLERANCE = 1e-6
"""Constants of a model are rounded to float32."""
_REDUCTIONS = frozenset(
    {"onnx.ReduceMean", "onnx.ReduceSum", "onnx.ReduceMax", "onnx.ReduceL2", "onnx.ReduceSumSquare"}
)
_SHAPES = frozenset({"onnx.Reshape", "onnx.Expand", "onnx.Unsqueeze", "onnx.Squeeze", "onnx.Cast"})
_BINARY = frozenset({"onnx.Add", "onnx.Sub", "onnx.Mul", "onnx.Div", "onnx.Pow", "onnx.Max"})
_SOFTMAX = frozenset({"onnx.Softmax", "onnx.Softmax-1", "softmax", "masked_softmax"})
_LARGEST = 64
"""Largest number of steps of a region."""


def recognized_nodes(exported: Exported, values: Mapping[str, Any]) -> Exported:
    """Return the same model, with one step for each function that it composes from simpler steps.

    Args:
        exported: the model.
        values: values of all constants and steps on the example inputs, by name.
    """
    shapes = {name: tuple(np.shape(x)) for name, x in values.items() if not isinstance(x, list)}
    constants = {name: x for name, x in values.items() if name not in exported.depends}
    exported = activations(_rows(exported, shapes, constants), ELEMENTWISE, ComposedNodes, _TOLERANCE)
    return _attention(_without_guards(exported), shapes)


# --- Norms and softmax ------------------------------------------------------------------------------------------------


def _rows(exported: Exported, shapes: Mapping[str, Shape], constants: Mapping[str, Any]) -> Exported:
    """Norms and softmax, composed of reductions and element-wise nodes."""
    by_name = {step.name: step for step in exported.steps}
    steps = []
    for step in exported.steps:
        if step.target in _BINARY and step.name in exported.depends:
            found = None  # of the farthest source: a softmax of x − max(x) is one of x
            for source, whole in _regions(step, by_name, exported, shapes):
                farther = _row_function(step, source, whole, exported, shapes, constants)
                if found is not None and farther is None:
                    break
                found = farther
            step = found or step
        steps.append(step)
    return exported.with_steps(steps)


def _regions(
    step: AtenCall, by_name: Mapping[str, AtenCall], exported: Exported, shapes: Mapping[str, Shape]
) -> Iterator[tuple[str, tuple[AtenCall, ...]]]:
    """Sources of the shape of a step's value, and the steps between, where these have a reduction and no other source.

    The nearest source is first.
    """
    inside = ELEMENTWISE | _REDUCTIONS | _SHAPES
    near = _back(step, by_name, exported, inside, "")
    sources = [n for s in near[::-1] for n in s.inputs if n in exported.depends and n not in exported.parameters]
    for source in dict.fromkeys(sources):
        if shapes.get(source) != shapes.get(step.name):
            continue
        whole = _back(step, by_name, exported, inside, source)
        made = {s.name for s in whole}
        taken = {n for s in whole for n in s.inputs} & exported.depends
        if any(s.target in _REDUCTIONS for s in whole) and taken - made - set(exported.parameters) == {source}:
            yield source, whole


def _back(
    step: AtenCall, by_name: Mapping[str, AtenCall], exported: Exported, inside: frozenset[str], source: str
) -> tuple[AtenCall, ...]:
    """The steps inside of a region that a step depends on, up to the source, in order."""
    found: dict[str, AtenCall] = {}

    def visit(s: AtenCall) -> None:
        if s.name in found or len(found) > _LARGEST:
            return
        for n in s.inputs:
            if n != source and n in exported.depends and n in by_name and by_name[n].target in inside:
                visit(by_name[n])
        found[s.name] = s

    visit(step)
    return tuple(found.values())


def _row_function(
    step: AtenCall,
    source: str,
    whole: tuple[AtenCall, ...],
    exported: Exported,
    shapes: Mapping[str, Shape],
    constants: Mapping[str, Any],
) -> AtenCall | None:
    """The step as a norm or softmax of the source; None: it is neither."""
    parameters = {n for s in whole for n in s.inputs if n in exported.parameters}
    if len(parameters) > 2:
        return None
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shapes[source]) + 0.5
    given = {n: rng.standard_normal(shapes[n]) for n in parameters}
    values = _evaluated(whole, {source: x, **given}, constants)
    small = _evaluated(whole, {source: 0.01 * x, **given}, constants)
    if values is None or small is None:
        return None
    numbers = {a for s in whole for a in _numbers(s)}
    for axis, side in enumerate(x.shape):
        for op, gain, bias in _candidates(numbers, sorted(parameters)):
            if side < 2 or any(not _along(shapes[n], x.shape, axis) for n in parameters):
                continue
            if all(
                relative(_normed(op, t, axis, given.get(gain), given.get(bias)), y) <= _TOLERANCE
                for t, y in ((x, values), (0.01 * x, small))
            ):
                arguments = {"x": Ref(source), "op": op, "axis": axis}
                arguments |= {k: Ref(n) for k, n in (("gain", gain), ("bias", bias)) if n}
                return replace(step, target=op.name, arguments=arguments, fused=whole, rule=_row_rule)
    return None


def _candidates(numbers: set[float], parameters: list[str]) -> Iterator[tuple[Op, str, str]]:
    """Ops to compare with, and the parameters that are their gain and bias."""
    if not parameters:
        yield ops.Softmax(), "", ""
    for eps in sorted(n for n in numbers if 0 < n <= 0.01):
        for gain, bias in {p for p in permutations([*parameters, "", ""], 2) if set(p) >= set(parameters)}:
            yield ops.LayerNorm(eps), gain, bias
            if not bias:
                yield ops.RmsNorm(eps), gain, ""


def _numbers(step: AtenCall) -> Iterator[float]:
    for argument in step.arguments.values():
        for a in argument if isinstance(argument, list) else [argument]:
            if isinstance(a, float):
                yield a


def _along(parameter: Shape, x: Shape, axis: int) -> bool:
    """Return whether a parameter has one element for each place of an axis."""
    shape = (1,) * (len(x) - len(parameter)) + tuple(parameter)
    return shape == tuple(s if a == axis else 1 for a, s in enumerate(x))


def _normed(op: Op, x: Array, axis: int, gain: Array | None, bias: Array | None) -> Array:
    rows = np.moveaxis(x, axis, -1)
    d = rows.shape[-1]
    affine = [np.ones(d) if gain is None else gain.ravel(), np.zeros(d) if bias is None else bias.ravel()]
    return np.moveaxis(op.forward(rows, *affine[: len(op.inputs) - 1])[0], -1, axis)


def _row_rule(run: Evaluation, x: Any, op: Op, axis: int, gain: Any = None, bias: Any = None) -> Any:
    d = x.shape[axis]
    affine = [run.filled((d,), 1.0, x) if gain is None else reshaped(run, gain, (d,))]
    affine += [run.filled((d,), 0.0, x) if bias is None else reshaped(run, bias, (d,))]
    return over_axis(run, op, x, axis, *affine[: len(op.inputs) - 1])


def _evaluated(steps: Sequence[AtenCall], given: Mapping[str, Array], constants: Mapping[str, Any]) -> Array | None:
    """The last value of some steps in float64; None: one of them cannot be computed."""
    values: dict[str, Any] = {**constants, **given}
    try:
        with np.errstate(all="ignore"):
            for step in steps:
                values[step.name] = step.function(**resolve(step.arguments, lambda ref: values[ref.name]))
    except Exception:  # a shape of another batch, a constant that depends on inputs: not a function of the source
        return None
    return np.asarray(values[steps[-1].name])


# --- Attention --------------------------------------------------------------------------------------------------------


def _without_guards(exported: Exported) -> Exported:
    """The model without the nodes by which torch's exporters replace NaN by 0 after a softmax, which returns none."""
    by_name = {step.name: step for step in exported.steps}
    steps = []
    for step in exported.steps:
        if step.target == "onnx.Where" and (values := step.arguments["Y"]) == Ref(step.inputs[-1]):
            test = by_name.get(step.inputs[0])
            guards = test is not None and test.target == "onnx.IsNaN" and test.inputs == [values.name]
            if guards and by_name[values.name].target in _SOFTMAX:
                step = replace(
                    step, target="onnx.Identity", arguments={"input": values}, fused=(by_name[step.inputs[0]], step)
                )
        steps.append(step)
    return exported.with_steps(steps)


def _attention(exported: Exported, shapes: Mapping[str, Shape]) -> Exported:
    """Products of queries and keys before a softmax, masks, and products with values after it."""
    by_name = {step.name: step for step in exported.steps}
    takers: dict[str, int] = {}
    for step in exported.steps:
        for name in step.inputs:
            takers[name] = takers.get(name, 0) + 1
    changed: dict[str, AtenCall] = {}
    weights: set[str] = set()
    for step in exported.steps:
        if step.target in _SOFTMAX:
            weights.add(step.name)
            scores = _through(step.inputs[0], by_name, {"onnx.Identity"})
            masked = by_name.get(scores)
            if masked is not None and masked.target == "onnx.Add":
                mask = [n for n in masked.inputs if n not in exported.depends]
                if len(mask) == 1 and takers.get(scores) == 1 and step.target == "onnx.Softmax":
                    scores = next(n for n in masked.inputs if n in exported.depends)
                    arguments = {"scores": Ref(scores), "mask": Ref(mask[0]), "axis": step.arguments["axis"]}
                    changed[step.name] = replace(
                        step, target="masked_softmax", arguments=arguments, fused=(masked, step), rule=_masked_softmax
                    )
            if found := _scores(scores, by_name, exported, shapes):
                changed[found.name] = found
        elif step.target in ("onnx.Identity", "onnx.Dropout") and step.inputs[0] in weights:
            weights.add(step.name)
        elif step.target == "onnx.MatMul" and step.inputs[0] in weights and step.inputs[-1] in exported.depends:
            changed[step.name] = replace(step, target="attention_mix", rule=_mix)
    return exported.with_steps([changed.get(step.name, step) for step in exported.steps])


def _through(name: str, by_name: Mapping[str, AtenCall], targets: set[str]) -> str:
    while name in by_name and by_name[name].target in targets:
        name = by_name[name].inputs[0]
    return name


def _scaled(name: str, by_name: Mapping[str, AtenCall]) -> tuple[str, list[AtenCall]]:
    """The value behind multiplications with numbers, and these."""
    steps: list[AtenCall] = []
    while name in by_name and by_name[name].target in ("onnx.Mul", "onnx.Div") and len(by_name[name].inputs) == 1:
        steps.append(by_name[name])
        name = by_name[name].inputs[0]
    return name, steps[::-1]


def _scores(
    name: str, by_name: Mapping[str, AtenCall], exported: Exported, shapes: Mapping[str, Shape]
) -> AtenCall | None:
    """The scores of attention as one step, if the value is c·q·k^T."""
    product, after = _scaled(name, by_name)
    step = by_name.get(product)
    if step is None or step.target != "onnx.MatMul" or len(step.inputs) != 2:
        return None
    (query, before_q), (key, before_k) = (_scaled(n, by_name) for n in step.inputs)
    if {query, key} & set(exported.parameters) or not {query, key} <= exported.depends:
        return None
    whole = (*before_q, *before_k, step, *after)
    rng = np.random.default_rng(0)
    q, k = (rng.standard_normal(shapes[n]) for n in (query, key))
    if q.ndim < 3 or (values := _evaluated(whole, {query: q, key: k}, {})) is None:
        return None
    plain = q @ k
    scale = float(np.vdot(plain, values) / np.vdot(plain, plain))
    if not scale > 0 or relative(scale * plain, values) > _TOLERANCE:
        return None
    arguments = {"query": Ref(query), "key": Ref(key), "scale": scale}
    return replace(by_name[name], target="attention_scores", arguments=arguments, fused=whole, rule=_scores_rule)


def _scores_rule(run: Evaluation, query: Any, key: Any, scale: float) -> Any:
    n = len(key.shape)
    y = run.apply(ops.AttentionScores(), query, run.transpose(key, (*range(n - 2), n - 1, n - 2)))
    rest = scale * math.sqrt(query.shape[-1])
    return y if abs(rest - 1) <= _TOLERANCE else run.apply(ops.ScalarMultiply(rest), y)


def _masked_softmax(run: Evaluation, scores: Any, mask: Any, axis: int) -> Any:
    """The softmax of scores with a constant added: a mask, where it is 0 or as low as −10⁴."""
    hides = np.asarray(mask) <= HIDDEN
    if axis % scores.ndim != scores.ndim - 1 or np.any(mask[~hides]):
        return over_axis(run, ops.Softmax(), run.apply(ops.Add(), scores, mask), axis)
    if not hides.any():
        return run.apply(ops.Softmax(), scores)
    return run.apply(ops.MaskedSoftmax(), scores, ~hides)


def _mix(run: Evaluation, A: Any, B: Any) -> Any:
    return run.apply(ops.AttentionMix(), A, B)
