"""Golden vectors of ops: those of a class that has no numbered ones come from its examples, by name."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest

from refscale import ops
from refscale.engine import Input, Op, Sizes, example
from refscale.golden import load, products
from refscale.golden.inputs import Words
from refscale.golden.ops import AT, NUMBERED, of_example
from refscale.scales import Scales

SHIPPED = {v.attributes["name"] for v in load().values() if v.family == "ops"}


@pytest.mark.parametrize("name", ops.OPS)
def test_every_op_has_vectors(name):
    assert name in SHIPPED, f"no golden vector of {name}: python -m refscale golden write refscale/golden/data"


def test_what_ids_and_seeds_depend_on_is_frozen():
    """Positions of the numbered ones, of which the last, number 58, is a causal convolution; sizes of the others."""
    assert len(NUMBERED) == 59
    assert NUMBERED[-1].op == ops.Conv1d(padding=(3, 0), groups=2)
    assert Sizes(b=3, m=16, n=5, s=9) == AT


def test_pairs_of_formats_are_seeded_by_frozen_positions_or_by_name():
    """A format between others moves no seed."""
    assert len(products.NUMBERED) == 15
    assert set(products.NUMBERED) <= set(products.OPERANDS)
    for left, right, seed in (("float16", "bfloat16", 302), ("int8_q6", "float32", 1400)):
        assert products._words(left, right).words(4).tolist() == Words(seed).words(4).tolist()
    own = products._words("float32", "float6_e4m1fn").words(4).tolist()
    assert own == Words.named("matmul/float32.float6_e4m1fn").words(4).tolist()
    assert own != products._words("float6_e4m1fn", "float32").words(4).tolist()


def test_inputs_by_hand():
    """The first eight bytes of a name's SHA-256 seed PCG64; twelve of its words, the upper 16 bits, make a number."""
    vector = next(of_example(example(ops.Silu(), (2,))))
    raw = np.random.PCG64(int.from_bytes(hashlib.sha256(b"ops/silu").digest()[:8], "big")).random_raw(24)
    total = (raw >> np.uint64(48)).astype(np.int64).reshape(2, 12).sum(-1)
    expected = ((2 * total - 12 * 65535) / 131072).astype(np.float32)
    assert vector.id == "ops/silu/regular/fp32"
    assert vector.inputs["x"].codes.tolist() == expected.view(np.uint32).tolist() == [3210457600, 1056816128]


@dataclass(frozen=True)
class Shifted(Op):
    """x + by where it is seen, else 0."""

    by: float
    axes: tuple[int, ...] = (0, 1)
    inputs = ("x", "seen")
    constants = (1,)

    def forward(self, x, seen):
        return np.where(seen, x + self.by, 0), (seen,)

    def backward(self, g, seen):
        return np.where(seen, g, 0), None

    def scale(self, x, seen):
        return Scales(1.0, (1.0, None))


def test_vectors_are_named_by_attributes():
    vectors, again, others = (
        list(of_example(example(Shifted(by), Input((3, 16), "positive"), Input((3, 16), "mask"))))
        for by in (0.5, 0.5, 0.25)
    )
    assert [v.id for v in vectors] == [
        f"ops/shifted(by=0.5,axes=(0,1))/{scheme}/{precision}"
        for scheme in ("regular", "unit")
        for precision in ("fp32", "fp16")
    ]
    assert [v.flags for v in vectors] == [("vjp", "masked")] * 2 + [("vjp", "masked", "alpha", "beta")] * 2

    def inputs(vector, name):
        return vector.inputs[name].sha256

    for name in ("x", "gradient"):
        assert [inputs(v, name) for v in vectors] == [inputs(v, name) for v in again]
        assert not {inputs(v, name) for v in vectors} & {inputs(v, name) for v in others}
    assert len({inputs(v, "gradient") for v in vectors}) == 4  # each id draws its own
    assert set(vectors[0].inputs["x"].codes.view(np.float32).reshape(-1) * 8) <= set(range(1, 65))


def test_indices_are_below_their_bound():
    positions = next(of_example(example(ops.Gather(), (2, 5, 3), Input((2, 40), "index", 5)))).inputs["positions"]
    assert set(positions.codes.reshape(-1).tolist()) == set(range(5))
