"""Markdown tables that are readable in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Table = Iterator[tuple[str, ...]]
"""Rows of cells; the first row is the head."""


def render(rows: Table) -> str:
    """Return a table; its columns are as wide as their widest cells."""
    table = list(rows)
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(w) for cell, w in zip(cells, widths, strict=True)) + " |"

    ruler = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([line(table[0]), ruler, *map(line, table[1:])])
