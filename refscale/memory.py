"""Reuse of freed memory: the process keeps it for the next arrays, instead of returning it to the system.

The C library returns the memory of a large array to the system when it is freed, and the system fills the pages of the
next one with zeros as they are touched. A training step makes and frees hundreds of large arrays: at BERT-base widths
this takes a third of its time. ``keep()`` sets the C library's options so that freed memory is reused.
"""

from __future__ import annotations

import ctypes
import functools

__all__ = ["keep"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt, in glibc's malloc.h
_STEP = 1 << 26  # bytes; by how much more than is needed the heap grows at a time


@functools.cache
def keep() -> bool:
    """Keep freed memory in this process from now on.

    The price: the memory of the process never shrinks before it ends. Small arrays that remain between large ones can
    enlarge it, because the memory around them is reused for smaller arrays only. The command line calls ``keep``; the
    library never does by itself.

    Returns:
        True if the options were set, which needs glibc as the C library; otherwise nothing changes.

    Source: glibc manual, "Malloc Tunable Parameters"; the same as MALLOC_MMAP_MAX_=0,
    MALLOC_TRIM_THRESHOLD_=18446744073709551615 and MALLOC_TOP_PAD_=67108864 in the environment.
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  (others have a mallopt that ignores these)
        return all(library.mallopt(*option) for option in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _STEP)))
    except (AttributeError, OSError, TypeError):
        return False
