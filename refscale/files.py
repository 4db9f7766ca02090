"""Files written whole or not at all, text, JSON and arrays read with care, directories that one process holds.

Every text, JSON and TOML file of the package is read here, by one set of rules:

* UTF-8.  One byte order mark at the start of a file is skipped, whatever the file is.
* A line ends at "\\n" or "\\r\\n".  No other character ends one: U+2028 and U+0085 are text.
* A file has at most ``DATA`` bytes, settings at most ``SETTINGS``; objects and arrays are nested at most ``DEEPEST``
  deep.
* JSON is that of RFC 8259: no NaN and no Infinity, no number beyond float64, no name twice in an object, no lone
  surrogate.  The outermost value is an object.

An error names the file and the place in it.  A file that cannot be opened raises the OSError of ``open``.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import sys
import tempfile
import zipfile
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from refscale.errors import DataError, InUseError, RefscaleError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

Source: TypeAlias = "str | Path | Traversable"
"""A path, or a file of a package, which may be in a zip."""

if sys.platform != "win32":
    import fcntl


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it; on any error nothing is left.

    A link is followed.  What is no regular file (a device, a pipe) is written to, not replaced.

    Args:
        path: the file to make or replace.
        write: takes an open binary file.

    Raises:
        OSError: the directory does not exist or cannot be written to.
    """
    path = Path(path).resolve()
    with naming(path):
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                write(file)
            return
        handle, name = tempfile.mkstemp(prefix=".refscale.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())  # the name must not outlive its content in a power cut
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp's own mode keeps others out
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError, such as of a full disk, the name of the file that was written."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8, atomically.  Raises OSError."""
    write_atomically(path, lambda file: file.write(text.encode()))


def json_text(content: object, indent: int | None = None) -> str:
    """Return plain values as JSON text: the one JSON writer, golden vectors and published models' files aside.

    JSON has no infinity and no NaN.  Such a number becomes the string "inf", "-inf" or "nan", which ``float`` reads
    back: readers apply ``float`` to every field that is a float.

    Args:
        content: dicts, lists, tuples, strings, numbers, True, False and None.
        indent: spaces per level; None: a single line.

    Raises:
        TypeError: another value.
    """
    return json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(x: Any) -> Any:
    """Replace each float that is not finite by its name."""
    if isinstance(x, dict):
        return {key: _finite(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_finite(value) for value in x]
    return str(float(x)) if isinstance(x, float) and not math.isfinite(x) else x


def write_json(path: str | Path, content: object) -> None:
    """Write ``json_text`` to a file, atomically.  Raises OSError."""
    write_text(path, json_text(content, indent=1) + "\n")


def append_line(path: str | Path, line: str, durable: bool = False) -> None:
    """Add a line to a file.  After an error, such as a full disk, it may end in a part of the line.

    Args:
        path: made if it is not there.
        line: without its end.
        durable: it is on the disk when this returns.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    with naming(path), path.open("ab") as file:
        file.write((line + "\n").encode())
        if durable:
            file.flush()
            os.fsync(file.fileno())


# --- Reading text and JSON --------------------------------------------------------------------------------------------

SETTINGS, DATA = 1 << 24, 1 << 30
"""Longest file in bytes: of settings, of data.  The objects of JSON take up to 30 times its length in memory."""

DEEPEST = 64
"""Levels of nested objects and arrays, the outermost included.  The formats read here have at most 10."""

_CHUNK = 1 << 20

Failure = type[RefscaleError]
"""Class of the error to raise."""


def read_text(path: Source, where: str, failure: Failure = DataError, most: int = DATA) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Args:
        path: file to read.
        where: the call and, unless the call names it, the file; each error begins with it.
        failure: class of the error.
        most: longest file, in bytes.

    Raises:
        ``failure``: the file is longer, or is not UTF-8.
        OSError: the file cannot be read.
    """
    return _decoded(_read(path, where, failure, most), where, failure).removeprefix("\ufeff")


def read_lines(path: Source, where: str, failure: Failure = DataError, most: int = DATA) -> list[str]:
    """The lines of a UTF-8 file without their ends; arguments and errors as of ``read_text``."""
    *lines, rest = read_text(path, where, failure, most).split("\n")
    return [line.removesuffix("\r") for line in (*lines, *filter(None, [rest]))]


def read_json(path: Source, where: str, failure: Failure = DataError, most: int = SETTINGS) -> dict[str, Any]:
    """The object in a JSON file; arguments and errors as of ``read_text``, and ``failure`` if it is not valid JSON."""
    return parse_json(read_text(path, where, failure, most), where, failure)


def read_json_lines(path: Source, where: str, failure: Failure = DataError) -> Iterator[dict[str, Any]]:
    """The objects of a file with one a line, each as of ``read_json``.

    What follows the last line end is a line that a crash cut off, and is ignored.
    """
    lines = _read(path, where, failure, DATA).removeprefix(BOM_UTF8).split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        yield parse_json(line, f"{where}, record {number}", failure)


def read_toml(path: Source, where: str, failure: Failure = DataError) -> dict[str, Any]:
    """The table in a TOML file; arguments and errors as of ``read_text``, and ``failure`` if it is not valid TOML."""
    import tomllib  # late: few commands need it

    text = read_text(path, where, failure, SETTINGS)
    try:
        content = tomllib.loads(text)
    except RecursionError:
        raise _too_deep(where, failure) from None
    except tomllib.TOMLDecodeError as error:
        raise failure(f"{where}: not valid TOML: {error}") from error
    _check_depth(content, where, failure)
    return content


def parse_json(text: str | bytes | bytearray, where: str, failure: Failure = DataError) -> dict[str, Any]:
    """The object in a JSON text.

    Args:
        text: JSON, or its UTF-8 bytes.
        where: the call and the file; each error begins with it.
        failure: class of the error.

    Raises:
        ``failure``: it is not UTF-8, not the JSON of RFC 8259, too deep, or the outermost value is not an object.
    """
    text = text if isinstance(text, str) else _decoded(text, where, failure)
    odd: list[float] = []

    def number(digits: str) -> float:
        x = float(digits)
        if not math.isfinite(x):
            odd.append(x)
        return x

    try:
        content = json.loads(text, object_pairs_hook=_object, parse_float=number, parse_constant=number)
    except RecursionError:
        raise _too_deep(where, failure) from None
    except ValueError as error:
        raise failure(f"{where}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise failure(f"{where}: holds a {type(content).__name__}, expected an object")
    _check_depth(content, where, failure)
    if odd or _SURROGATE.search(text):  # looked for only then: the walk takes longer than the parser
        for place, value in _leaves(content):
            if isinstance(value, float) and not math.isfinite(value):
                raise failure(f"{where}: not valid JSON: {place} is {value}, expected a finite number")
            if isinstance(value, str) and (lone := _LONE.search(value)):
                raise failure(
                    f"{where}: {place} has the lone surrogate U+{ord(lone.group()):04X} at character {lone.start()}, "
                    "expected Unicode text"
                )
    return content


_LONE = re.compile("[\ud800-\udfff]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Escape of a surrogate in JSON, lone or of a pair."""


def _read(path: Source, where: str, failure: Failure, most: int) -> bytearray:
    data = bytearray()
    with (Path(path) if isinstance(path, str) else path).open("rb") as file:
        while len(data) <= most and (chunk := file.read(_CHUNK)):
            data += chunk
    if len(data) > most:
        raise failure(f"{where}: more than {most} bytes, the most that is read of such a file")
    return data


def _decoded(data: bytes | bytearray, where: str, failure: Failure) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise failure(
            f"{where}: byte 0x{byte:02x} at offset {error.start} is not UTF-8, expected a UTF-8 file"
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the name {twice!r} occurs twice in an object")
    return content


def _check_depth(content: dict[str, Any], where: str, failure: Failure) -> None:
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        level = [x for c in level for x in (c.values() if type(c) is dict else c) if type(x) is dict or type(x) is list]
        if not level:
            return
    raise _too_deep(where, failure)


def _too_deep(where: str, failure: Failure) -> RefscaleError:
    return failure(f"{where}: objects or arrays are nested more than {DEEPEST} deep")


def _leaves(content: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Names, and values other than containers, with their places, such as ``data[0].paragraphs[3].context``."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield f"a name in {place or 'the object'}", name
            yield from _leaves(value, f"{place}.{name}" if place else name)
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _leaves(value, f"{place}[{index}]")
    else:
        yield place, content


# --- Arrays, paths, directories ---------------------------------------------------------------------------------------


def npy_array(data: bytes) -> NDArray[Any]:
    """The array of a .npy file (version 1.0), a read-only view of ``data``.

    The header is held to the bytes that are there, so that none makes us allocate more; nothing is unpickled.

    Raises:
        ValueError: it is no such file, or promises more or fewer bytes than it has.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version}, expected (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # NumPy tokenizes and evaluates a header, with all that these may raise
        raise ValueError(f"its header: {error}") from None
    size = len(data) - file.tell()
    if dtype.hasobject or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"its header says {dtype} of shape {shape}, and {size} bytes follow")
    flat = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def write_npz(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name, stored and not compressed, atomically; the same arrays always give the same bytes.

    In place of ``numpy.savez``, which before NumPy 2.2 leaves the zip open after an error and stores ``allow_pickle``
    as an array.

    Raises:
        OSError: the file cannot be written.
        ValueError: an array holds Python objects.
    """

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as members:
            for name, array in arrays.items():
                with members.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)

    write_atomically(path, write)


def path_text(path: str | Path) -> str:
    """A path as text that can be written: bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def name_of(path: str | Path) -> str:
    """The last part of a path as text."""
    return path_text(Path(path).resolve().name)


@contextmanager
def locked(directory: str | Path, call: str) -> Iterator[None]:
    """Hold a directory: while the ``with`` block runs, no other process can.

    The lock is the operating system's, so that it ends with the process, whatever ends that; the file ``.lock`` stays.
    On Windows nothing is held.

    Args:
        directory: that exists.
        call: named in the error.

    Raises:
        InUseError: another process holds it, which is named.
    """
    if sys.platform == "win32":
        yield
        return
    with (Path(directory) / ".lock").open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            file.seek(0)
            holder = file.read(20).decode("ascii", "replace").strip() or "unknown"
            raise InUseError(f"{call}: {str(directory)!r} is in use by process {holder}") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n".encode())
        file.flush()
        yield
