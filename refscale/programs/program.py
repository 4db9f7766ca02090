"""The interface of a program: specs, a loss and batches; optionally buffers, initial σ, validation and score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from refscale.engine import Tape, Tensor
from refscale.errors import ProgramError, counted
from refscale.layers import Parameters, Spec, Specs, Tensors, glorot, initialize, on_tape
from refscale.scales import Scheme, regular

Scores = dict[str, float]
"""The scores of a validation, by name."""


class Loss(Protocol):
    """A loss with several parts."""

    @property
    def total(self) -> Tensor:
        """The objective: a scalar."""

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """The losses whose sum is ``total``, by name."""


class Program(ABC):
    """A model with its data, the input of report, predict, plan, flops and train.

    >>> import numpy as np
    >>> from refscale import functional as F
    >>> from refscale.layers import Spec
    >>> from refscale.programs import Program
    >>> class Line(Program):
    ...     specs = {"w": Spec("readout", (3, 1))}
    ...
    ...     def loss(self, p, batch, rng=None):
    ...         x, y = batch
    ...         return F.mse_loss(F.matmul(x, p["w"]), y)
    ...
    ...     def batches(self, rng):
    ...         while True:
    ...             x = rng.standard_normal((8, 3))
    ...             yield x, x.sum(-1, keepdims=True)

    Attributes:
        specs: role, shape and initial σ of every parameter, by name.
        name: name shown in reports; default: the name of the class, or the location it was loaded from.
        buffers: constant arrays by name, passed to ``loss`` with the parameters; not trained, not in checkpoints.
        scheme: the only scheme that the program runs under, such as a ``graph.Plan``, or a scheme with the constants of
            a trained model; None: any scheme.
        digest: SHA-256 of all files that the program depends on, in hexadecimal; empty: that of the file that defines
            it.
        memoryless: True if a batch depends only on the state of ``rng`` when it is drawn. If False, a resumed run draws
            all earlier batches again.
    """

    name: str = ""
    buffers: Mapping[str, NDArray[Any]] = MappingProxyType({})
    digest: str = ""
    memoryless: ClassVar[bool] = False
    if TYPE_CHECKING:  # an attribute or a property of a subclass

        @property
        def specs(self) -> Specs:
            """Role, shape and initial σ of every parameter, by name."""

        @property
        def scheme(self) -> Scheme | None:
            """The only scheme that the program runs under; None: any scheme."""
    else:
        scheme = None

    @abstractmethod
    def loss(self, p: Tensors, batch: Any, rng: np.random.Generator | None = None) -> Any:
        """Compute the loss of a batch.

        Args:
            p: parameters and buffers as tensors of one tape, by name.
            batch: an element of ``batches`` or ``validation``.
            rng: generator for dropout and other noise; None in validation.

        Returns:
            A scalar tensor, or a ``Loss``.
        """

    @abstractmethod
    def batches(self, rng: np.random.Generator) -> Iterator[Any]:
        """Yield training batches of any type, without end.

        Args:
            rng: generator for all random numbers; it has a new state for each batch.
        """

    def initial_std(self, spec: Spec) -> float:
        """Return the initial σ of a matrix under the regular scheme: that of its spec, or Glorot's."""
        return glorot(spec) if spec.std is None else spec.std

    def initial_parameters(self, scheme: Scheme, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Return the parameters before the first step, float32; see ``layers.initialize``."""
        return initialize(self.specs, scheme, rng, self.initial_std)

    def validation(self, rng: np.random.Generator) -> Sequence[Any]:
        """Return the validation batches, the same for every validation; default: none."""
        return ()

    def observe(self, batch: Any, loss: Any) -> Any:
        """Return the observation of a validation batch that ``score`` uses; default: the value of its loss.

        Args:
            batch: the batch.
            loss: the returned ``Loss``, or a ``Loss`` with the returned tensor as ``total``.
        """
        return float(loss.total.value)

    def score(self, observed: Sequence[Any]) -> Scores:
        """Compute the scores of a validation from the observations of its batches; default: their mean, as "loss"."""
        return {"loss": float(np.mean(observed))}

    def line(self, scores: Scores) -> str:
        """Format scores as one line of text."""
        return ", ".join(f"{name} {score:.4f}" for name, score in scores.items())

    def as_function(self, seed: int = 0) -> tuple[Callable[[Tensors], Tensor], dict[str, NDArray[Any]]]:
        """Return the loss of the first batch as a function of parameters, and initial parameters, for ``graph.plan``.

        Args:
            seed: seed of the batch and of the parameters.
        """
        batch = next_batch(self, self.batches(np.random.default_rng(seed)))

        def objective(p: Tensors) -> Tensor:
            return checked_loss(self, _with_buffers(self, p, next(iter(p.values())).tape), batch).total

        return objective, self.initial_parameters(regular, np.random.default_rng(seed))


# --- How instruments call a program -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _One:
    """A loss of one part."""

    total: Tensor
    parts: Mapping[str, Tensor]


def check_program(program: object, call: str) -> Program:
    """Check that an object is a program, and return it.

    Raises:
        ProgramError: it is not an instance of ``Program``, has no specs, or a buffer has the name of a parameter.
    """
    if isinstance(program, type) and issubclass(program, Program):
        raise ProgramError(f"{call}: got the class {program.__name__}, expected an instance, {program.__name__}()")
    if not isinstance(program, Program):
        raise ProgramError(f"{call}: got {type(program).__name__}, expected an instance of refscale.programs.Program")
    specs = getattr(program, "specs", None)
    if not isinstance(specs, Mapping) or not specs or not all(isinstance(s, Spec) for s in specs.values()):
        raise ProgramError(f"{call}: specs={specs!r}, expected a Spec for every parameter, by name")
    flat = [n for n, s in specs.items() if s.role in ("weight", "readout") and len(s.shape) < 2 and s.std is None]
    if flat:
        raise ProgramError(
            f"{call}: {flat[0]!r} is a {specs[flat[0]].role} of shape {specs[flat[0]].shape}, "
            "expected (fan_in, fan_out), or a spec with std"
        )
    if both := sorted(specs.keys() & program.buffers.keys()):
        raise ProgramError(f"{call}: {both[0]!r} is the name of a parameter and of a buffer, expected one of the two")
    return program


def name_of(program: Program) -> str:
    """Return the name of a program in reports."""
    return program.name or type(program).__name__


class _Named(dict[str, Tensor]):
    """Tensors by name; an unknown name is a mistake of the program, and said so."""

    def __missing__(self, name: str) -> Tensor:
        raise ProgramError(f"loss: p[{name!r}] has no spec, expected one of {', '.join(self)}")


def leaves(tape: Tape, program: Program, parameters: Parameters) -> Tensors:
    """Make leaves of a tape from parameters and buffers, by name; buffers are constants.

    Raises:
        ShapeError: names or shapes differ from the specs, see ``layers.on_tape``.
    """
    return _with_buffers(program, on_tape(tape, parameters, program.specs), tape)


def _with_buffers(program: Program, p: Tensors, tape: Tape) -> Tensors:
    buffers = {name: tape.tensor(x, name, requires_grad=False) for name, x in program.buffers.items()}
    return _Named({**p, **buffers})


def next_batch(program: Program, batches: Iterator[Any], number: int = 0) -> Any:
    """Return the next batch of the iterator that ``program.batches`` returned.

    Args:
        program: the program.
        batches: the iterator.
        number: number of batches drawn before, for messages.

    Raises:
        ProgramError: the iterator has ended, or the object is not an iterator.
    """
    try:
        return next(batches)
    except StopIteration:
        raise ProgramError(
            f"{name_of(program)}.batches ended after {counted(number, 'batch', 'batches')}, "
            "expected batches without end: while True: yield …"
        ) from None
    except TypeError:
        if isinstance(batches, Iterator):
            raise
        raise ProgramError(
            f"{name_of(program)}.batches returned {type(batches).__name__}, expected an iterator, such as a generator"
        ) from None


def checked_loss(program: Program, p: Tensors, batch: Any, rng: np.random.Generator | None = None) -> Loss:
    """Compute the loss of a batch, and check its type and shape.

    Raises:
        ProgramError: ``program.loss`` returned neither a scalar tensor nor a ``Loss`` with a scalar total.
    """
    found = program.loss(p, batch, rng)
    loss: Loss = _One(found, {}) if isinstance(found, Tensor) else found
    total = getattr(loss, "total", None)
    if not isinstance(total, Tensor):
        raise ProgramError(f"{name_of(program)}.loss returned {type(found).__name__}, expected a scalar tensor")
    if total.shape != ():
        raise ProgramError(
            f"{name_of(program)}.loss returned shape {total.shape}, expected a scalar, such as functional.mse_loss"
        )
    return loss


def first_loss(program: Program, tape: Tape, seed: int = 0) -> Loss:
    """Record the loss of the first batch at initialization on a tape.

    Args:
        program: the program.
        tape: the tape, whose scheme defines the initial σ.
        seed: seed of the batch and of the parameters.
    """
    batch = next_batch(program, program.batches(np.random.default_rng(seed)))
    parameters = program.initial_parameters(tape.scheme, np.random.default_rng(seed))
    return checked_loss(program, leaves(tape, program, parameters), batch)
