"""``from_torch``: a PyTorch module as a program, or the reason why not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import ops
from refscale.bridge.evaluation import Evaluation
from refscale.bridge.parity import Difference, TorchParity, relative, rms
from refscale.bridge.patterns import recognized
from refscale.bridge.program import Original, Outcome, TorchProgram, called
from refscale.bridge.rules import RULES
from refscale.bridge.steps import AtenCall, Exported, Ref, export, quiet
from refscale.engine import Tape, Tensor, apply, backward
from refscale.errors import ProgramError, counted, shown
from refscale.layers import Spec, Specs

__all__ = ["check_rules", "from_torch", "outcome_of", "specs_of"]

Array = NDArray[Any]


def from_torch(
    module: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    output: int | str | None = None,
    loss: str | Callable[[Tensor, Any], Tensor] = "projection",
) -> TorchProgram:
    """A PyTorch module as a program.

    Every value and every gradient is compared with torch's, in float64 and in float32.  A module is refused if it has
    an op without a rule, or if a value or gradient differs by more than 1e-6 of its RMS in float64 (some modules round
    to float32 inside), or by more than 1e-4 in float32 if it cannot be converted to float64.  Dropout is off in the
    comparison.

    Args:
        module: ``torch.nn.Module``, in train or eval mode; of an exported program ``exported.module()``.
        args, kwargs: example inputs, which the program repeats as its batches.
        output: the position or key of one of several results; None: the first tensor.
        loss: "projection": mean of output·r for r ~ N(0, 1); "cross_entropy": over the last axis, against random
            targets; or a function of (output, target).

    Raises:
        ProgramError: the module cannot be exported, has an op without a rule, or a value or a gradient differs.
    """
    import torch
    from torch.utils import _pytree as pytree

    name = type(module).__name__
    _check_parameters(module, name)
    raw = export(module, args, kwargs or {}, output)

    def checked(exported: Exported) -> Exported:
        found = recognized(exported)
        check_rules(found, f"from_torch({name})")
        return found

    exported = checked(raw)
    values = {n: p.detach().numpy().copy() for n, p in module.named_parameters()}
    used = set(exported.parameters.values())
    values = {n: x for n, x in values.items() if n in used}
    inputs = pytree.tree_leaves((tuple(args), dict(kwargs or {})))
    outcome, target = outcome_of(loss)
    original = Original(module, raw, args, kwargs or {}, output, checked)
    program = TorchProgram(name, exported, specs_of(exported, values), values, inputs, outcome, target, original)
    double = _in_double(module, args, kwargs or {}, output)
    if double is None:
        program.parity = (_compare(program, raw, torch.float32, 1e-4),)
        return program
    wide_raw, wide_inputs = double
    wide = {n: x.astype(np.float64) for n, x in values.items()}
    twin = TorchProgram(name, recognized(wide_raw), program.specs, wide, wide_inputs, outcome, target)
    try:
        exact = _compare(twin, wide_raw, torch.float64, 1e-6)
    except RuntimeError:  # torch's: a constant of the module stays in float32
        program.parity = (_compare(program, raw, torch.float32, 1e-4),)
        return program
    # The rounding errors of both in float32: a norm of few rows amplifies them without bound.
    program.parity = (_compare(program, raw, torch.float32, np.inf), exact)
    return program


def _in_double(module: Any, args: Any, kwargs: Any, output: Any) -> tuple[Exported, list[Any]] | None:
    import torch
    from torch.utils import _pytree as pytree

    def wide(x: Any) -> Any:
        return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    args, kwargs = pytree.tree_map(wide, (tuple(args), dict(kwargs)))
    try:
        with quiet():
            twin = copy.deepcopy(module).double()
        exported = export(twin, args, kwargs, output)
    except ProgramError:
        return None
    return exported, pytree.tree_leaves((args, kwargs))


def outcome_of(
    loss: str | Callable[[Tensor, Any], Tensor],
) -> tuple[Outcome, Callable[[Array, np.random.Generator], Any]]:
    """The loss, and how a target is drawn for an output."""

    def projection(run: Evaluation, y: Any, target: Any) -> Any:
        return run.apply(ops.Mean(), run.apply(ops.Multiply(), y, target))

    def cross_entropy(run: Evaluation, y: Any, target: Any) -> Any:
        return run.apply(ops.SoftmaxCrossEntropy(), y, target)

    def normal(y: Array, rng: np.random.Generator) -> Array:
        return rng.standard_normal(y.shape)

    def classes(y: Array, rng: np.random.Generator) -> Array:
        return rng.integers(0, y.shape[-1], y.shape[:-1])

    if callable(loss):
        return lambda run, y, target: loss(y, target), normal
    if loss not in ("projection", "cross_entropy"):
        raise ProgramError(f"from_torch(loss={loss!r}): expected 'projection', 'cross_entropy' or a function")
    return (projection, normal) if loss == "projection" else (cross_entropy, classes)


def _check_parameters(module: Any, name: str) -> None:
    """Refuse parameters in another format than float32, or on another device than the CPU."""
    import torch

    for place, p in module.named_parameters():
        if p.dtype != torch.float32 or p.device.type != "cpu":
            raise ProgramError(
                f"from_torch({name}): {place!r} is {p.dtype} on {p.device}, expected torch.float32 on the CPU: "
                "module.float().cpu()"
            )


def check_rules(exported: Exported, where: str) -> None:
    """Refuse a module with ops that have no rule, naming each with its place, or whose output has no parameter."""
    if exported.output not in exported.depends:
        raise ProgramError(f"{where}: the output {exported.output!r} depends on no parameter")
    here = [step for step in exported.steps if step.name in exported.depends and step.rule is None]
    missing = [step for step in here if step.computes not in RULES and step.target != "getitem"]
    for name, first in exported.written.items():
        if first in exported.buffers and name in exported.depends:
            raise ProgramError(
                f"{where}: the module writes to its buffer {exported.buffers[first]!r} a value that depends on "
                "parameters, expected a constant"
            )
    if missing:
        listed = "; ".join(map(str, missing[:8])) + ("; …" if len(missing) > 8 else "")
        raise ProgramError(f"{where}: {counted(len(missing), 'step')} without a rule: {listed}")


def specs_of(exported: Exported, values: Mapping[str, Array]) -> Specs:
    """Role and initial σ of each parameter: by its use, its shape and its values."""
    tables, gains = set(), set()
    for step in exported.steps:
        kind = step.target.lower()
        for key in ("weight", "gain", "scale", "Scale", "data"):
            ref = step.arguments.get(key)
            if isinstance(ref, Ref) and ref.name in exported.parameters:
                place = exported.parameters[ref.name]
                if "embedding" in kind or kind == "onnx.gather":
                    tables.add(place)
                elif "norm" in kind:
                    gains.add(place)
    specs = {}
    for name, x in values.items():
        if name in tables:
            specs[name] = Spec("embedding", x.shape, std=rms(x) or None)
        elif name in gains:
            specs[name] = Spec("gain", x.shape)
        elif x.ndim < 2 or (x.ndim != 2 and not x.any()):  # a class token, positions
            specs[name] = Spec("bias", x.shape)
        else:
            specs[name] = Spec("weight", x.shape, std=rms(x) or None)
    return specs


def _compare(program: TorchProgram, raw: Exported, dtype: Any, tolerance: float) -> TorchParity:
    """Compare every value and gradient of the example inputs.

    Raises:
        ProgramError: one differs by more than the tolerance, or another number of parameters receives a gradient.
    """
    import torch

    wide = dtype == torch.float64
    name = f"from_torch({program.name})"
    leaves = {n: torch.tensor(x).to(dtype).requires_grad_() for n, x in program._values.items()}
    theirs = _torch_values(raw, leaves, program._inputs)
    tape = Tape("regular", dtype=np.float64 if wide else np.float32)
    p = {n: tape.tensor(x.detach().numpy(), n) for n, x in leaves.items()}
    worst, compared = Difference("nothing", 0.0), 0

    def watch(step: AtenCall, ours: Any) -> None:
        nonlocal worst, compared
        if not isinstance(ours, Tensor):
            return
        compared += 1
        found = Difference(str(step), relative(ours.value, theirs[step.name].detach().numpy()))
        worst = max(worst, found, key=lambda d: d.relative)
        if not found.relative <= tolerance:
            raise ProgramError(
                f"{name}: {step} differs from torch by {found.relative:.1e} of its RMS, expected at most {tolerance:g}"
            )

    y = program.output(p, program._inputs, constants=theirs, watch=watch)
    # A step that writes to a view changes values that were compared before it.
    found = relative(y.value, theirs["output"].detach().numpy())
    if not found <= tolerance:
        raise ProgramError(
            f"{name}: the output differs from torch by {found:.1e} of its RMS, expected at most {tolerance:g}"
        )
    r = np.random.default_rng(0).standard_normal(y.shape)
    backward(apply(ops.Mean(), apply(ops.Multiply(), y, r.astype(tape.dtype))))
    try:
        (theirs["output"] * torch.tensor(r).to(dtype)).mean().backward()
    except RuntimeError as error:
        raise ProgramError(f"{name}: torch cannot differentiate it: {shown(error)}") from error
    missed = [n for n, leaf in leaves.items() if (leaf.grad is None) != (p[n].grad is None)]
    if missed:
        raise ProgramError(f"{name}: {missed[0]!r} receives a gradient in only one of torch and refscale")
    trained = [n for n, leaf in leaves.items() if leaf.grad is not None]
    # A gradient that is 0 but for rounding (a key's bias) has no RMS of its own to be compared by.
    typical = float(np.sqrt(np.mean([rms(leaves[n].grad.numpy()) ** 2 for n in trained]))) if trained else 0.0
    gradients = [
        Difference(n, relative(np.asarray(p[n].grad), leaves[n].grad.numpy(), typical / 1000)) for n in trained
    ]
    gradient = max(gradients, key=lambda d: d.relative, default=Difference("nothing", 0.0))
    if not gradient.relative <= tolerance:
        raise ProgramError(
            f"{name}: the gradient of {gradient.what!r} differs from torch's by {gradient.relative:.1e} of its RMS, "
            f"expected at most {tolerance:g}"
        )
    return TorchParity("float64" if wide else "float32", compared, worst, gradient, len(trained))


def _torch_values(raw: Exported, leaves: Mapping[str, Any], inputs: Sequence[Any]) -> dict[str, Any]:
    """Torch's own value of every step, and of the output; dropout is off."""
    values: dict[str, Any] = {node: x.clone() for node, x in raw.constants.items()}
    # a step may write to an input
    own = [x.clone() if hasattr(x, "clone") else x for x in inputs]
    values.update(zip(raw.inputs, own, strict=True))
    values.update({node: leaves[name] for node, name in raw.parameters.items()})
    found: dict[str, Any] = {}
    for step in raw.steps:
        y = called(step, values)
        values[step.name] = y
        if step.in_place:
            values[step.inputs[0]] = y
        # a later step may write to the tensor
        found[step.name] = y.clone() if hasattr(y, "clone") else y
    return {**found, "output": values[raw.output]}
