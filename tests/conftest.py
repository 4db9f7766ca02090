"""Settings of all tests, and the tier ``unit``.

One BLAS thread: with another process on a core, threaded OpenBLAS collapses on small products.
"""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

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


TESTS = Path(__file__).parent
LONG = (
    "analysis/test_drift.py",
    "analysis/test_fidelity.py",
    "analysis/test_files.py",
    "analysis/test_plots.py",
    "analysis/test_predict.py",
    "analysis/test_record.py",
    "analysis/test_snr.py",
    "bench",
    "blocks/test_product.py",
    "blocks/test_wrong.py",
    "claims/test_claim.py",
    "claims/test_claims.py",
    "claims/test_measure.py",
    "claims/test_mutants.py",
    "cli",
    "exact/test_elementary.py",
    "formats/test_properties.py",
    "golden/test_kit.py",
    "golden/test_store.py",
    "golden/test_wrong.py",
    "graph/test_cut_edges.py",
    "graph/test_gradient_factors.py",
    "models/test_adapt.py",
    "models/test_bert.py",
    "models/test_bert_torch.py",
    "models/test_transformers.py",
    "sweep",
    "tasks/test_next_token.py",
    "test_data.py",
    "test_prose.py",
    "testing/test_package.py",
    "testing/test_places.py",
    "testing/test_strategies.py",
    "train",
    "tutorials",
)
"""Modules and folders that are not in the tier ``unit``.

They train, start other processes, or take more than a twentieth of a second for a test on average.
"""


def is_long(path: Path) -> bool:
    """Whether a module is in ``LONG``, or in a folder that is."""
    return any(path == TESTS / entry or TESTS / entry in path.parents for entry in LONG)


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark ``unit``: all tests but slow ones and those of ``LONG``."""
    for item in items:
        if item.get_closest_marker("slow") is None and not is_long(item.path):
            item.add_marker("unit")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``-m unit`` need not import the modules of ``LONG``."""
    return True if config.option.markexpr == "unit" and is_long(collection_path) else None


def pytest_collection_finish() -> None:
    """Modules and tests, half a million objects, live to the end: the garbage collector need not go over them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_numpy_error_state_leaks() -> None:
    """Every test starts from NumPy's own error state."""
    import numpy as np

    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
