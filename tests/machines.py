"""One processor made to look like several: NumPy's SIMD levels, OpenBLAS kernels and thread counts, by environment."""

import os
import subprocess
import sys

from numpy._core._multiarray_umath import __cpu_dispatch__ as levels

MACHINES = {
    "as it is": {},
    "lower SIMD level": {
        "NPY_DISABLE_CPU_FEATURES": " ".join(f for f in levels if f not in ("X86_V3", "AVX2", "FMA3"))
    },
    "baseline": {
        "NPY_DISABLE_CPU_FEATURES": " ".join(levels),
        "OPENBLAS_CORETYPE": "Nehalem",
        "OPENBLAS_NUM_THREADS": "1",
    },
    "two threads": {"OPENBLAS_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Haswell"},
}
"""Environment variables by name; where a processor lacks a feature or kernel anyway, nothing changes."""


def output(code: str, machine: str) -> str:
    """What Python prints on such a machine."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],  # NumPy warns of features the processor does not have anyway
        env={**os.environ, **MACHINES[machine]},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
