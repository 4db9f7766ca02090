"""``adapt``: turn a trained regular program into a unit-scaled one, or raise an error with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.adapt.parity import parity
from refscale.adapt.scheme import Adapted, AdaptedScheme
from refscale.adapt.solution import Recording, Solution, finite_sigma, solve
from refscale.engine import Tape
from refscale.errors import FactorError, ProgramError
from refscale.graph import Step, plan
from refscale.layers import Parameters, Specs, Tensors
from refscale.programs import Program, Scores, check_program, checked_loss, digest, leaves, name_of, next_batch
from refscale.scales import Scheme, Unit, regular, unit


def adapt(
    program: Program, parameters: Parameters | None = None, *, base: Unit | None = None, seed: int = 0
) -> Adapted:
    """Adapt a trained regular program: the same function, unit-scaled.

    Args:
        program: a program trained under the regular scheme.
        parameters: trained parameters; None: the program's ``initial_parameters``.
        base: scheme of the free factors: ``unit``, with the constraints of the program, or a ``graph.Plan`` of it.
            None: ``unit`` if its gradients are multiples of the true ones, else a plan.
        seed: seed of the compared batch, and of initial parameters.

    Returns:
        Scheme and divisors. On a tape of that scheme, with ``adapted.unit(parameters)``, losses and gradients
        (divided by c and the divisors) equal those of the regular program, on one batch in float64. The tolerance is
        1e-12 or, if larger, 64 times the effect of a change of all parameters by 2^-52 of their values, at most 1e-8.

    Raises:
        ProgramError: the program has its own scheme; an op has no rule; two uses of a parameter require different
            scales; a parameter is not finite; or losses or gradients differ (the message names the tensor).

    Source: paper, Proposition 5.1 (every scaled op has an unscaled equivalent), in the reverse direction.
    """
    check_program(program, "adapt")
    if program.scheme is not None and program.scheme.name != regular.name:
        raise ProgramError(f"adapt: {name_of(program)} runs under {program.scheme.name!r}, expected 'regular'")
    if parameters is None:
        parameters = program.initial_parameters(regular, np.random.default_rng(seed))
    batch = next_batch(program, program.batches(np.random.default_rng(seed)))
    try:
        return _adapted(program, parameters, batch, unit if base is None else base)
    except FactorError as error:
        if base is not None:
            raise ProgramError(f"adapt: {name_of(program)} under {base.name!r}: {error}") from error
    planned = plan(program)
    try:
        return _adapted(program, parameters, batch, planned)
    except FactorError as error:
        raise ProgramError(f"adapt: {name_of(program)}: {error}") from error


def _adapted(program: Program, parameters: Parameters, batch: Any, base: Unit) -> Adapted:
    """Adapt once, and compare with the original. Raises FactorError if the factors are not legal."""
    divided = sigmas(program, parameters)
    recording = Recording()
    tape = Tape(recording, dtype=np.float64)
    p = leaves(tape, program, parameters)
    total = checked_loss(program, p, batch).total
    solution = solve([total], recording, divided, base)
    adapted = Adapted(scheme(tape, p, solution), divisors(p, parameters, solution))
    found = parity(program, parameters, batch, adapted, solution)
    if not found.holds:
        where = f"{found.tensor} is the first tensor that differs" if found.tensor else f"worst: {found.parameter}"
        raise ProgramError(
            f"adapt: {name_of(program)} differs after adaptation, its loss by {found.loss:.2g} and its gradients by "
            f"{found.gradient:.2g}, expected at most {found.tolerance:.2g}; {where}"
        )
    return replace(adapted, difference=max(found.loss, found.gradient))


def sigmas(program: Program, parameters: Parameters) -> dict[str, float]:
    """Compute the RMS of every matrix, by name; biases and gains have no entry."""
    return {
        name: finite_sigma(name, float(np.mean(np.square(parameters[name], dtype=np.float64))))
        for name, spec in program.specs.items()
        if spec.role not in ("bias", "gain")
    }


def scheme(tape: Tape, p: Tensors, solution: Solution) -> AdaptedScheme:
    """Make the scheme of a solved graph, from its tape and parameters ``p``."""
    own = {t.variable for t in p.values() if t.variable.requires_grad}
    steps = []
    for node in tape.nodes:
        shapes = tuple(v.shape for v in node.inputs)
        places = tuple(i for i, v in enumerate(node.inputs) if v in own)
        steps.append(Step(node.output.name, node.op, shapes, node.scales, node.scales, (), places))
    return AdaptedScheme(steps=tuple(steps), solved=solution.calls)


def divisors(p: Tensors, parameters: Parameters, solution: Solution) -> dict[str, float]:
    """Return the divisor of each parameter, by name; 1 for an unused parameter."""
    return {name: solution.scales.get(p[name].variable, 1.0) for name in parameters}


class AdaptedProgram(Program):
    """An adapted program, which starts with its trained parameters.

    Args:
        program: a program trained under the regular scheme.
        adapted: result of ``adapt``.
        parameters: trained parameters.
    """

    def __init__(self, program: Program, adapted: Adapted, parameters: Parameters) -> None:
        self.program, self.adapted = program, adapted
        self.buffers, self.name, self.digest = program.buffers, name_of(program), digest(program)
        self.start = adapted.unit(parameters)

    @property
    def specs(self) -> Specs:
        """Specs of the regular program."""
        return self.program.specs

    @property
    def scheme(self) -> Unit:
        """The adapted scheme."""
        return self.adapted.scheme

    def loss(self, p: Tensors, batch: Any, rng: np.random.Generator | None = None) -> Any:
        """Loss of the regular program, on tensors of the adapted one."""
        return self.program.loss(p, batch, rng)

    def batches(self, rng: np.random.Generator) -> Iterator[Any]:
        """Batches of the regular program."""
        return self.program.batches(rng)

    def initial_parameters(self, scheme: Scheme, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """The trained parameters over their divisors."""
        return dict(self.start)

    def validation(self, rng: np.random.Generator) -> Sequence[Any]:
        """Validation batches of the regular program."""
        return self.program.validation(rng)

    def observe(self, batch: Any, loss: Any) -> Any:
        """Observation of a batch by the regular program."""
        return self.program.observe(batch, loss)

    def score(self, observed: Sequence[Any]) -> Scores:
        """Scores by the regular program."""
        return self.program.score(observed)


def adapted_program(program: Program, seed: int = 0) -> AdaptedProgram:
    """Adapt a program whose initial parameters are trained ones.

    Args:
        program: a program whose ``initial_parameters`` under the regular scheme are trained.
        seed: seed of the comparison, and of parameters that are drawn.
    """
    parameters = program.initial_parameters(regular, np.random.default_rng(seed))
    return AdaptedProgram(program, adapt(program, parameters, seed=seed), parameters)
