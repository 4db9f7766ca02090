"""The examples in the docstrings of ``formats``, run."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("module", ["", ".table", ".rounding", ".cast", ".codes"])
def test_examples(module: str) -> None:
    assert doctest.testmod(import_module("refscale.formats" + module)).failed == 0
