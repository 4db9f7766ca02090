"""No op is forgotten: what its class does not declare, a test asks for by the name of the op."""

import ast
import inspect
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale import ops
from refscale.analysis.tables import ops as ops_table
from refscale.claims import vjp
from refscale.engine import Op, Sizes
from refscale.errors import ArgumentError
from refscale.golden import ops as golden_ops
from refscale.ops import kernels
from refscale.testing import Place
from refscale.testing.strategies import op_examples, seeds
from tests.ops.cases import ALL_OPS, EXAMPLES, MORE, PROPERTY, WIDER
from tests.ops.references import REFERENCES
from tests.sources import parsed

PAGES = [page for page in vars(ops).values() if inspect.ismodule(page) and page.__name__.startswith("refscale.ops.")]
HELPERS = {"custom", "kernels", "moments", "shapes", "softmax_moments", "sums", "windows"}
"""Modules of ``ops`` that do not define ops."""
by_name = {"ids": lambda op: op.__name__}


def test_every_page_is_enumerated():
    assert {p.name for p in pkgutil.iter_modules(ops.__path__)} - HELPERS == {
        page.__name__.rpartition(".")[2] for page in ops._PAGES
    }


def test_every_op_of_every_page_is_exported():
    defined = {
        op
        for page in PAGES
        for name, op in vars(page).items()
        if isinstance(op, type)
        and issubclass(op, Op)
        and op not in (Op, ops.Elementwise, ops.CustomElementwise)
        and not name.startswith("_")
    }
    assert defined == set(ALL_OPS)
    missing = [op.__name__ for op in ALL_OPS if vars(ops).get(op.__name__) is not op or op.__name__ not in ops.__all__]
    assert not missing, f"not exported by refscale.ops: {missing}"
    assert ops.__all__ == sorted(ops.__all__, key=lambda name: (name.islower(), not name.isupper(), name))


@pytest.mark.parametrize("op", ALL_OPS, **by_name)
def test_every_op_is_in_the_table_of_contents(op):
    assert re.search(rf"\b{op.name}\b", ops.__doc__), f"the docstring of refscale.ops does not list {op.name}"


@pytest.mark.parametrize("op", ALL_OPS, **by_name)
def test_every_op_declares_examples(op):
    """Of the class itself, at any sizes; they differ in their attributes, by which golden vectors are named."""
    for at in (Sizes(1, 1, 1, 1), Sizes(3, 4, 5, 6)):
        examples = op.examples(at)
        assert examples, f"{op.__name__} declares no examples: define its method examples"
        assert all(type(e.op) is op for e in examples)
        assert len({e.op for e in examples}) == len(examples)
        for e in examples:
            arrays = e.arrays(np.random.default_rng(0))
            assert e.shapes == tuple(a.shape for a in arrays)
            y, _ = e.op.forward(*arrays)
            assert np.all(np.isfinite(y))
            assert len(e.op.scale(*e.shapes).beta) == len(arrays)


@pytest.mark.parametrize("op", ALL_OPS, **by_name)
def test_every_op_has_a_reference(op):
    assert op in REFERENCES, f"tests/ops/references.py has no entry for {op.__name__}"


def test_registries_name_ops():
    assert {*MORE, *WIDER, *REFERENCES} <= set(ALL_OPS)


def test_every_op_has_a_row_in_the_table():
    assert {row.op for row in ops_table.rows()} == set(ops.OPS)


@pytest.mark.parametrize("op", ALL_OPS, **by_name)
def test_every_op_reads_like_a_row(op):
    assert op.__doc__
    assert op.source
    assert op.inputs
    assert set(op.constants) <= set(range(len(op.inputs)))


@pytest.mark.parametrize("op", ALL_OPS, **by_name)
def test_ops_are_frozen_and_comparable(op):
    example = EXAMPLES[op][0].op
    assert type(example) is op
    assert hash(example) == hash(EXAMPLES[op][0].op)
    with pytest.raises(AttributeError):
        example.anything = 1


@pytest.mark.parametrize("op", [op for op in ALL_OPS if op in WIDER], **by_name)
@PROPERTY
@given(data=st.data(), seed=seeds())
def test_the_default_strategy_draws_what_the_op_accepts(op, data, seed):
    """Of the ops whose general properties are tested with a strategy of their own."""
    example = data.draw(op_examples(op))
    example.op.forward(*example.arrays(np.random.default_rng(seed)))


class Bare(Op):
    """An op that declares nothing."""

    inputs = ("x",)
    source = "test"


def test_a_missing_declaration_is_named():
    assert Bare.examples(Sizes(1, 1, 1, 1)) == ()
    with pytest.raises(ArgumentError, match=r"^op_examples: Bare declares no examples; define its method examples$"):
        op_examples(Bare)
    with pytest.raises(AssertionError, match="Bare declares no examples"):
        test_every_op_declares_examples(Bare)


def test_an_op_that_declares_nothing_crashes_nobody(monkeypatch):
    """It has no row, no vector and no check; the tests above report the missing parts."""
    before = ops_table.rows(), ops.examples(golden_ops.AT), len(vjp.examples(Place()))
    monkeypatch.setattr(ops, "OPS", {**ops.OPS, "bare": Bare})
    assert before == (ops_table.rows(), ops.examples(golden_ops.AT), len(vjp.examples(Place())))


def test_fast_forms_import_no_page():
    """``ops.kernels`` stands below the pages, for types, too."""
    for path in Path(kernels.__file__).parent.glob("*.py"):
        for node in ast.walk(parsed(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("refscale.ops"):
                assert str(node.module).removeprefix("refscale.ops.").partition(".")[0] in HELPERS, (path, node.module)


def test_contractions_count_their_products():
    """Of ones, forward: each multiplication adds 1 to an element; the padding of a convolution counts as ones."""
    at = Sizes(b=2, m=6, n=4, s=8)
    for kind in ops.OPS.values():
        assert (kind.products is not None) == kind.contraction, kind.name
        for example in kind.examples(at) if kind.contraction else ():
            y, _ = kind.forward(example.op, *(np.ones(shape) for shape in example.shapes))
            factor = example.op.damping(example.shapes[0]) if hasattr(example.op, "damping") else 1.0
            found = example.op.products(*example.shapes)
            assert round(y.sum() / factor) <= found <= round(y.max() / factor) * y.size, example.op
