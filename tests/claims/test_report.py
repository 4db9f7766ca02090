"""``refscale verify``: the table, the failures, the list, JSON, exit status."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

import refscale.claims
from refscale.claims import CLAIMS, report, same, verify
from refscale.claims.run import ClaimResult
from refscale.cli import main
from refscale.files import json_text
from refscale.testing import Place
from tests.claims.mutants import all_mutants

PAGE = Path(refscale.claims.__file__).parent / "CLAIMS.md"


def mutant(name):
    return next(m for m in all_mutants() if m.name == name)


def test_the_page_is_what_the_list_prints(capsys):
    """If not: refscale verify --list > refscale/claims/CLAIMS.md"""
    assert main(["verify", "--list"]) == 0
    assert capsys.readouterr().out == PAGE.read_text(encoding="utf-8")


def test_the_page_has_every_claim():
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^\*\*(\d+\.\d+) · ", text, re.M) == list(CLAIMS)
    assert text.count("*Source: ") == len(CLAIMS)


def test_claims_that_hold(capsys):
    assert main(["verify", "--only", "3.9", "--only", "relu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("id    claim                    figures  figure nearest to failing ")
    assert lines[0].endswith("   expected   measured verdict")
    assert lines[1].split()[:3] == ["3.9", "matmul", "24"]
    assert lines[1].endswith("  1          1 holds")
    assert re.fullmatch(r"2 of 2 claims hold: 28 figures in \d+ s", lines[-1])
    assert max(map(len, lines)) <= 100


def test_a_claim_that_fails(capsys):
    with mutant("matmul α × 1.03").patched():
        assert main(["verify", "--only", "3.9", "--shape", "b=8,m=100,n=6", "--seed", "3"]) == 1
    out = capsys.readouterr().out
    assert "3.9 matmul fails" in out
    assert "  matmul: α over 100 terms: 1.03, expected 1 ± 1e-12" in out
    assert "  reproduce: refscale verify --only 3.9 --shape b=8,m=100,n=6,s=32 --seed 3" in out
    assert "0 of 1 claims hold" in out


def test_an_error_on_the_way_is_shown(capsys):
    with mutant("matmul, input 1: sign").patched():
        assert main(["verify", "--only", "2.2"]) == 1
    out = capsys.readouterr().out
    assert "the vector-Jacobian product is wrong for input 1" in out
    assert "ratio -1" in out


@pytest.mark.parametrize(
    ("count", "last"), [(5, "  figure 4: 1, expected 2"), (6, "  and 1 more"), (9, "  and 4 more")]
)
def test_five_figures_of_a_failure_are_shown(count, last):
    figures = [same(f"figure {i}", 1.0, 2.0) for i in range(count)]
    result = ClaimResult(CLAIMS["3.9"], Place(), (same("right", 1, 1), *figures), "", 0.0)
    lines = list(report.failures([result]))
    assert [line for line in lines if line.startswith("  figure")] == [f"  figure {i}: 1, expected 2" for i in range(5)]
    assert lines[-2] == last
    assert lines[-1].startswith("  reproduce: refscale verify --only 3.9")


@pytest.mark.parametrize(("length", "shown"), [(29, "x" * 29), (30, "x" * 28 + "…")])
def test_long_names_are_cut_to_their_column(length, shown):
    result = ClaimResult(CLAIMS["3.9"], Place(), (same("x" * length, 1, 1),), "", 0.0)
    head, line = report.table([result])
    start = head.index("figure nearest to failing")
    assert line[start : start + 30] == f"{shown:30}"
    assert line.endswith("  1          1 holds")


def test_json(tmp_path, capsys):
    path = tmp_path / "claims.json"
    assert main(["verify", "--only", "4", "--shape", "b=3", "--json", str(path)]) == 0
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["schema"] == "refscale.claims/1"
    assert found["holds"] is True
    assert [r["id"] for r in found["results"]] == [c.id for c in CLAIMS.values() if c.section == 4]
    first = found["results"][0]
    assert first["place"] == {"b": 3, "m": 48, "n": 80, "s": 32, "seed": 0}
    assert first["command"].startswith("refscale verify --only 4.1")
    assert {"what", "measured", "expected", "allowed", "kind", "holds"} == first["figures"][0].keys()
    capsys.readouterr()


def test_json_of_what_is_not_finite():
    (result,) = verify([CLAIMS["1.1"]], [Place()])
    figure = replace(result.figures[0], measured=math.nan, expected=-math.inf)
    content = json.loads(json_text(report.to_json([replace(result, figures=(figure,))])))
    (found,) = content["results"][0]["figures"]
    assert (found["measured"], found["expected"], found["allowed"]) == ("nan", "-inf", 0.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "99"], "claim '99': expected an id such as 3.9, a section, or a name; see --list"),
        (["--shape", "b=0"], "parse_shape('b=0'): b is 0, expected an integer ≥ 1"),
        (["--shape", "m=5000"], "Place: m is 5000, expected an integer from 1 to 4096"),
        (["--seed", "-1"], "verify: --seed is -1, expected a number >= 0"),
        (["--json", "/no/such/file.json"], "cannot write '/no/such/file.json': there is no directory '/no/such'"),
    ],
)
def test_errors(arguments, said, capsys):
    assert main(["verify", *arguments]) == 2
    assert capsys.readouterr().err == f"refscale: {said}\n"
