"""Lazy import of a package's names, and deprecation warnings for old names.

Imports nothing at the top, so that ``import refscale`` takes about a millisecond.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing's, without importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


def lazily(
    package: str, where: Mapping[str, Sequence[str]], old: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package (PEP 562) that import a name's module at its first use.

    Args:
        package: ``__name__`` of the package.
        where: by module of the package, the names that it defines; under "", submodules that are names themselves.
        old: by old name, the new name, prefixed with its package if that is another one. Use of the old name gives a
            DeprecationWarning. Remove the entry one version later.

    Returns:
        The two functions. For an unknown name, ``__getattr__`` raises AttributeError, which lists similar names.
    """
    modules = {name: module for module, names in where.items() for name in names}

    def get(name: str) -> Any:
        import sys
        from importlib import import_module

        if name in modules:
            module = modules[name]
            found = import_module(f"{package}.{module or name}")
            value = getattr(found, name) if module else found
            setattr(sys.modules[package], name, value)
            return value
        if old and name in old:
            import warnings

            new = old[name] if "." in old[name] else f"{package}.{old[name]}"
            warnings.warn(f"{package}.{name} is now {new}", DeprecationWarning, stacklevel=2)
            place, _, last = new.rpartition(".")
            return getattr(import_module(place), last)
        raise AttributeError(_unknown(package, name, known()))

    def known() -> list[str]:
        import sys

        return sorted({*vars(sys.modules[package]), *modules})

    return get, known


def _unknown(package: str, name: str, known: list[str]) -> str:
    """The message for a name that a package does not have."""
    message = f"module {package!r} has no attribute {name!r}"
    if name.startswith("_"):
        return message
    from difflib import get_close_matches
    from importlib.util import find_spec

    if find_spec(f"{package}.{name}"):
        return f"{message}; import {package}.{name}"
    near = get_close_matches(name, [n for n in known if not n.startswith("_")])
    return f"{message}; did you mean {' or '.join(near)}?" if near else message
