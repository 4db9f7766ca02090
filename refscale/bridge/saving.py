"""A unit-scaled module as two files: Python that rebuilds it, and the original's values as an ``.npz``.

The Python file names the factory (or the exported program) and the settings, and calls ``rebuild``.  Nothing is
pickled.  The values are those of the original module, so the same plan or adaptation results.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from keyword import iskeyword
from pathlib import Path
from typing import Any

import numpy as np

from refscale.adapt import adapt
from refscale.bridge.bring import Brought, Weights
from refscale.bridge.importing import from_torch
from refscale.bridge.module import to_torch
from refscale.bridge.sources import EXPORTED, load_source
from refscale.errors import ProgramError, shown
from refscale.files import json_text, write_npz, write_text
from refscale.graph import Plan, plan
from refscale.precision import Precision

__all__ = ["check_module_path", "rebuild", "save_module"]

_FILE = '''"""{name} under {scheme}, written by ``refscale bring {source} --module {file}``.

Needs refscale, torch, {source} and {values} beside this file.

    from {stem} import make

    module = make()                                             # a torch.nn.Module in the mode of the original
    optimizer = torch.optim.Adam(module.parameter_groups(lr=2**-6))
    loss = module.loss(module(inputs), target)                  # the loss has factors, too
    module.state_dict()                                         # the parameter names of {name}

The outputs are {output}.
"""

from pathlib import Path

from refscale.bridge import rebuild


def make(precision="fp32"):
    """The module; ``precision``, such as "fp8", simulates casts in float32."""
    return rebuild(
        Path(__file__).with_suffix(".npz"),
        {place},
        weights={weights},
        loss={loss},
        train={train!r},
        seed={seed!r},
        digest={digest},
        precision=precision,
    )
'''


def check_module_path(path: str) -> None:
    """Check the path of ``save_module``; raise ProgramError for one that Python cannot import by name."""
    stem = Path(path).stem
    if not path.endswith(".py") or not stem.isidentifier() or iskeyword(stem):
        raise ProgramError(f"--module {path!r}: expected a Python file such as scaled.py; {stem}.npz joins it")


def save_module(
    path: str | Path,
    found: Brought,
    source: str,
    module: Any,
    inputs: Sequence[Any],
    *,
    loss: str = "projection",
    train: bool = True,
    seed: int = 0,
) -> None:
    """Write the module under its plan or adaptation: a Python file with ``make()``, and an ``.npz`` beside it.

    Args:
        path: path of the Python file.
        found: the result of ``bring``.
        source: place of the factory or of the exported program.
        module, inputs, loss, train: what ``bring`` received.
        seed: random seed of the fresh weights, which only a module under a plan has.

    Raises:
        ProgramError: an input is not a tensor, the path is not that of a Python file, or a dropout or the batch's
            statistics stay on in eval mode.
    """
    import torch

    path = Path(path)
    check_module_path(str(path))
    if not train:
        found.program.check_eval_mode()
    if not all(isinstance(x, torch.Tensor) for x in inputs):
        raise ProgramError(f"--module {str(path)!r}: an input is not a tensor, expected tensors, which the file holds")
    weights: Weights = "fresh" if isinstance(found.scheme, Plan) else "own"
    arrays = {f"state/{name}": x for name, x in module.state_dict().items()}
    arrays.update({f"input/{i}": x for i, x in enumerate(inputs)})
    values = path.with_suffix(".npz")
    write_npz(values, {name: x.detach().cpu().numpy() for name, x in arrays.items()})
    scheme = "its unit-scaling plan" if weights == "fresh" else "the adaptation to its own values"
    output = "of the planned program, with fresh weights of unit variance"
    if weights == "own":
        output = "those of the original" if loss == "cross_entropy" else "those of the original over one constant"
    text = _FILE.format(
        name=found.program.name,
        scheme=scheme,
        output=output,
        source=source,
        file=path.name,
        values=values.name,
        stem=path.stem,
        place=_place(source, path),
        weights=json_text(weights),
        loss=json_text(loss),
        train=train,
        seed=seed,
        digest=json_text(found.program.digest),
    )
    write_text(path, text)


def _place(source: str, path: Path) -> str:
    """The place of a factory or exported program, in Python: relative to the written file, if it is a file."""
    file, colon, name = source.rpartition(":")
    if not file.endswith(".py") and not source.endswith(EXPORTED):
        return json_text(source)
    file = source if source.endswith(EXPORTED) else file
    try:
        relative = Path(os.path.relpath(file, path.parent)).as_posix()
    except ValueError:  # another drive
        return json_text(source)
    end = f' + ":{name}"' if colon and not source.endswith(EXPORTED) else ""
    return f"str(Path(__file__).parent / {json_text(relative)}){end}"


def rebuild(
    values: str | Path,
    source: str,
    *,
    weights: Weights,
    loss: str = "projection",
    train: bool = True,
    seed: int = 0,
    digest: str = "",
    precision: str | Precision = "fp32",
) -> Any:
    """Make the module that ``save_module`` wrote.

    Args:
        values: the ``.npz`` file.
        source: place of the factory or of the exported program.
        weights, loss, train, seed: settings of the call of ``save_module``.
        digest: expected digest of the program; empty: not compared.
        precision: see ``to_torch``.

    Returns:
        The module, in the mode of the original.

    Raises:
        ProgramError: the source cannot be loaded, does not accept the values, or makes another module than when it was
            saved.
    """
    import torch

    call = f"rebuild({str(values)!r}, {source!r})"
    module, _ = load_source(source, train=train)
    with np.load(values, allow_pickle=False) as found:
        arrays = {name: torch.tensor(found[name]) for name in found.files}
    state = {name.removeprefix("state/"): x for name, x in arrays.items() if name.startswith("state/")}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ProgramError(f"{call}: {shown(error)}") from error
    inputs = [arrays[f"input/{i}"] for i in range(len(arrays) - len(state))]
    program = from_torch(module, inputs, loss=loss)
    if digest and program.digest != digest:
        raise ProgramError(
            f"{call}: digest {program.digest}, expected {digest}: the source or the version of torch (now "
            f"{torch.__version__}) has changed; run refscale bring again"
        )
    scheme = plan(program) if weights == "fresh" else adapt(program)
    return to_torch(program, scheme, precision, seed=seed).train(train)
