"""Comparison of the gradient of a scaled graph with a constant times the true gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refscale.engine import Tape, Tensor, backward
from refscale.errors import ArgumentError
from refscale.graph import gradient_factors
from refscale.scales import Call, Scales, Scheme, unit

Array = NDArray[Any]
Program = Callable[..., Tensor]
Inputs = ArrayLike | Mapping[str, ArrayLike]

RELATIVE = 1e-10
"""Relative tolerance: two float64 passes over the same terms, each off by 1e-15, and cancellation in their sums."""
NEGLIGIBLE = 1e-13
"""Rounding error of a gradient that is 0, such as that of a bias before a softmax: a part of the largest gradient."""


@dataclass(frozen=True)
class TrueGradients:
    """A scheme that repeats the factors α of a recorded run with β = α: plain backpropagation of the same function.

    Attributes:
        base: scheme of that run; defines everything except the factors.
        tape: tape of that run.
    """

    base: Scheme
    tape: Tape

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def scales(self, call: Call) -> Scales:
        """Return α of the recorded call, for its output and every gradient."""
        return plain(self.tape.nodes[call.index].scales)


def plain(scales: Scales) -> Scales:
    """Return α for the output and every gradient: the factors of the vjp of α·f."""
    return Scales(scales.alpha, tuple(None if b is None else scales.alpha for b in scales.beta))


def computed_and_true(
    program: Program, *inputs: Inputs, scheme: str | Scheme = unit, rng: np.random.Generator | None = None
) -> dict[str, tuple[Array, float, Array]]:
    """Run a program twice in float64, under a scheme and as plain backpropagation of the same function.

    Args:
        program: function of a Tensor for each array and a dict of Tensors for each mapping; returns the output. Its
            result must be the same at every call.
        inputs: arrays, or mappings from name to array.
        scheme: scheme of the first run, or its name.
        rng: source of the output's gradient, needed unless the output is a scalar.

    Returns:
        For every input with a gradient: the computed gradient, its constant c by ``graph.gradient_factors``, the true
        gradient. Inputs are named ``0``, ``1``, …, and those of a mapping by their names.

    Raises:
        FactorError: two consumers of a tensor require different constants.
        ArgumentError: the output is not a scalar, and there is no rng.
    """

    def run(chosen: str | Scheme) -> tuple[Tensor, dict[str, Tensor]]:
        tape = Tape(chosen, dtype=np.float64)
        named: dict[str, Tensor] = {}
        arguments: list[Any] = []
        for i, value in enumerate(inputs):
            if isinstance(value, Mapping):
                group = {name: tape.tensor(array, name) for name, array in value.items()}
                named |= group
                arguments.append(group)
            else:
                named[str(i)] = tape.tensor(value, f"input{i}")
                arguments.append(named[str(i)])
        return program(*arguments), named

    output, leaves = run(scheme)
    factors = gradient_factors(output)
    reference, true = run(TrueGradients(output.tape.scheme, output.tape))
    seed: Array = np.ones(output.shape)
    if output.value.size != 1:
        if rng is None:
            raise ArgumentError(f"computed_and_true: the output has shape {output.shape}: rng is needed")
        seed = rng.standard_normal(output.shape)
    backward(output, seed)
    backward(reference, seed)
    found: dict[str, tuple[Array, float, Array]] = {}
    for name, leaf in leaves.items():
        other = true[name].grad
        if leaf.grad is not None and other is not None:
            found[name] = (leaf.grad, factors[leaf.variable], other)
    return found


def assert_gradient_factor(
    program: Program,
    *inputs: Inputs,
    expected: Mapping[str, float] | None = None,
    scheme: str | Scheme = unit,
    rng: np.random.Generator | None = None,
    relative: float = RELATIVE,
) -> dict[str, float]:
    """Assert that every gradient computed under a scheme is one positive constant times the true one.

        ‖computed_i − c_i·true_i‖ <= relative·‖c_i·true_i‖, or rounding: 1e-13 of the largest gradient

    The true gradient is that of the function that the forward pass computes, by plain backpropagation. The constants
    are those that ``graph.gradient_factors`` predicts from the factors alone.

    Args:
        program: function of a Tensor for each array and a dict of Tensors for each mapping; returns the output.
        inputs: arrays, or mappings from name to array; run in float64.
        expected: known constants by name of the input ("0", "1", … or the mapping's); compared to 1e-9.
        scheme: scheme that defines the factors, or its name.
        rng: source of the output's gradient, needed unless the output is a scalar.
        relative: allowed relative distance.

    Returns:
        The constant of every input with a gradient.

    Raises:
        FactorError: two consumers of a tensor require different constants, so its gradient is wrong.
        AssertionError: a gradient is not its constant times the true one, or a constant is not the expected one.
        ArgumentError: the output is not a scalar and there is no rng, or ``expected`` contains an unknown name.

    Source:
        Paper, Theorem 5.2; the sharper criterion of ``refscale.graph``.

    Example:
        >>> from refscale import functional as F
        >>> from refscale.scales import fixed
        >>> rng = np.random.default_rng(0)
        >>> def block(x, w):
        ...     return F.residual(lambda h: F.linear(h, w), x, fixed(0.4))
        >>> c = assert_gradient_factor(block, rng.standard_normal((8, 4)), rng.standard_normal((4, 4)), rng=rng)
        >>> round(c["0"], 9), round(c["1"], 3)  # of the stream: the true one; of the weight: times β_w/(√τ·α)
        (1.0, 1.118)
    """
    found = computed_and_true(program, *inputs, scheme=scheme, rng=rng)
    if unknown := sorted((expected or {}).keys() - found.keys()):
        raise ArgumentError(f"assert_gradient_factor: expected names {', '.join(unknown)}, no input with a gradient")
    assert_multiples(found, relative)
    constants = {name: c for name, (_, c, _) in found.items()}
    for name, wanted in (expected or {}).items():
        c = constants[name]
        if not abs(c - wanted) <= 1e-9 * abs(wanted):
            raise AssertionError(f"the gradient of {name} is {c:.9g} times the true one, expected {wanted:.9g} times")
    return constants


def assert_multiples(found: Mapping[str, tuple[Array, float, Array]], relative: float = RELATIVE) -> None:
    """Assert that each computed gradient is its constant times the true one.

    Args:
        found: result of ``computed_and_true``.
        relative: allowed relative distance; for a gradient near 0, the rounding error of the largest gradient.

    Raises:
        AssertionError: a gradient is not; the message names the first.
    """
    largest = max((float(np.linalg.norm(c * true)) for _, c, true in found.values()), default=0.0)
    for name, (computed, c, true) in found.items():
        bound = max(relative * float(np.linalg.norm(c * true)), NEGLIGIBLE * largest)
        error = float(np.linalg.norm(computed - c * true))
        if not (c > 0 and error <= bound):
            raise AssertionError(
                f"the gradient of {name} is not {c:.9g} times the true one: off by {error:.3g}, allowed {bound:.3g}"
            )
