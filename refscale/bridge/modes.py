"""The eval mode of a module that was exported in train mode: dropout off, batch norms with their running statistics."""

from __future__ import annotations

import hashlib
from typing import Any

from refscale.bridge.steps import AtenCall, Exported, Ref, resolve

__all__ = ["eval_difference"]


def eval_difference(imported: Exported, evaluated: Exported) -> str | None:
    """Compare the steps of an import, as they are computed in eval mode, with torch's.

    Args:
        imported: the steps in the mode of the import.
        evaluated: the steps that torch exports in eval mode.

    Returns:
        A step that only one of them computes, for a message; None: the outputs are the same.
    """
    for step in evaluated.steps:
        if step.drops:
            return f"{step} stays on in torch's eval mode, expected training=self.training"
    (ours, output), (theirs, expected) = _digests(imported, freeze=True), _digests(evaluated, freeze=False)
    if output == expected:
        return None
    there = set(ours.values())
    for step in evaluated.steps:
        if theirs[step.name] not in there:
            return f"{step} of eval mode is not among the imported steps; import the module in eval mode"
    here = set(theirs.values())
    other = next((step for step in reversed(imported.steps) if ours[step.name] not in here), "the output")
    return f"{other} is another in eval mode; import the module in eval mode"


def _digests(exported: Exported, *, freeze: bool) -> tuple[dict[str, str], str]:
    """A digest of each step and of the output: of all computations behind its value, without dropout.

    Args:
        exported: the steps.
        freeze: whether batch norms are taken with their running statistics, if they have them.
    """
    found = {name: f"parameter {place}" for name, place in exported.parameters.items()}
    found |= {name: f"input {i}" for i, name in enumerate(exported.inputs)}
    for name, x in exported.constants.items():
        place = exported.buffers.get(name)
        found[name] = f"buffer {place}" if place else f"constant {x.dtype} {x.tolist()}"
    writes: dict[str, str] = {}  # by name of the first value in a memory

    def value(name: str) -> str:
        return _digest(found.get(name, name) + writes.get(exported.memory.get(name, name), ""))

    for step in exported.steps:
        if step.dropout:
            found[step.name] = found[step.inputs[0]]
            continue
        arguments = resolve(_in_eval_mode(step, freeze), lambda ref: Ref(value(ref.name)))
        found[step.name] = _digest(f"{step.target} {arguments}")
        if step.in_place:
            memory = exported.memory[step.name]
            writes[memory] = _digest(writes.get(memory, "") + found[step.name])
    return {step.name: found[step.name] for step in exported.steps}, value(exported.output)


def _in_eval_mode(step: AtenCall, freeze: bool) -> dict[str, Any]:
    """The arguments of a step that are not its defaults, without those of dropout and of updates of statistics."""
    schema = getattr(getattr(step.function, "_schema", None), "arguments", ())
    default = {a.name: a.default_value for a in schema if a.has_default_value()}
    arguments = {name: x for name, x in step.arguments.items() if name not in default or x != default[name]}
    arguments.pop("dropout_p", None)
    if arguments.pop("dropout", None) is not None:
        arguments.pop("train", None)
    if step.target == "aten.batch_norm.default":
        if freeze and arguments["running_mean"] is not None:
            arguments["training"] = False
        if not arguments["training"]:
            arguments.pop("momentum", None)
    return arguments


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
