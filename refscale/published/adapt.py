"""A trained regular BERT as a unit-scaled one that computes the same function.

Every matrix W = σ·W′, with σ its RMS.  Walk through the model with s, the number by which a tensor of the regular model
is larger than that of the unit-scaled one:

* A product with W′ has s(y) = s(x)·σ/α.  Where what follows passes a scale on, α is unit scaling's, and s goes along
  (query, key, value, the ends of branches); where it does not, α = s(x)·σ, and s(y) = 1.
* The bias added to y is divided by s(y).
* A residual addition weights its two sides as trained: the branch by s(f) over the stream's s(x).
* A norm takes s away; its eps is divided by s².  Gains and biases of norms stay as they were trained.
* Scores of attention have α = s(q)·s(k), the trained temperature, whatever the lengths.

Nothing here is estimated from data: σ is a property of the weights, all else of shapes.  So activations are near unit
scale as far as trained weights act like random ones; ``refscale report --pretrained`` shows where they do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import ops
from refscale.arrays import freeze
from refscale.engine import Op
from refscale.errors import ArgumentError
from refscale.layers import Parameters
from refscale.models.bert.config import BertConfig
from refscale.scales import Call, Constraint, Shape, Unit, none, unit


@dataclass(frozen=True, eq=False)
class Adapted:
    """A scheme for the trained model, and what its parameters are divided by.

    Attributes:
        scheme: unit scaling with the constants of this model.
        divisors: regular parameter over unit-scaled one, by name; 1 where it stays as it was.
    """

    scheme: Unit
    divisors: Mapping[str, float]

    def unit(self, regular: Parameters) -> dict[str, NDArray[Any]]:
        """Parameters of the regular model as those of the unit-scaled one; dtypes stay; read-only."""
        return {name: freeze((x / self.divisors[name]).astype(x.dtype)) for name, x in regular.items()}

    def regular(self, unit: Parameters) -> dict[str, NDArray[Any]]:
        """The way back, also after training: rounded twice, so within an ulp or two."""
        return {name: freeze((x * self.divisors[name]).astype(x.dtype)) for name, x in unit.items()}


def adapt(config: BertConfig, regular: Parameters) -> Adapted:
    """The unit-scaled model that computes what a regular one computes.

    Args:
        config: of the model.
        regular: its parameters, under the scheme ``regular``.

    Returns:
        Scheme and divisors.  On a tape of that scheme, with ``adapted.unit(regular)``, encoder output, logits and
        losses are those of the regular model, rounding aside; gradients are a constant times the true ones, as
        ``graph.gradient_factors`` certifies.  (The mean-pooled output is √seq times its own, and dropout, which keeps
        the variance under unit scaling and the mean under the regular scheme, is another one.)

    Raises:
        ArgumentError: values="independent", where the scale of a mixture depends on how many values there are; or a
            matrix that is not finite.

    Source: paper, Proposition 5.1 (every scaled op has an unscaled equivalent), read backwards.
    """
    if config.values != "correlated":
        raise ArgumentError(f"adapt(values={config.values!r}): expected a model whose values are 'correlated'")
    return _Walk(config, regular).done()


class _Walk:
    """One walk through the model, filling ``constants`` and ``divisors``."""

    def __init__(self, config: BertConfig, regular: Parameters) -> None:
        self.config, self.regular = config, regular
        self.constants: dict[str, float] = {}
        self.divisors = dict.fromkeys(regular, 1.0)

    def done(self) -> Adapted:
        s = self.embeddings()
        for i in range(self.config.layers):
            s = self.residual(f"encoder.{i}.attention", s, self.attention, 2 * i + 1)
            s = self.residual(f"encoder.{i}.ffn", s, self.feed_forward, 2 * i + 2)
        if self.config.norm != "post":
            s = self.norm("encoder.norm", s)
        self.heads(s)
        return Adapted(Unit(trained=self.constants), self.divisors)

    def sigma(self, name: str) -> float:
        """RMS of a matrix, by which it is divided; 1 if it is all zero."""
        sigma = float(np.sqrt(np.mean(np.square(self.regular[name], dtype=np.float64))))
        if not math.isfinite(sigma):
            raise ArgumentError(f"adapt: {name} has an RMS of {sigma}, expected a finite one")
        self.divisors[name] = sigma or 1.0
        return self.divisors[name]

    def alpha(self, op: Op, *shapes: Shape, constraint: Constraint | None = None) -> float:
        """Unit scaling's forward factor, inside a branch unless a constraint is given."""
        return unit.scales(Call(op, shapes, constraint or self.config.constraint, (0,))).alpha

    def free(self, name: str, s: float) -> float:
        """A linear layer whose output passes its scale on; returns that."""
        shape = self.regular[f"{name}.weight"].shape
        s *= self.sigma(f"{name}.weight") / self.alpha(ops.Matmul(), (1, shape[0]), shape)
        self.divisors[f"{name}.bias"] = s
        return s

    def fixed(self, name: str, s: float) -> None:
        """A linear layer whose output must have the regular model's scale."""
        self.constants[name] = s * self.sigma(f"{name}.weight")

    def norm(self, name: str, s: float) -> float:
        """A norm: its output has the regular model's scale."""
        self.constants[name] = s**-2
        return 1.0

    def embeddings(self) -> float:
        places = ("embeddings.word", "embeddings.position", "embeddings.segment")
        self.constants |= {place: self.sigma(place) for place in places}
        return self.norm("embeddings.norm", math.hypot(*(self.constants[place] for place in places)))

    def residual(self, name: str, s: float, branch: Any, number: int) -> float:
        """A residual block of the stream with scale s; returns that of the stream after it."""
        placement, tau = self.config.norm, self.config.block.tau
        skip, weight = tau(1 if placement == "post" else number)
        f = branch(name, self.norm(f"{name}.norm", s) if placement == "pre" else s)
        if placement == "branch":
            f = self.norm(f"{name}.norm", f)
        self.constants[name] = weight * f / (skip * s)
        s = math.hypot(skip * s, weight * f)
        return self.norm(f"{name}.norm", s) if placement == "post" else s

    def attention(self, name: str, s: float) -> float:
        query, key, value = (self.free(f"{name}.{part}", s) for part in ("query", "key", "value"))
        self.constants[f"{name}.scores"] = query * key
        return self.free(f"{name}.output", value)  # softmax and mixture together have the factor 1

    def feed_forward(self, name: str, s: float) -> float:
        self.fixed(f"{name}.up", s)
        width = (1, self.config.hidden)
        return self.free(f"{name}.down", 1 / self.alpha(self.config.block.activation, width))

    def heads(self, s: float) -> None:
        """Of the encoder's output with scale s; their logits are the regular model's."""
        d = self.config.width
        if "mlm" in self.config.outputs:
            self.fixed("mlm.transform", s)
            self.norm("mlm.norm", 1 / self.alpha(self.config.block.activation, (1, d), constraint=none))
            decoder = "embeddings.word" if self.config.tied else "mlm.decoder.weight"
            self.constants["mlm.decoder"] = self.sigma(decoder)
        if self.config.pools:
            self.fixed("nsp.pooler", s)
        if "nsp" in self.config.outputs:
            self.fixed("nsp.classifier", 1 / self.alpha(ops.Tanh(), (1, d), constraint=none))
        if "span" in self.config.outputs:
            self.fixed("span", s)
