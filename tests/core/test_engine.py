"""The engine alone: order of operations, accumulation, freed buffers, rounding, refusals."""

from __future__ import annotations

import gc
import re
import weakref
from dataclasses import dataclass

import numpy as np
import pytest

from refscale import ops
from refscale.engine import Op, Tape, Tensor, apply, backward
from refscale.errors import ArgumentError, CarrierError, ShapeError, TapeError
from refscale.formats import Cast
from refscale.precision import Precision, bf16, fp8, fp8_hidden, fp16, fp32, get_precision
from refscale.scales import (
    CONSTRAINTS,
    Scales,
    Unit,
    geometric,
    get_constraint,
    get_residual,
    get_scheme,
    none,
    regular,
    running_mean,
    to_output_scale,
    unit,
)


def leaf(tape: Tape, *values: float, name: str = "x") -> Tensor:
    return tape.tensor(np.array(values), name)


@dataclass(frozen=True)
class Probe(Op):
    """Identity that logs its arguments."""

    log: tuple = ()
    inputs = ("x",)
    source = "test"
    contraction = True

    def forward(self, x):
        SEEN.append(("forward", x.copy()))
        return x.copy(), (x,)

    def backward(self, g, x):
        SEEN.append(("backward", g.copy(), x.copy()))
        return (g.copy(),)

    def scale(self, x):
        return Scales(3.0, (5.0,))


class Third(Op):
    """x/3, in the readable form alone."""

    inputs = ("x",)
    source = "test"

    def forward(self, x):
        return x / 3, ()

    def backward(self, g):
        return (g / 3,)

    def scale(self, x):
        return Scales(1.0, (1.0,))


class ReadableSoftmax(ops.Softmax):
    """Without a kernel, which stands for the forward of its own class."""

    def forward(self, x):
        return super().forward(x)


SEEN: list = []


@pytest.fixture(autouse=True)
def _fresh_log():
    SEEN.clear()


class TestOrder:
    """apply is: round operands, forward, times α, round the output; backward mirrors it."""

    X = 1.0 + 2**-9  # fp16 holds it; e4m3fn rounds it to 1

    def run(self):
        tape = Tape(unit, fp8)
        x = leaf(tape, self.X)
        y = apply(Probe(), x)
        backward(y, np.array([1.0 + 2**-9]))
        return tape, x, y

    def test_the_op_sees_rounded_operands_forward_and_backward(self):
        self.run()
        (_, x), (_, g, kept) = SEEN
        assert x == kept == 1.0
        assert g == 1.0  # e5m2

    def test_alpha_and_beta_multiply_after_the_op(self):
        _, x, y = self.run()
        assert y.value == 3.0
        assert x.grad == 5.0

    def test_output_is_rounded_after_alpha(self):
        tape = Tape(unit, fp16)
        y = apply(ops.Scaled(alpha=1 / 3), leaf(tape, 1.0))
        assert y.value == np.float32(np.float16(np.float32(1 / 3)))

    def test_gradient_is_rounded_after_beta(self):
        tape = Tape(unit, fp16)
        x = leaf(tape, 1.0)
        backward(apply(ops.Scaled(beta=1 / 3), x))
        assert x.grad == np.float32(np.float16(np.float32(1 / 3)))

    def test_in_exact_arithmetic_gradient_and_beta_are_rounded_once(self):
        """Through float32, β would be 1 + 2^-11, a tie, and round to 1."""
        tape = Tape(unit, "fp16,accumulate=exact")
        x = leaf(tape, 1.0)
        backward(apply(ops.Scaled(beta=1 + 2**-11 + 2**-30), x))
        assert x.grad == 1 + 2**-10

    def test_the_sum_of_gradients_is_rounded(self):
        tape = Tape(unit, fp16)
        x = leaf(tape, 1.0)
        y = apply(ops.Add(), apply(ops.Scaled(), x), apply(ops.Scaled(beta=3 * 2**-11), x))
        backward(y, check=False)  # two multiples of the gradient, on purpose
        assert x.grad == 1 + 2**-9  # 1 + 3·2^-11 lies between two values, nearer to the even one

    def test_a_gradient_is_rounded_where_beta_is_1(self):
        tape = Tape(regular, fp16)
        x = leaf(tape, 0.5)
        backward(apply(ops.Tanh(), x))
        assert x.grad == np.float16(1 - np.tanh(np.float32(0.5)) ** 2)

    def test_a_gradient_of_an_op_without_a_kernel_is_rounded_where_beta_is_1(self):
        tape = Tape(regular, fp16)
        x = leaf(tape, 1.0)
        y = apply(Third(), x)
        assert y.value == np.float16(1 / 3)
        backward(y)
        assert x.grad == np.float16(1 / 3)

    @pytest.mark.parametrize("op", [ops.Softmax(), ReadableSoftmax()], ids=["kernel", "readable"])
    def test_what_an_op_keeps_is_not_rounded(self, op):
        """p·(1 − p) of the rounded p would be 859.5·2^-13, which FP16 holds, too."""
        tape = Tape(regular, fp16)
        x = tape.tensor([[0.0, -2.0]])
        y = apply(op, x)
        backward(y, np.array([[1.0, 0.0]]))
        p = 1 / (1 + np.exp(-2.0))
        assert y.value[0, 0] == np.float16(p)
        assert x.grad[0, 0] == np.float16(p * (1 - p)) == 860 * 2**-13

    def test_what_is_moved_is_rounded_once(self):
        tape = Tape(unit, fp16)
        x = tape.tensor(np.ones((2, 3)), "x")
        y = apply(ops.Reshape((3, 2)), apply(ops.Transpose((1, 0)), apply(ops.Scaled(), x)))
        backward(apply(ops.Concat(0), y, y), np.ones((6, 2)))
        assert [r.place for r in tape.casts] == ["leaf", "gradient", "gradient"]  # the seed, and the sum of two

    def test_every_cast_is_recorded(self):
        tape, *_ = self.run()
        places = [(r.place, r.cast.format.name) for r in tape.casts]
        assert places == [
            ("leaf", "float16"),
            ("operand", "float8_e4m3fn"),
            ("output", "float16"),
            ("gradient", "float16"),
            ("operand_gradient", "float8_e5m2"),
            ("gradient", "float16"),
        ]
        assert all(r.clipped is None and r.flushed is None for r in tape.casts)

    def test_clipped_and_flushed_are_counted_on_request(self):
        tape = Tape(regular, fp8, count_casts=True)
        x = leaf(tape, 1e6, 500.0, 2.0**-30, 2.0**-12, 0.0, 1.0)
        apply(Probe(), x)
        stored, operand, _ = tape.casts
        assert (stored.elements, stored.clipped, stored.flushed) == (6, 1, 1)
        # inf is not a finite element any more; 500 > 448; 2^-12 is below half the smallest e4m3fn.
        assert (operand.clipped, operand.flushed) == (1, 1)

    def test_they_are_counted_before_an_array_is_overwritten(self):
        tape = Tape(unit, fp16, count_casts=True)
        for alpha in (2.0**17, 2.0**-30):
            apply(ops.Scaled(alpha), leaf(tape, 1.0, 0.0))
        assert [(r.clipped, r.flushed) for r in tape.casts if r.place == "output"] == [(1, 0), (0, 1)]

    def test_what_becomes_nan_is_counted(self):
        tape = Tape(regular, Precision("scale", store=Cast("e8m0", "nearest_even", "saturate")), count_casts=True)
        leaf(tape, -1.0, 0.0, 1.0, 3.0)
        assert tape.casts[0].clipped == 2

    def test_losses_are_not_rounded(self):
        tape = Tape(regular, fp16)
        x = tape.tensor(np.array([[0.1, 0.7, -0.3]]))
        wide = Tape(regular, fp32).tensor(x.value)
        assert (
            apply(ops.SoftmaxCrossEntropy(), x, np.array([1])).value
            == apply(ops.SoftmaxCrossEntropy(), wide, np.array([1])).value
        )

    def test_the_gradient_of_a_loss_is_not_rounded(self):
        """A loss scale of 2^16 is beyond FP16, but the resulting gradient of the logits is not."""
        logits, target = np.array([[0.1, 3.7, -0.3]]), np.array([1])
        tape = Tape(regular, fp16)
        x = tape.tensor(logits, "x")
        one, two = (apply(ops.SoftmaxCrossEntropy(), x, target) for _ in range(2))
        seen = {}
        tape.probe = lambda kind, v, a: seen.update({v: a} if kind == "backward" else {})
        seed = 2.0**16 + 2.0**-7  # no value of FP16, but of float32
        backward(total := apply(ops.LossSum(), one, two), seed)
        assert seen[total.variable] == seen[one.variable] == seen[two.variable] == np.float32(seed)
        wide = Tape(regular, fp32)
        reference = wide.tensor(x.value)
        backward(apply(ops.SoftmaxCrossEntropy(), reference, target), seed)
        piece = fp16.store(reference.grad)  # the first gradient that is rounded
        np.testing.assert_array_equal(x.grad, fp16.store(2 * piece))
        assert np.isfinite(x.grad).all()

    def test_the_sum_of_a_losses_gradients_is_not_rounded(self):
        tape = Tape(regular, fp16)
        x = leaf(tape, 0.5)
        loss = apply(ops.MseLoss(), x, np.array([0.25]))
        backward(apply(ops.LossSum(), loss, loss, loss), 2.0**15)
        assert [r.place for r in tape.casts if r.variable is loss.variable] == []
        assert x.grad == 3 * 2.0**14  # (2/1)·(1/4)·3·2^15, of which 3·2^15 is beyond FP16

    def test_contractions_not_named_keep_their_operands(self):
        value = np.full((2, 2), 1 + 2.0**-7)  # bfloat16 holds it, e4m3fn does not
        for op, expected in ((ops.Matmul(), 1.0), (ops.Readout(), 1 + 2.0**-7)):
            tape = Tape(regular, fp8_hidden)
            x, w = tape.tensor(value, "x"), tape.tensor(np.eye(2), "w")
            y = apply(op, x, w)
            backward(y, value)
            assert np.diag(y.value).tolist() == [expected, expected]
            assert np.diag(x.grad).tolist() == [expected, expected]
            assert {r.place for r in tape.casts if r.cast.format.bits == 8} == (
                {"operand", "operand_gradient"} if expected == 1 else set()
            )

    def test_leaf_is_rounded_once_from_float64(self):
        # Through float32 this would be the tie 1 + 2^-11, and round to 1.
        value = np.array([1 + 2**-11 + 2**-40])
        assert Tape(regular, fp16).tensor(value).value == 1 + 2**-10

    def test_stochastic_rounding_takes_bits_from_the_tapes_generator(self):
        policy = Precision("sr", store=Cast("float16", "stochastic", "saturate"))
        with pytest.raises(ArgumentError, match=r"needs random bits: Tape\(rng="):
            Tape(regular, policy).tensor(np.full(4, 1 + 2**-12))
        tape = Tape(regular, policy, rng=np.random.default_rng(0))
        values = tape.tensor(np.full(4096, 1 + 2**-12)).value
        assert set(np.unique(values)) == {1, 1 + 2**-10}

    @pytest.mark.parametrize("policy", [fp32, fp16, bf16, fp8])
    def test_every_value_on_the_tape_is_representable(self, policy):
        rng = np.random.default_rng(1)
        seen = []
        tape = Tape(unit, policy, probe=lambda kind, v, a: seen.append((kind, v.name, a)))
        x = tape.tensor(rng.standard_normal((5, 8)), "x")
        w = tape.tensor(rng.standard_normal((8, 3)), "w")
        y = apply(ops.Gelu(), apply(ops.Matmul(), x, w))
        backward(y, rng.standard_normal(y.shape))
        assert len(seen) == 8
        if policy.store is not None:
            for _, _, a in seen:
                np.testing.assert_array_equal(policy.store(a), a)


class TestGradients:
    def test_consumers_add_up(self):
        tape = Tape(dtype=np.float64)
        x = leaf(tape, 3.0)
        backward(apply(ops.Multiply(), x, x))
        assert x.grad == 6.0

    def test_an_input_used_by_many_ops(self):
        tape = Tape(dtype=np.float64)
        x = leaf(tape, 2.0)
        y = apply(ops.Add(), apply(ops.Multiply(), x, x), apply(ops.Add(), x, apply(ops.Scaled(), x)))
        backward(y)
        assert x.grad == 6.0

    def test_backward_of_two_outputs_accumulates_in_the_leaves(self):
        tape = Tape(dtype=np.float64)
        x = leaf(tape, 2.0)
        first, second = apply(ops.Multiply(), x, x), apply(ops.Scaled(), x)
        backward(first)
        backward(second)
        assert x.grad == 5.0

    def test_factors_never_touch_a_value_that_others_hold(self):
        """α and β multiply in place only where nothing aliases: Scaled returns its input, Add one gradient twice."""
        tape = Tape(unit, dtype=np.float64)
        x, z = leaf(tape, 1.0, 2.0), leaf(tape, 3.0, 4.0, name="z")
        scaled = apply(ops.Scaled(alpha=7.0, beta=11.0), x)
        np.testing.assert_array_equal(x.value, [1, 2])
        y = apply(ops.Add(), apply(ops.Scaled(beta=13.0), scaled), z)
        g = np.array([1.0, 1.0])
        backward(y, g)
        np.testing.assert_array_equal(g, 1)
        np.testing.assert_array_equal(z.grad, 1)
        np.testing.assert_array_equal(x.grad, 143)

    def test_one_array_may_be_the_gradient_of_two_inputs(self):
        @dataclass(frozen=True)
        class Twice(Op):
            inputs = ("x", "y")
            source = "test"

            def forward(self, x, y):
                return x + y, ()

            def backward(self, g):
                one = g * 1.0
                return one, one

            def scale(self, x, y):
                return Scales(1.0, (2.0, 3.0))

        tape = Tape(unit, dtype=np.float64)
        x, y = leaf(tape, 1.0), leaf(tape, 1.0, name="y")
        backward(apply(Twice(), x, y))
        assert (x.grad, y.grad) == (2, 3)

    def test_of_an_op_without_a_kernel_that_hands_one_array_to_both(self):
        """A factor then multiplies the one of them in its place."""

        class Sum(Op):
            inputs = ("x", "y")
            source = "test"

            def forward(self, x, y):
                return x + y, ()

            def backward(self, g):
                return g, g

            def scale(self, x, y):
                return Scales(1.0, (1.0, 1.0))

        tape = Tape(unit, dtype=np.float64)
        x, z = leaf(tape, 1.0), leaf(tape, 1.0, name="z")
        total = apply(Sum(), apply(ops.Scaled(beta=5.0), x), z)
        backward(apply(ops.Dropout(0.0), total, np.array([True])), np.array([2.0]))
        assert (x.grad, z.grad) == (10, 2)

    def test_of_numbers_that_an_op_takes_as_constants(self):
        tape = Tape(dtype=np.float64)
        x, cos, sin = (tape.tensor(v) for v in ([[3.0, 5.0]], [[0.6]], [[0.8]]))
        backward(apply(ops.Rotary(), x, cos, sin), np.array([[1.0, 0.0]]))
        assert x.grad.tolist() == [[0.6, -0.8]]
        assert cos.grad is None

    def test_tanh_keeps_its_own_output_not_the_scaled_one(self):
        tape = Tape(unit, dtype=np.float64)
        x = leaf(tape, 0.5)
        beta = ops.Tanh().scale((1,)).beta[0]
        backward(apply(ops.Tanh(), x))
        assert x.grad == pytest.approx(beta * (1 - np.tanh(0.5) ** 2), rel=1e-15)

    def test_gradients_are_read_only(self):
        tape = Tape()
        x = leaf(tape, 1.0)
        backward(apply(ops.Scaled(), x))
        with pytest.raises(ValueError, match="read-only"):
            x.grad[0] = 1

    def test_leaves_without_gradient_get_none(self):
        tape = Tape()
        x, z = leaf(tape, 1.0), tape.tensor(np.ones(1), requires_grad=False)
        backward(apply(ops.Multiply(), x, z))
        assert z.grad is None
        assert x.grad == 1

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_the_carrier_is_kept(self, dtype):
        tape = Tape(unit, dtype=dtype)
        x, w = tape.tensor(np.ones((2, 3))), tape.tensor(np.ones((3, 4)))
        y = apply(ops.Gelu(), apply(ops.Matmul(), x, w), constraint=to_output_scale, constrained=(0,))
        backward(y, np.ones((2, 4)))
        assert {y.value.dtype, x.grad.dtype, w.grad.dtype} == {np.dtype(dtype)}

    def test_buffers_are_freed_as_backward_consumes_them(self):
        tape = Tape()
        x = leaf(tape, 1.0)
        y = x
        alive = []
        for _ in range(4):
            y = apply(ops.Tanh(), y)
            alive.append(weakref.ref(tape.nodes[-1].kept[0]))
        counts = []
        tape.probe = lambda kind, v, a: counts.append(sum(r() is not None for r in alive))
        last = y
        del y
        backward(last)
        del last
        gc.collect()
        # When a gradient is complete, the buffers of the ops above it are gone (the output's value is held here).
        assert counts[-1] <= 1
        assert sorted(counts, reverse=True) == counts
        assert all(node.kept is None for node in tape.nodes)

    def test_the_tape_holds_no_values(self):
        tape = Tape()
        x = leaf(tape, 1.0)
        y = apply(ops.Scaled(), apply(ops.Reshape((1, 1)), apply(ops.Add(), x, x)))
        ref = weakref.ref(y.value if y.value.base is None else y.value.base)
        del y
        gc.collect()
        assert ref() is None


class TestRefusals:
    def test_second_backward(self):
        tape = Tape()
        y = apply(ops.Tanh(), leaf(tape, 1.0))
        backward(y)
        with pytest.raises(TapeError, match=r"#0 tanh was consumed by an earlier backward; record it again"):
            backward(y)

    def test_non_scalar_without_gradient(self):
        y = apply(ops.Tanh(), leaf(Tape(), 1.0, 2.0))
        with pytest.raises(TapeError, match=r"not a scalar, so dL/d\(output\) must be given"):
            backward(y)

    def test_gradient_of_another_shape(self):
        y = apply(ops.Tanh(), leaf(Tape(), 1.0, 2.0))
        with pytest.raises(ShapeError, match=r"gradient has shape \(3,\), expected \(2,\)"):
            backward(y, np.ones(3))

    def test_output_without_leaves(self):
        tape = Tape()
        with pytest.raises(TapeError, match="does not depend on a leaf that requires a gradient"):
            backward(tape.tensor(np.ones(1)))
        with pytest.raises(TapeError, match="does not depend on a leaf that requires a gradient"):
            backward(apply(ops.Tanh(), tape.tensor(np.ones(1), requires_grad=False)))

    def test_two_tapes(self):
        with pytest.raises(TapeError, match=r"apply\(add\): expected tensors of one tape, got 2 tapes"):
            apply(ops.Add(), leaf(Tape(), 1.0), leaf(Tape(), 1.0))

    def test_constants_alone(self):
        with pytest.raises(TapeError, match=r"^apply\(add\): no tensor among the inputs, expected at least one, from"):
            apply(ops.Add(), np.ones(1), np.ones(1))
        with pytest.raises(TapeError, match="backward: no tensor among the inputs"):
            backward(np.ones(1))

    def test_a_class_in_place_of_an_op(self):
        message = r"apply\(<class 'refscale.ops.activations.Gelu'>\): expected an instance of an op, such as Gelu\(\)"
        with pytest.raises(ArgumentError, match=message):
            apply(ops.Gelu, leaf(Tape(), 1.0))
        with pytest.raises(ArgumentError, match=r"apply\('gelu'\): expected an instance of an op"):
            apply("gelu", leaf(Tape(), 1.0))

    def test_carrier_dtype(self):
        with pytest.raises(CarrierError, match="expected float32 or float64"):
            Tape(dtype=np.float16)

    @pytest.mark.parametrize("value", [np.array([1j]), np.array(["a"])])
    def test_leaf_dtype(self, value):
        with pytest.raises(CarrierError, match="expected a float, integer or boolean array"):
            Tape().tensor(value)

    def test_constrained_position(self):
        with pytest.raises(ArgumentError, match=r"apply\(tanh\): constrained=\(1,\) but 1 inputs given"):
            apply(ops.Tanh(), leaf(Tape(), 1.0), constraint=none, constrained=(1,))

    def test_half_a_constraint(self):
        x = leaf(Tape(unit), 1.0)
        message = r"apply\(tanh\): a constraint without constrained, the positions of constrained inputs"
        for constraint in (geometric, to_output_scale, "geometric"):
            with pytest.raises(ArgumentError, match=message):
                apply(ops.Tanh(), x, constraint=constraint)
        with pytest.raises(ArgumentError, match=r"apply\(tanh\): constrained=\(0,\) without a constraint"):
            apply(ops.Tanh(), x, constrained=(0,))
        free = apply(ops.Tanh(), x).tape.nodes[-1].scales
        for explicit in (none, "none"):
            for constrained in ((), (0,)):
                assert apply(ops.Tanh(), x, constraint=explicit, constrained=constrained).tape.nodes[-1].scales == free

    def test_an_op_that_returns_a_gradient_of_the_wrong_shape_is_caught(self):
        @dataclass(frozen=True)
        class Wrong(ops.Tanh):
            def backward(self, g, y):
                return (g[:1],)

        y = apply(Wrong(), leaf(Tape(), 1.0, 2.0))
        with pytest.raises(TapeError, match=r"wrong.backward returned float32\[1\], expected float32\[2\]"):
            backward(y, np.ones(2))

    def test_an_op_that_widens_is_caught(self):
        @dataclass(frozen=True)
        class Wide(ops.Tanh):
            def forward(self, x):
                return x.astype(np.float64), (x,)

        with pytest.raises(TapeError, match=r"wide.forward returned float64\[1\], expected float32\[1\]"):
            apply(Wide(), leaf(Tape(), 1.0))


class TestNames:
    """A name stands for a scheme, a precision or a constraint wherever one of them is expected."""

    def test_of_a_tape(self):
        tape = Tape("unit", "fp8")
        assert (tape.scheme, tape.precision) == (unit, fp8)
        assert tape.rounder.rounds
        assert Tape(precision="fp32,accumulate=exact").rounder.exact

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("fp8",), "get_scheme('fp8'): expected one of regular, unit, "),
            ((Unit,), "get_scheme(<class 'refscale.scales.schemes.Unit'>): expected one of"),
            ((None,), "get_scheme(None): expected one of"),
            (("unit", "unit"), "get_precision('unit'): expected one of fp32, fp16, "),
            (("unit", None), "get_precision(None): expected one of"),
            (("unit", Cast("float16", "nearest_even", "saturate")), "get_precision(Cast("),
        ],
    )
    def test_of_nothing(self, arguments, message):
        with pytest.raises(ArgumentError, match=re.escape(message)):
            Tape(*arguments)

    @pytest.mark.parametrize("name", CONSTRAINTS)
    def test_of_a_constraint(self, name):
        tape = Tape(unit)
        x, w = tape.tensor(np.ones((2, 3))), tape.tensor(np.ones((3, 5)))
        constrained = (0, 1) if name in ("to_left_grad_scale", "to_right_grad_scale") else (0,)
        for constraint in (name, CONSTRAINTS[name]):
            apply(ops.Matmul(), x, w, constraint=constraint, constrained=constrained)
        assert tape.nodes[0].scales == tape.nodes[1].scales

    def test_of_no_constraint(self):
        for constraint in ("geometrical", 0.5):
            with pytest.raises(ArgumentError, match=rf"get_constraint\({constraint!r}\): expected one of geometric, "):
                apply(ops.Gelu(), leaf(Tape(), 1.0), constraint=constraint, constrained=(0,))

    def test_what_is_no_name_is_returned_as_it_is(self):
        own = lambda alpha, betas: 3.0  # noqa: E731
        assert get_constraint(own) is own
        assert get_scheme(unit) is unit
        assert get_precision(fp8) is fp8
        assert get_precision(fp8, accumulate="exact") == get_precision("fp8,accumulate=exact")
        assert get_residual(running_mean) is running_mean


class TestSignalingNaN:
    """A signaling NaN becomes quiet where its dtype changes, without a warning (which is an error here)."""

    @pytest.mark.parametrize("carrier", [np.float32, np.float64])
    @pytest.mark.parametrize(
        "x",
        [
            np.array([0x7D01], np.uint16).view(np.float16),
            np.array([0x7FA00001], np.uint32).view(np.float32),
            np.array([0x7FF4000000000001], np.uint64).view(np.float64),
        ],
        ids=lambda x: x.dtype.name,
    )
    def test_of_a_leaf_and_a_seed(self, x, carrier):
        for policy in ("fp32", "fp16", "fp32,accumulate=exact"):
            tape = Tape("regular", policy, dtype=carrier, count_casts=True)
            assert np.isnan(tape.tensor(x).value).all()
            leaf = tape.tensor(np.ones(1))
            backward(apply(ops.Scaled(), leaf), x)
            assert np.isnan(leaf.grad).all()


def test_ops_are_equal_with_class_and_attributes():
    assert ops.Softmax() == ops.Softmax()
    assert ops.Dropout(0.5) == ops.Dropout(0.5) != ops.Dropout(0.25)
    assert ops.Softmax() != ops.LogSoftmax()
    assert len({ops.Softmax(), ops.Softmax(), ops.LogSoftmax(), ops.Dropout(0.5)}) == 3


def test_scope_names_what_is_recorded_inside():
    tape = Tape()
    x = leaf(tape, 1.0)
    with tape.scope("layer"), tape.scope("ffn"):
        y = apply(ops.Tanh(), x)
    assert y.name == "layer.ffn.tanh"
    assert apply(ops.Tanh(), y).name == "tanh"
    assert repr(y) == "Tensor(layer.ffn.tanh, shape=(1,), float32)"


class TestForksInPlace:
    """β of an identity multiplies the gradient where it stands, unless somebody else holds it."""

    M = np.array([3.0, 5.0, 7.0, 9.0])

    def fork(self, tape, name="x"):
        x = tape.tensor(np.ones(4), name)
        y = apply(ops.Fork(1.0), x)
        tape.nodes[-1].scales = Scales(1.0, (0.25,))
        return x, y

    def test_nobody_else(self):
        tape = Tape(regular, dtype=np.float64)
        x, y = self.fork(tape)
        backward(apply(ops.Multiply(), y, self.M), np.ones(4))
        np.testing.assert_array_equal(x.grad, 0.25 * self.M)

    def test_the_caller_s_gradient_is_left_alone(self):
        tape = Tape(regular, dtype=np.float64)
        (x, y), g = self.fork(tape), np.ones(4)
        backward(y, g)
        assert x.grad.tolist() == [0.25] * 4
        assert g.tolist() == [1.0] * 4

    def test_a_gradient_shared_with_another_tensor(self):
        """Add hands the same array to both of its inputs, reshapes hand it on."""
        tape = Tape(regular, dtype=np.float64)
        (x, y), z = self.fork(tape), tape.tensor(np.ones(4), "z")
        total = apply(ops.Add(), apply(ops.Reshape((2, 2)), y), apply(ops.Reshape((2, 2)), z))
        backward(apply(ops.Multiply(), total, self.M.reshape(2, 2)), np.ones((2, 2)))
        np.testing.assert_array_equal(x.grad, 0.25 * self.M)
        np.testing.assert_array_equal(z.grad, self.M)

    def test_what_a_probe_has_seen_stays(self):
        seen = {}
        tape = Tape(regular, dtype=np.float64, probe=lambda way, v, a: seen.setdefault((way, v.name), a))
        _, y = self.fork(tape)
        backward(apply(ops.Multiply(), y, self.M), np.ones(4))
        np.testing.assert_array_equal(seen["backward", "fork"], self.M)
        np.testing.assert_array_equal(seen["backward", "x"], 0.25 * self.M)
