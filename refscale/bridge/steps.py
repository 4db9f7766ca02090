"""A PyTorch module as a list of steps: exported without decomposition, one step for each call of an ATen op.

``torch.export`` keeps linear, layer norm, attention and gelu whole.  A step whose arguments do not depend on
parameters is a constant and computed by torch itself: masks from ids, positions, preprocessing of inputs.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from refscale.errors import ProgramError, shown

__all__ = ["AtenCall", "Exported", "Ref", "export", "quiet", "resolve", "shared_names"]


@dataclass(frozen=True)
class Ref:
    """The value of an earlier step, of a parameter, a buffer or an input, by name."""

    name: str


@dataclass(frozen=True)
class AtenCall:
    """One call of an ATen op, or one node of an ONNX model.

    Attributes:
        name: name of its value.
        target: name of the op, such as "aten.linear.default" or "onnx.Gemm".
        scope: path of the submodule that called it, such as "layers.0.linear1".
        function: torch's own, or that of ``onnx.reference``.
        arguments: by the names of the op's schema, of a node its attributes, too; a ``Ref`` for each earlier value.
        fused: the steps that this one stands for, if it was recognized from several.
        rule: of a recognized step; None: that of ``rules.RULES``.
        of_shapes: whether the value depends only on the shapes of the arguments.
    """

    name: str
    target: str
    scope: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    fused: tuple[AtenCall, ...] = ()
    rule: Callable[..., Any] | None = None
    of_shapes: bool = False

    @property
    def inputs(self) -> list[str]:
        """Names of the earlier values that it takes, in order."""
        found: list[str] = []
        resolve(self.arguments, lambda ref: found.append(ref.name))
        return found

    @property
    def in_place(self) -> bool:
        """Return whether the op overwrites its first argument."""
        _, op, *_ = (*self.target.split("."), "")
        return op.endswith("_") and not op.startswith("_")

    @property
    def shares(self) -> bool:
        """Whether the value lies in the memory of the first argument: a view, or the result of an op in place."""
        arguments = getattr(getattr(self.function, "_schema", None), "arguments", None)
        return self.target == "getitem" or bool(arguments and arguments[0].alias_info)

    @property
    def dropout(self) -> bool:
        """Whether the op is a dropout, of elements or of channels."""
        return self.target.startswith("aten.") and "dropout" in self.target

    @property
    def drops(self) -> bool:
        """Whether the op drops elements at random: dropout in train mode, or within attention or recurrent layers."""
        if self.fused:
            return any(step.drops for step in self.fused)
        taken = self.arguments
        if self.dropout:
            return bool(taken.get("train") and taken.get("p"))
        return bool(taken.get("dropout_p") or (taken.get("dropout") and taken.get("train")))

    @property
    def computes(self) -> str:
        """Name of the op that computes the same value without writing to its argument."""
        op = self.target.split(".")[1] if self.in_place else ""
        return self.target.replace(op, op[:-1], 1) if op else self.target

    def __str__(self) -> str:
        return f"{self.target} {self.name!r}" + (f" in {self.scope}" if self.scope else "")


@dataclass(frozen=True)
class Exported:
    """The steps of a module, and its parameters, constants and inputs.

    Attributes:
        steps: in order.
        parameters: by name in the steps, the name of the parameter in the module; tied parameters share one.
        constants: by name in the steps, a tensor: buffers and constants.
        buffers: by name in the steps, the name of the buffer in the module.
        inputs: names of the inputs in the steps.
        output: name of the value that is returned, the one that the caller chose.
        depends: names of the values that depend on parameters.
        results: number of values that the module returns.
        noise: a context in which the source's own random numbers follow a seed.
    """

    steps: tuple[AtenCall, ...]
    parameters: Mapping[str, str]
    constants: Mapping[str, Any]
    inputs: Sequence[str]
    output: str
    depends: frozenset[str] = frozenset()
    results: int = 1
    buffers: Mapping[str, str] = field(default_factory=dict)
    noise: Callable[[int], AbstractContextManager[object]] = nullcontext

    @cached_property
    def memory(self) -> dict[str, str]:
        """By name of a view or of a step that writes in place: the name of the first value in the same memory."""
        first: dict[str, str] = {}
        for step in self.steps:
            if (step.shares or step.in_place) and step.inputs:
                first[step.name] = first.get(step.inputs[0], step.inputs[0])
        return first

    @cached_property
    def written(self) -> dict[str, str]:
        """By name of a step that writes in place: the name of the first value in the same memory, such as a buffer."""
        return {step.name: self.memory[step.name] for step in self.steps if step.in_place}

    def with_steps(self, steps: Sequence[AtenCall]) -> Exported:
        """The same module by other steps, without unused ones; those that write in place stay."""
        needed, kept = {self.output}, []
        for step in reversed(steps):
            if step.name in needed or step.in_place:
                needed.update(step.inputs)
                kept.append(step)
        return replace(self, steps=tuple(kept[::-1]), depends=depending(kept[::-1], self))


def depending(steps: Sequence[AtenCall], of: Exported) -> frozenset[str]:
    """Names of the values that depend on parameters."""
    found = set(of.parameters)
    for step in steps:
        if found.intersection(step.inputs) and not step.of_shapes:
            found.add(step.name)
            if step.in_place:
                found.add(step.inputs[0])
    return frozenset(found)


def resolve(arguments: Any, value: Callable[[Ref], Any]) -> Any:
    """Arguments with each ``Ref`` replaced, inside of lists and mappings, too."""
    if isinstance(arguments, Ref):
        return value(arguments)
    if isinstance(arguments, Mapping):
        return {k: resolve(v, value) for k, v in arguments.items()}
    if isinstance(arguments, list | tuple):
        return [resolve(v, value) for v in arguments]
    return arguments


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore two warnings of torch about its own classes."""
    with warnings.catch_warnings():
        # An LSTM keeps a list of its parameters, which are registered by their names, too.
        warnings.filterwarnings("ignore", message="The tensor attributes", category=UserWarning)
        # A copy of an exported program copies its tree of inputs.
        warnings.filterwarnings("ignore", message="`isinstance.treespec", category=FutureWarning)
        yield


def export(module: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: int | str | None) -> Exported:
    """Export a module and list its steps.

    Args:
        module: ``torch.nn.Module``, in the mode, train or eval, that is wanted.
        args, kwargs: example inputs.
        output: the position or key of one of several results; None: the first tensor.

    Raises:
        ProgramError: torch cannot export the module, or it has no such output.
    """
    import torch
    from torch.utils import _pytree as pytree

    try:
        with quiet():
            exported = torch.export.export(module, tuple(args), dict(kwargs))
    except Exception as error:
        raise ProgramError(
            f"from_torch({type(module).__name__}): torch.export raised {type(error).__name__}: {shown(error)}"
        ) from error
    signature = exported.graph_signature
    shared = shared_names(module)
    parameters = {node: shared.get(name, name) for node, name in signature.inputs_to_parameters.items()}
    buffers = dict(signature.inputs_to_buffers)
    held = {**buffers, **signature.inputs_to_lifted_tensor_constants}
    constants = {node: _constant(exported, name) for node, name in held.items()}
    names: list[str] = []
    steps: list[AtenCall] = []
    results: Any = None
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            names += [] if node.name in parameters or node.name in constants else [node.name]
        elif node.op == "call_function":
            steps.append(_step(node))
        elif node.op == "output":
            refs = [Ref(a.name) if hasattr(a, "name") else a for a in node.args[0]]
            spec = exported.call_spec.out_spec
            results = pytree.tree_unflatten(refs[-spec.num_leaves :], spec)
    chosen = _chosen(results, output, type(module).__name__)
    count = exported.call_spec.out_spec.num_leaves
    whole = Exported((), parameters, constants, tuple(names), chosen, results=count, buffers=buffers, noise=_noise)
    return whole.with_steps(steps)


@contextmanager
def _noise(seed: int) -> Iterator[None]:
    """Torch's random numbers from a seed, without a change of its own generator."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        yield


def shared_names(module: Any) -> dict[str, str]:
    """Return, for each name of a parameter, the first name of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(p), name) for name, p in module.named_parameters(remove_duplicate=False)}


def _constant(exported: Any, name: str) -> Any:
    for place in (exported.state_dict, exported.constants):
        if name in place:
            return place[name].detach().clone()
    raise ProgramError(f"from_torch: the exported module lacks the constant {name!r}")


def _step(node: Any) -> AtenCall:
    """The step of a node of the graph; arguments take the names of the op's schema."""
    python = not hasattr(node.target, "_schema")  # getitem
    positions = (
        [*inspect.signature(node.target).parameters] if python else [a.name for a in node.target._schema.arguments]
    )
    arguments = {**dict(zip(positions, node.args, strict=False)), **node.kwargs}
    if str(node.target) == "aten.rms_norm.default" and arguments.get("eps") is None:
        arguments["eps"] = float(np.finfo(np.float32).eps)  # torch's for float32, also in the comparison in float64
    stack = node.meta.get("nn_module_stack") or {}
    scope = next(reversed([path for path, _ in stack.values()]), "")
    return AtenCall(
        node.name, node.target.__name__ if python else str(node.target), scope, node.target, _refs(arguments)
    )


def _refs(value: Any) -> Any:
    import torch.fx

    if isinstance(value, torch.fx.Node):
        return Ref(value.name)
    if isinstance(value, Mapping):
        return {k: _refs(v) for k, v in value.items()}
    return [_refs(v) for v in value] if isinstance(value, list | tuple) else value


def _chosen(results: Any, output: int | str | None, module: str) -> str:
    """The name of the result that was asked for."""
    try:
        if output is not None:
            results = results[output]
        while not isinstance(results, Ref):
            several = results.values() if isinstance(results, Mapping) else results
            results = next(one for one in several if one is not None)
    except (KeyError, IndexError, TypeError, StopIteration):
        raise ProgramError(f"from_torch({module}): output={output!r}, expected a tensor among {results}") from None
    return results.name
