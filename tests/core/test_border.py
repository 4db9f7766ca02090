"""Arrays at the border: refusals by name, and later writes without effect. From outside only."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import refscale
from refscale import analysis, data, exact, ops, optim, special, stats, testing, train
from refscale import functional as F  # noqa: N812
from refscale.arrays import freeze, kept, plain
from refscale.blocks import (
    BlockCodes,
    decode_blocks,
    encode_blocks,
    get_block_cast,
    layout,
    quantize_blocks,
    split_blocks,
)
from refscale.engine import Tape, apply, backward
from refscale.errors import CarrierError, ShapeError
from refscale.formats import Cast, decode, encode, encode_by, get_format, quantize
from refscale.golden.kit.verdicts import as_codes
from refscale.golden.schema import Codes
from refscale.graph import plan
from refscale.layers import Spec, initialize, on_tape
from refscale.models import bert, language
from refscale.precision import Precision, get_precision
from refscale.published.adapt import Adapted
from refscale.scales import regular, unit
from refscale.special import elementary
from tests.sources import parsed

# --- A later write changes nothing ------------------------------------------------------------------------------------

executors = pytest.mark.parametrize("fast", [True, False], ids=["fast", "page"])
ZERO = np.zeros((1, 3))
MOVED = {
    "reshape": lambda x: apply(ops.Reshape((3,)), x),
    "transpose": lambda x: apply(ops.Transpose((1, 0)), x),
    "slice": lambda x: apply(ops.Slice(1, 0, 3), x),
    "concat": lambda x: apply(ops.Concat(0), x),
    "sum": lambda x: apply(ops.Sum((0,)), x),
    "add": lambda x: apply(ops.Add(), x, ZERO),
    "add, broadcast": lambda x: apply(ops.Add(), apply(ops.Reshape((3,)), x), ZERO),
    "subtract": lambda x: apply(ops.Subtract(), x, ZERO),
    "bias, of x": lambda x: apply(ops.Bias(), x, ZERO[0]),
    "bias, of the bias": lambda x: apply(ops.Bias(), ZERO, apply(ops.Reshape((3,)), x)),
    "fork": lambda x: apply(ops.Fork(1.0), x),
    "scaled": lambda x: apply(ops.Scaled(), x),
    "dropout": lambda x: apply(ops.Dropout(0.0), x, np.ones((1, 3), np.bool_)),
}
"""Functions of x (1, 3) whose output holds the elements of x in order: their Jacobian is the identity."""


class TestSeeds:
    @executors
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("name", MOVED)
    def test_a_jacobian_row_by_row_from_one_buffer(self, name, dtype, fast):
        rows, buffer = [], None
        for i in range(3):
            tape = Tape(dtype=dtype, fast=fast)
            x = tape.tensor(np.ones((1, 3)))
            y = MOVED[name](x)
            buffer = np.empty(y.shape, dtype) if buffer is None else buffer
            buffer[...] = 0
            buffer.flat[i] = 1
            backward(y, buffer)
            rows.append(x.grad)
        assert np.concatenate(rows).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]

    def test_of_two_outputs_that_share_a_buffer(self):
        tape, g = Tape(), np.ones(2, np.float32)
        x, z = tape.tensor(np.ones(2)), tape.tensor(np.ones(2))
        one, two = apply(ops.Scaled(), x), apply(ops.Add(), x, z)
        backward(one, g)
        g[:] = 10
        backward(two, g)
        g[:] = 100
        assert (x.grad.tolist(), z.grad.tolist()) == ([11, 11], [10, 10])

    def test_a_gradient_handed_on_as_a_seed(self):
        first, second = Tape(), Tape()
        x, z = first.tensor(np.ones(2)), second.tensor(np.ones(2))
        backward(apply(ops.Scaled(), x), np.array([1, 2], np.float32))
        backward(apply(ops.Scaled(), z), x.grad)
        backward(apply(ops.Scaled(), x), np.array([5, 5], np.float32))
        assert (x.grad.tolist(), z.grad.tolist()) == ([6, 7], [1, 2])


class TestLeavesAndConstants:
    def test_a_leaf(self):
        array = np.array([2, 3], np.float32)
        x = Tape().tensor(array)
        y = apply(ops.Multiply(), x, x)
        array[:] = 7
        backward(y, np.ones(2))
        assert (x.value.tolist(), x.grad.tolist()) == ([2, 3], [4, 6])

    def test_a_leaf_that_is_read_only_but_for_its_base(self):
        array = np.array([2, 3], np.float32)
        view = array[:]
        view.flags.writeable = False
        x = Tape().tensor(view)
        array[:] = 7
        assert x.value.tolist() == [2, 3]

    def test_a_leaf_in_another_library_s_buffer(self):
        buffer = bytearray(np.array([2, 3], np.float32).tobytes())
        view = np.frombuffer(memoryview(buffer).toreadonly(), np.float32)
        assert not view.flags.writeable
        x = Tape().tensor(view)
        buffer[:] = bytes(8)
        assert x.value.tolist() == [2, 3]

    def test_a_constant(self):
        x, w = Tape().tensor(np.ones(2)), np.array([2, 3], np.float32)
        y = apply(ops.Multiply(), x, w)
        w[:] = 7
        backward(y, np.ones(2))
        assert x.grad.tolist() == [2, 3]

    def test_a_mask(self):
        x, keep = Tape().tensor(np.ones(2)), np.array([True, False])
        y = apply(ops.Dropout(0.5), x, keep)
        keep[:] = [False, True]
        backward(y, np.ones(2))
        assert x.grad.tolist() == [2, 0]

    def test_ids(self):
        table, ids = Tape().tensor(np.ones((3, 1))), np.array([0, 0])
        y = apply(ops.Embedding(), table, ids)
        ids[:] = 2
        backward(y, np.ones((2, 1)))
        assert table.grad.tolist() == [[2], [0], [0]]

    def test_targets(self):
        logits, targets = Tape().tensor(np.zeros((1, 2))), np.array([0])
        loss = F.cross_entropy(logits, targets)
        targets[:] = 1
        backward(loss)
        assert logits.grad.tolist() == [[-0.5, 0.5]]

    @pytest.mark.parametrize("name", ["fp32", "operand=e4m3fn"])
    def test_between_two_uses_of_a_product(self, name):
        x = np.array([[1.0]], np.float32)
        leaf = Tape("regular", name).tensor(x)
        first = apply(ops.Matmul(), leaf, np.array([[1.0]]))
        x[:] = 5
        assert first.value == apply(ops.Matmul(), leaf, np.array([[1.0]])).value == 1


class TestResults:
    """Returned arrays are read-only, so that callers cannot write to the recorded ones."""

    def results(self, policy, fast):
        seen = []
        tape = Tape("unit", policy, fast=fast, probe=lambda way, variable, a: seen.append(a))
        x, w = tape.tensor(np.ones((2, 3)), "x"), tape.tensor(np.ones((3, 3)), "w")
        h = apply(ops.Softmax(), apply(ops.Matmul(), x, w))
        y = apply(ops.Tanh(), apply(ops.Reshape((3, 2)), apply(ops.Scaled(beta=2.0), apply(ops.Gelu(), h))))
        loss = apply(ops.MseLoss(), y, np.zeros((3, 2)))
        values = [x.value, h.value, y.value, loss.value]
        before = [v.copy() for v in values]
        backward(loss)
        for value, copy in zip(values, before, strict=True):
            np.testing.assert_array_equal(value, copy)  # no kernel has written to a returned array
        return [*values, x.grad, w.grad, *seen]

    @executors
    @pytest.mark.parametrize("policy", ["fp32", "fp16", "fp8", "fp32,accumulate=exact"])
    def test_values_gradients_and_what_a_probe_sees(self, policy, fast):
        for array in self.results(policy, fast):
            base = array
            while isinstance(base, np.ndarray):
                with pytest.raises(ValueError, match="read-only"):
                    base[...] = 0
                base = base.base

    def test_a_probe_that_keeps_gradients(self):
        seen = {}
        tape = Tape("unit", dtype=np.float64, probe=lambda way, v, a: seen.setdefault((way, v.name), a))
        x = tape.tensor(np.ones(2), "x")
        y = apply(ops.Fork(1.0), apply(ops.Reshape((2,)), apply(ops.Scaled(beta=3.0), x)))
        backward(apply(ops.Multiply(), y, np.array([1.0, 2.0])), np.ones(2))
        assert seen["backward", "fork"].tolist() == seen["backward", "scaled"].tolist() == [1, 2]
        assert seen["backward", "x"].tolist() == [3, 6]


SPECS = {"w": Spec("weight", (4, 4)), "b": Spec("bias", (4,))}


def made() -> dict[str, dict[str, np.ndarray]]:
    """What initialization, optimizers and files return."""
    p = initialize(SPECS, "unit", np.random.default_rng(0))
    g = {name: np.ones_like(x) for name, x in p.items()}
    found = {"initialize": p, "store_weights": get_precision("fp8-sr").store_weights(p, np.random.default_rng(0))}
    for name in optim.OPTIMIZERS:
        optimizer = optim.get_optimizer(name)
        state = optimizer.init(p)
        new, after = optimizer.update(g, state, p, optim.Rate(0.1))
        found |= {f"{name}.init": state, f"{name}.update": new, f"{name}.update, state": after}
    adapted = Adapted(unit, dict.fromkeys(p, 2.0))
    return found | {"adapted": adapted.unit(p), "the way back": adapted.regular(p)}


class TestParameters:
    """A training step copies no parameter: what makes them returns read-only arrays, which are taken as they are."""

    @pytest.mark.parametrize("name", made())
    def test_no_copy(self, name):
        for array in made()[name].values():
            assert not array.flags.writeable
            assert kept(array) is array

    def test_leaves_share_their_memory(self):
        p = initialize(SPECS, regular, np.random.default_rng(0))
        leaves = on_tape(Tape(), p, SPECS)
        assert all(np.shares_memory(leaves[name].value, p[name]) for name in p)

    def test_those_of_a_checkpoint(self, tmp_path):
        p = initialize(SPECS, regular, np.random.default_rng(0))
        state = train.TrainState(0, p, {}, {})
        train.save_checkpoint(tmp_path / "c.npz", train.Checkpoint(train.TrainConfig("bert-tiny"), "", 0.0, state))
        loaded = train.load_checkpoint(tmp_path / "c.npz").state.parameters
        assert all(kept(x) is x and x.tobytes() == p[name].tobytes() for name, x in loaded.items())

    def test_writable_ones_are_copied(self):
        p = {name: x.copy() for name, x in initialize(SPECS, regular, np.random.default_rng(0)).items()}
        leaf = on_tape(Tape(), p, SPECS)["w"]
        before = leaf.value.copy()
        p["w"][...] = 0
        assert leaf.value.tobytes() == before.tobytes()

    def test_golden_vectors(self):
        codes = np.array([1, 2], np.uint8)
        vector = Codes("float8_e5m2", codes)
        codes[:] = 0
        assert vector.codes.tolist() == [1, 2]


def test_a_copy_keeps_the_layout():
    x = np.arange(6.0).reshape(2, 3).T
    assert kept(x).strides == x.strides
    assert kept(x).tolist() == x.tolist()


def test_freeze_reaches_the_base():
    base = np.ones(6)
    assert not freeze(base.reshape(2, 3)[:1]).flags.writeable
    assert not base.flags.writeable


# --- Refusals by name -------------------------------------------------------------------------------------------------

FP16 = Cast("float16", "nearest_even", "saturate")
MX = get_block_cast("mxfp8_e4m3", block=2)
ONE = np.ones((2, 2), np.float32)
RNG = np.random.default_rng(0)


def _optimizer(x, *, where):
    optimizer, p = optim.adam(), {"p": ONE}
    given = {"gradients": p, "parameters": p, "moment": ONE} | {where: x if where == "moment" else {"p": x}}
    state = optimizer.init(p) | {"m/p": given["moment"]}
    optimizer.update(given["gradients"], state, given["parameters"], optim.Rate(0.1))


def _vjp(forward, gradient):
    testing.assert_vjp(forward, lambda g: (gradient,), [ONE], rng=RNG)


def _cell(f, width, state):
    """A step of a recurrent network."""
    tape = Tape()
    return f(tape.tensor(ONE), state, *[tape.tensor(np.ones((2, width)))] * 2)


def _sequence(f, width, state):
    """Two steps of one."""
    tape = Tape()
    return f(tape.tensor(ONE[None]), [[tape.tensor(np.ones((2, width)))] * 2], [state])


def _bert(ids):
    config = bert.get_config("bert-tiny", vocabulary=8)
    p = initialize(bert.specs(config), "unit", RNG)
    bert.encode(on_tape(Tape(), p, bert.specs(config)), config, ids)


def _language(ids):
    config = language.LanguageConfig(1, 64, vocabulary=8)
    p = initialize(language.specs(config), "unit", RNG)
    language.logits(on_tape(Tape(), p, language.specs(config)), config, ids)


def _binary(target, **weights):
    return F.binary_cross_entropy_with_logits(Tape().tensor(ONE), target, **weights)


BORDERS = {
    "formats.cast.Cast.__call__": FP16,
    "formats.cast.quantize": lambda x: quantize(x, "float16", rounding="nearest_even", overflow="saturate"),
    "formats.cast.quantize, out": lambda x: FP16(ONE, out=x),
    "formats.cast.quantize, random_bits": lambda x: Cast("float16", "stochastic", "saturate")(ONE, x),
    "formats.conventions.encode_by": lambda x: encode_by(x, FP16, {}),
    "formats.conventions.encode_by, random_bits": lambda x: encode_by(
        ONE, Cast("float16", "stochastic", "saturate"), {}, x
    ),
    "formats.codes.encode": lambda x: encode(x, "float32"),
    "formats.codes.decode": lambda x: decode(x, "float32"),
    "formats.table.Format.spacing": get_format("float16").spacing,
    "special.elementary.exp": elementary.exp,
    "special.elementary.expm1": elementary.expm1,
    "special.elementary.log": elementary.log,
    "special.elementary.log1p": elementary.log1p,
    "special.elementary.tanh": elementary.tanh,
    "special.gaussian.erf": special.erf,
    "special.gaussian.gaussian_tail": special.gaussian_tail,
    "special.gaussian.gelu_erf": special.gelu_erf,
    "special.logistic.gelu_tanh": special.gelu_tanh,
    "special.logistic.sigmoid": special.sigmoid,
    "special.logistic.sigmoid_pair": special.logistic.sigmoid_pair,
    "special.logistic.silu": special.silu,
    "special.logistic.softplus": special.softplus,
    "special.logistic.tanh_pair": special.logistic.tanh_pair,
    "special.blocks.blocked": lambda x: special.blocks.blocked("erf", lambda *_: None, x, 1, 0),
    "exact.sums.sum": exact.sum,
    "exact.functions.evaluate": lambda x: exact.evaluate("exp", x, FP16),
    "exact.product.matmul": lambda x: exact.matmul(x, ONE, FP16),
    "exact.product.matmul, b": lambda x: exact.matmul(ONE, x, FP16),
    "exact.product.matmul_float64": lambda x: exact.matmul_float64(x, ONE),
    "exact.product.as_operands": lambda x: exact.product.as_operands("call", x, ONE),
    "exact.accumulators.InOrder.matmul": lambda x: exact.get_accumulator("float32").matmul(x, ONE),
    "exact.accumulators.Rounded.matmul": lambda x: exact.get_accumulator("rounded:1").matmul(x, ONE),
    "exact.accumulators.Truncated.matmul": lambda x: exact.get_accumulator("truncated:13:32").matmul(x, ONE),
    "exact.accumulators.Truncated.matmul, c": lambda x: exact.get_accumulator("truncated:13:32").matmul(ONE, ONE, x),
    "exact.intervals.bound": lambda x: exact.bound(x, ONE, exact.get_accumulator("float32")),
    "exact.intervals.interval": lambda x: exact.interval(x, ONE, exact.get_accumulator("float32"), FP16),
    "blocks.cast.quantize_blocks": lambda x: quantize_blocks(x, MX),
    "blocks.cast.quantize_blocks, random_bits": lambda x: quantize_blocks(ONE, MX, x),
    "blocks.cast.encode_blocks": lambda x: encode_blocks(x, MX),
    "blocks.cast.split_blocks": lambda x: split_blocks(x, MX),
    "blocks.cast.decode_blocks, codes": lambda x: decode_blocks(BlockCodes(MX, x, ONE[:, :1])),
    "blocks.cast.decode_blocks, scales": lambda x: decode_blocks(BlockCodes(MX, ONE.astype(np.uint8), x[:, :1])),
    "blocks.layout.pack_nibbles": layout.pack_nibbles,
    "blocks.layout.unpack_nibbles": layout.unpack_nibbles,
    "blocks.layout.tile_scales": layout.tile_scales,
    "blocks.layout.untile_scales": lambda x: layout.untile_scales(x, (2, 2)),
    "precision.Precision.store_weights": lambda x: Precision("p", weights=FP16).store_weights({"x": x}),
    "engine.record.Tape.tensor": Tape().tensor,
    "engine.run.apply": lambda x: apply(ops.Add(), Tape().tensor(ONE), x),
    "engine.run.backward": lambda x: backward(apply(ops.Scaled(), Tape().tensor(ONE)), x),
    "graph.plan": lambda x: plan(lambda t: t, x),
    "functional.choices.maximum": lambda x: F.maximum(Tape().tensor(ONE), x),
    "functional.choices.minimum": lambda x: F.minimum(Tape().tensor(ONE), x),
    "functional.choices.where": lambda x: F.where(ONE > 0, Tape().tensor(ONE), x),
    "functional.losses.binary_cross_entropy_with_logits": lambda x: _binary(x),
    "functional.losses.binary_cross_entropy_with_logits, weight": lambda x: _binary(ONE, weight=x),
    "functional.losses.binary_cross_entropy_with_logits, pos_weight": lambda x: _binary(ONE, pos_weight=x),
    "functional.losses.cross_entropy": lambda x: F.cross_entropy(Tape().tensor(ONE), x),
    "functional.losses.cross_entropy, weight": lambda x: F.cross_entropy(Tape().tensor(ONE), [0, 1], weight=x[0]),
    "functional.losses.huber_loss": lambda x: F.huber_loss(Tape().tensor(ONE), x),
    "functional.losses.mse_loss": lambda x: F.mse_loss(Tape().tensor(ONE), x),
    "functional.losses.smooth_l1_loss": lambda x: F.smooth_l1_loss(Tape().tensor(ONE), x),
    "functional.multihead.attention": lambda x: F.attention(
        *[Tape().tensor(np.ones((1, 2, 2)))] * 3, heads=1, attn_mask=x
    ),
    "functional.multihead.scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(
        *[Tape().tensor(ONE)] * 3, x
    ),
    "functional.recurrent.lstm_cell": lambda x: _cell(F.lstm_cell, 8, (ONE, x)),
    "functional.recurrent.gru_cell": lambda x: _cell(F.gru_cell, 6, x),
    "functional.recurrent.lstm": lambda x: _sequence(F.lstm, 8, (ONE[:1], x)),
    "functional.recurrent.gru": lambda x: _sequence(F.gru, 6, x),
    "functional.pooling.mean_pooled": lambda x: F.mean_pooled(Tape().tensor(ONE[None]), x),
    "functional.products.matmul": lambda x: F.matmul(Tape().tensor(ONE), x),
    "layers.on_tape": lambda x: on_tape(Tape(), {"x": x}, {"x": Spec("weight", (2, 2))}),
    "data.Vocabulary.decode": lambda x: data.Vocabulary.from_text("a b", 7).decode(x),
    "data.Characters.decode": lambda x: data.Characters.from_text("ab", 3).decode(x),
    "models.bert.encode": _bert,
    "models.language.logits": _language,
    "optim.update, gradients": lambda x: _optimizer(x, where="gradients"),
    "optim.update, parameters": lambda x: _optimizer(x, where="parameters"),
    "optim.update, state": lambda x: _optimizer(x, where="moment"),
    "optim.init": lambda x: optim.adam().init({"p": x}),
    "analysis.snr.curves.cast_snr": lambda x: analysis.cast_snr(x, FP16),
    "stats.measurement.measure": stats.measure,
    "testing.equality.assert_same_bits": lambda x: testing.assert_same_bits(x, ONE),
    "testing.equality.assert_same_bits, expected": lambda x: testing.assert_same_bits(ONE, x),
    "testing.equality.assert_within_ulp": lambda x: testing.assert_within_ulp(x, ONE, 1),
    "testing.equality.assert_within_ulp, expected": lambda x: testing.assert_within_ulp(ONE, x, 1),
    "testing.variance.assert_within_standard_errors": lambda x: testing.assert_within_standard_errors(x, 1, 1),
    "testing.variance.assert_unit_variance": testing.assert_unit_variance,
    "testing.constructions.rms": testing.rms,
    "testing.constructions.std": testing.std,
    "testing.constructions.assert_exact_rms": testing.assert_exact_rms,
    "testing.vjp.assert_vjp": lambda x: testing.assert_vjp(lambda y: y, lambda g: (g,), [x], rng=RNG),
    "testing.vjp.assert_vjp, forward": lambda x: _vjp(lambda _: x, ONE),
    "testing.vjp.assert_vjp, backward": lambda x: _vjp(lambda y: y, x),
    "golden.schema.Codes": lambda x: Codes("float32", x),
    "golden.schema.Codes.of": lambda x: Codes.of(x, "float32"),
    "golden.kit.verdicts.as_codes": lambda x: as_codes(x, Codes.of(ONE, "float32")),
}

KINDS = {
    "a masked array": np.ma.array(ONE, mask=[[False, True], [False, False]]),
    "a numpy.matrix": ONE.view(np.matrix),
    "an array of Python objects": ONE.astype(object),
}


class TestKinds:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("border", BORDERS)
    def test_they_are_refused_by_name(self, border, kind):
        with pytest.raises(CarrierError, match=f": .* is {kind}, expected a plain array of numbers"):
            BORDERS[border](KINDS[kind])

    def test_every_function_that_takes_arrays_is_among_them(self):
        """``ArrayLike`` in a public signature promises that NumPy's own arrays and lists are taken, by one function."""
        root, found = Path(refscale.__file__).parent, set()
        for path in root.rglob("*.py"):
            module = ".".join(path.relative_to(root).with_suffix("").parts)
            for owner, node in _functions(parsed(path.read_text(encoding="utf-8"))):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg]
                text = " ".join(ast.unparse(a.annotation) for a in arguments if a is not None and a.annotation)
                if "ArrayLike" in text and (node.name == "__call__" or not node.name.startswith("_")):
                    found.add(".".join(filter(None, (module, owner, node.name))))
        known = {name.partition(",")[0] for name in BORDERS}
        others = {
            *("arrays.plain", "engine.record.call", "engine.record.seed"),  # the two for ``apply`` and ``backward``
            "golden.trace.recorder.record_run",  # passes it to ``backward``
            *("exact.product.start_values", "exact.intervals.sum_errors"),  # of ``exact.matmul`` and ``exact.bound``
            "exact.accumulators.Accumulator.matmul",
            *("exact.accumulators.Exact.matmul", "exact.accumulators.AnyOrder.matmul"),  # which refuse anything
        }
        assert found - others - known == set()

    def test_lists_that_hold_them(self):
        x = KINDS["a masked array"]
        for value in ([x], [[1.0, 2.0], x[0]], (list(x),)):
            with pytest.raises(CarrierError, match="value is a masked array"):
                Tape().tensor(value)

    def test_a_masked_element(self):
        with pytest.raises(CarrierError, match="is a masked array"):
            Tape().tensor([1.0, np.ma.masked])

    def test_what_is_no_array_is_named(self):
        x = Tape().tensor(ONE)
        with pytest.raises(CarrierError, match=r"Tape.tensor\('w'\): value is of type object, expected a plain array"):
            Tape().tensor(object(), "w")
        with pytest.raises(CarrierError, match="gradient is of type dict"):
            backward(apply(ops.Scaled(), x), {"g": ONE})

    def test_lists_without_a_shape(self):
        with pytest.raises(ShapeError, match=r"Tape.tensor\('w'\): value does not convert to an array: .*homogen"):
            Tape().tensor([[1.0], [1.0, 2.0]], "w")

    def test_plain_arrays_pass_as_they_are(self):
        assert plain("call", "x", ONE) is ONE
        assert plain("call", "x", [[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
        assert plain("call", "x", np.float32(1.5)).dtype == np.float32


def _functions(tree):
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield "", node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from ((node.name, f) for f in node.body if isinstance(f, ast.FunctionDef))
