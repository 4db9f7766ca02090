"""Records in JSON files, by hand."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import refscale
from refscale.errors import ArgumentError, CheckpointError, DataError
from refscale.records import check_schema, dataclass_of, reading, record_content, record_text


def test_schema_and_version_come_first():
    content = record_content("refscale.thing/3", {"b": 1, "a": [2]})
    assert list(content.items()) == [
        ("schema", "refscale.thing/3"),
        ("version", refscale.__version__),
        ("b", 1),
        ("a", [2]),
    ]
    one_line = f'{{"schema": "refscale.thing/3", "version": "{refscale.__version__}", "a": "inf"}}\n'
    assert record_text("refscale.thing/3", {"a": float("inf")}, indent=None) == one_line
    assert record_text("refscale.thing/3", {"a": 1}).splitlines()[1] == ' "schema": "refscale.thing/3",'


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: {}["schema"], "load('f'): KeyError 'schema', expected what save writes"),
        (
            lambda: int("x"),
            "load('f'): ValueError invalid literal for int() with base 10: 'x', expected what save writes",
        ),
        (lambda: (1).keys, "load('f'): AttributeError 'int' object has no attribute 'keys', expected what save writes"),
        (lambda: len(1), "load('f'): TypeError object of type 'int' has no len(), expected what save writes"),
    ],
)
def test_what_cannot_be_read_is_named(wrong, message):
    with pytest.raises(DataError) as found, reading("load('f')", "save"):
        wrong()
    assert str(found.value) == message


def test_errors_of_the_same_class_and_of_other_kinds_are_passed_on():
    own, full = DataError("own"), OSError("disk full")
    for error in (own, full):
        with pytest.raises(type(error)) as found, reading("load", "save"):
            raise error
        assert found.value is error
    match = "load: ArgumentError no, expected what save writes"
    with pytest.raises(CheckpointError, match=match), reading("load", "save", CheckpointError):
        raise ArgumentError("no")


def test_another_schema_is_refused():
    check_schema({"schema": "refscale.thing/3"}, "refscale.thing/3", "load")
    with pytest.raises(DataError, match=r"^load: schema is 'refscale\.thing/2', expected 'refscale\.thing/3'$"):
        check_schema({"schema": "refscale.thing/2"}, "refscale.thing/3", "load")
    with pytest.raises(CheckpointError):
        check_schema({"schema": 3}, "refscale.thing/3", "load", CheckpointError)
    with pytest.raises(KeyError, match="schema"):
        check_schema({}, "refscale.thing/3", "load")


@dataclass(frozen=True)
class Thing:
    name: str
    x: float
    y: float | None
    n: int


def test_a_dataclass_is_read_with_floats_that_have_names():
    content = {"name": "nan", "x": "-inf", "y": None, "n": 2, "more": 0}
    assert dataclass_of(Thing, content) == Thing("nan", float("-inf"), None, 2)
    assert dataclass_of(Thing, content | {"y": 1}) == Thing("nan", float("-inf"), 1.0, 2)
    with pytest.raises(KeyError, match="n"):
        dataclass_of(Thing, {"name": "", "x": 1.0, "y": None})
    with pytest.raises(ValueError, match="large"):
        dataclass_of(Thing, content | {"x": "large"})
