"""``difference.py``: additions are allowed, changes and removals are found."""

from dataclasses import replace

import numpy as np
import pytest

from refscale.golden import Codes, Vector
from tests.golden.difference import difference


def vector(id, output=1, **changes):
    x, y = (Codes("float16", np.array([n], np.uint16)) for n in (3, output))
    return Vector(id, "cast", {"format": "float16"}, {"x": x}, {"y": y}, **changes)


A, B = vector("cast/a"), vector("cast/b")


def test_an_added_vector_and_other_texts():
    new = {"cast/b": replace(B, comment="in other words", flags=("nan",)), "cast/c": vector("cast/c"), "cast/a": A}
    assert difference({"cast/a": A, "cast/b": B}, new) == {"added": ["cast/c"], "changed": [], "missing": []}


@pytest.mark.parametrize(
    ("new", "what"),
    [
        ({}, "missing"),
        ({"cast/a": vector("cast/a", output=2)}, "changed"),
        ({"cast/a": replace(A, attributes={"format": "bfloat16"})}, "changed"),
        ({"cast/a": replace(A, inputs=A.outputs)}, "changed"),
        ({"cast/a": replace(A, op="decode")}, "changed"),
        ({"cast/a": replace(A, conventions={"nan": "canonical"})}, "changed"),
        ({"cast/a": replace(A, outputs={"z": A.outputs["y"]})}, "changed"),
    ],
)
def test_other_contents_are_found(new, what):
    found = difference({"cast/a": A}, new)
    assert found == {"added": [], "changed": [], "missing": [], what: ["cast/a"]}
