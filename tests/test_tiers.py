"""The tier ``unit`` is most of the suite, and its list names modules that exist."""

from __future__ import annotations

import pytest

from tests.conftest import LONG, TESTS, is_long

LEAST = 0.85
"""Share of the default tests that are in the tier."""


def test_the_list_names_modules_and_folders():
    assert [entry for entry in LONG if not (TESTS / entry).exists()] == []
    assert list(LONG) == sorted(set(LONG))
    assert [e for e in LONG if any(e.startswith(f"{other}/") for other in LONG)] == []


def test_a_folder_stands_for_its_modules():
    entry = LONG[0]
    assert is_long(TESTS / entry)
    assert is_long(TESTS / entry / "test_any.py")
    assert not is_long(TESTS)
    assert not is_long(TESTS / f"{entry}_of_another_name.py")


def test_every_test_here_is_marked(request):
    assert request.node.get_closest_marker("unit") is not None


def test_the_tier_is_most_of_the_suite(request):
    """Of a run of the whole default suite."""
    items = request.session.items
    collected = {item.path for item in items}
    if any(TESTS / entry not in collected and not (TESTS / entry).is_dir() for entry in LONG):
        pytest.skip("a part of the suite")
    unit = sum(item.get_closest_marker("unit") is not None for item in items)
    assert unit >= LEAST * len(items), f"{unit} of {len(items)} tests"
