"""Files written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO


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
