"""The package as a whole: its examples run, and it needs no Hypothesis until strategies are asked for."""

import doctest
import importlib
import subprocess
import sys

import numpy as np
import pytest

import refscale.testing
from refscale.errors import ArgumentError
from refscale.testing import assert_exact_rms, assert_unit_variance, assert_vjp, assert_within_standard_errors

MODULES = ["", ".constructions", ".equality", ".graphs", ".strategies", ".variance", ".vjp"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"refscale.testing{name}")
    assert doctest.testmod(module).failed == 0


def test_hypothesis_is_optional():
    code = (
        "import sys; sys.modules['hypothesis'] = None; import refscale.testing as t; from refscale.testing import *;"
        "print(len(set(dir()) & set(t.__all__)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) == len(refscale.testing.__all__)


def test_the_plugin_of_pytest_does_not_load_numpy():
    """Otherwise NumPy would start before any ``conftest.py`` can set its threads."""
    code = "import sys, refscale.testing.plugin; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_exports():
    assert sorted(refscale.testing.__all__) == list(refscale.testing.__all__)
    for name in refscale.testing.__all__:
        assert getattr(refscale.testing, name).__doc__, name


def test_what_would_pass_for_want_of_anything_to_check_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ArgumentError, match="None for every input"):
        assert_vjp(lambda x: x, lambda g: (None,), (np.ones(2),), rng=rng)
    with pytest.raises(ArgumentError, match="no statistic given"):
        assert_within_standard_errors([], 0, 1)
    with pytest.raises(ArgumentError, match="n_eff is 1e\\+09 for 2 samples"):
        assert_unit_variance([1.0, -1.0], n_eff=1e9)
    with pytest.raises(ArgumentError, match="nothing exact"):
        assert_exact_rms([3.0, 1.0], roundings=10**17)
