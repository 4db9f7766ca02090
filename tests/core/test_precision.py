"""Policies by name and by mix."""

from __future__ import annotations

import doctest
from fractions import Fraction

import numpy as np
import pytest

from refscale import precision, rivals
from refscale.blocks import RECIPES
from refscale.errors import ArgumentError, FormatError
from refscale.precision import POLICIES, Precision, fp8_hidden, fp16, fp16_sr, fp32, get_precision


def names(policy):
    return tuple(
        None if c is None else (c.format.name, c.rounding, c.overflow)
        for c in (policy.store, policy.operand, policy.operand_gradient, policy.weights)
    )


HALF = ("float16", "nearest_even", "nonsaturate")
HALF_SR = ("float16", "stochastic", "nonsaturate")
E4, E5 = (("float8_" + f, "nearest_even", "saturate") for f in ("e4m3fn", "e5m2"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fp32", (None, None, None, None)),
        ("fp16", (HALF, None, None, None)),
        ("bf16", (("bfloat16", "nearest_even", "nonsaturate"), None, None, None)),
        ("fp8", (HALF, E4, E5, None)),
        (
            "fp8-fnuz",
            (
                HALF,
                ("float8_e4m3fnuz", "nearest_even", "saturate"),
                ("float8_e5m2fnuz", "nearest_even", "saturate"),
                None,
            ),
        ),
        ("fp16-sr", (HALF, None, None, HALF_SR)),
        ("fp8-sr", (HALF, E4, E5, HALF_SR)),
        ("fp8-hidden", (("bfloat16", "nearest_even", "nonsaturate"), E4, E5, None)),
    ],
)
def test_named_policies(name, expected):
    assert names(get_precision(name)) == expected
    assert POLICIES[name].name == name


def test_contractions():
    assert fp8_hidden.narrows("matmul")
    assert not any(fp8_hidden.narrows(op) for op in ("readout", "attention_scores", "attention_mix"))
    assert all(p.contractions is None and p.narrows("readout") for p in POLICIES.values() if p != fp8_hidden)


def test_mix():
    policy = get_precision("store=bf16,operand=e4m3fn,operand_gradient=e5m2")
    assert names(policy) == (("bfloat16", "nearest_even", "nonsaturate"), E4, E5, None)
    assert names(get_precision("operand=float4_e2m1fn")) == (
        None,
        ("float4_e2m1fn", "nearest_even", "saturate"),
        None,
        None,
    )
    assert names(get_precision("weights=fp16")) == (None, None, None, HALF_SR)
    assert names(get_precision("store=fp16,weights=e5m2"))[3] == ("float8_e5m2", "stochastic", "saturate")


@pytest.mark.parametrize(
    "text", ["fp7", "", "store", "contractions=matmul", "store=fp16;operand=e5m2x", "store=fp16,store=bf16"]
)
def test_unknown(text):
    with pytest.raises((ArgumentError, FormatError)) as caught:
        get_precision(text)
    assert "expected one of fp32, fp16" in str(caught.value) or "e5m2x" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"store": "bf16"}, "store is 'bf16', expected a Cast or None; get_precision finds policies by name"),
        ({"weights": fp16}, "expected a Cast or None"),
        ({"blocks": "mxfp8"}, "blocks is 'mxfp8', expected a Recipe or None"),
        ({"contractions": "matmul"}, "contractions is 'matmul', expected a tuple of names"),
        ({"contractions": (1,)}, r"contractions is \(1,\), expected a tuple of names"),
        *(
            ({"blocks": RECIPES["mxfp8"], field: value}, "blocks together with operand, operand_gradient or accumulate")
            for field, value in (("operand", fp16.store), ("operand_gradient", fp16.store), ("accumulate", "exact"))
        ),
        ({"accumulate": 13}, r"get_accumulator\(13\): expected exact"),
    ],
)
def test_fields_of_another_type(fields, message):
    """A text would be taken for a tuple of letters, or fail at the first array."""
    with pytest.raises(ArgumentError, match=message):
        Precision("mine", **fields)


def test_a_policy_is_returned_as_it_is():
    assert get_precision(fp8_hidden) is fp8_hidden
    assert get_precision(fp16, accumulate="exact") == get_precision("fp16,accumulate=exact")
    assert Precision("mine", contractions=["matmul"]).contractions == ("matmul",)
    with pytest.raises(ArgumentError, match=r"get_precision\(8\): expected one of fp32, .*, or a Precision"):
        get_precision(8)


def test_random_bits_come_from_a_generator():
    assert precision.random_bits(fp16.store, (2,), None, "f") is None
    for rng in (None, 0, np.random.RandomState(0)):
        with pytest.raises(ArgumentError, match=r"needs random bits: f\(rng=numpy.random.default_rng\(seed\)\)"):
            precision.random_bits(fp16_sr.weights, (2,), rng, "f")


def test_ambiguous_format_is_refused():
    with pytest.raises(FormatError, match="e4m3"):
        get_precision("operand=e4m3")


def test_str_says_what_differs():
    assert str(fp16) == "fp16 (store=float16/nearest_even/nonsaturate, operand=carrier, operand_gradient=carrier)"
    assert str(fp16_sr).endswith("operand_gradient=carrier, weights=float16/stochastic/nonsaturate)")
    assert str(fp8_hidden).endswith("contractions=matmul)")


class Evenly:
    """Stands in for a generator: the n numbers 0, 2^32/n, 2·2^32/n, … in place of n random ones."""

    def integers(self, low, high, shape, dtype):
        n = int(np.prod(shape))
        assert (high - low) % n == 0
        return np.arange(low, high, (high - low) // n).astype(dtype).reshape(shape)


class TestStoredWeights:
    """The paper's hardware kept weights in FP16 and rounded their updates stochastically."""

    UPDATE = 2.0**-15  # 1/32 of the spacing of float16 above 1

    @staticmethod
    def mean(x):
        return sum(map(Fraction, x.tolist())) / x.size

    def test_an_update_below_half_an_ulp_survives_in_expectation(self):
        """Of all 2^32 words the 64 that stand for 64 equal parts; the decision is monotone, so the mean is exact."""
        w = np.full(64, 1 + self.UPDATE, np.float32)
        stored = fp16_sr.store_weights({"w": w}, Evenly())["w"]
        assert set(stored.tolist()) == {1, 1 + 2.0**-10}
        assert self.mean(stored) == Fraction(1 + self.UPDATE)

    def test_rounding_to_nearest_loses_it(self):
        w = np.full(64, 1 + self.UPDATE, np.float32)
        nearest = get_precision("store=fp16").store(w)
        assert self.mean(nearest) == 1

    def test_the_decision_is_monotone_in_the_random_word(self):
        """So the words that round up are the top rest · 2^32 of them, and the expectation is exact."""
        first_up = 2**32 - 2**27  # the rest is 1/32
        words = np.array([0, first_up - 1, first_up, 2**32 - 1], np.uint32)
        x = np.full(4, 1 + self.UPDATE, np.float32)
        np.testing.assert_array_equal(fp16_sr.weights(x, words), [1, 1, 1 + 2.0**-10, 1 + 2.0**-10])

    def test_without_a_cast_the_same_arrays_come_back(self):
        w = np.ones(3, np.float32)
        assert fp32.store_weights({"w": w})["w"] is w

    def test_it_is_pure_and_repeatable(self):
        rng = np.random.default_rng(0)
        parameters = {name: rng.standard_normal((5, 7)).astype(np.float32) for name in "ab"}
        before = {k: v.copy() for k, v in parameters.items()}
        one, two = (fp16_sr.store_weights(parameters, np.random.default_rng(1)) for _ in range(2))
        for name in "ab":
            np.testing.assert_array_equal(parameters[name], before[name])
            np.testing.assert_array_equal(one[name], two[name])
            np.testing.assert_array_equal(one[name], fp16.store(one[name]))

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_the_carrier_is_kept(self, dtype):
        assert fp16_sr.store_weights({"w": np.ones(3, dtype)}, np.random.default_rng(0))["w"].dtype == dtype

    def test_without_random_bits(self):
        with pytest.raises(ArgumentError, match=r"needs random bits: store_weights\(rng=numpy.random.default_rng"):
            fp16_sr.store_weights({"w": np.ones(3, np.float32)})


def test_the_examples_in_the_docstring():
    for module, examples in ((precision, 2), (rivals, 2)):
        found = doctest.testmod(module)
        assert (found.attempted, found.failed) == (examples, 0)
