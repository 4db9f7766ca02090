"""The package as a whole: its examples run, and it needs no Hypothesis until strategies are asked for."""

import doctest
import importlib
import subprocess
import sys

import pytest

import refscale.testing

MODULES = ["", ".constructions", ".equality", ".graphs", ".strategies", ".variance", ".vjp"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"refscale.testing{name}")
    assert doctest.testmod(module).failed == 0


def test_hypothesis_is_optional():
    code = "import sys; sys.modules['hypothesis'] = None; import refscale.testing; print(len(refscale.testing.__all__))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) == len(refscale.testing.__all__)


def test_exports():
    assert sorted(refscale.testing.__all__) == list(refscale.testing.__all__)
    for name in refscale.testing.__all__:
        assert getattr(refscale.testing, name).__doc__, name
