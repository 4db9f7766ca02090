"""The ops of the table through exact arithmetic, on arrays alone and through the whole engine."""

import hashlib
import json

import ml_dtypes
import numpy as np
import pytest

from refscale import exact, models, ops
from refscale.engine import Tape, apply, backward
from refscale.errors import ArgumentError
from refscale.exact import Product, as_exact, rounded
from refscale.formats import Cast
from refscale.models import bert
from refscale.precision import Precision, get_precision
from refscale.scales import regular, unit
from refscale.special import elementary
from refscale.testing.equality import assert_same_bits
from tests.exact.test_product import MODES, in_rationals
from tests.machines import MACHINES, output
from tests.models.batches import random_batch
from tests.ops.cases import ALL_OPS, EXAMPLES

FLOAT16 = Cast("float16", "nearest_even", "nonsaturate")


def step(case, precision, scheme=unit):
    """Output and gradients of one call."""
    rng = np.random.default_rng(1)
    tape = Tape(scheme, precision)
    leaves = [tape.tensor(a) for a in case.arrays(rng)]
    y = apply(case.op, *leaves)
    backward(y, rng.standard_normal(y.shape))
    return [y.value, *(t.grad for t in leaves if t.grad is not None)]


@pytest.mark.parametrize("op", ALL_OPS, ids=lambda op: op.__name__)
@pytest.mark.parametrize("accumulate", ["exact", "float32", "float32:2", "truncated:24:4"])
def test_every_op_computes_what_it_computes_in_float64(op, accumulate):
    """In float32 storage: 4 ulp of the largest element, where float64 arithmetic, rounded, is the reference."""
    for case in EXAMPLES[op]:
        rng = np.random.default_rng(1)
        tape = Tape(unit, dtype=np.float64)
        leaves = [tape.tensor(np.asarray(a, np.float32) if a.dtype.kind == "f" else a) for a in case.arrays(rng)]
        y = apply(case.op, *leaves)
        backward(y, np.asarray(rng.standard_normal(y.shape), np.float32))
        reference = [y.value, *(t.grad for t in leaves if t.grad is not None)]
        for ours, theirs in zip(step(case, get_precision("fp32", accumulate=accumulate)), reference, strict=True):
            assert type(ours) is np.ndarray
            assert ours.dtype == np.float32
            room = 2.0**-20 if accumulate.startswith("truncated") else 2.0**-21
            assert (np.abs(ours - theirs) <= room * np.max(np.abs(theirs), initial=0)).all(), (case, accumulate)


@pytest.mark.parametrize("op", [op for op in ALL_OPS if op.contraction], ids=lambda op: op.__name__)
def test_contractions_round_product_and_factor_once(op):
    """Stored in FP16: what float64 gives, rounded once; none of these cases is beside a tie."""
    for case in EXAMPLES[op]:
        ours = step(case, get_precision("fp16", accumulate="exact"))
        rng = np.random.default_rng(1)
        tape = Tape(unit, dtype=np.float64)
        leaves = [tape.tensor(FLOAT16(a) if a.dtype.kind == "f" else a) for a in case.arrays(rng)]
        y = apply(case.op, *leaves)
        backward(y, FLOAT16(rng.standard_normal(y.shape)))
        reference = [y.value, *(t.grad for t in leaves if t.grad is not None)]
        for mine, wide in zip(ours, reference, strict=True):
            assert_same_bits(mine, FLOAT16(wide) + np.float32(0))


def beside_rounding_boundaries(format):
    """(4, 4) and (4, 4), exact in the format: products are ties, or values of it, of both signs, plus or minus what
    float64 cannot hold beside them; and ties that are only just ones."""
    unit_, ulp, least = {
        "float16": (2.0**5, 2.0**0, 2.0**-24),
        "bfloat16": (1.0, 2.0**-7, 2.0**-40),
        "float32": (1.0, 2.0**-23, 2.0**-60),
    }[format]
    half = [ulp * 2.0**-3, 2.0**2]
    a = np.array([[unit_, half[0], s * least, 0] for s in (1, -1, 0, 2)]) * np.array([[1], [-1], [1], [-1]])
    b = np.array([[unit_, half[1], least, 0], [unit_, 0, least, 0], [-unit_, 3 * half[1], least, 0]])
    return a, np.vstack([b, b[:1] * [1, 1, -1, 1]]).T.copy()


def through_the_engine(scheme, store, a, b):
    """a @ b, as an output and as either gradient of a matrix product."""
    tape = Tape(scheme, Precision("exactly", store, accumulate="exact"))
    x, w = tape.tensor(a), tape.tensor(b)
    yield apply(ops.Matmul(), x, w).value
    x, w = tape.tensor(np.zeros((4, 4))), tape.tensor(b.T.copy())
    backward(apply(ops.Matmul(), x, w), a)
    yield x.grad
    x, w = tape.tensor(a.T.copy()), tape.tensor(np.zeros((4, 4)))
    backward(apply(ops.Matmul(), x, w), b)
    yield w.grad


@pytest.mark.parametrize("scheme", [regular, unit], ids=["no factor", "factor 1/2"])
@pytest.mark.parametrize("format", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_rounds_once_through_the_engine(mode, format, scheme):
    cast = Cast(format, mode, "nonsaturate")
    a, b = beside_rounding_boundaries(format)
    expected = in_rationals(a, b, cast, 1.0 if scheme is regular else 0.5)
    for ours in through_the_engine(scheme, cast, a, b):
        assert_same_bits(ours, expected)


@pytest.mark.parametrize("format", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("mode", MODES)
def test_rounding_twice_is_noticed(mode, format):
    """Products rounded to float64 first differ in some element, in every mode."""
    cast = Cast(format, mode, "nonsaturate")
    a, b = beside_rounding_boundaries(format)
    assert (cast(exact.matmul_float64(a, b)) != in_rationals(a, b, cast)).any()


@pytest.mark.parametrize("accumulate", ["exact", "float32"])
def test_a_float64_carrier_stays_float64(accumulate):
    rng = np.random.default_rng(7)
    x, w = rng.standard_normal((4, 9)), rng.standard_normal((9, 3))
    tape = Tape(regular, get_precision("fp32", accumulate=accumulate), dtype=np.float64)
    a, b = tape.tensor(x), tape.tensor(w)
    y = apply(ops.Gelu(), apply(ops.Matmul(), a, b))
    backward(y, np.ones((4, 3)))
    assert [t.dtype for t in (y.value, a.grad, b.grad)] == [np.float64] * 3
    product = apply(ops.Matmul(), tape.tensor(x), tape.tensor(w)).value
    if accumulate == "exact":
        assert_same_bits(product, exact.matmul_float64(x, w))
    else:
        assert_same_bits(product, exact.get_accumulator("float32").matmul(x, w).astype(np.float64))


def test_factors_are_part_of_the_product():
    """Not rounded before them: the paper's α is not a power of two."""
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((40, 50)), rng.standard_normal((50, 30))
    tape = Tape(unit, get_precision("fp16", accumulate="exact"))
    y = apply(ops.Matmul(), tape.tensor(x), tape.tensor(w))
    alpha = tape.nodes[0].scales.alpha
    a, b = FLOAT16(x), FLOAT16(w)
    assert_same_bits(y.value, exact.matmul(a, b, FLOAT16, alpha))
    twice = FLOAT16(exact.matmul(a, b, FLOAT16) * alpha)
    assert (twice != y.value).any()


def test_a_product_is_lazy_and_keeps_its_moves():
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 3, 4)).astype(np.float32), rng.standard_normal((2, 4, 5)).astype(np.float32)
    product = as_exact(a) @ as_exact(b)
    assert isinstance(product, Product)
    moved = (0.3 * product.swapaxes(-1, -2).reshape(2, 15)).T
    assert moved.shape == (15, 2)
    assert moved.ndim == 2
    assert moved.size == 30
    expected = exact.matmul(a, b, FLOAT16, 0.3).swapaxes(-1, -2).reshape(2, 15).T
    assert_same_bits(rounded(moved, FLOAT16), expected)
    assert_same_bits(np.asarray(product.array()), exact.matmul_float64(a, b))
    assert_same_bits(np.asarray(product + 1.0), exact.matmul_float64(a, b) + 1.0)
    assert_same_bits(np.asarray(product.sum(-1)), exact.sum(exact.matmul_float64(a, b), -1))


def test_models_of_accumulators_are_used():
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((6, 64)).astype(np.float32), rng.standard_normal((64, 5)).astype(np.float32)
    seen = set()
    for name in ("exact", "float32", "float32:8", "truncated:8:8"):
        tape = Tape(regular, get_precision("fp32", accumulate=name))
        y = apply(ops.Matmul(), tape.tensor(a), tape.tensor(b)).value
        model = exact.get_accumulator(name)
        if name == "exact":
            assert_same_bits(y, exact.matmul(a, b, Cast("float32", "nearest_even", "nonsaturate")))
        else:
            assert_same_bits(y, model.matmul(a, b))
        seen.add(y.tobytes())
    assert len(seen) == 4


@pytest.mark.parametrize("name", ["exp", "log", "log1p", "tanh"])
def test_functions_are_those_from_basic_operations(name):
    x = np.random.default_rng(6).uniform(0.1, 9, 4000)
    ours = np.asarray(getattr(np, name)(as_exact(x)))
    assert_same_bits(ours, getattr(elementary, name)(x))
    assert (ours != getattr(np, name)(x)).any()  # NumPy's are others


def test_sums_do_not_depend_on_their_order():
    x = np.random.default_rng(5).standard_normal(1000)
    forth, back = as_exact(x).sum(), as_exact(x[::-1].copy()).sum()
    assert_same_bits(np.asarray(forth), np.asarray(back))
    assert len({np.sum(np.roll(x, i)).item() for i in range(100)}) > 1  # NumPy's do


@pytest.mark.parametrize(
    "call",
    [
        lambda x: np.sin(x),
        lambda x: x**3,
        lambda x: np.add.accumulate(x),
        lambda x: np.cumsum(x),
        lambda x: np.linalg.norm(x),
        lambda x: np.einsum("i,i->", x, x),
        lambda x: np.std(x),
        lambda x: np.sum(x, initial=3.0),
    ],
)
def test_what_has_no_rule_is_an_error(call):
    with pytest.raises(ArgumentError, match="exact arithmetic has no rule"):
        call(as_exact(np.ones(3)))


def test_operators_of_a_product_keep_their_sides():
    """1·3 + 2·4 = 11, with numbers, arrays and ufuncs on either side."""
    p = as_exact(np.array([[1.0, 2.0]])) @ as_exact(np.array([[3.0], [4.0]]))
    y = np.array([[22.0]])
    assert isinstance(p, Product)
    assert [v.item() for v in (p - y, y - p, p - 22, 22 - p)] == [-11, 11, -11, 11]
    assert [v.item() for v in (p / y, y / p, p / 22, 22 / p)] == [0.5, 2, 0.5, 2]
    assert [v.item() for v in (p + y, y + p, 22 + p, -p, p * y, y * p)] == [33, 33, 33, -11, 242, 242]
    assert [v.item() for v in (np.subtract(p, y), np.subtract(y, p), np.divide(y, p))] == [-11, 11, 2]
    assert [v.item() for v in (np.less(p, y), np.less(y, p), np.greater(y, p))] == [True, False, True]


def test_sums_of_runs_are_those_of_numpy():
    """A run that ends where it starts, or before, is its first element."""
    x = np.float64([1, 2, 4, 8, 16])
    starts = [0, 3, 3, 1]
    assert (
        np.asarray(np.add.reduceat(as_exact(x), starts)).tolist()
        == np.add.reduceat(x, starts).tolist()
        == [7, 8, 8, 30]
    )
    rows = np.add.reduceat(as_exact(np.stack([x, -x])), [0, 2], axis=1)
    assert np.asarray(rows).tolist() == [[3, 28], [-3, -28]]


def test_bfloat16_is_exact_too():
    x = np.array([[1, 2**-8, -1]], ml_dtypes.bfloat16)
    y = as_exact(x) @ as_exact(np.ones((3, 1), ml_dtypes.bfloat16))
    assert isinstance(y, Product)
    assert y.array().item() == 2.0**-8
    assert as_exact("text") == "text"
    assert as_exact(np.arange(3)).dtype == np.int64


def test_policies():
    assert get_precision("fp8,accumulate=exact") == get_precision("fp8", accumulate="exact")
    policy = get_precision("store=bf16,operand=e4m3fn,accumulate=float32:128")
    assert policy.accumulate == "float32:128"
    assert "accumulate=float32:128" in str(policy)
    for wrong in ("any-order", "fp32", ""):
        with pytest.raises(ArgumentError):
            get_precision("fp8", accumulate=wrong)
    with pytest.raises(ArgumentError, match="any-order"):
        Precision("mine", accumulate="any-order")


# --- a whole training step, on every machine ------------------------------------------------------------------------


def gradients(precision):
    """SHA-256 of loss and gradients of a BERT of one layer, in that precision."""
    config = bert.BertConfig(layers=1, width=32, heads=2, hidden=64, vocabulary=64, positions=16, dropout=0.0)
    batch = random_batch(config, np.random.default_rng(0), 2, 16)
    rng = np.random.default_rng(1)
    values = {n: np.float32(rng.integers(-64, 65, s.shape) / 64) for n, s in bert.specs(config).items()}
    tape = Tape(regular, precision)
    leaves = models.parameters_on(tape, values, config)
    loss = bert.pretraining_loss(leaves, batch, config)
    backward(loss.total)
    parts = [loss.total.value.tobytes(), *(leaves[n].grad.tobytes() for n in sorted(leaves))]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def all_gradients():
    names = ("fp32", "fp16", "fp8", "fp8,accumulate=float32:8")
    return json.dumps([gradients(get_precision(n, accumulate=None if "," in n else "exact")) for n in names])


def test_a_training_step_has_the_same_bits_on_every_machine():
    code = "from tests.exact.test_array import all_gradients; print(all_gradients())"
    results = {m: output(code, m) for m in MACHINES}
    assert len(set(results.values())) == 1, results
    fast = "from tests.exact.test_array import *; print(gradients(get_precision('fp32')))"
    assert output(fast, "as it is") not in next(iter(results.values()))
