"""A set of golden vectors on disk: ``.npy`` arrays and JSON manifests, written atomically and checked byte by byte.

::

    manifest.json               schema and set version; SHA-256 of every file of vectors; schema: ``set.schema.json``
    README.md, formats.json     semantics and the table of formats, written by ``write`` (``guide``)
    FAMILY/manifest.json        arrays and vectors of one family; schema: ``manifest.schema.json``
    FAMILY/uint8.npy, …         the elements of all its arrays, one after the other, by the dtype of their codes

An array is ``{"format", "shape", "sha256", "file", "offset"}``: its elements are those of ``file`` from ``offset`` on,
in row-major order. Equal arrays are stored once. A bulk array has no ``file`` but a ``sample``: every ``step``-th
element from the first. A vector names its arrays by their position in the table.

    >>> from refscale.golden import load
    >>> vectors = load()
    >>> vector = vectors["cast/float8_e4m3fn/nearest_even/saturate/float32/ties"]
    >>> vector.op, vector.attributes["format"], vector.flags
    ('cast', 'float8_e4m3fn', ('tie-even', 'tie-zero'))
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.errors import GoldenError, RefscaleError
from refscale.files import naming, npy_array, parse_json, read_json
from refscale.golden.attributes import check_vector
from refscale.golden.conventions import TOPICS
from refscale.golden.families import FAMILIES
from refscale.golden.guide import GUIDE, guide_files
from refscale.golden.schema import FLAGS, OPS, Codes, Digest, Vector, code_dtype

Array = NDArray[Any]
Files = dict[str, bytes]

SCHEMA = 1
"""Version of the structure; a reader refuses other versions."""

SET = "1.6.0"
"""Version of the content. The first number changes with an expected bit, the second with added vectors, the third with
texts alone."""

DATA: Traversable = resources.files("refscale.golden") / "data"
"""The shipped set; for a zipped package, inside the zip."""

_SAMPLE = 64  # stored elements of a bulk array


# --- writing ----------------------------------------------------------------------------------------------------------


class _Pack:
    """The arrays of one family, each stored once."""

    def __init__(self, full: bool) -> None:
        self.full = full
        self.table: list[dict[str, Any]] = []
        self._known: dict[tuple[str, tuple[int, ...], str, bool], int] = {}
        self._places: dict[tuple[str, bytes], int] = {}
        self._parts: dict[str, list[Array]] = {}
        self._lengths: dict[str, int] = {}

    def add(self, array: Codes, bulk: bool) -> int:
        """Store an array and return its position in the table."""
        digest = array.sha256
        key = (array.format, array.shape, digest, bulk and not self.full)
        if key not in self._known:
            self._known[key] = len(self.table)
            self.table.append(
                {"format": array.format, "shape": list(array.shape), "sha256": digest, **self._put(array, bulk)}
            )
        return self._known[key]

    def _put(self, array: Codes, bulk: bool) -> dict[str, Any]:
        flat = array.codes.reshape(-1)
        if self.full or not bulk or flat.size <= _SAMPLE:
            return self._place(flat)
        step = math.ceil(flat.size / _SAMPLE)
        sample = flat[::step]
        return {"sample": {**self._place(sample), "step": step, "count": sample.size}}

    def _place(self, flat: Array) -> dict[str, Any]:
        name = f"{flat.dtype.name}.npy"
        key = (name, flat.tobytes())
        if key not in self._places:
            self._places[key] = self._lengths.get(name, 0)
            self._lengths[name] = self._places[key] + flat.size
            self._parts.setdefault(name, []).append(flat)
        return {"file": name, "offset": self._places[key]}

    def files(self) -> Files:
        """Return every .npy file, content by name."""
        return {name: _npy(np.concatenate(parts)) for name, parts in sorted(self._parts.items())}


def _npy(x: Array) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, x.astype(x.dtype.newbyteorder("<")), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def render(full: bool = False) -> Files:
    """Return every file of the set by its path; the same bytes on every machine.

    Args:
        full: whether to store bulk arrays whole.
    """
    files: Files = {}
    summary = {}
    for family in FAMILIES.values():
        pack, vectors = _Pack(full), []
        for v in family.generate():
            vectors.append(_entry(v, pack))
        own = pack.files()
        own["manifest.json"] = _family_manifest(family.name, family.title, pack.table, vectors)
        files |= {f"{family.name}/{name}": data for name, data in own.items()}
        summary[family.name] = {"title": family.title, "vectors": len(vectors)}
    top = {
        "schema": SCHEMA,
        "set": SET,
        "full": full,
        "families": summary,
        "ops": {name: dict(op) for name, op in OPS.items()},
        "flags": dict(FLAGS),
        "conventions": _topics(),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    files["manifest.json"] = (json.dumps(top, indent=1, ensure_ascii=False) + "\n").encode()
    return files


def _topics() -> dict[str, dict[str, Any]]:
    return {name: vars(topic) for name, topic in TOPICS.items()}


def _entry(v: Vector, pack: _Pack) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": v.id,
        "op": v.op,
        "attributes": v.attributes,
        "inputs": {name: pack.add(x, v.bulk) for name, x in v.inputs.items()},
        "outputs": {name: pack.add(x, v.bulk) for name, x in v.outputs.items()},
        "flags": list(v.flags),
        "comment": v.comment,
    }
    if v.conventions:
        entry["conventions"] = dict(v.conventions)
    return {**entry, "bulk": True} if v.bulk else entry


def _family_manifest(name: str, title: str, arrays: list[Any], vectors: list[Any]) -> bytes:
    """Return JSON with one array or vector on each line, for people and for differences between versions."""
    head = {"schema": SCHEMA, "set": SET, "family": name, "title": title}
    lines = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}," for k, v in head.items()]
    for key, entries in (("arrays", arrays), ("vectors", vectors)):
        rows = ",\n".join(json.dumps(e, ensure_ascii=False, separators=(",", ":"), allow_nan=False) for e in entries)
        lines.append(f'"{key}": [\n{rows}\n]' + ("," if key == "arrays" else ""))
    return ("{\n" + "\n".join(lines) + "\n}\n").encode()


def write(directory: str | Path, full: bool = False) -> int:
    """Generate the whole set and its guide into a directory, and return the number of bytes written.

    Args:
        directory: target, created if absent; an empty directory or a set is replaced as a whole.
        full: whether to store bulk arrays whole: hundreds of megabytes.

    Raises:
        GoldenError: the directory has other contents, which are not changed.
        OSError: the directory cannot be written.
    """
    target = Path(directory).resolve()
    if target.exists() and not _replaceable(target):
        raise GoldenError(f"golden write {directory}: not an empty directory, and no set of golden vectors")
    files = render(full)
    if target != Path(str(DATA)).resolve():  # the package is the guide of the shipped set
        files |= guide_files(_topics())
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, data in files.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            with naming(target / name):
                (temporary / name).write_bytes(data)
        temporary.chmod(0o755)
        if target.exists():
            old = temporary / ".old"
            target.replace(old)
            shutil.rmtree(old)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sum(map(len, files.values()))


def _replaceable(target: Path) -> bool:
    if not target.is_dir():
        return False
    if not any(target.iterdir()):
        return True
    try:
        return "families" in _json(target, "manifest.json")
    except GoldenError:
        return False


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GoldenSet(Mapping[str, Vector]):
    """Vectors by id, in the order of their families.

    Attributes:
        version: version of the content.
        full: whether bulk arrays are stored whole; otherwise each is a ``Digest``.
        vectors: all vectors.
        sha256: hash of the top manifest, which has the hash of every other file.
    """

    version: str
    full: bool
    vectors: Mapping[str, Vector]
    sha256: str = ""

    def __getitem__(self, id: str) -> Vector:
        if id not in self.vectors:
            raise GoldenError(f"golden vector {id!r}: no such id in set {self.version}")
        return self.vectors[id]

    def __contains__(self, id: object) -> bool:
        return id in self.vectors

    def __iter__(self) -> Iterator[str]:
        return iter(self.vectors)

    def __len__(self) -> int:
        return len(self.vectors)


def load(directory: str | Path | None = None) -> GoldenSet:
    """Read a set, and check every file and every array against its hash.

    Args:
        directory: directory of the set; None: the shipped set.

    Raises:
        GoldenError: a file is missing, damaged or edited; or the set has another schema version.
    """
    return _shipped() if directory is None else _load(Path(directory))


@cache
def _shipped() -> GoldenSet:
    """Return the installed set, which does not change while a process runs."""
    return _load(DATA)


def _load(root: Traversable) -> GoldenSet:
    top = _top(root)
    there = dict(_files(root))
    contents = {name: _checked_bytes(root, there, name, digest) for name, digest in top["files"].items()}
    vectors: dict[str, Vector] = {}
    for family in top["families"]:
        for v in _read_family(root, family, contents):
            if v.id in vectors:
                raise GoldenError(f"golden set {root}: two vectors have the id {v.id!r}")
            vectors[v.id] = v
    digest = hashlib.sha256((root / "manifest.json").read_bytes()).hexdigest()
    return GoldenSet(top["set"], bool(top["full"]), vectors, digest)


def check(directory: str | Path | None = None) -> int:
    """Load a set, generate it again, and compare every byte; return the number of vectors.

    Args:
        directory: directory as in ``load``.

    Raises:
        GoldenError: as in ``load``; or the set differs from the one that this version of the package generates.
    """
    root = DATA if directory is None else Path(directory)
    count = len(_load(root))
    full, version = _top(root)["full"], _top(root)["set"]
    if version != SET:
        raise GoldenError(f"golden check {root}: set {version}, but this version of refscale generates {SET}")
    files, there = render(bool(full)), dict(_files(root))
    for name, data in files.items():
        if name not in there or there[name].read_bytes() != data:
            raise GoldenError(f"golden check {root}: {name} is whole, but not what this version of refscale generates")
    if extra := sorted(there.keys() - files.keys() - set(GUIDE)):
        raise GoldenError(f"golden check {root}: files that belong to no set: {', '.join(extra[:5])}")
    return count


def _files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    """Yield every regular file below a folder, by its path; a manifest's name is looked up, never opened."""
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            yield from _files(entry, f"{name}/")
        elif entry.is_file():  # opening a pipe would block
            yield name, entry


def _top(root: Traversable) -> dict[str, Any]:
    top = _json(root, "manifest.json")
    if top.get("schema") != SCHEMA:
        raise GoldenError(
            f"golden set {root}: schema version {top.get('schema')!r}, this version of refscale reads {SCHEMA}"
        )
    for key, kind in (("set", str), ("full", bool), ("families", dict), ("files", dict)):
        if not isinstance(top.get(key), kind):
            raise GoldenError(f"golden set {root}: manifest.json has no {kind.__name__} {key!r}")
    return top


def _json(root: Traversable, name: str) -> dict[str, Any]:
    try:
        return read_json(root / name, f"golden set {root}: {name}", GoldenError)
    except FileNotFoundError:
        raise GoldenError(f"golden set {root}: {name} is missing") from None


def _checked_bytes(root: Traversable, there: Mapping[str, Traversable], name: str, digest: str) -> bytes:
    if name not in there:
        raise GoldenError(f"golden set {root}: {name} is missing")
    data = there[name].read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise GoldenError(f"golden set {root}: {name} has SHA-256 {found[:16]}…, expected {str(digest)[:16]}…")
    return data


def _read_family(root: Traversable, family: str, contents: Files) -> Iterator[Vector]:
    where = f"{family}/manifest.json"
    if where not in contents:
        raise GoldenError(f"golden set {root}: manifest.json lists no {where}")
    try:
        document = parse_json(contents[where], f"golden set {root}: {where}", GoldenError)
        for key in ("arrays", "vectors"):
            if not isinstance(document.get(key), list) or not document[key]:
                raise GoldenError(f"golden set {root}: {where} has no {key}, expected a list of at least one")
        files: dict[str, Array] = {}
        arrays = [_read_array(entry, family, contents, files) for entry in document["arrays"]]
        for v in document["vectors"]:
            check_vector(f"golden set {root}", v)
            inputs = {name: arrays[i] for name, i in v["inputs"].items()}
            outputs = {name: arrays[i] for name, i in v["outputs"].items()}
            bulk = v.get("bulk", False)
            # ``families.complete`` generates the arrays of a bulk vector that are digests here.
            if not bulk and any(isinstance(x, Digest) for x in (*inputs.values(), *outputs.values())):
                raise GoldenError(f"golden set {root}: {v['id']} has arrays without a file, expected a bulk vector")
            flags, conventions = tuple(v["flags"]), v.get("conventions", {})
            if unknown := set(conventions) - set(TOPICS):
                raise GoldenError(f"golden set {root}: {v['id']} has unknown conventions {', '.join(sorted(unknown))}")
            yield Vector(v["id"], v["op"], v["attributes"], inputs, outputs, flags, v["comment"], bulk, conventions)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, RefscaleError) as error:
        if isinstance(error, GoldenError):
            raise
        raise GoldenError(f"golden set {root}: {where} is not of schema {SCHEMA} ({error!r})") from error


def _read_array(entry: Mapping[str, Any], family: str, contents: Files, files: dict[str, Array]) -> Codes | Digest:
    """Return an array of the table; ``files`` caches the elements of every file read so far."""
    shape = tuple(entry["shape"])
    if "file" not in entry:
        return Digest(entry["format"], shape, entry["sha256"])
    name = f"{family}/{entry['file']}"
    if name not in contents:
        raise GoldenError(f"golden family {family}: an array is in {name}, which manifest.json does not list")
    if name not in files:
        files[name] = _elements(name, contents[name])
    flat = files[name]
    start, size = entry["offset"], math.prod(shape)
    if not 0 <= start <= start + size <= flat.size:
        raise GoldenError(f"golden family {family}: {name} ends before element {start + size}")
    codes = Codes(entry["format"], flat[start : start + size].astype(code_dtype(entry["format"])).reshape(shape))
    if codes.sha256 != entry["sha256"]:
        raise GoldenError(f"golden family {family}: the array at {start} of {name} has another SHA-256 than its entry")
    return codes


def _elements(name: str, data: bytes) -> Array:
    try:
        flat = npy_array(data)
    except ValueError as error:
        raise GoldenError(f"golden set: {name} is no .npy file ({error})") from None
    if flat.ndim != 1 or flat.dtype.kind not in "uib":
        raise GoldenError(f"golden set: {name} contains {flat.dtype} of shape {flat.shape}, expected integers in a row")
    return flat
