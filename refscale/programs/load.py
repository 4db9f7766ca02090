"""Loading of a program by location, ``mine.py:model``, and its digest."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

from refscale.errors import ProgramError
from refscale.files import json_text
from refscale.models import NAMES
from refscale.modules import load_object
from refscale.programs.program import Program, check_program


def is_place(text: str) -> bool:
    """Return whether a text is the location of a program, ``path/to/file.py:NAME`` or ``module:NAME``."""
    place, colon, name = text.rpartition(":")
    return bool(colon and place and name.isidentifier() and place not in NAMES)


def load_program(where: str) -> Program:
    """Load a program by name from a Python file or an importable module.

    Args:
        where: "path/to/file.py:NAME" or "module:NAME"; NAME is a ``Program``, or a subclass without arguments.

    Returns:
        The program. If it has no digest, its digest is that of the file and of the file that defines its class; if it
        has no name, its name is ``where``.

    Raises:
        ProgramError: the location cannot be imported, or the object is not a program.
    """
    program, file = load_object(where, "program", ProgramError, "model")
    if isinstance(program, type) and issubclass(program, Program):
        try:
            program = program()
        except Exception as error:
            raise ProgramError(f"program {where!r}: raised {type(error).__name__}: {error}") from error
    found = check_program(program, f"program {where!r}")
    if not found.digest:
        content = hashlib.sha256()
        for path in _files(found, file):
            content.update(path.read_bytes())
        object.__setattr__(found, "digest", content.hexdigest())
    if not found.name:
        object.__setattr__(found, "name", where)
    return found


def _files(program: Program, file: Path | None) -> list[Path]:
    """The file that was named, and that of the class where it is another one."""
    of_class = Path(inspect.getfile(type(program)))
    return [of_class] if file is None or file.resolve() == of_class.resolve() else [file, of_class]


def digest(program: Program) -> str:
    """Return the SHA-256 of a program in hexadecimal: its own digest, or that of the file that defines its class.

    For a class without a file, as in a console, it is the digest of the specs.
    """
    if program.digest:
        return program.digest
    try:
        content = Path(inspect.getfile(type(program))).read_bytes()
    except (TypeError, OSError):
        content = json_text([[name, s.role, list(s.shape)] for name, s in program.specs.items()]).encode()
    return hashlib.sha256(content).hexdigest()
