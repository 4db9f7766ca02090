"""One BLAS thread: with another process on a core, threaded OpenBLAS collapses on small products."""

import gc
import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before NumPy is imported

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# Machines differ in speed, seeds must not: the same examples on every run, and no deadline.
settings.register_profile("refscale", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("refscale")


def pytest_collection_finish() -> None:
    """Modules and tests, half a million objects, live to the end: the garbage collector need not go over them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_numpy_error_state_leaks() -> None:
    """Every test starts from NumPy's own error state."""
    import numpy as np

    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
