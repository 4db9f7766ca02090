"""Records in JSON files: a schema, the version that wrote them, and the content.

A schema is ``refscale.KIND/N``; N increases by one whenever readers of the previous schema could misread a record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeVar

from refscale import __version__
from refscale.errors import DataError
from refscale.files import Failure, json_text

_Record = TypeVar("_Record")


def record_content(schema: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``content`` preceded by ``schema`` and ``version``; without a time stamp, so that texts compare."""
    return {"schema": schema, "version": __version__, **content}


def record_text(schema: str, content: Mapping[str, Any], indent: int | None = 1) -> str:
    """Return ``record_content`` as JSON text that ends with a line feed."""
    return json_text(record_content(schema, content), indent) + "\n"


@contextmanager
def reading(call: str, writer: str, failure: Failure = DataError) -> Iterator[None]:
    """Convert the errors of malformed content into one that names the call and the expected writer.

    Args:
        call: the call with its arguments; the message begins with it.
        writer: the function or command that writes such content.
        failure: class of the error; errors of this class pass unchanged.

    Raises:
        ``failure``: a name is missing, or a value has another type; raised in place of ValueError, KeyError, TypeError
            and AttributeError.
    """
    try:
        yield
    except failure:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise failure(f"{call}: {type(error).__name__} {error}, expected what {writer} writes") from error


def check_schema(content: Mapping[str, Any], schema: str, call: str, failure: Failure = DataError) -> None:
    """Raise ``failure`` unless the content has this schema; KeyError if it has no schema."""
    if content["schema"] != schema:
        raise failure(f"{call}: schema is {content['schema']!r}, expected {schema!r}")


def dataclass_of(kind: type[_Record], content: Mapping[str, Any]) -> _Record:
    """Make a dataclass from the fields that ``json_text`` wrote; a float may be a string, such as "inf".

    Raises:
        KeyError: a field is missing.
        ValueError, TypeError: a float field is neither a number nor a string such as "inf".
    """
    values = {f.name: content[f.name] for f in fields(kind)}  # type: ignore[arg-type]
    floats = [f.name for f in fields(kind) if f.type in ("float", "float | None")]  # type: ignore[arg-type]
    return kind(**values | {name: float(values[name]) for name in floats if values[name] is not None})
