"""Parameters as data: a flat mapping from path name to array; a ``Spec`` says what each is."""

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
    """What one parameter is.

    Attributes:
        role: weight, embedding, readout, bias or gain.
        shape: (fan_in, fan_out) of a weight or readout, (rows, d) of an embedding, (n,) of a bias or gain.
        depth: number of additions of the residual stack that it belongs to; 1 outside.
        std: initial σ under the regular scheme; None: what the model's family or the program has for such a parameter.
        zero_gradient: why its gradient is zero, so that its computed gradient holds rounding errors; empty: it is not.
        unused: why a batch may give it a gradient of zero; empty: each gives it one.
        zero_products: why products with it are zero as long as it is; empty: they are not meant to be.

    The three reasons are shown in reports, which do not judge the scale of such tensors.

    Raises:
        ArgumentError: another role, or σ is not a positive number.
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
    """√(2/(fan_in + fan_out)) for a weight or readout, 1 for an embedding. Source: Glorot and Bengio 2010."""
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
    """Initial parameters: weights, embeddings and readouts N(0, σ²) with the scheme's σ, biases 0, gains 1.

    Args:
        specs: what to make, in order; the order and ``rng`` fix the values.
        scheme: decides σ (regular: ``std(spec)``; unit: 1); a scheme or its name.
        rng: source of randomness.
        std: customary σ of each under the regular scheme.
        uniform: draw from −√3·σ … √3·σ instead.

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
    """Parameters as leaves of a tape.

    Raises:
        ShapeError: a name is missing or unknown, or a shape is not that of its spec.
    """
    if parameters.keys() != specs.keys():
        wrong = sorted(parameters.keys() ^ specs.keys())
        raise ShapeError(f"on_tape: parameters missing or unknown: {', '.join(wrong[:5])} ({len(wrong)} in all)")
    for name, spec in specs.items():
        if parameters[name].shape != spec.shape:
            raise ShapeError(f"on_tape: {name} has shape {parameters[name].shape}, expected {spec.shape}")
    return {name: tape.tensor(parameters[name], name) for name in specs}


def count(specs: Specs) -> int:
    """Number of scalar parameters."""
    return sum(math.prod(spec.shape) for spec in specs.values())
