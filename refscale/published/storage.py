"""``model.safetensors``, or the shards that ``model.safetensors.index.json`` lists.

Source: Hugging Face transformers, which prefers the single file if both exist; safetensors, the format.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.errors import ArgumentError, CheckpointError
from refscale.files import read_json
from refscale.published.subwords import EXTRA

Arrays = dict[str, NDArray[Any]]

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_tensors(directory: Path, call: str) -> tuple[Arrays, list[Path]]:
    """Read the tensors of a published model, 16-bit floats as float32; return them and the paths of their files.

    Args:
        directory: directory of the model.
        call: the function called, for messages.

    Raises:
        ArgumentError: the library is not installed.
        CheckpointError: a file is missing or damaged, or a shard does not contain the tensors that the index lists.
        OSError: a file cannot be read.
    """
    if (directory / WHOLE).is_file():
        return _read(directory / WHOLE, call), [directory / WHOLE]
    if not (directory / INDEX).is_file():
        raise CheckpointError(f"{call}: no file {WHOLE}, expected config.json and {WHOLE}{_instead(directory)}")
    shards = _shards(directory / INDEX, call)
    found: Arrays = {}
    for shard, listed in shards.items():
        tensors = _read(directory / shard, call)
        wrong = sorted(tensors.keys() ^ listed)
        if wrong:
            how = "does not contain" if wrong[0] in listed else "also contains"
            raise CheckpointError(f"{call}: {shard} {how} {wrong[0]}, expected the tensors that {INDEX} lists in it")
        found |= tensors
    return found, [directory / name for name in (INDEX, *shards)]


def _shards(index: Path, call: str) -> dict[str, set[str]]:
    """The names of the tensors of each shard, by file name in sorted order."""
    where = f"{call}: {INDEX}"
    weights = read_json(index, where, CheckpointError).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{where}: weight_map is {weights!r:.80}, expected file names by tensor")
    shards: dict[str, set[str]] = {}
    for tensor, shard in weights.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(f"{where}: {tensor} is in {shard!r:.80}, expected a .safetensors file beside it")
        shards.setdefault(shard, set()).add(tensor)
    missing = [shard for shard in sorted(shards) if not (index.parent / shard).is_file()]
    if missing:
        raise CheckpointError(f"{call}: no file {', '.join(missing)}, expected the files that {INDEX} lists")
    return dict(sorted(shards.items()))


def _instead(directory: Path) -> str:
    """Reason why the existing files cannot be used, if there are any."""
    for pattern, problem in (
        ("*-of-*.safetensors", f"cannot be put together without {INDEX}"),
        ("*.bin", "is not read, because it can contain code: save it as safetensors"),
    ):
        found = ", ".join(path.name for path in sorted(directory.glob(pattern)))
        if found:
            return f"; {found} {problem}"
    return ""


def _read(path: Path, call: str) -> Arrays:
    library = _safetensors(call)
    try:
        found: Arrays = library.numpy.load_file(path)
    except (library.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{call}: {path.name} is truncated, damaged or of another kind: {error}") from error
    return {name: x.astype(np.float32) if x.dtype.itemsize == 2 else x for name, x in found.items()}


def to_safetensors(tensors: Mapping[str, NDArray[Any]], call: str) -> bytes:
    """Return the content of a file with these tensors; raise ArgumentError if the library is not installed."""
    content: bytes = _safetensors(call).numpy.save(dict(tensors), metadata={"format": "pt"})  # as transformers expects
    return content


def _safetensors(call: str) -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ArgumentError(f"{call}: safetensors is missing: {EXTRA}") from error
    return safetensors
