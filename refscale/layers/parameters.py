"""Parameters as data: a flat mapping from path name to array; a ``Spec`` describes each parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from refscale.arrays import freeze
from refscale.engine import Tape, Tensor
from refscale.errors import ArgumentError, ShapeError
from refscale.scales import Role, Scheme, Shape, get_scheme

Parameters = Mapping[str, NDArray[Any]]
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Spec:
    """The description of one parameter: role, shape, depth, initial σ.

    Attributes:
        role: "weight", "embedding", "readout", "bias" or "gain".
        shape: (fan_in, fan_out) of a weight or readout, (rows, d) of an embedding, (n,) of a bias or gain.
        depth: number of additions of the residual stack that contains the parameter; 1 outside of stacks.
        std: initial σ under the regular scheme; None: the default of the model family or program.
        zero_gradient: why the true gradient is zero (the computed one consists of rounding errors); empty: it is not.
        unused: why a batch may give the parameter a zero gradient; empty: no batch should.
        zero_products: why products with the parameter are zero while it is zero; empty: they should not be.

    Reports show the three reasons, and do not check the scale of such tensors.

    Raises:
        ArgumentError: ``role`` is unknown, or ``std`` is not a positive number.
    """

    role: Role
    shape: Shape
    depth: int = 1
    std: float | None = None
    zero_gradient: str = ""
    unused: str = ""
    zero_products: str = ""

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ArgumentError(f"Spec({self.role!r}): expected one of {', '.join(get_args(Role))}")
        if self.std is not None and not 0 < self.std < math.inf:
            raise ArgumentError(f"Spec({self.role!r}, {self.shape}, std={self.std}): expected a positive number")


Specs = dict[str, Spec]


def glorot(spec: Spec) -> float:
    """Return √(2/(fan_in + fan_out)) for a weight or readout, 1 for an embedding. Source: Glorot and Bengio 2010."""
    *kernel, fan_in, fan_out = spec.shape
    return 1.0 if spec.role == "embedding" else float((2 / ((fan_in + fan_out) * math.prod(kernel))) ** 0.5)


def initialize(
    specs: Specs,
    scheme: str | Scheme,
    rng: np.random.Generator,
    std: Callable[[Spec], float] = lambda spec: 0.02,
    *,
    uniform: bool = False,
) -> dict[str, NDArray[Any]]:
    """Draw initial parameters: weights, embeddings and readouts N(0, σ²) with the scheme's σ, biases 0, gains 1.

    Args:
        specs: specs of the parameters, in the order in which they are drawn.
        scheme: the scheme that defines σ (regular: ``std(spec)``; unit: 1), or its name.
        rng: random generator.
        std: function from a spec to σ under the regular scheme; default: 0.02.
        uniform: draw from a uniform distribution on −√3·σ … √3·σ.

    Returns:
        float32 arrays by name, read-only. Source: paper, recipe, step 1.
    """
    scheme = get_scheme(scheme)
    values: dict[str, NDArray[Any]] = {}
    for name, spec in specs.items():
        if spec.role in ("weight", "embedding", "readout"):
            if uniform:
                values[name] = rng.uniform(-math.sqrt(3), math.sqrt(3), spec.shape).astype(np.float32)
            else:
                values[name] = rng.standard_normal(spec.shape, np.float32)
            values[name] *= np.float32(scheme.initial_std(std(spec)))
        else:
            values[name] = np.full(spec.shape, spec.role == "gain", np.float32)
        freeze(values[name])
    return values


def on_tape(tape: Tape, parameters: Parameters, specs: Specs) -> dict[str, Tensor]:
    """Make leaves of a tape from parameters.

    Raises:
        ShapeError: a name is missing or unknown, or a shape differs from the spec.
    """
    if parameters.keys() != specs.keys():
        wrong = sorted(parameters.keys() ^ specs.keys())
        raise ShapeError(f"on_tape: parameters missing or unknown: {', '.join(wrong[:5])} ({len(wrong)} in all)")
    for name, spec in specs.items():
        if parameters[name].shape != spec.shape:
            raise ShapeError(f"on_tape: {name} has shape {parameters[name].shape}, expected {spec.shape}")
    return {name: tape.tensor(parameters[name], name) for name in specs}


def count(specs: Specs) -> int:
    """Count scalar parameters."""
    return sum(math.prod(spec.shape) for spec in specs.values())
