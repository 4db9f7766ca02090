"""A module by its place: a factory in a Python file, or an exported program; and example inputs by shape and kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.errors import ProgramError, shown
from refscale.modules import load_object

__all__ = ["EXPORTED", "ONNX", "example_arrays", "example_inputs", "load_exported", "load_module", "load_source"]

EXPORTED = ".pt2"
"""Suffix of the files of ``torch.export.save``."""
ONNX = ".onnx"
"""Suffix of ONNX models."""


def load_source(where: str, *, train: bool = True) -> tuple[Any, tuple[Any, ...] | None]:
    """A module in train or eval mode, and its inputs if they come with it.

    Args:
        where: place of a factory, see ``load_module``; or file of an exported program, see ``load_exported``.
        train: the mode; an exported program has the mode in which it was exported.

    Raises:
        ProgramError: it cannot be loaded, or an exported program is asked for eval mode.
    """
    if not where.endswith(EXPORTED):
        module, inputs = load_module(where)
        return module.train(train), inputs
    if not train:
        raise ProgramError(f"{where}: an exported program has the mode in which it was exported, expected no eval mode")
    return load_exported(where)


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
        raise ProgramError(f"module factory {where!r}: raised {type(error).__name__}: {shown(error)}") from error
    module, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise ProgramError(f"module factory {where!r}: returned {type(module).__name__}, expected torch.nn.Module")
    return module, None if inputs is None else tuple(inputs)


def load_exported(path: str | Path) -> tuple[Any, tuple[Any, ...] | None]:
    """Return the exported program in a file as a module, and the example inputs in the file.

    ``torch.export.load`` unpickles parts of some files: load files of trusted sources only, as with a factory, whose
    code is run.

    Args:
        path: a file of ``torch.export.save``.

    Raises:
        ProgramError: torch cannot load it, or example inputs are passed by keyword.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise ProgramError(f"exported program {str(path)!r}: no such file")
    try:
        exported = torch.export.load(path)
        module = exported.module()
    except Exception as error:
        raise ProgramError(f"exported program {str(path)!r}: torch.export.load: {shown(error)}") from error
    args, kwargs = exported.example_inputs or (None, {})
    if kwargs:
        raise ProgramError(f"exported program {str(path)!r}: inputs {', '.join(kwargs)} by keyword, expected none")
    _tie(module)
    return module, args


def _tie(module: Any) -> None:
    """Make parameters that share their memory one parameter again: a file has tied parameters as two."""
    first: dict[Any, Any] = {}
    for name, parameter in list(module.named_parameters()):
        key = parameter.data_ptr(), parameter.shape, parameter.stride()
        owner, _, last = name.rpartition(".")
        if parameter.numel():
            setattr(module.get_submodule(owner), last, first.setdefault(key, parameter))


def example_inputs(texts: Sequence[str], seed: int = 0) -> tuple[Any, ...]:
    """Example inputs by shape and kind, as torch tensors.

    Args:
        texts: "2,8,32" for N(0, 1) of that shape; "2,12<100" for integers from 0 to 99.
        seed: the seed of the values.

    Raises:
        ProgramError: a text is neither.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def draw(shape: tuple[int, ...], below: int) -> Any:
        return torch.randint(below, shape, generator=generator) if below else torch.randn(shape, generator=generator)

    return _drawn(texts, draw)


def example_arrays(texts: Sequence[str], seed: int = 0) -> tuple[NDArray[Any], ...]:
    """Return example inputs by shape and kind as NumPy arrays; arguments and errors are those of ``example_inputs``."""
    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...], below: int) -> NDArray[Any]:
        return rng.integers(below, size=shape) if below else rng.standard_normal(shape, np.float32)

    return _drawn(texts, draw)


def _drawn(texts: Sequence[str], draw: Callable[[tuple[int, ...], int], Any]) -> tuple[Any, ...]:
    """Inputs by a function of shape and kind; ProgramError for one that does not fit in memory or in 64 bits."""
    found = []
    for text in texts:
        shape, below = _kind(text)
        try:
            found.append(draw(shape, below))
        except (MemoryError, RuntimeError, TypeError, ValueError) as error:  # torch's and NumPy's
            raise ProgramError(f"input {text!r}: {shown(error)}") from error
    return tuple(found)


def _kind(text: str) -> tuple[tuple[int, ...], int]:
    """The shape of an input, and the number that its integers are below; 0: it has normal values."""
    match = re.fullmatch(r"([0-9]+(?:,[0-9]+)*)(?:<([0-9]+))?", text)
    if match is None or not all(map(int, match[1].split(","))) or (match[2] and not int(match[2])):
        raise ProgramError(f"input {text!r}: expected a shape such as 2,8,32, or 2,12<100 for integers below 100")
    return tuple(int(n) for n in match[1].split(",")), int(match[2] or 0)
