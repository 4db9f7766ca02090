"""Checks of output paths."""

from __future__ import annotations

from pathlib import Path

from refscale.errors import ArgumentError
from refscale.files import check_output


def check_outputs(*paths: str | None, plot: str | None = None) -> None:
    """Check before a long run that the results can be written, ``plot`` as a figure; raise ArgumentError if not."""
    if plot:
        from refscale.analysis import check_plot

        check_plot(plot)
    for path in filter(None, paths):
        check_output(path)


def check_distinct(source: str, *paths: str | None) -> None:
    """Check that no result overwrites the source or another result; raise ArgumentError if one does."""
    taken = {Path(source).resolve()}
    for path in filter(None, paths):
        place = Path(path).resolve()
        if place in taken:
            raise ArgumentError(f"cannot write {path!r}: it is the source or another result")
        taken.add(place)
