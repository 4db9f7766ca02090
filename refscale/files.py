"""Files written whole or not at all, arrays read with care, and directories that one process holds."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from refscale.errors import InUseError

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


def write_json(path: str | Path, content: object) -> None:
    """Write what JSON can say, atomically.  Raises OSError, and ValueError for inf and NaN."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


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
