"""Names with options: the grammar by hand, and every reader of it on random texts."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refscale.analysis.tables.ops import parse_shape
from refscale.errors import ArgumentError, RefscaleError
from refscale.models import get_config
from refscale.optim import get_optimizer
from refscale.precision import get_precision
from refscale.rivals import get_scaling
from refscale.scales import get_residual, get_scheme
from refscale.spellings import Option, read_number, read_options, read_whole, split_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("adam", ("adam", None)),
        ("adam:", ("adam", "")),
        (" adam : b2=0.9", ("adam", " b2=0.9")),
        ("a:b:c", ("a", "b:c")),
        ("", ("", None)),
    ],
)
def test_a_name_ends_at_the_first_colon(text, expected):
    assert split_name(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, []),
        ("b2=0.95,independent", [Option("b2=0.95", "b2", "0.95"), Option("independent", "independent", None)]),
        ("2^15", [Option("2^15", "2^15", None)]),
        (" s = 5 , t=6", [Option("s = 5", "s", "5"), Option("t=6", "t", "6")]),
        ("tau=fixed(0.5)", [Option("tau=fixed(0.5)", "tau", "fixed(0.5)")]),
        ("accumulate=truncated:13:32", [Option("accumulate=truncated:13:32", "accumulate", "truncated:13:32")]),
        ("a=b=c", [Option("a=b=c", "a", "b=c")]),
    ],
)
def test_options(text, expected):
    assert read_options(text, "f('x')", "options") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f('x'): '', expected options"),
        ("a=1,", "f('x'): '', expected options"),
        ("a= ", "f('x'): 'a=', expected options"),
        ("=1", "f('x'): '=1', expected options"),
        ("a=1,b=2,a=3", "f('x'): a occurs twice, expected options"),
        ("a,a=3", "f('x'): a occurs twice, expected options"),
    ],
)
def test_what_is_no_option_is_named(text, message):
    with pytest.raises(ArgumentError) as found:
        read_options(text, "f('x')", "options")
    assert str(found.value) == message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.9", 0.9),
        ("-3", -3.0),
        ("1e-3", 1e-3),
        ("2^-6", 2.0**-6),
        ("2^1023", 2.0**1023),
        ("10^-2", 10.0**-2),
        ("2^-1074", 5e-324),
    ],
)
def test_numbers(text, value):
    assert read_number(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "x", "2^", "^2", "2^x", "inf", "nan", "-inf", "2^1024", "2^1e9", "-2^0.5", "0^-1", "2^nan", "²", "1e400"],
)
def test_what_is_no_number(text):
    with pytest.raises(ValueError, match=r"."):
        read_number(text)


def test_whole_numbers():
    assert [read_whole(text) for text in ("1024", "2^10", "1e3", "-2.0")] == [1024, 1024, 1000, -2]
    for text in ("1.5", "2^-1", "inf"):
        with pytest.raises(ValueError, match=r"."):
            read_whole(text)


READERS = [get_scheme, get_scaling, get_optimizer, get_config, get_precision, get_residual, parse_shape]
NAMES = [
    "unit",
    "regular",
    "static",
    "automatic",
    "delayed",
    "adamw",
    "sgd",
    "charlm-conv",
    "bert-tiny",
    "fp8",
    "fixed",
    "ratio",
    "",
]
FIELDS = [
    "rows",
    "embeddings",
    "interval",
    "b2",
    "momentum",
    "layers",
    "tau",
    "store",
    "operand",
    "accumulate",
    "independent",
    "b",
    "m",
    "",
]
VALUES = ["alike", "v/b", "2^10", "0.5", "e4m3fn", "exact", "fixed(0.5)", "true", "nan", "3", ""]
OPTIONS = st.tuples(st.sampled_from(FIELDS), st.sampled_from(["=", "", " = "]), st.sampled_from(VALUES)).map("".join)
texts = st.builds(
    lambda name, colon, options: name + colon + ",".join(options),
    st.sampled_from(NAMES),
    st.sampled_from([":", "", "(", ","]),
    st.lists(OPTIONS, max_size=3),
)


@given(text=texts | st.text(max_size=20))
@example(text="static:2^15")
@example(text="store=bf16,operand=e4m3fn,store=fp16")
def test_every_reader_reads_or_refuses(text):
    """All errors are the package's own."""
    for reader in READERS:
        with suppress(RefscaleError):
            reader(text)


@given(fields=st.dictionaries(st.sampled_from(["b", "m", "n", "s"]), st.integers(1, 10**6), min_size=1))
def test_options_are_read_as_they_are_written(fields):
    text = ",".join(f"{name}={value}" for name, value in fields.items())
    assert {o.field: read_whole(o.value) for o in read_options(text, "f", "options")} == fields
