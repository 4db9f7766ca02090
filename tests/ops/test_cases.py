"""No op is forgotten: each has examples, a strategy, a reference and a row of the table."""

import inspect
import re

import pytest

from refscale import ops
from refscale.analysis import ops_table
from refscale.engine import Op
from tests.ops.cases import ALL_OPS, EXAMPLES, STRATEGIES
from tests.ops.references import REFERENCES

PAGES = [page for page in vars(ops).values() if inspect.ismodule(page) and page.__name__.startswith("refscale.ops.")]


def test_every_op_of_every_page_is_exported():
    defined = {
        op
        for page in PAGES
        for name, op in vars(page).items()
        if isinstance(op, type) and issubclass(op, Op) and op is not Op and not name.startswith("_")
    }
    assert defined == set(ALL_OPS)
    assert ops.__all__ == sorted(ops.__all__, key=lambda name: (name.islower(), name))


def test_every_op_is_in_the_table_of_contents():
    assert all(re.search(rf"\b{EXAMPLES[op][0].op.name}\b", ops.__doc__) for op in ALL_OPS)


@pytest.mark.parametrize("registry", [EXAMPLES, STRATEGIES, REFERENCES], ids=["examples", "strategies", "references"])
def test_every_op_is_in_every_registry(registry):
    assert set(registry) == set(ALL_OPS)


def test_every_op_has_a_row_in_the_table():
    assert {row.op for row in ops_table.rows()} == {EXAMPLES[op][0].op.name for op in ALL_OPS}


@pytest.mark.parametrize("op", ALL_OPS, ids=lambda op: op.__name__)
def test_every_op_reads_like_a_row(op):
    assert op.__doc__
    assert op.source
    assert op.inputs
    assert set(op.constants) <= set(range(len(op.inputs)))


@pytest.mark.parametrize("op", ALL_OPS, ids=lambda op: op.__name__)
def test_ops_are_frozen_and_comparable(op):
    example = EXAMPLES[op][0].op
    assert type(example) is op
    assert hash(example) == hash(EXAMPLES[op][0].op)
    with pytest.raises(AttributeError):
        example.anything = 1
