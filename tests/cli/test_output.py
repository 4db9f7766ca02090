"""What every command prints: at most 100 columns, and text alone, whatever the terminal."""

from __future__ import annotations

import inspect

import pytest

from refscale.cli import main
from refscale.cli.arguments import DOORS, parser
from refscale.golden.kit.pipe import PipeBackend

OUTPUTS = [
    [],
    ["formats"],
    ["snr"],
    ["ops"],
    ["ops", "--shape", "b=1000000,m=76800,n=307200,s=131072"],
    ["report", "bert-tiny", "--precision", "fp8", "--all"],
    ["report", "bert-mini:layers=12", "--batch", "1", "--seq", "16"],
    ["report", "charlm-rnn", "--seq", "32"],
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


def test_training_fits(capsys, tmp_path):
    small = ["--batch", "2", "--seq", "16", "--steps", "3", "--evaluation-batches", "1", "--scales-every", "1"]
    assert main(["train", "bert-tiny", *small, "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.replace(str(tmp_path), "DIR").splitlines()
    assert main(["scales", str(tmp_path / "run")]) == 0
    lines += capsys.readouterr().out.splitlines()
    assert len(lines) > 6
    assert max(map(len, lines)) <= 100


def test_limits_of_programs_are_those_of_the_backend():
    """What ``--help`` says, what the parser has, and what ``PipeBackend`` takes by itself."""
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
            assert f"    {name:<10}{summary}\n" in out
            with pytest.raises(SystemExit, match="0"):
                main([name, "--help"])
            assert f"usage: refscale {name} " in capsys.readouterr().out
