"""Lines of the package by part, and the modules of more than 400 lines.

    python -m tests.lines

This is a remark: nothing fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import refscale
from tests.core.test_structure import ORDER, part

ROOT = Path(refscale.__file__).parent
LONG = 400
"""Lines of a module above which a reader may ask whether it holds one concept or two."""


def count(root: Path) -> dict[str, int]:
    """Lines of every module below a folder, by its path from there."""
    return {p.relative_to(root).as_posix(): p.read_bytes().count(b"\n") for p in sorted(root.rglob("*.py"))}


def report(lines: dict[str, int]) -> Iterator[str]:
    """A line for each part in the order of the imports, the total, and a line for each long module."""
    parts: Counter[str] = Counter()
    for path, n in lines.items():
        parts[part(ROOT / path)] += n
    for name in sorted(parts, key=lambda name: ORDER.index(name) if name in ORDER else -1):
        yield f"{parts[name]:6}  {name}"
    yield f"{parts.total():6}  in {len(lines)} modules"
    for path, n in sorted(lines.items(), key=lambda row: -row[1]):
        if n > LONG:
            yield f"{n:6}  {path}: more than {LONG}"


if __name__ == "__main__":
    print("\n".join(report(count(ROOT))))
