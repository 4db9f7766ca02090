"""The report of ``refscale bring``: scales, plan and gradient errors of a PyTorch module."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refscale import analysis
from refscale.bridge.importing import from_torch
from refscale.bridge.program import TorchProgram
from refscale.engine import Tape, backward
from refscale.errors import FactorError, ProgramError, counted
from refscale.graph import Plan, gradient_factors, plan
from refscale.modules import load_object
from refscale.precision import Precision, get_precision
from refscale.programs import checked_loss, leaves, next_batch
from refscale.scales import Scheme, get_scheme
from refscale.stats import Report

__all__ = ["Brought", "bring", "example_inputs", "gradient_error", "in_words", "load_module", "to_json"]


@dataclass(frozen=True)
class Brought:
    """The results of ``bring``.

    Attributes:
        program: the program, with its parity.
        plan: the unit-scaling plan.
        certificate: number of tensors whose gradients the plan's factors leave a multiple of the true ones; or why not.
        reports: under the regular scheme and under the plan.
        precision: of the gradient errors.
        errors: by name of the scheme, the relative error of all parameters' gradients in that precision.
    """

    program: TorchProgram
    plan: Plan
    certificate: int | str
    reports: tuple[Report, Report]
    precision: str
    errors: Mapping[str, float]


def bring(module: Any, args: Sequence[Any], precision: str | Precision = "fp8", *, loss: str = "projection") -> Brought:
    """Import a module, plan its unit scaling and measure both schemes.

    Args:
        module: ``torch.nn.Module``.
        args: example inputs.
        precision: of the gradient errors.
        loss: as for ``from_torch``.

    Raises:
        ProgramError: the module is refused, see ``from_torch``.
    """
    program = from_torch(module, args, loss=loss)
    policy, planned = get_precision(precision), plan(program)
    schemes: tuple[Scheme, ...] = (get_scheme("regular"), planned)
    reports = [analysis.report(program, scheme) for scheme in schemes]
    errors = {scheme.name: gradient_error(program, scheme, policy) for scheme in schemes}
    return Brought(program, planned, _certificate(program, planned), (reports[0], reports[1]), policy.name, errors)


def _loss(program: TorchProgram, tape: Tape) -> Any:
    """The loss of the first batch, and the parameters."""
    batch = next_batch(program, program.batches(np.random.default_rng(0)))
    parameters = program.initial_parameters(tape.scheme, np.random.default_rng(0))
    p = leaves(tape, program, parameters)
    return checked_loss(program, p, batch).total, p


def _certificate(program: TorchProgram, scheme: Scheme) -> int | str:
    try:
        return len(gradient_factors(_loss(program, Tape(scheme))[0]))
    except FactorError as error:
        return str(error)


def gradient_error(
    program: TorchProgram, scheme: str | Scheme, precision: str | Precision, loss_scale: float = 1.0
) -> float:
    """The error of a precision: RMS difference of all parameters' gradients over their RMS in float32.

    Each gradient is divided by its RMS first, so that each counts by its number of elements.  The divisor is at least a
    thousandth of the RMS of all: a gradient that is 0 but for rounding (a key's bias) has no scale of its own.

    Args:
        program: whose first batch is used.
        scheme, precision: of the run.
        loss_scale: multiplies the loss before the backward pass, and divides the gradients after it.
    """
    found = []
    for policy, scale in ((precision, loss_scale), ("fp32", 1.0)):
        loss, p = _loss(program, Tape(scheme, policy))
        backward(loss, scale)
        gradients = {name: p[name].grad for name in program.specs if p[name].grad is not None}
        found.append({name: np.asarray(g, np.float64) / scale for name, g in gradients.items()})
    narrow, exact = found
    squares = {name: float(np.mean(g**2)) for name, g in exact.items()}
    least = 1e-6 * float(np.mean(list(squares.values()))) if squares else 0.0
    error = total = 0.0
    for name, g in exact.items():
        if square := max(squares[name], least):
            error += float(np.sum((narrow[name] - g) ** 2)) / square
            total += g.size
    return float(np.sqrt(error / total)) if total else 0.0


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
    lines += [f"equal to torch in {parity}" for parity in found.program.parity]
    certificate = found.certificate
    lines.append(
        f"certificate: {counted(certificate, 'gradient')} under the plan, each a known multiple of the true one"
        if isinstance(certificate, int)
        else f"no certificate: {certificate}"
    )
    for report in found.reports:
        summary = report.summary()
        lines.append(
            f"{report.scheme}: {summary.outside_count} of {summary.judged_count} tensors outside [1/4, 4], "
            f"gradient error in {found.precision} {found.errors[report.scheme]:.3g}"
        )
    return lines


def to_json(found: Brought) -> dict[str, Any]:
    """The same as JSON."""
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
        "certificate": found.certificate,
        "outside": {r.scheme: [r.summary().outside_count, r.summary().judged_count] for r in found.reports},
        "precision": found.precision,
        "gradient_error": dict(found.errors),
    }


def load_module(where: str) -> tuple[Any, tuple[Any, ...] | None]:
    """A module, and its inputs if they come with it.

    Args:
        where: "path/to/file.py:NAME" or "module:NAME"; NAME is a function without arguments that returns a
            ``torch.nn.Module``, or a pair of a module and a tuple of example inputs.

    Raises:
        ProgramError: it cannot be imported, or returns something else.
    """
    import torch

    factory, _ = load_object(where, "module factory", ProgramError, "make")
    try:
        made = factory()
    except Exception as error:
        raise ProgramError(f"module factory {where!r}: raised {type(error).__name__}: {error}") from error
    module, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise ProgramError(f"module factory {where!r}: returned {type(module).__name__}, expected torch.nn.Module")
    return module, None if inputs is None else tuple(inputs)


def example_inputs(texts: Sequence[str], seed: int = 0) -> tuple[Any, ...]:
    """Example inputs by shape and kind.

    Args:
        texts: "2,8,32" for N(0, 1) of that shape; "2,12<100" for integers from 0 to 99.
        seed: of the values.

    Raises:
        ProgramError: a text is neither.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for text in texts:
        match = re.fullmatch(r"(\d+(?:,\d+)*)(?:<(\d+))?", text)
        if match is None or not all(map(int, match[1].split(","))) or match[2] == "0":
            raise ProgramError(f"input {text!r}: expected a shape such as 2,8,32, or 2,12<100 for integers below 100")
        shape = [int(n) for n in match[1].split(",")]
        if match[2]:
            inputs.append(torch.randint(int(match[2]), shape, generator=generator))
        else:
            inputs.append(torch.randn(shape, generator=generator))
    return tuple(inputs)
