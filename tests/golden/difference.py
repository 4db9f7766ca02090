"""What differs between two sets of golden vectors, by id: offsets in the files move when vectors are added.

    python -m tests.golden.difference        # the shipped set of the last commit, and that of the working tree
    python -m tests.golden.difference OLD    # a set in a directory, and that of the working tree

Exit status 1 if a vector of the old set is missing, or has other contents: texts aside (flags and comments).
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from refscale.golden import Vector, load

ROOT = Path(__file__).parents[2]
DATA = "refscale/golden/data"


def contents(vector: Vector) -> tuple[object, ...]:
    """What a vector demands of a backend: the call, its inputs and the expected bits."""
    arrays = [[(name, x.format, x.shape, x.sha256) for name, x in a.items()] for a in (vector.inputs, vector.outputs)]
    return vector.op, vector.attributes, *arrays, dict(vector.conventions)


def difference(old: Mapping[str, Vector], new: Mapping[str, Vector]) -> dict[str, list[str]]:
    """The ids of the vectors that were added, have changed, and are missing."""
    return {
        "added": [id for id in new if id not in old],
        "changed": [id for id in old if id in new and contents(old[id]) != contents(new[id])],
        "missing": [id for id in old if id not in new],
    }


def committed(folder: str) -> Path:
    """Write the shipped set of the last commit to a folder, and return its directory."""
    packed = subprocess.run(["git", "archive", "HEAD", DATA], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        files.extractall(folder, filter="data")
    return Path(folder) / DATA


def main(argv: list[str]) -> int:
    """Print the numbers of vectors, and the first ids that changed or are missing."""
    with tempfile.TemporaryDirectory() as folder:
        found = difference(load(argv[0] if argv else committed(folder)), load(ROOT / DATA))
    print(", ".join(f"{len(ids)} {what}" for what, ids in found.items()))
    wrong = [f"{what}: {id}" for what in ("changed", "missing") for id in found[what]]
    print(*wrong[:10], sep="\n", end="\n" if wrong else "")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
