"""Files written whole or not at all, and directories that one process holds."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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
