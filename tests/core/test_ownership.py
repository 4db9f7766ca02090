"""Ownership of arrays, work done once, and the place of factors: the engine's rules, and the contract of kernels."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass

import numpy as np
import pytest

from refscale import functional as F  # noqa: N812
from refscale import ops
from refscale.arrays import freeze
from refscale.engine import Op, Rows, Tape, apply, backward
from refscale.formats import Cast
from refscale.precision import Precision, fp8, fp16, fp32, get_precision
from refscale.scales import none, regular, unit
from refscale.testing import assert_same_bits
from tests.ops.cases import CASES

FAST = [c for c in CASES if c.op.fast_forward is not None]


def overlap(x, y):
    return isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and np.may_share_memory(x, y)


def frozen(arrays):
    for a in arrays:
        a.flags.writeable = False
    return arrays


class TestContractOfKernels:
    """The engine may overwrite a kernel's results: so it need not check whether memory overlaps."""

    @pytest.mark.parametrize("alpha", [1.0, 0.75])
    @pytest.mark.parametrize("case", FAST, ids=str)
    def test_it_returns_arrays_of_its_own(self, case, alpha):
        arrays = frozen(case.arrays(np.random.default_rng(0)))
        y, kept = case.op.fast_forward(alpha, *arrays)
        assert not any(overlap(y, x) for x in arrays)
        assert not any(overlap(y, k) for k in kept if k is not y)
        (g,) = frozen([np.random.default_rng(1).standard_normal(np.shape(y))])
        betas = [None if i in case.op.constants else alpha for i in range(len(arrays))]
        pieces = [p.values if isinstance(p, Rows) else p for p in case.op.fast_backward(betas, g, *kept)]
        for i, p in enumerate(pieces):
            assert not any(overlap(p, x) for x in arrays)
            assert p is g or not overlap(p, g)
            assert not any(overlap(p, q) for j, q in enumerate(pieces) if j != i and not (p is q is g))

    @pytest.mark.parametrize("case", FAST, ids=str)
    def test_it_makes_no_gradient_that_nobody_wants(self, case):
        arrays = case.arrays(np.random.default_rng(0))
        y, kept = case.op.fast_forward(1.0, *arrays)
        assert case.op.fast_backward([None] * len(arrays), np.ones(np.shape(y)), *kept) == (None,) * len(arrays)

    def test_a_subclass_is_run_in_its_place(self):
        @dataclass(frozen=True)
        class Doubled(ops.Bias):
            def forward(self, x, bias):
                return 2 * (x + bias), (bias.shape,)

        assert ops.Bias.fast_forward is not None
        assert (Doubled.fast_forward, Doubled.fast_backward) == (None, None)
        assert apply(Doubled(), Tape().tensor(np.ones(2)), np.ones(2)).value.tolist() == [4, 4]

    def test_exact_arithmetic_runs_the_readable_form(self):
        def never(*_):
            raise AssertionError("the kernel was run")

        @dataclass(frozen=True)
        class Half(Op):
            inputs = ("x",)
            source = "test"
            fast_forward = fast_backward = never

            def forward(self, x):
                return x / 2, ()

            def backward(self, g):
                return (g / 2,)

            def scale(self, x):
                raise AssertionError

        tape = Tape(precision=get_precision("fp32", accumulate="exact"))
        x = tape.tensor(np.ones(3))
        backward(apply(Half(), x), np.ones(3))
        assert x.grad.tolist() == [0.5] * 3
        with pytest.raises(AssertionError, match="the kernel was run"):
            apply(Half(), Tape().tensor(np.ones(3)))


class TestOnce:
    """A tensor that several products use is cast once, and recorded for each."""

    X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    W = np.random.default_rng(1).standard_normal((3, 3)).astype(np.float32)

    def count(self, monkeypatch):
        counted = []
        right = Cast.__call__

        def call(self, x, *args, **kwargs):
            counted.append((self.format.name, np.shape(x)))
            return right(self, x, *args, **kwargs)

        monkeypatch.setattr(Cast, "__call__", call)
        return counted

    def three_products(self, tape):
        x = tape.tensor(self.X, "x")
        weights = [tape.tensor(self.W * k, f"w{k}") for k in (1, 2, 3)]
        return x, weights, [apply(ops.Matmul(), x, w) for w in weights]

    def test_an_activation_of_three_products(self, monkeypatch):
        counted = self.count(monkeypatch)
        tape = Tape(regular, get_precision("operand=e4m3fn"), count_casts=True)
        x, _, _ = self.three_products(tape)
        assert counted == [("float8_e4m3fn", (4, 3))] + [("float8_e4m3fn", (3, 3))] * 3
        records = [r for r in tape.casts if r.variable is x.variable]
        assert len(records) == 3
        assert len({r._replace(variable=None) for r in records}) == 1

    def test_a_gradient_of_two_products(self, monkeypatch):
        tape = Tape(regular, get_precision("operand_gradient=e5m2"))
        y = apply(ops.Matmul(), tape.tensor(self.X), tape.tensor(self.W))
        counted = self.count(monkeypatch)
        backward(y, self.X)
        assert counted == [("float8_e5m2", (4, 3))]

    def test_stochastic_casts_are_drawn_for_each(self):
        cast = Cast("e4m3fn", "stochastic", "saturate")
        tape = Tape(regular, Precision("sr", operand=cast), rng=np.random.default_rng(0))
        x = tape.tensor(np.full((64, 64), 1 + 2.0**-5))
        one, other = (apply(ops.Matmul(), x, np.eye(64)).value for _ in range(2))
        assert (one != other).any()

    def test_one_array_of_two_tensors(self):
        """An identity returns its input: one array, cast once, and recorded for each of the two."""
        tape = Tape(regular, get_precision("operand=e4m3fn"))
        x, w = tape.tensor(self.X, "x"), tape.tensor(self.W, "w")
        y = apply(ops.Scaled(), x)
        apply(ops.Matmul(), x, w), apply(ops.Matmul(), y, w)
        assert [r.variable for r in tape.casts] == [x.variable, w.variable, y.variable, w.variable]

    def test_an_array_that_is_gone_is_not_taken_for_another(self):
        """Whose place in memory, and with it the number by which Python knows it, is that of one before."""
        tape = Tape(regular, get_precision("operand=e4m3fn"))
        one = tape.tensor(np.ones((1, 1)))
        products = [apply(ops.Matmul(), tape.tensor(freeze(np.full((1, 1), i, np.float32))), one) for i in range(8)]
        assert [float(y.value[0, 0]) for y in products] == [0, 1, 2, 3, 4, 5, 6, 7]

    def test_the_narrow_copy_lives_as_long_as_a_product_needs_it(self):
        tape = Tape(regular, get_precision("operand=e4m3fn"))
        x, _, ys = self.three_products(tape)
        (narrow,) = [n for s, n, _ in tape.rounder._known.values() if s() is x.value]
        assert narrow() is not None
        backward(apply(ops.Add(), apply(ops.Add(), ys[0], ys[1]), ys[2]), np.ones((4, 3)))
        assert narrow() is None


class TestTiedTable:
    """The decoder's gradient is made once, and the rows that were looked up are added to it."""

    IDS = np.array([[3, 1, 3], [0, 3, 1]])

    def run(self, precision, *, probe=None, scheme=regular, tied=True):
        rng = np.random.default_rng(0)
        tape = Tape(scheme, precision, probe=probe)
        table = tape.tensor(rng.standard_normal((5, 4)), "table")
        looked_up, decoder = F.fork(table, 2)
        x = apply(ops.Embedding(), looked_up, self.IDS)
        if not tied:
            decoder = tape.tensor(rng.standard_normal((5, 4)), "other", requires_grad=False)
        loss = F.cross_entropy(F.readout(x, apply(ops.Transpose((1, 0)), decoder)), np.array([[0, 1, 2], [3, 4, 0]]))
        backward(loss)
        return table.grad

    @pytest.mark.parametrize("scheme", [regular, unit], ids=lambda s: s.name)
    @pytest.mark.parametrize("precision", [fp32, fp16, fp8], ids=lambda p: p.name)
    @pytest.mark.parametrize("tied", [True, False])
    def test_the_same_as_sums_of_whole_arrays(self, precision, scheme, tied):
        """A probe is shown whole arrays, so that nothing is added by rows."""
        seen = self.run(precision, probe=lambda *_: None, scheme=scheme, tied=tied)
        assert_same_bits(self.run(precision, scheme=scheme, tied=tied), seen)

    def test_no_second_array_of_the_table_s_size(self, monkeypatch):
        made = []
        right = Rows.dense
        monkeypatch.setattr(Rows, "dense", lambda self: made.append(self.shape) or right(self))
        self.run(fp32)
        assert made == []
        self.run(fp32, tied=False)
        assert made == [(5, 4)]

    @pytest.mark.parametrize("first", ["rows", "whole"])
    def test_a_gradient_that_another_tensor_shares_is_left_alone(self, first):
        """A table used by an embedding and by an add, which hands one array to both of its inputs."""
        tape = Tape()
        table, z = tape.tensor(np.ones((2, 1)), "table"), tape.tensor(np.ones((2, 1)), "z")
        whole = [apply(ops.Add(), table, z)] if first == "rows" else []
        row = apply(ops.Embedding(), table, np.array([0]))
        (total,) = whole or [apply(ops.Add(), table, z)]
        scaled = apply(ops.Multiply(), total, np.array([[2.0], [3.0]]))
        backward(apply(ops.Concat(0), scaled, row), np.array([[1.0], [1.0], [10.0]]))
        assert (table.grad.tolist(), z.grad.tolist()) == ([[12], [3]], [[2], [3]])

    def test_a_table_that_is_computed(self):
        """Rows go through forks; an op that computes is given the whole array."""
        table = Tape().tensor(np.ones((3, 1)))
        rows = apply(
            ops.Embedding(), apply(ops.Multiply(), table, np.array([[2.0], [3.0], [4.0]])), np.array([1, 1, 2])
        )
        backward(rows, np.ones((3, 1)))
        assert table.grad.tolist() == [[0], [6], [4]]

    def test_a_probe_sees_whole_arrays(self):
        seen = []
        self.run(fp32, probe=lambda way, variable, a: seen.append(type(a)), scheme=unit)
        assert set(seen) == {np.ndarray}


class TestPaidAhead:
    """β of a fork whose uses are products is multiplied there; nobody sees a difference beyond a rounding."""

    def run(self, probe=None, precision=fp32, dtype=np.float64, use=ops.Matmul):
        rng = np.random.default_rng(0)
        tape = Tape(unit, precision, dtype=dtype, probe=probe)
        x = tape.tensor(rng.standard_normal((4, 3)), "x")
        w = [tape.tensor(rng.standard_normal((3, 3)), f"w{i}") for i in range(2)]
        start = apply(ops.Scaled(beta=0.3), x)
        ys = [apply(use(), start, v, constraint=none) for v in w]
        backward(apply(ops.Add(), *ys), rng.standard_normal((4, 3)))
        return x.grad, start, [v.grad for v in w]

    def test_the_gradient_is_the_same(self, monkeypatch):
        paid, _, weights = self.run()
        monkeypatch.setattr("refscale.engine.fast._paid_ahead", lambda tape, output: {})
        plain, _, plain_weights = self.run()
        # Two sums of 3 products and their sum: the factor rounded into each term, or into the result.
        assert np.all(np.abs(paid - plain) <= 8 * 2.0**-53 * np.max(np.abs(plain)))
        for w, expected in zip(weights, plain_weights, strict=True):
            assert_same_bits(w, expected)

    def test_a_probe_sees_the_gradient_before_the_factor_and_changes_nothing(self):
        seen = {}
        grad, start, _ = self.run(lambda way, v, a: seen.update({v: a.copy()} if way == "backward" else {}))
        assert_same_bits(grad, self.run()[0])
        np.testing.assert_allclose(0.3 * seen[start.variable], grad, rtol=1e-15)

    def test_a_gradient_stored_narrow_is_rounded_before_the_factor(self):
        """1.5·(1 + 2^-10) is a tie, rounded to 1.5 + 2^-9; times 1.5 another, to 2.25 + 2^-8. Rounded once: − 2^-9."""
        tape = Tape(unit, fp16)
        x, w = tape.tensor([[1.0]]), np.array([[1.5]])
        backward(apply(ops.Matmul(), apply(ops.Scaled(beta=1.5), x), w, constraint=none), np.array([[1 + 2.0**-10]]))
        assert x.grad == 2.25 + 2**-8

    def test_not_through_a_rounding(self):
        """A narrow result is stored before the factor and after it."""
        seen = {}
        self.run(lambda way, v, a: seen.update({v.name: a} if way == "backward" else {}), fp16, np.float32)
        assert_same_bits(seen["x"], fp16.store(np.float32(0.3) * seen["scaled"]))


def test_a_gradient_without_gaps_is_cast_where_it_lies():
    x = np.arange(12, dtype=np.float32).reshape(3, 4).T
    y = fp16.store(x)
    assert y.flags.f_contiguous
    assert_same_bits(y, x)
    assert fp16.store(x, out=x) is x


@pytest.mark.parametrize("way", ["forward", "both"])
def test_arrays_go_when_the_last_tensor_goes(way):
    """At once, and not when Python's collector comes round."""
    gc.disable()
    try:
        tape = Tape()
        x, w = tape.tensor(np.ones((4, 3)), "x"), tape.tensor(np.ones((3, 2)), "w")
        y = apply(ops.Gelu(), apply(ops.Matmul(), x, w))
        alive = [weakref.ref(a) for node in tape.nodes for a in node.kept if a is not x.value and a is not w.value]
        if way == "both":
            backward(y, np.ones((4, 2)))
            alive += [weakref.ref(t.grad) for t in (x, w)]
        del tape, x, w, y
        assert alive
        assert not any(ref() is not None for ref in alive)
    finally:
        gc.enable()
