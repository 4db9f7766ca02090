"""Settings of all tests, and the tier ``unit``.

One BLAS thread: with another process on a core, threaded OpenBLAS collapses on small products.
"""

import atexit
import functools
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before NumPy is imported

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# Machines differ in speed, seeds must not: the same examples on every run, and no deadline.
settings.register_profile(
    "refscale", max_examples=50, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("refscale")

if sys.dont_write_bytecode:  # a hundred processes would each compile every module; they share the first's output
    os.environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp(prefix="refscale-pycache-")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    atexit.register(shutil.rmtree, os.environ["PYTHONPYCACHEPREFIX"], ignore_errors=True)


TESTS = Path(__file__).parent
LONG = (
    "adapt",
    "analysis/test_drift.py",
    "analysis/test_fidelity.py",
    "analysis/test_files.py",
    "analysis/test_first_step.py",
    "analysis/test_flops.py",
    "analysis/test_html.py",
    "analysis/test_ops_table.py",
    "analysis/test_plots.py",
    "analysis/test_predict.py",
    "analysis/test_snr.py",
    "analysis/test_text.py",
    "bench",
    "blocks/test_cast.py",
    "blocks/test_exhaustive.py",
    "blocks/test_operand.py",
    "blocks/test_product.py",
    "blocks/test_rounding.py::test_each_rule_is_what_it_is_for",
    "blocks/test_wrong.py",
    "claims/test_claim.py::test_sampling",
    "claims/test_claims.py",
    "claims/test_measure.py",
    "claims/test_mutants.py",
    "cli",
    "core/test_border.py::TestKinds::test_every_function_that_takes_arrays_is_among_them",
    "core/test_executors.py",
    "core/test_scaling.py::TestAutomatic::test_torch",
    "core/test_structure.py::test_core_imports_without_optional_packages",
    "core/test_tensor.py::TestOperators::test_the_engine_alone_names_the_missing_import",
    "exact/test_accumulators.py",
    "exact/test_array.py::test_a_training_step_has_the_same_bits_on_every_machine",
    "exact/test_bounded.py::test_of_any_shape",
    "exact/test_elementary.py",
    "exact/test_functions.py",
    "exact/test_product.py",
    "formats/test_properties.py",
    "formats/test_rounding.py",
    "functional/test_attention.py",
    "functional/test_recurrent.py",
    "golden/test_block_bounds.py",
    "golden/test_claimed.py",
    "golden/test_coverage.py",
    "golden/test_identify.py",
    "golden/test_kit.py",
    "golden/test_programs.py",
    "golden/test_pytest.py",
    "golden/test_reader.py",
    "golden/test_sizes.py",
    "golden/test_store.py",
    "golden/test_trace.py",
    "golden/test_wrong.py",
    "graph/test_cut_edges.py",
    "graph/test_gradient_factors.py",
    "graph/test_plan.py",
    "models/test_adapt.py",
    "models/test_bert.py",
    "models/test_bert_torch.py",
    "models/test_schemes.py",
    "models/test_transformers.py",
    "ops/test_cases.py::test_the_default_strategy_draws_what_the_op_accepts",
    "ops/test_gradients.py",
    "ops/test_kernels.py",
    "programs",
    "sweep",
    "tasks/test_next_token.py",
    "test_data.py",
    "test_memory.py",
    "test_prose.py",
    "testing/test_equality.py",
    "testing/test_package.py",
    "testing/test_places.py",
    "testing/test_strategies.py",
    "train",
    "tutorials",
)
"""Folders, modules and tests that are not in the tier ``unit``.

They train, start other processes, or take more than 25 ms for a test on average, on a quiet core.
"""


@functools.cache
def is_long(path: Path, test: str = "") -> bool:
    """Whether a module is in ``LONG``, or in a folder that is; or a test of a module, without its parameters."""
    if not path.is_relative_to(TESTS):
        return False
    place = path.relative_to(TESTS)
    names = {place.as_posix(), *(folder.as_posix() for folder in place.parents)}
    return not names.isdisjoint(LONG) or f"{place.as_posix()}::{test}" in LONG


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in two processes where pytest-xdist is installed; ``-n 0`` is one process.

    A module's tests stay in one process, as they share fixtures and caches. Named tests, a debugger, and another
    distribution of the caller's are left alone.
    """
    option = config.option
    if (
        getattr(option, "numprocesses", 0) is None  # installed, and no -n
        and option.dist == "no"  # and no --dist
        and not hasattr(config, "workerinput")
        and config.args_source is config.ArgsSource.TESTPATHS
        and not (option.usepdb or option.trace or option.collectonly)
    ):
        option.numprocesses, option.dist = 2, "loadfile"


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark ``unit``: all tests but slow ones and those of ``LONG``."""
    for item in items:
        test = item.nodeid.partition("::")[2].partition("[")[0]
        if item.get_closest_marker("slow") is None and not is_long(item.path, test):
            item.add_marker("unit")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``-m unit`` need not import the modules of ``LONG``."""
    return True if config.option.markexpr == "unit" and is_long(collection_path) else None


def pytest_collection_finish() -> None:
    """Modules and tests, half a million objects, live to the end: the garbage collector need not go over them again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup() -> None:
    """Every test starts from NumPy's own error state."""
    np.seterr(divide="warn", over="warn", under="ignore", invalid="warn")
