"""The tier ``unit`` is most of the suite, and its list names modules that exist."""

from __future__ import annotations

import pytest

from tests.conftest import LONG, TESTS, is_long

LEAST = 0.6
"""Share of the default tests that are in the tier."""


def test_the_list_names_folders_modules_and_tests():
    for entry in LONG:
        place, _, name = entry.partition("::")
        assert (TESTS / place).exists(), entry
        assert not name or f"def {name.rpartition('::')[2]}(" in (TESTS / place).read_text(encoding="utf-8"), entry
    assert list(LONG) == sorted(set(LONG))
    assert [e for e in LONG if any(e.startswith((f"{other}/", f"{other}::")) for other in LONG)] == []


def test_a_folder_stands_for_its_modules_and_a_module_for_its_tests():
    assert is_long(TESTS / "train")
    assert is_long(TESTS / "train" / "test_any.py")
    assert is_long(TESTS / "models" / "test_bert.py", "test_any")
    assert not is_long(TESTS)
    assert not is_long(TESTS / "trained.py")


def test_a_test_stands_for_itself():
    path = TESTS / "claims" / "test_claim.py"
    assert is_long(path, "test_sampling")
    assert not is_long(path)
    assert not is_long(path, "test_sampling_of_another")
    assert not is_long(TESTS / "claims" / "test_report.py", "test_sampling")


def test_every_test_here_is_marked(request):
    assert request.node.get_closest_marker("unit") is not None


def test_the_tier_is_most_of_the_suite(request):
    """Of a run of the whole default suite."""
    items = request.session.items
    collected = {item.path for item in items}
    if any(TESTS / entry not in collected for entry in LONG if entry.endswith(".py")):
        pytest.skip("a part of the suite")
    unit = sum(item.get_closest_marker("unit") is not None for item in items)
    assert unit >= LEAST * len(items), f"{unit} of {len(items)} tests"
