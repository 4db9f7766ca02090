"""Where a claim is tested: sizes and a seed, drawn or given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import find, given, settings

from refscale.errors import ArgumentError
from refscale.testing import Place
from refscale.testing.places import LARGEST
from refscale.testing.strategies import places


def test_as_the_command_line_reads_it():
    assert str(Place(b=1, m=2, n=3, s=4, seed=5)) == "b=1,m=2,n=3,s=4"


def test_the_generator_is_the_same_at_every_call():
    p = Place(seed=7)
    assert p.rng().random() == p.rng().random() == np.random.default_rng(7).random()
    assert p.rng().random() != Place(seed=8).rng().random()


def test_cut():
    assert Place(b=100, m=3).at_most(b=10, m=10) == Place(b=10, m=3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"b": 0}, "Place: b is 0, expected an integer from 1 to 4096"),
        ({"m": LARGEST + 1}, "Place: m is 4097, expected an integer from 1 to 4096"),
        ({"n": 2.0}, "Place: n is 2.0, expected an integer from 1 to 4096"),
        ({"seed": -1}, "Place: seed is -1, expected an integer >= 0"),
    ],
)
def test_errors(options, said):
    with pytest.raises(ArgumentError) as error:
        Place(**options)
    assert str(error.value) == said


@settings(max_examples=50)
@given(place=places("bn", max_size=5))
def test_only_the_sizes_named_are_drawn(place):
    assert 1 <= place.b <= 5
    assert 1 <= place.n <= 5
    assert (place.m, place.s) == (Place().m, Place().s)


def test_a_failure_shrinks_to_the_smallest_sizes():
    assert find(places(), lambda p: p.m >= 7) == Place(1, 7, 1, 1, 0)


def test_no_other_letter():
    with pytest.raises(ArgumentError) as error:
        places("bx")
    assert str(error.value) == "places: sizes are 'bx', expected letters of 'bmns', not ['x']"
