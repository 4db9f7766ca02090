"""Checks of single arguments: NumPy's integers, numbers and booleans are those of Python, and nothing else is."""

from fractions import Fraction

import numpy as np
import pytest

from refscale.arguments import flag, integer, number
from refscale.errors import ArgumentError


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_integers_of_any_kind(value):
    found = integer("f", "n", value, 3, 3)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("value", [3.0, "3", None, True, np.True_, np.float32(3), [3], np.array([3]), 3 + 0j])
def test_what_is_no_integer(value):
    with pytest.raises(ArgumentError, match=r"f: n is .*, expected an integer$"):
        integer("f", "n", value)


def test_integers_out_of_range():
    with pytest.raises(ArgumentError, match=r"f: n is 2, expected an integer ≥ 3$"):
        integer("f", "n", 2, 3)
    with pytest.raises(ArgumentError, match=r"f: n is 6, expected an integer from 3 to 5$"):
        integer("f", "n", 6, 3, 5)
    assert [integer("f", "n", n, 3, 5) for n in (3, 5)] == [3, 5]


@pytest.mark.parametrize("value", [0.5, np.float16(0.5), np.float64(0.5), np.array(0.5, np.float32), Fraction(1, 2)])
def test_numbers_of_any_kind(value):
    found = number("f", "x", value)
    assert found == 0.5
    assert type(found) is float


@pytest.mark.parametrize("value", ["0.5", None, [0.5], np.array([0.5]), 0.5j])
def test_what_is_no_number(value):
    with pytest.raises(ArgumentError, match=r"f: x is .*, expected a number$"):
        number("f", "x", value)


def test_an_array_is_shown_by_its_shape():
    with pytest.raises(ArgumentError, match=r"f: x is an array of shape \(2, 1\), expected a number$"):
        number("f", "x", np.ones((2, 1)))


def test_flags():
    assert flag("f", "b", True) is flag("f", "b", np.True_) is True
    assert flag("f", "b", np.False_) is False
    for value in ("no", 0, 1, None, np.array([True])):
        with pytest.raises(ArgumentError, match=r"f: b is .*, expected True or False$"):
            flag("f", "b", value)
