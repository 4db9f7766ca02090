"""Atomic writing of files, careful reading of text, JSON and arrays, and locks on directories.

This module reads every text, JSON and TOML file of the package, by one set of rules:

* UTF-8. One byte order mark at the start of any file is skipped.
* A line ends at "\\n" or "\\r\\n". Other characters do not end a line: U+2028 and U+0085 are text.
* A file has at most ``DATA`` bytes, settings at most ``SETTINGS``; objects and arrays are nested at most ``DEEPEST``
  deep.
* JSON is that of RFC 8259: no NaN and no Infinity, no number beyond float64, no name twice in an object, no lone
  surrogate. The outermost value is an object.

An error names the file and the place in it. A file that cannot be opened raises the OSError of ``open``.
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

from refscale.errors import ArgumentError, DataError, InUseError, RefscaleError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

Source: TypeAlias = "str | Path | Traversable"
"""A path, or a file of a package, which may be in a zip."""

if sys.platform != "win32":
    import fcntl


def check_output(path: str | Path, call: str = "") -> None:
    """Check before a long computation that a file can be written.

    Args:
        path: file to create or replace.
        call: function called, at the start of the message.

    Raises:
        ArgumentError: the file's directory does not exist, or ``path`` is a directory.
    """
    message = f"{f'{call}: ' if call else ''}cannot write {str(path)!r}"
    if not Path(path).parent.is_dir():
        raise ArgumentError(f"{message}: there is no directory {str(Path(path).parent)!r}")
    if Path(path).is_dir():
        raise ArgumentError(f"{message}: it is a directory")


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it; after an error no file remains.

    A link is followed. A special file (a device, a pipe) is written to, not replaced.

    Args:
        path: file to create or replace.
        write: function that fills an open binary file.

    Raises:
        OSError: the directory does not exist or is not writable.
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
                os.fsync(file.fileno())  # after a power cut, the name must not exist without the content
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp's own mode excludes other users
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the name of the written file to an OSError, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8, atomically; raise OSError on failure."""
    write_atomically(path, lambda file: file.write(text.encode()))


def json_text(content: object, indent: int | None = None) -> str:
    """Return plain values as JSON text: the JSON writer of the package, except for golden vectors and published models.

    JSON has no infinity and no NaN. Such a number becomes the string "inf", "-inf" or "nan", which ``float`` reads
    back: readers apply ``float`` to every field that is a float.

    Args:
        content: dicts, lists, tuples, strings, numbers, True, False and None.
        indent: spaces per level; None: a single line.

    Raises:
        TypeError: a value of another type.
    """
    return json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(x: Any) -> Any:
    """Replace each non-finite float by its name."""
    if isinstance(x, dict):
        return {key: _finite(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [_finite(value) for value in x]
    return str(float(x)) if isinstance(x, float) and not math.isfinite(x) else x


def write_json(path: str | Path, content: object) -> None:
    """Write ``json_text`` to a file, atomically; raise OSError on failure."""
    write_text(path, json_text(content, indent=1) + "\n")


def append_line(path: str | Path, line: str, durable: bool = False) -> None:
    """Append a line to a file; after an error, such as a full disk, the file may end with an incomplete line.

    Args:
        path: path of the file, created if absent.
        line: text without a line end.
        durable: whether the line is on the disk when this returns.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    with naming(path), path.open("ab") as file:
        file.write((line + "\n").encode())
        if durable:
            file.flush()
            os.fsync(file.fileno())


# --- Reading text and JSON --------------------------------------------------------------------------------------------

SETTINGS, DATA = 1 << 24, 1 << 30
"""Largest size in bytes of settings, and of data. The objects of JSON take up to 30 times its size in memory."""

DEEPEST = 64
"""Largest number of levels of nested objects and arrays, the outermost included; actual formats have at most 10."""

_CHUNK = 1 << 20

Failure = type[RefscaleError]
"""Class of the error to raise."""


def read_text(path: Source, where: str, failure: Failure = DataError, most: int = DATA) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    Args:
        path: file to read.
        where: beginning of each error: the call and, unless the call contains it, the file.
        failure: class of the error.
        most: largest size of the file, in bytes.

    Raises:
        ``failure``: the file is larger, or is not UTF-8.
        OSError: the file cannot be read.
    """
    return _decoded(_read(path, where, failure, most), where, failure).removeprefix("\ufeff")


def read_lines(path: Source, where: str, failure: Failure = DataError, most: int = DATA) -> list[str]:
    """Return the lines of a UTF-8 file without their ends; arguments and errors as in ``read_text``."""
    *lines, rest = read_text(path, where, failure, most).split("\n")
    return [line.removesuffix("\r") for line in (*lines, *filter(None, [rest]))]


def read_json(path: Source, where: str, failure: Failure = DataError, most: int = SETTINGS) -> dict[str, Any]:
    """Return the object in a JSON file; arguments and errors as in ``read_text``, and ``failure`` for invalid JSON."""
    return parse_json(read_text(path, where, failure, most), where, failure)


def read_json_lines(path: Source, where: str, failure: Failure = DataError) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file with one object on each line, each as in ``read_json``.

    Text after the last line end is an incomplete line, as after a crash, and is ignored.
    """
    lines = _read(path, where, failure, DATA).removeprefix(BOM_UTF8).split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        yield parse_json(line, f"{where}, record {number}", failure)


def read_toml(path: Source, where: str, failure: Failure = DataError) -> dict[str, Any]:
    """Return the table in a TOML file; arguments and errors as in ``read_text``, and ``failure`` for invalid TOML."""
    import tomllib  # imported lazily: few commands need it

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
    """Return the object in a JSON text.

    Args:
        text: JSON, or its UTF-8 bytes.
        where: beginning of each error: the call and the file.
        failure: class of the error.

    Raises:
        ``failure``: the text is not UTF-8, not the JSON of RFC 8259, too deep, or its outermost value is not an object.
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
        raise failure(f"{where}: contains a {type(content).__name__}, expected an object")
    _check_depth(content, where, failure)
    if odd or _SURROGATE.search(text):  # only then, as the walk takes longer than the parser
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
"""Escape of a surrogate in JSON, lone or in a pair."""


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
    """Yield names, and values other than containers, with their places, such as ``data[0].paragraphs[3].context``."""
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
    """Return the array of a .npy file (version 1.0), a read-only view of ``data``.

    The header must match the number of bytes, so that it cannot cause a larger allocation; nothing is unpickled.

    Raises:
        ValueError: the data are not such a file, or the header states another number of bytes.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version}, expected (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # NumPy tokenizes and evaluates a header, which may raise many exceptions
        raise ValueError(f"its header: {error}") from None
    size = len(data) - file.tell()
    if dtype.hasobject or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"its header states {dtype} of shape {shape}, and {size} bytes follow")
    flat = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def write_npz(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name, uncompressed, atomically; the same arrays always give the same bytes.

    Replaces ``numpy.savez``, which before NumPy 2.2 leaves the zip open after an error and stores ``allow_pickle`` as
    an array.

    Raises:
        OSError: the file cannot be written.
        ValueError: an array contains Python objects.
    """

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as members:
            for name, array in arrays.items():
                with members.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)

    write_atomically(path, write)


def path_text(path: str | Path) -> str:
    """Return a path as writable text: bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def name_of(path: str | Path) -> str:
    """Return the last part of a path as text."""
    return path_text(Path(path).resolve().name)


@contextmanager
def locked(directory: str | Path, call: str) -> Iterator[None]:
    """Lock a directory: while the ``with`` block runs, no other process can lock it.

    The lock belongs to the operating system, so it always ends with the process; the file ``.lock`` stays. On Windows
    there is no lock.

    Args:
        directory: existing directory.
        call: name of the call, for the error.

    Raises:
        InUseError: another process, which the message names, has the lock.
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
