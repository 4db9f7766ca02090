"""Schemes by name, with options."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from refscale.errors import ArgumentError
from refscale.scales.multipliers import Multipliers
from refscale.scales.schemes import Scheme, UMup, Unit, authors, munit, regular, u_mup, unit
from refscale.spellings import read_number, read_options, split_name

SCHEMES: dict[str, Scheme] = {s.name: s for s in (regular, unit, Unit("unit-rms", "rms"), authors, u_mup, munit)}

_ROWS = {"independent": 0.0, "alike": 1.0}


def get_scheme(scheme: str | Scheme) -> Scheme:
    """Return the scheme of a name; a scheme is returned unchanged.

    Args:
        scheme: a name, with options if the scheme has any: ``unit:rows=alike,embeddings=v/b`` is the rule of the
            authors' code. ``rows`` is "independent", "alike" or a correlation from 0 to 1; ``embeddings`` "sqrt(v/b)"
            or "v/b"; ``rates`` "unit" or "regular"; see ``Unit``. The options of ``u-mup`` are those of
            ``Multipliers``: ``u-mup:residual=2,attention_ratio=0.5``.

    Raises:
        ArgumentError: the name, an option or its value is unknown.
    """
    if isinstance(scheme, str) and scheme in SCHEMES:
        return SCHEMES[scheme]
    if isinstance(scheme, str | type) or not hasattr(scheme, "scales"):
        name, rest = split_name(scheme) if isinstance(scheme, str) else ("", None)
        if rest is None or name not in SCHEMES:
            raise ArgumentError(f"get_scheme({scheme!r}): expected one of {', '.join(SCHEMES)}, or a Scheme")
        return _with_options(str(scheme), SCHEMES[name], rest)
    return scheme


def _with_options(text: str, scheme: Scheme, rest: str) -> Scheme:
    call = f"get_scheme({text!r})"
    if not isinstance(scheme, Unit):
        raise ArgumentError(f"{call}: {rest.strip()!r}, expected no options for {scheme.name}")
    multipliers = tuple(f.name for f in fields(Multipliers)) if isinstance(scheme, UMup) else ()
    expected = (
        "rows=independent, rows=alike, rows=NUMBER from 0 to 1, embeddings=sqrt(v/b), embeddings=v/b, rates=unit or "
        "rates=regular"
    ) + "".join(f", or {name}=NUMBER above 0" for name in multipliers)
    changes: dict[str, Any] = {}
    factors: dict[str, float] = {}
    for option in read_options(rest, call, expected):
        try:
            match option.field, option.value:
                case "rows", str(value):
                    rows = _ROWS[value] if value in _ROWS else read_number(value)
                    if not 0 <= rows <= 1:
                        raise ValueError
                    changes["rows"] = rows
                case ("embeddings", "sqrt(v/b)" | "v/b") | ("rates", "unit" | "regular"):
                    changes[option.field] = option.value
                case name, str(value) if name in multipliers:
                    factors[name] = read_number(value)
                    changes["multipliers"] = Multipliers(**factors)
                case _:
                    raise ValueError
        except ValueError as error:
            raise ArgumentError(f"{call}: {option.text!r}, expected {expected}") from error
    found = replace(scheme, **changes)
    options = [
        *([f"rows={'alike' if found.rows == 1 else f'{found.rows:g}'}"] if found.rows else []),
        *([f"embeddings={found.embeddings}"] if found.embeddings != "sqrt(v/b)" else []),
        *([f"rates={found.rates}"] if found.rates != "unit" else []),
        *([str(found.multipliers)] if found.multipliers != Multipliers() else []),
    ]
    return replace(found, name=f"{scheme.name}:{','.join(options)}") if options else found


def base_name(scheme: str) -> str:
    """Return the name of a scheme without its options: ``unit`` for ``unit:rows=alike``."""
    return split_name(scheme)[0]
