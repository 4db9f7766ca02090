"""A changed rule never survives: every mutant is killed by a claim (all: ``python -m tests.claims.mutants``)."""

from __future__ import annotations

import pytest

from refscale.claims import CLAIMS
from refscale.claims.run import OTHERS
from refscale.precision import POLICIES
from tests.claims.mutants import KINDS, Mutant, all_mutants, constraints, nothing, survivors

SAMPLE = 5
"""Mutants of each kind that are tried at every run, evenly spaced."""


def names(mutants):
    return [f"{m.kind}: {m.name}" for m in mutants]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_sample_is_killed(kind):
    mutants = list(kind())
    assert names(survivors(mutants[:: -(-len(mutants) // SAMPLE)])) == []


@pytest.mark.slow
def test_all_are_killed():
    assert names(survivors(all_mutants())) == []


def test_every_kind_of_rule_is_there():
    """Every op's factors and gradients, every format, every policy, every place that names constrained inputs."""
    found = names(all_mutants())
    assert len(found) == len(set(found)) > 600
    for part in (
        "softmax_cross_entropy α × 1.03",
        "matmul, input 1: sign",
        "float4_e2m1fn: max lower",
        "fp8-sr: operand",
    ):
        assert any(part in name for name in found), part
    assert {name for p in POLICIES for name in found if name.startswith(f"cast: {p}: store")}
    sites = [m.name for m in constraints() if m.name.endswith("dropped")]
    functions = {s.partition(":")[0] for s in sites}
    products = {"matmul", "readout", "attention", "_grouped_scores", "_mixture", "_scores_by_place"}
    cells = {"_lstm_step", "_gru_step", "_sequence", "_at", "_joined"}
    others = {"_tied", "silu_glu", "softmax", "split", "residual"}
    assert functions == products | cells | others | {"feed_forward", "recurrence"}


def test_what_changes_nothing_survives():
    """So the count can fall short of the total."""
    idle = Mutant("none", "nothing", (4,), nothing)
    assert survivors([idle]) == [idle]


def test_a_mutant_leaves_no_trace():
    for mutant in all_mutants()[::40]:
        with mutant.patched():
            pass
    for section in (3, 4, 9):
        for claim in CLAIMS.values():
            if claim.section == section:
                claim.hold(OTHERS[1])
