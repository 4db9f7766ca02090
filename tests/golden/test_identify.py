"""``refscale accumulator``: known accumulators are named, a new one is not, and each probe separates two models."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from refscale.cli import main
from refscale.errors import GoldenError
from refscale.exact import HARDWARE, get_accumulator, matmul
from refscale.formats import Cast, get_format
from refscale.golden.backends.reference import Reference
from refscale.golden.kit import Claims
from refscale.golden.kit.identify import identified_in_words, identified_to_json, identify
from refscale.golden.kit.probes import MOST, WITHOUT_START, Probe, power, probes, start_probes, start_value

NARROW = ("bfloat16", "float16", "tf32", "float8_e4m3fn", "float8_e5m2", "float32")
FLOAT32 = Cast("float32", "nearest_even", "nonsaturate")


class Sums:
    """A backend with the sums of a model, from a start value."""

    name, version, claims = "sums", "1", Claims()

    def __init__(self, accumulate: str = "h100:bf16") -> None:
        self.model = get_accumulator(accumulate)

    def matmul(self, a: Any, b: Any, c: Any = None, **_: Any) -> Any:
        return self.model.matmul(a, b, c)


class WithoutStart(Sums):
    def matmul(self, a: Any, b: Any, **_: Any) -> Any:  # any c is dropped
        return self.model.matmul(a, b)


class Pairs(Sums):
    """float32 by halving: a[0] + a[1], a[2] + a[3], then the sums of these, …"""

    def matmul(self, a: Any, b: Any, **_: Any) -> Any:
        terms = np.float32(a)[:, :, None] * np.float32(b)[None]
        while terms.shape[1] > 1:
            terms = terms[:, ::2] + terms[:, 1::2]
        return terms[:, 0]


class AlignedToNearest(Sums):
    """As ``truncated:25:16``, but each aligned term is rounded to the nearest multiple in place of cut."""

    def matmul(self, a: Any, b: Any, **_: Any) -> Any:
        x, y = a.astype(np.float64), b.astype(np.float64)
        total = np.zeros((len(x), y.shape[1]))
        for start in range(0, x.shape[1], 16):
            terms = x[:, start : start + 16, None] * y[None, start : start + 16]
            terms = np.concatenate([terms, total[:, None]], 1)
            grain = np.ldexp(1.0, np.frexp(np.abs(terms).max(1, keepdims=True))[1] - 26)
            total = (np.rint(terms / grain) * grain).sum(1).astype(np.float32).astype(np.float64)
        return total.astype(np.float32)


# --- identified accumulators -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accumulate", "format", "model", "names"),
    [
        ("h100:bf16", None, "truncated:25:16:floor=-133:emin=-126", ("h100", "h200", "b200")),
        ("v100:fp16", "fp16", "truncated:23:4:emin=-14", ("v100",)),
        ("rounded:128", "fp16", "rounded:128", ()),
        ("ada:e4m3fn", "e4m3fn", "truncated:13:16:emin=-6", ("ada", "l40s")),
        ("float32", "fp32", "float32", ()),
        ("a100:tf32", "tf32", "truncated:24:4:floor=-132:emin=-126", ("a100", "a2", "ada", "l40s")),
        ("truncated:13:32:128", "e4m3fn", "truncated:13:32:128", ()),
    ],
)
def test_a_known_accumulator_is_named(accumulate, format, model, names):
    found = identify(Sums(accumulate), format)
    assert (found.model, found.unexplained, found.starts) == (model, None, True)
    assert tuple(n.partition(":")[0] for n in found.names) == names
    assert len(found.answers) <= MOST
    assert found.format == get_format(format or "bf16").name
    assert not found.others


def test_the_reference_is_exact():
    found = identify(Reference(), "float16")
    assert (found.model, found.names, found.others, found.starts) == ("exact", (), (), True)
    assert found.within == len(found.answers)


def test_a_dropped_start_value_is_no_start_value():
    found = identify(WithoutStart(), "bf16")
    assert (found.model, found.starts) == ("truncated:25:16:floor=-133:emin=-126", False)


def test_models_that_the_probes_do_not_separate_are_listed():
    """Beside 28 places, a subnormal operand's other exponent cuts nothing that the probes ask for."""
    found = identify(Sums("truncated:28:16"), "fp16")
    assert (found.model, found.others) == ("truncated:28:16", ("truncated:28:16:emin=-14",))
    assert "not told apart by these probes: truncated:28:16:emin=-14" in identified_in_words(found)


# --- unidentified accumulators ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "question", "nearest"),
    [
        (AlignedToNearest(), "places-kept", "truncated:2"),
        (Pairs(), "random-terms", "float32"),
        (Sums("truncated:25:24"), "block-size", "truncated:25"),
        (Sums("truncated:13:32:96"), "random-terms", "truncated:13:32"),
        (Sums("truncated:25:16:floor=-133:emin=-100"), "subnormal-operands", "truncated:25:16"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_new_accumulator_has_no_name(backend, question, nearest):
    found = identify(backend, "bf16")
    assert (found.model, found.names, found.others) == ("", (), ())
    assert found.unexplained is not None
    assert found.nearest.startswith(nearest)
    first = found.unexplained
    assert first.sum != first.expected
    assert all(a.sum == a.expected for a in found.answers[: found.answers.index(first)])
    text = identified_in_words(found)
    assert "model: none" in text
    assert f"first probe that no model explains: {first.probe.name}" in text
    assert first.probe.purpose in text
    document = identified_to_json(found)
    assert document["model"] is None
    assert document["unexplained"]["name"] == first.probe.name
    assert json.loads(json.dumps(document)) == document


def test_c_added_after_the_sum_is_no_model():
    class After(Sums):
        def matmul(self, a: Any, b: Any, c: Any = None, **_: Any) -> Any:
            y = self.model.matmul(a, b)
            return y if c is None else y + c

    found = identify(After(), "bf16")
    assert found.unexplained is not None
    assert found.unexplained.probe.name == "start-value-1"
    assert found.nearest == "truncated:25:16:floor=-133:emin=-126"


def test_backends_that_cannot_be_asked():
    class Raises(Sums):
        def matmul(self, a: Any, b: Any, **_: Any) -> Any:
            raise ZeroDivisionError("lost")

    class Narrow(Sums):
        claims = Claims(formats=("float16",))

    class Nothing(Sums):
        def matmul(self, a: Any, b: Any, **_: Any) -> Any:
            raise NotImplementedError("no product")

    class Wide(Sums):
        def matmul(self, a: Any, b: Any, **_: Any) -> Any:
            return np.zeros((3, 3), np.float32)

    for backend, words in (
        (Raises(), "sums, bfloat16 products raised ZeroDivisionError: lost"),
        (Narrow(), "sums computes no product to float32 .bfloat16: format .* is not claimed"),
        (Nothing(), "bfloat16: no product"),
        (Wide(), "shape .3, 3., expected .64, 64."),
    ):
        with pytest.raises(GoldenError, match=words):
            identify(backend, "bf16")


# --- the probes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", NARROW)
def test_probes_are_values_of_the_format_and_at_most_64(format):
    known = get_format(format)
    asked = [*probes(known), *start_probes(known)]
    assert 50 <= len(asked) <= MOST
    assert len({p.name for p in asked}) == len(asked)
    cast = Cast(known, "nearest_even", "nonsaturate")
    for p in asked:
        assert (cast(p.a) == p.a).all()
        assert (cast(p.b) == p.b).all()
        assert p.purpose.endswith(("?", "."))
    basic = [p.basic for p in asked]
    assert basic == sorted(basic, reverse=True)


def test_each_question_has_a_purpose_and_is_asked():
    names = {p.name.rpartition("-")[0] for f in NARROW for p in probes(get_format(f))}
    assert names == {q.__name__.replace("_", "-") for q in WITHOUT_START}
    for question in (*WITHOUT_START, start_value):
        assert "?" in question.__doc__


@pytest.mark.parametrize(
    ("question", "format", "one", "other"),
    [
        ("places-kept", "float16", "truncated:24:16", "truncated:25:16"),
        ("places-kept", "float8_e4m3fn", "truncated:13:32", "truncated:14:32"),
        ("block-size", "bfloat16", "truncated:25:8", "truncated:25:16"),
        ("block-size", "float8_e5m2", "truncated:13:64", "truncated:13:128"),
        ("rounding", "bfloat16", "rounded:16", "truncated:27:16"),
        ("fused", "float32", "float32", "rounded:1"),
        ("promotion", "float8_e4m3fn", "truncated:13:32", "truncated:13:32:128"),
        ("promotion", "bfloat16", "float32:32", "float32:64"),
        ("floor", "bfloat16", "truncated:25:16:floor=-133", "truncated:25:16:floor=-132"),
        ("floor", "bfloat16", "truncated:25:16:floor=-133", "truncated:25:16:floor=-134"),
        ("subnormal-operands", "float16", "truncated:25:16", "truncated:25:16:emin=-14"),
        ("subnormal-operands", "float8_e4m3fn", "truncated:13:32", "truncated:13:32:emin=-6"),
        ("single-rounding", "bfloat16", "rounded:256", "rounded:512"),
        ("random-terms", "bfloat16", "float32:128", "float32:256"),
        ("start-value", "bfloat16", "truncated:25:16", "float32"),
    ],
)
def test_each_question_separates_two_models(question, format, one, other):
    known = get_format(format)
    asked = [p for p in [*probes(known), *start_probes(known)] if p.name.rpartition("-")[0] == question]

    def sums(name: str) -> list[float]:
        model = get_accumulator(name)
        return [model.matmul(p.a[None], p.b[:, None], np.float32([[p.c]])).item() for p in asked]

    assert sums(one) != sums(other)


def test_probes_by_hand():
    """Places kept by FP16: 2^-n + 1 − 1 is 2^-n or 0; the real sums of the others."""
    asked = {p.name: p for p in probes(get_format("float16"))}

    def sum_of(p: Probe, name: str = "") -> float:
        if name:
            return get_accumulator(name).matmul(p.a[None], p.b[:, None]).item()
        return matmul(p.a[None], p.b[:, None], FLOAT32).item()

    assert [sum_of(asked[f"places-kept-{n - 7}"]) for n in (8, 27)] == [2.0**-8, 2.0**-27]
    assert [sum_of(asked[f"places-kept-{n - 7}"], "h100:fp16") for n in (25, 26)] == [2.0**-25, 0]
    assert [sum_of(asked[f"block-size-{i}"], "a100:fp16") for i in (1, 2, 3)] == [0, 0, 2.0**-28]
    assert [sum_of(asked[f"rounding-{i}"]) for i in (1, 2)] == [1 + 2.0**-23, -1 - 2.0**-23]
    assert [sum_of(asked[f"promotion-{i}"], "float32:128") for i in (1, 2, 3, 4)] == [1, 1, 1 + 2.0**-23, 1 + 2.0**-23]
    assert asked["block-size-2"].terms == "2^0·2^0 + -2^0·2^0 + [4]2^-14·2^-14"
    assert asked["random-terms-3"].terms.endswith("+ … + (16 terms)")
    assert not any(name.startswith("floor") for name in asked)


def test_powers_of_a_format():
    f = get_format("float8_e4m3fn")
    for exponent in range(-18, 17):
        x, y = power(f, exponent)
        assert x * y == 2.0**exponent
    assert power(f, -12, -1.0) == (-(2.0**-6), 2.0**-6)  # the smallest normal number, twice
    for exponent in (-19, 17):
        with pytest.raises(Exception, match=r"^$"):
            power(f, exponent)


# --- the command -----------------------------------------------------------------------------------------------------


BACKEND = """
from refscale.exact import get_accumulator
from refscale.golden.kit import Claims
class H:
    name, version, claims, model = "h", "1", Claims(), "h200:fp16"
    def matmul(self, a, b, c=None, **_):
        return get_accumulator(self.model).matmul(a, b, c)
class N(H):
    model = "truncated:25:24"
"""


def test_the_command(tmp_path, capsys):
    path, out = tmp_path / "mine.py", tmp_path / "found.json"
    path.write_text(BACKEND, encoding="utf-8")
    assert main(["accumulator", f"{path}:H", "--format", "fp16", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[:3] == [
        "h 1: float16 products to float32",
        "56 probes of 512 products each, 4 of them from a start value c; 326 models tried",
        "model: truncated:25:16:emin=-14",
    ]
    assert HARDWARE["h200:float16"].compared in text
    document = json.loads(out.read_text(encoding="utf-8"))
    assert (document["schema"], document["model"], len(document["probes"])) == (1, "truncated:25:16:emin=-14", 56)
    assert document["names"] == ["h100:float16", "h200:float16", "b200:float16"]
    assert main(["accumulator", f"{path}:N", "--format", "fp16"]) == 1
    assert "model: none" in capsys.readouterr().out
    assert main(["accumulator", "ml_dtypes"]) == 2
    assert "computes no product to float32" in capsys.readouterr().err
    assert main(["accumulator", f"{path}:H", "--format", "e4m3"]) == 2
    assert "is three different formats" in capsys.readouterr().err
