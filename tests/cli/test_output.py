"""The output of every command: at most 100 columns, and text alone, on every terminal."""

from __future__ import annotations

import inspect
import io
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import CodeType

import pytest

import refscale
from refscale.cli import main
from refscale.cli.arguments import DOORS, parser
from refscale.cli.encoding import FALLBACKS, degrade
from refscale.golden.kit.pipe import PipeBackend

OUTPUTS = [
    ["formats"],
    ["snr"],
    ["ops"],
    ["ops", "--shape", "b=1000000,m=76800,n=307200,s=131072"],
    ["report", "bert-tiny", "--precision", "fp8", "--all"],
    ["report", "bert-tiny:layers=12", "--batch", "1", "--seq", "16"],
    ["report", "charlm-rnn", "--seq", "16"],
    ["report", "bert-tiny", "--flops"],
    ["verify", "--only", "1", "--only", "3.9"],
    ["conform", "ml_dtypes", "--only", "cast/float8*"],
    ["conform", "ml_dtypes", "--only", "cast/bfloat16/*"],
]


@pytest.mark.parametrize("command", OUTPUTS, ids=" ".join)
def test_fits_and_has_no_colour(command, capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(command) == int("conform" in command)
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 100
    assert out.replace("\n", "").isprintable()


# --- narrow encodings -------------------------------------------------------------------------------------------------

MARKS = "∞·×−∂━╌─┴╂┊▁▂▃▄▅▆▇█"
"""Of tables and histograms."""


def in_encoding(text: str, encoding: str) -> bytes:
    """A text as a terminal of that encoding gets it."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    degrade(stream)
    stream.write(text)
    stream.flush()
    return stream.buffer.getvalue()


def test_what_is_not_finite_subnormal_or_none_is_told_apart():
    assert in_encoding("∞ ! · ━╌ ▁█ σ≥½ 詩", "cp1252") == "* ! · =~ 18 sigma>=½ ?".encode("cp1252")
    assert in_encoding("∞ ! · ━╌ ▁█ σ≥½ 詩", "ascii") == b"* ! . =~ 18 sigma>=1/2 ?"
    assert in_encoding("∞ ! · ━╌ ▁█ σ≥½ 詩", "utf-8") == "∞ ! · ━╌ ▁█ σ≥½ 詩".encode()


def strings(code: CodeType) -> Iterator[str]:
    """The constants of compiled code that are strings; at this level of optimization, none is a docstring."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from strings(constant)
        else:
            yield str(constant)


def test_every_character_that_is_printed_has_its_own_ascii():
    """Those of every string of the package that is not a docstring, and of the claims, whose docstrings are printed.

    İ and the surrogates, which are not printable, are only searched for.
    """
    printed = set(resources.files("refscale.claims").joinpath("CLAIMS.md").read_text(encoding="utf-8"))
    for source in Path(refscale.__file__).parent.rglob("*.py"):
        printed.update(*strings(compile(source.read_bytes(), source, "exec", optimize=2)))
    assert {c for c in printed if c.isprintable() and not c.isascii()} - {"İ"} <= set(FALLBACKS)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "koi8-r", "euc_jp"])
def test_different_characters_stay_different_in_every_encoding(encoding):
    """From one another, and from the marks that are ASCII already."""
    found = [in_encoding(c, encoding) for c in [*FALLBACKS, *" !<>%?"]]
    assert len(set(found)) == len(found)
    assert all(len(FALLBACKS[c]) == 1 for c in MARKS)


def test_output_and_errors_alike(monkeypatch):
    out, err = (io.TextIOWrapper(io.BytesIO(), "ascii") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert (main(["snr", "--formats", "e5m2"]), main(["ops", "--shape", "b=0"])) == (0, 2)
    out.flush()
    err.flush()
    assert b"sigma" in out.buffer.getvalue()
    assert b"?" not in out.buffer.getvalue()
    assert err.buffer.getvalue().endswith(b"b is 0, expected an integer >= 1\n")


# --- lengths and help -------------------------------------------------------------------------------------------------


def test_training_fits(capsys, tmp_path):
    small = ["--batch", "2", "--seq", "16", "--steps", "3", "--evaluation-batches", "1", "--scales-every", "1"]
    assert main(["train", "bert-tiny", *small, "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.replace(str(tmp_path), "DIR").splitlines()
    assert main(["scales", str(tmp_path / "run")]) == 0
    lines += capsys.readouterr().out.splitlines()
    assert len(lines) > 6
    assert max(map(len, lines)) <= 100


def test_limits_of_programs_are_those_of_the_backend():
    """The options in ``--help``, those of the parser, and the defaults of ``PipeBackend``."""
    limits = inspect.signature(PipeBackend).parameters
    args = parser().parse_args(["conform", "--pipe", "x"])
    assert (args.timeout, args.longest_line) == (limits["timeout"].default, limits["longest_line"].default)
    assert (args.timeout, args.longest_line) == (60, 2**24)


def test_help_lists_every_command_by_door(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = capsys.readouterr().out
    assert [door.partition(":")[0] for door in DOORS] == ["learn", "check", "adapt", "conform"]
    assert max(map(len, out.splitlines())) <= 100
    for door, commands in DOORS.items():
        section = out.partition(f"\n  {door}\n")[2].partition("\n  ")[2]
        assert section
        for name, (summary, _) in commands.items():
            assert f"    {name:<12}{summary}\n" in out
            with pytest.raises(SystemExit, match="0"):
                main([name, "--help"])
            assert f"usage: refscale {name} " in capsys.readouterr().out
