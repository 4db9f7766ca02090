"""Loading of a user's object by location: ``mine.py:model`` or ``package.module:model``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from refscale.errors import RefscaleError


def load_object(where: str, what: str, error: type[RefscaleError], example: str) -> tuple[Any, Path | None]:
    """Load an object by name from a Python file or an importable module.

    A file is run anew at every call. The current directory is searched for modules, as ``python -m`` does.

    Args:
        where: "path/to/file.py:NAME" or "module:NAME".
        what: the kind of object, for messages.
        error: class of the error to raise if loading fails.
        example: an example of a name, for messages.

    Returns:
        The object, and the path of the file; None for a module without a file.

    Raises:
        RefscaleError: of class ``error``: ``where`` is malformed; the file, module or name does not exist; or importing
            the module raised an exception.
    """
    place, colon, name = where.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise error(f"{what} {where!r}: expected module:{example} or path/to/file.py:{example}")
    if place.endswith(".py") and not Path(place).is_file():
        raise error(f"{what} {where!r}: no file {place}")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    except Exception as raised:
        raise error(f"{what} {where!r}: importing {place} raised {type(raised).__name__}: {raised}") from raised
    if not hasattr(module, name):
        raise error(f"{what} {where!r}: {place} has no {name}")
    file = getattr(module, "__file__", None)
    return getattr(module, name), None if file is None else Path(file)


def file_of(where: str) -> str:
    """The file of "path/to/file.py:NAME" or "module:NAME"; without a colon, the place itself."""
    place, colon, _ = where.rpartition(":")
    if not colon:
        return where
    if not place.endswith(".py") and all(part.isidentifier() for part in place.split(".")):
        _search_here()
        with suppress(Exception):  # loading reports it
            spec = importlib.util.find_spec(place)
            return (spec and spec.origin) or place
    return place


def _from_name(name: str) -> Any:
    _search_here()
    return importlib.import_module(name)


def _search_here() -> None:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _from_file(path: Path) -> Any:
    name = f"_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass looks its annotations up there
    spec.loader.exec_module(module)
    return module
