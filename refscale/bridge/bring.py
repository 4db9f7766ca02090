"""The report of ``refscale bring``: scales, plan and gradient errors of a PyTorch module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refscale import analysis
from refscale.adapt import Adapted, AdaptedProgram, AdaptedScheme, adapt
from refscale.bridge.importing import from_torch
from refscale.bridge.program import TorchProgram
from refscale.bridge.steps import resolve
from refscale.engine import Tape, ancestors, backward
from refscale.errors import FactorError, counted
from refscale.graph import Plan, gradient_factors, plan
from refscale.precision import Precision, get_precision
from refscale.programs import Program, checked_loss, leaves, next_batch
from refscale.scales import Call, Scheme, get_scheme, regular
from refscale.stats import Report

__all__ = [
    "Brought",
    "Weights",
    "bring",
    "errors_by_op",
    "factors_in_words",
    "gradient_error",
    "in_words",
    "measured",
    "to_json",
]

Weights = Literal["fresh", "own"]
"""Values under the second scheme: fresh draws of unit variance and a plan, or the module's own and an adaptation."""


@dataclass(frozen=True)
class Brought:
    """The results of ``bring``.

    Attributes:
        program: the program, with its parity.
        scheme: the unit-scaling plan, or the adaptation to the module's own values.
        certificate: number of tensors whose gradients are known multiples of the true ones; or why there is none.
        reports: the reports under the regular scheme and under ``scheme``.
        precision: name of the precision of the gradient errors.
        errors: by name of the scheme, the relative error of all parameters' gradients in that precision.
        by_op: by name of the scheme, the same error with the casts of one class of ops only; "stored": with the casts
            of stored tensors only.
        guesses: assumptions that the module does not determine.
    """

    program: TorchProgram
    scheme: Plan | Adapted
    certificate: int | str
    reports: tuple[Report, Report]
    precision: str
    errors: Mapping[str, float]
    by_op: Mapping[str, Mapping[str, float]]
    guesses: Sequence[str]


def bring(
    module: Any,
    args: Sequence[Any],
    precision: str | Precision = "fp8",
    *,
    loss: str = "projection",
    weights: Weights = "fresh",
) -> Brought:
    """Import a module, find its unit scaling and measure both schemes.

    Args:
        module: ``torch.nn.Module``.
        args: example inputs.
        precision: precision in which the errors of gradients are measured.
        loss: see ``from_torch``.
        weights: "fresh": make a plan for training from the start, and measure it with random weights of unit variance;
            "own": adapt the module, which keeps its values and its function.

    Raises:
        ProgramError: the module is refused, see ``from_torch``; or cannot be adapted, see ``adapt``.
    """
    return measured(from_torch(module, args, loss=loss), precision, loss=loss, weights=weights)


def measured(
    program: TorchProgram, precision: str | Precision = "fp8", *, loss: str = "projection", weights: Weights = "fresh"
) -> Brought:
    """Measure a program as ``bring`` does; one whose source does not determine it is adapted, not planned.

    Args:
        program: a program from ``from_torch`` or ``from_onnx``.
        precision, loss, weights: the settings of ``bring``.

    Raises:
        ProgramError: the program cannot be adapted, see ``adapt``.
    """
    policy = get_precision(precision)
    weights = "own" if program.guesses else weights
    found: Plan | Adapted = plan(program) if weights == "fresh" else adapt(program)
    scaled: Program = program
    scheme: Scheme
    if isinstance(found, Adapted):
        scaled = AdaptedProgram(program, found, program.initial_parameters(regular, np.random.default_rng(0)))
        scheme = found.scheme
    else:
        scheme = found
    sides: tuple[tuple[Program, Scheme], ...] = ((program, get_scheme("regular")), (scaled, scheme))
    reports = [analysis.report(one, way) for one, way in sides]
    return Brought(
        program,
        found,
        _certificate(scaled, scheme),
        (reports[0], reports[1]),
        policy.name,
        {way.name: gradient_error(one, way, policy) for one, way in sides},
        {way.name: errors_by_op(one, way, policy) for one, way in sides},
        _guesses(program, loss),
    )


def _loss(program: Program, tape: Tape) -> Any:
    """The loss of the first batch, and the parameters."""
    batch = next_batch(program, program.batches(np.random.default_rng(0)))
    parameters = program.initial_parameters(tape.scheme, np.random.default_rng(0))
    p = leaves(tape, program, parameters)
    return checked_loss(program, p, batch).total, p


def _certificate(program: Program, scheme: Scheme) -> int | str:
    try:
        return len(gradient_factors(_loss(program, Tape(scheme))[0]))
    except FactorError as error:
        return str(error)


Gradients = Mapping[str, NDArray[np.float64]]


def _gradients(program: Program, scheme: str | Scheme, policy: str | Precision, loss_scale: float = 1.0) -> Gradients:
    loss, p = _loss(program, Tape(scheme, policy))
    backward(loss, loss_scale)
    return {n: np.asarray(g, np.float64) / loss_scale for n in program.specs if (g := p[n].grad) is not None}


def gradient_error(
    program: Program, scheme: str | Scheme, precision: str | Precision, loss_scale: float = 1.0
) -> float:
    """The error of a precision: RMS difference of all parameters' gradients over their RMS in float32.

    Each gradient is divided by its RMS first, so that each counts by its number of elements.  The divisor is at least a
    thousandth of the RMS of all: a gradient that is 0 but for rounding (a key's bias) has no scale of its own.

    Args:
        program: a program, of which the first batch is used.
        scheme, precision: the scheme and the precision of the run.
        loss_scale: the factor of the loss before the backward pass, and the divisor of the gradients after it.
    """
    return _error(_gradients(program, scheme, precision, loss_scale), _gradients(program, scheme, "fp32"))


def _error(narrow: Gradients, exact: Gradients) -> float:
    squares = {name: float(np.mean(g**2)) for name, g in exact.items()}
    least = 1e-6 * float(np.mean(list(squares.values()))) if squares else 0.0
    error = total = 0.0
    for name, g in exact.items():
        if square := max(squares[name], least):
            error += float(np.sum((narrow[name] - g) ** 2)) / square
            total += g.size
    return float(np.sqrt(error / total)) if total else 0.0


def errors_by_op(program: Program, scheme: str | Scheme, precision: str | Precision) -> dict[str, float]:
    """The error of a precision by class of op: ``gradient_error`` with the casts of its operands only.

    Args:
        program, scheme, precision: the arguments of ``gradient_error``.

    Returns:
        By name of a contraction, largest first; and "stored", with the casts of stored tensors only, if the precision
        has them.
    """
    policy = get_precision(precision)
    exact = _gradients(program, scheme, "fp32")
    names = {node.op.name for node in ancestors(_loss(program, Tape(scheme))[0]) if node.op.contraction}
    casts = [
        p for p in (policy, *(rule.policy for rule in policy.rules)) if p.operand or p.operand_gradient or p.blocks
    ]
    ways = {name: _only(policy, name) for name in sorted(names) if any(p.narrows(name) for p in casts)}
    if policy.store is not None:
        ways["stored"] = _only(policy, None)
    found = {name: _error(_gradients(program, scheme, one), exact) for name, one in ways.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _only(policy: Precision, contraction: str | None) -> Precision:
    """The policy with the casts of one contraction's operands only; None: of stored tensors only."""
    rules = tuple(replace(rule, policy=_only(rule.policy, contraction)) for rule in policy.rules)
    if contraction is None:
        return replace(policy, operand=None, operand_gradient=None, blocks=None, hadamard=0, rules=rules)
    names = (contraction,) if policy.narrows(contraction) else ()
    return replace(policy, store=None, contractions=names, rules=rules)


def _guesses(program: TorchProgram, loss: str) -> list[str]:
    """Assumptions that the module does not determine, one line each."""
    exported = program.exported
    used: set[str] = set()
    for step in exported.steps:
        keys: tuple[str, ...] = ("weight", "bias", "gain", "params")
        if step.target.startswith("onnx.") and step.target.removeprefix("onnx.") not in ("Add", "Mul", "Sub", "Div"):
            keys = tuple(step.arguments)
        for key in keys:
            resolve(step.arguments.get(key), lambda ref: used.add(exported.parameters.get(ref.name, "")))
    found = [*program.guesses]
    found += [
        f"role of {name!r} {spec.shape}: {spec.role}, by its shape and values"
        for name, spec in program.specs.items()
        if name not in used
    ]
    target = "mean of output·r for r ~ N(0, 1)" if loss == "projection" else "cross-entropy against random classes"
    found.append(f"loss: {target}")
    if exported.results > 1:
        found.append(f"output: the first of {exported.results} tensors, {exported.output!r}")
    taken = {name for step in exported.steps for name in step.inputs}
    if constants := len(taken.intersection(exported.constants)):
        found.append(f"{counted(constants, 'buffer')} or constants of the module: not trained")
    if dropped := sum(step.dropout for step in exported.steps):
        found.append(f"dropout ({counted(dropped, 'step')}): off in all figures")
    return found


def in_words(found: Brought) -> list[str]:
    """The lines that the command prints."""
    steps = found.program.exported.steps
    fused = Counter(step.target for step in steps if step.fused)
    kinds = Counter(step.target for step in steps if step.name in found.program.exported.depends)
    lines = [
        f"{found.program.name}: {counted(len(found.program.specs), 'parameter tensor')}, "
        f"{counted(sum(kinds.values()), 'step')} that depend on them",
        "  " + ", ".join(f"{name.removeprefix('aten.')} {n}" for name, n in kinds.most_common()),
    ]
    if fused:
        lines.append("recognized from several steps: " + ", ".join(f"{name} {n}" for name, n in fused.most_common()))
    lines += [f"equal to {parity.source} in {parity}" for parity in found.program.parity]
    if not found.program.parity:
        lines.append("not compared: onnxruntime is not installed")
    if found.program.guesses:
        lines.append("no plan for training: the file leaves parameters undetermined, see the guesses")
    adapted = isinstance(found.scheme, Adapted)
    if isinstance(found.scheme, Adapted):
        lines.append(f"adapted: its own function, loss and gradients in float64 within {found.scheme.difference:.1e}")
    certificate = found.certificate
    lines.append(
        f"certificate: {counted(certificate, 'gradient')} under the {'adaptation' if adapted else 'plan'}, "
        "each a known multiple of the true one"
        if isinstance(certificate, int)
        else f"no certificate: {certificate}"
    )
    for report in found.reports:
        summary = report.summary()
        lines.append(
            f"{report.scheme}: {summary.outside_count} of {summary.judged_count} tensors outside [1/4, 4], "
            f"gradient error in {found.precision} {found.errors[report.scheme]:.3g}"
        )
        if by_op := found.by_op[report.scheme]:
            lines.append("  with the casts of one class of ops: " + ", ".join(f"{n} {e:.2g}" for n, e in by_op.items()))
    return lines + [f"guess: {guess}" for guess in found.guesses]


def factors_in_words(found: Brought) -> str:
    """The factors of every call, as a table."""
    if isinstance(found.scheme, Plan):
        return str(found.scheme)
    scheme = found.scheme.scheme
    assert isinstance(scheme, AdaptedScheme)
    calls = [Call(step.op, step.shapes, index=i) for i, step in enumerate(scheme.steps)]
    names = [f"{i} {step.name}" for i, step in enumerate(scheme.steps)]
    width = max(map(len, names))
    return "\n".join(f"{name:{width}}  {scheme.scales(call)}" for name, call in zip(names, calls, strict=True))


def to_json(found: Brought) -> dict[str, Any]:
    """The results of ``bring`` as JSON."""
    return {
        "module": found.program.name,
        "parameters": {name: [spec.role, list(spec.shape)] for name, spec in found.program.specs.items()},
        "steps": [[step.name, step.target, step.scope, len(step.fused)] for step in found.program.exported.steps],
        "parity": [
            {
                "dtype": p.dtype,
                "values": p.steps,
                "value": [p.value.what, p.value.relative],
                "gradients": p.trained,
                "gradient": [p.gradient.what, p.gradient.relative] if p.gradient else None,
            }
            for p in found.program.parity
        ],
        "adapted": found.scheme.difference if isinstance(found.scheme, Adapted) else None,
        "certificate": found.certificate,
        "outside": {r.scheme: [r.summary().outside_count, r.summary().judged_count] for r in found.reports},
        "precision": found.precision,
        "gradient_error": dict(found.errors),
        "gradient_error_by_op": {scheme: dict(errors) for scheme, errors in found.by_op.items()},
        "guesses": list(found.guesses),
    }
