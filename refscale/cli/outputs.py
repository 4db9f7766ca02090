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
