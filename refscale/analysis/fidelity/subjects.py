"""The models that ``fidelity`` compares: a published BERT on text, or a user's program."""

from __future__ import annotations

import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale import models, ops, published
from refscale.adapt import Adapted, adapt
from refscale.data import load_text
from refscale.engine import Array, Op, Probe, Tape, Tensor, Variable, apply
from refscale.errors import ArgumentError, DataError, counted
from refscale.formats import quantize
from refscale.layers import Parameters, Specs, Tensors, count
from refscale.models import bert
from refscale.programs import Program, checked_loss, digest, leaves, name_of, next_batch
from refscale.scales import Scales, Scheme, Shape, get_scheme, regular
from refscale.tasks import masked_lm_batches


@dataclass(frozen=True, eq=False)
class Side:
    """A scheme, the model's parameters under it, and their divisors: own parameter / divisor = parameter under it."""

    name: str
    scheme: Scheme
    parameters: Parameters
    divisors: Mapping[str, float]


class Subject(ABC):
    """A trained model with one batch.

    Attributes:
        specs, parameters: specs and parameters of the model, under its own scheme.
        model, digest, objective: as in a ``FidelityReport``.
        scheme: name of the scheme of its training.
        adapted_name: name of the scheme beside ``regular``.
        padding: share of padding in the batch.
        contractions: names of the ops whose operands a policy may cast, each once, in the order of their calls.
    """

    specs: Specs
    parameters: Parameters
    model: str
    digest: str
    objective: str
    scheme: str
    adapted_name: str
    padding: float = 0.0
    contractions: tuple[str, ...]

    @abstractmethod
    def adapted(self) -> Adapted:
        """Return the model at unit scale."""

    @abstractmethod
    def own_scheme(self) -> Scheme:
        """Scheme of the model's training."""

    @abstractmethod
    def forward(self, tape: Tape, parameters: Parameters) -> tuple[Tensors, Tensor, list[NDArray[Any]]]:
        """Return parameters on the tape, the loss, and the outputs as rows."""

    def own(self) -> Side:
        """Return the model as it was trained."""
        return Side(self.scheme, self.own_scheme(), self.parameters, dict.fromkeys(self.parameters, 1.0))

    def side(self, name: str) -> Side:
        """Return the model under its own scheme, or at unit scale."""
        if name == self.scheme:
            return self.own()
        adapted = self.adapted()
        return Side(name, adapted.scheme, adapted.unit(self.parameters), adapted.divisors)


def scheme_names(trained: str, adapted: str, schemes: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the schemes to compare.

    Args:
        trained: name of the scheme of the model's training.
        adapted: name of the scheme beside ``regular``.
        schemes: requested schemes; None: all.

    Raises:
        ArgumentError: a scheme does not compute the model.
    """
    possible = (regular.name, adapted) if trained == regular.name else (trained,)
    names = tuple(dict.fromkeys(possible if schemes is None else schemes))
    if not names or not set(names) <= set(possible):
        expected = " and ".join(possible)
        raise ArgumentError(f"fidelity(schemes={names}): a model trained under {trained!r} has {expected}")
    return names


# --- A program --------------------------------------------------------------------------------------------------------


class ProgramSubject(Subject):
    """A user's program on its first batch; its output is the input of its losses.

    Args:
        program: program with trained parameters of its own, or of the argument ``parameters``.
        parameters: trained parameters; None: the program's initial ones.
        seed: random seed of batch and parameters.
    """

    adapted_name = "adapted"
    objective = "loss of the program"

    def __init__(self, program: Program, parameters: Parameters | None, seed: int) -> None:
        self.program, self.seed, self.specs = program, seed, program.specs
        self.model, self.digest = f"{name_of(program)}, {_size(program.specs)}", digest(program)
        own = self.own_scheme()
        self.scheme = own.name
        first = program.initial_parameters(own, np.random.default_rng(seed)) if parameters is None else parameters
        self.parameters = first
        self.batch = next_batch(program, program.batches(np.random.default_rng(seed)))
        tape = Tape(own)
        self.forward(tape, first)
        self.contractions = tuple(dict.fromkeys(node.op.name for node in tape.nodes if node.op.contraction))

    def own_scheme(self) -> Scheme:
        """Scheme of the program; regular if it has none."""
        return self.program.scheme or regular

    def adapted(self) -> Adapted:
        """Return the program at unit scale, see ``refscale.adapt``."""
        return adapt(self.program, self.parameters, seed=self.seed)

    def forward(self, tape: Tape, parameters: Parameters) -> tuple[Tensors, Tensor, list[NDArray[Any]]]:
        """Run the first batch; return parameters on the tape, the loss, and the outputs as rows."""
        outputs = _BeforeLosses(tape.probe)
        tape.probe = outputs
        p = leaves(tape, self.program, parameters)
        loss = checked_loss(self.program, p, self.batch)
        return p, loss.total, outputs.found


class _BeforeLosses:
    """A probe that stores the inputs of losses, and calls another probe."""

    def __init__(self, inner: Probe | None) -> None:
        self.inner = inner
        self.found: list[NDArray[Any]] = []
        self._values: dict[Variable, weakref.ref[Array]] = {}

    def __call__(self, direction: str, variable: Variable, array: Array) -> None:
        """Record a value, as a ``Probe`` does."""
        if self.inner:
            self.inner(direction, variable, array)
        if direction != "forward":
            return
        self._values[variable] = weakref.ref(array)
        if variable.reports and variable.node:
            for v in variable.node.inputs:
                value = self._values[v]() if v in self._values and v.requires_grad and not v.reports else None
                if value is not None:
                    self.found.append(value.reshape(-1, value.shape[-1] if value.ndim else 1))


def _size(specs: Specs) -> str:
    return f"{count(specs) / 1e6:.3g} million parameters"


# --- A published BERT -------------------------------------------------------------------------------------------------


def bert_contractions(config: bert.BertConfig) -> tuple[str, ...]:
    """Return the contractions of encoder and heads; a model without a masked-LM head runs no readout."""
    kinds = (ops.Matmul, ops.AttentionScores, ops.AttentionMix, *((ops.Readout,) if "mlm" in config.outputs else ()))
    return tuple(kind.name for kind in kinds)


class BertSubject(Subject):
    """A published BERT on real text; its output is that of the encoder, without padding.

    Args:
        model: model with a tokenizer.
        text: path of a UTF-8 text file; None: the text that comes with Python.
        batch: sequences.
        seq: tokens in each.
        seed: random seed of the choice of text, of masked words and of random numbers.

    Raises:
        DataError: the model has no tokenizer, or the text is not usable.
        ShapeError: seq is longer than the model's positions.
    """

    adapted_name = "unit"

    def __init__(self, model: published.Pretrained, text: str | Path | None, batch: int, seq: int, seed: int) -> None:
        if model.tokenizer is None:
            raise DataError("fidelity: the model has no tokenizer, expected one that can read text")
        self.config, self.parameters, self.digest, self.scheme = (
            *(model.config, model.parameters, model.digest, model.scheme),
        )
        self.specs = bert.specs(model.config)
        has_loss = "mlm" in model.config.outputs
        self.contractions = bert_contractions(model.config)
        self.objective = "mean projection"
        if has_loss:
            self.objective = "masked LM + next sentence" if "nsp" in model.config.outputs else "masked LM"
        self.model = f"BERT of {counted(model.config.layers, 'layer')}, width {model.config.width}, {_size(self.specs)}"
        rng = np.random.default_rng(seed)
        self.data = next(masked_lm_batches(load_text(text), model.tokenizer, batch=batch, seq=seq, rng=rng))
        self.padding = float(1 - self.data.mask.mean())
        self.numbers = None if has_loss else _numbers(self.data.mask, model.config.width, rng)

    def own_scheme(self) -> Scheme:
        """Scheme named in the checkpoint."""
        return get_scheme(self.scheme)

    def adapted(self) -> Adapted:
        """Return the model at unit scale, see ``published.adapt``."""
        return published.adapt(self.config, self.parameters)

    def forward(self, tape: Tape, parameters: Parameters) -> tuple[Tensors, Tensor, list[NDArray[Any]]]:
        """Return parameters, the pre-training loss (without a head ``MeanProjection``), and the outputs as rows."""
        p = models.parameters_on(tape, parameters, self.config)
        if self.numbers is None:
            losses = bert.pretraining_loss(p, self.data, self.config)
            loss, encoded = losses.total, losses.encoded
        else:
            encoded = bert.encode(p, self.config, self.data.ids, self.data.mask, self.data.segments)
            loss = apply(MeanProjection(), encoded, self.numbers.astype(encoded.tape.dtype))
        return p, loss, [encoded.value[self.data.mask]]


class MeanProjection(Op):
    """Σ x·r / N over all N elements, for fixed numbers r of RMS 1, as a substitute for a loss.

    The gradient is r/N: β = N. α = 1: the value is the loss.
    """

    inputs = ("x", "r")
    source = "closed form"
    homogeneity = ("own", None)
    constants = (1,)
    reports = True

    def forward(self, x: Array, r: Array) -> tuple[Array, tuple[Array]]:
        """Return the mean of x·r."""
        return np.asarray(np.vdot(x, r) / x.size).astype(x.dtype, copy=False), (r,)

    def backward(self, g: Array, r: Array) -> tuple[Array, None]:
        """Return g·r over the number of elements."""
        return g / r.size * r, None

    def scale(self, x: Shape, r: Shape) -> Scales:
        """Return the factors: β = N, α = 1."""
        return Scales(1.0, (float(math.prod(x)), None))


def _numbers(mask: NDArray[np.bool_], width: int, rng: np.random.Generator) -> Array:
    """Return N(0, 1) numbers (batch, seq, width), 0 at padding, rounded to bfloat16 so that no policy rounds them."""
    numbers = rng.standard_normal((*mask.shape, width)) * mask[:, :, None]
    return quantize(numbers, "bfloat16", rounding="nearest_even", overflow="saturate")
