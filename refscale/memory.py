"""Memory that stays: freed arrays go to the next ones, instead of back to the system.

The C library gives a large array back to the system when it is freed, and the system fills the next one with zeros,
page by page, as it is touched. A training step makes and frees hundreds of large arrays: at BERT-base widths a third
of its time goes there. ``keep()`` tells the C library not to.
"""

from __future__ import annotations

import ctypes
import functools

__all__ = ["keep"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt, in glibc's malloc.h
_STEP = 1 << 26  # bytes; by how much more than is needed the heap grows at a time


@functools.cache
def keep() -> bool:
    """Keep freed memory in this process, from now on and for all that runs in it.

    What it costs: the process stays as large as it has ever been, until it ends; and small arrays that live on between
    large ones can make it larger, as the pages around them serve smaller arrays only. The command line calls this; the
    library never does by itself.

    Returns:
        Whether it could: where the C library is glibc. Elsewhere nothing changes.

    Source: glibc manual, "Malloc Tunable Parameters"; the same as MALLOC_MMAP_MAX_=0,
    MALLOC_TRIM_THRESHOLD_=18446744073709551615 and MALLOC_TOP_PAD_=67108864 in the environment.
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  (others have a mallopt that ignores these)
        return all(library.mallopt(*option) for option in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _STEP)))
    except (AttributeError, OSError, TypeError):
        return False
