"""One BLAS thread: with another process on a core, threaded OpenBLAS collapses on small products."""

import atexit
import gc
import os
import shutil
import sys
import tempfile

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before NumPy is imported

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# Machines differ in speed, seeds must not: the same examples on every run, and no deadline.
settings.register_profile("refscale", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("refscale")

if sys.dont_write_bytecode:  # a hundred processes would each compile every module; they share what the first compiles
    os.environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp(prefix="refscale-pycache-")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    atexit.register(shutil.rmtree, os.environ["PYTHONPYCACHEPREFIX"], ignore_errors=True)


def pytest_collection_finish() -> None:
    """Modules and tests, half a million objects, live to the end: the garbage collector need not go over them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_numpy_error_state_leaks() -> None:
    """Every test starts from NumPy's own error state."""
    import numpy as np

    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
