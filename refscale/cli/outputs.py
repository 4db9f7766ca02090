"""Checks of output paths."""

from __future__ import annotations

from pathlib import Path

from refscale.errors import ArgumentError


def check_directories(*paths: str | None) -> None:
    """Check before a long run that the results can be written; raise ArgumentError if not."""
    for path in paths:
        if path and not Path(path).parent.is_dir():
            raise ArgumentError(f"cannot write {path!r}: there is no directory {str(Path(path).parent)!r}")
        if path and Path(path).is_dir():
            raise ArgumentError(f"cannot write {path!r}: it is a directory")


def check_distinct(source: str, *paths: str | None) -> None:
    """Check that no result overwrites the source or another result; raise ArgumentError if one does."""
    taken = {Path(source).resolve()}
    for path in filter(None, paths):
        place = Path(path).resolve()
        if place in taken:
            raise ArgumentError(f"cannot write {path!r}: it is the source or another result")
        taken.add(place)
