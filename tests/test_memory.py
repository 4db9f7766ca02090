"""Freed memory stays with the process, where there is a glibc; and only if somebody asks."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from refscale import memory

GLIBC = platform.libc_ver()[0] == "glibc"

FAULTS = """
import resource
import numpy as np
import refscale.models.bert
from refscale import memory
if {keep}:
    assert memory.keep()
def touch():
    np.ones(1 << 22, np.float32)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    """Pages that 20 arrays of 16 MiB, one after the other, have to be given."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    # Pages of 2 MiB, where the system has them, are fewer.
    environment["NUMPY_MADVISE_HUGEPAGE"] = "0"
    run = subprocess.run(
        [sys.executable, "-c", FAULTS.format(keep=keep)], env=environment, capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_freed_memory_is_used_again():
    assert faults(keep=True) < 100
    assert faults(keep=False) > 1000, "the library keeps memory that nobody asked it to keep"


def test_elsewhere_nothing_changes(monkeypatch):
    class Other:
        """A C library whose mallopt is another."""

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Other())
    assert memory.keep.__wrapped__() is False
