"""Every claim is a test named by its id: ``test_3_09_matmul``; ``python -m pytest tests/claims -k test_3_09``.

Shapes, attributes and seeds are drawn by Hypothesis; whole models are run at the default place, where they have many
shapes already. Slow claims, and the models that take longest, are run when asked for (``-m slow``); the default suite
has the latter on short sequences, at one depth, at one size.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings

from refscale import ops
from refscale.claims import CLAIMS, SECTIONS, Claim, one_op, select, vjp
from refscale.claims.measure import ONE_SEGMENT, rows
from refscale.claims.models import bert_model, small_bert
from refscale.claims.run import OTHERS, WHOLE_MODELS
from refscale.ops import Matmul
from refscale.scales import Scales
from refscale.testing import Place
from refscale.testing.strategies import places
from tests.claims.found import AT, LONG, at_default, found
from tests.ops.cases import ALL_OPS

EXAMPLES = 4
"""Places that are drawn, beside the default one."""


def _test(claim: Claim) -> Callable[..., None]:
    examples = EXAMPLES if claim.sizes else 1  # without sizes, seeds alone are drawn

    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(place=places(claim.sizes))
    def hold(place: Place) -> None:
        claim.hold(place)

    def fixed() -> None:
        wrong = [str(f) for f in at_default(claim.id) if not f.holds]
        assert wrong == []

    def drawn() -> None:
        fixed()
        hold()

    test = fixed if claim.section == WHOLE_MODELS or claim.slow else drawn
    test.__name__ = test.__qualname__ = f"test_{claim.section}_{claim.number:02d}_{claim.name}"
    test.__doc__ = claim.statement
    return pytest.mark.slow(test) if claim.slow or claim.id in {*AT, *LONG} else test


for one in CLAIMS.values():
    made = _test(one)
    globals()[made.__name__] = made


@pytest.mark.parametrize("id", AT)
def test_whole_models_on_short_sequences(id):
    assert [str(f) for f in found(id) if not f.holds] == []


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_six_layers(norm):
    """Of claim 8.5, which goes to 48 layers."""
    config = small_bert(layers=6, norm=norm)
    tensors = rows(bert_model(config, 16, 8), 2, Place().rng(), agreement=ONE_SEGMENT, gradients=False)
    scales = {r.name: r.measured for r in tensors if "nsp" not in r.name and "attention_scores" not in r.name}
    assert len(scales) > 50
    assert {name: scale for name, scale in scales.items() if not 0.25 <= scale <= 4} == {}


@pytest.mark.slow
@pytest.mark.parametrize("id", LONG)
def test_how_many_figures_are_sampled(id):
    assert sum(f.kind == "sampled" for f in at_default(id)) == LONG[id]


@pytest.mark.parametrize(("id", "error"), [("8.1", 1.12), ("8.4", 1.5)])
def test_whole_models_have_the_power_that_they_state(id, error, monkeypatch):
    """Products that are too large, which no factor knows of."""
    right = Matmul.fast_forward

    def wrong(self, alpha, x, w):
        y, kept = right(self, alpha, x, w)
        return error * y, kept

    monkeypatch.setattr(Matmul, "fast_forward", wrong)
    figures = CLAIMS[id].check(AT.get(id, Place()))
    assert not all(f.holds for f in figures)  # up to the first that does not: the rest takes seconds


@pytest.mark.parametrize(
    ("id", "op", "what", "bound"),
    [
        ("3.9", ops.Matmul, "matmul: α over 6 terms", 1e-12),
        ("3.28", ops.Softmax, "softmax: α", 1e-12),
        ("3.24", ops.Tanh, "tanh: α by std", 1e-4),
        ("3.6", ops.SiluGlu, "silu_glu: α", 1e-4),
        ("3.28", ops.Softmax, "softmax: α by rms", 1e-2),
    ],
)
@pytest.mark.parametrize("side", [1, -1])
def test_a_factor_just_over_its_bound(id, op, what, bound, side, monkeypatch):
    """Where the construction knows the answer to 1e-12, on the grid to 1e-4, for e^x in a softmax to 1e-2.

    At 0.6 of it the claim holds, as the construction itself errs by less than the rest; at 1.6 of it, not.
    """
    right = op.scale

    def holds(error):
        def wrong(self, *shapes, **statistic):
            found = right(self, *shapes, **statistic)
            return Scales(found.alpha * (1 + side * error), found.beta)

        monkeypatch.setattr(op, "scale", wrong)
        (figure,) = (f for f in CLAIMS[id].figures(Place(4, 6, 8, 32)) if f.what == what)
        return figure.holds

    assert holds(0.6 * bound)
    assert not holds(1.6 * bound)


class TestTheList:
    def test_every_module_of_claims_is_in_a_section(self):
        stated = [c for section in SECTIONS for c in section.claims]
        assert len(stated) == len(CLAIMS)
        for section in SECTIONS:
            assert [c.number for c in section.claims] == list(range(1, len(section.claims) + 1)), section.title
            assert {c.section for c in section.claims} == {section.number}

    def test_every_claim_has_a_statement_and_a_source(self):
        for c in CLAIMS.values():
            assert len(c.title) > 20, c.id
            assert len(c.source) > 4, c.id
            assert set(c.sizes) <= set("bmns"), c.id

    @pytest.mark.parametrize(
        "c",
        [c for c in CLAIMS.values() if c.section not in (8, 11) and not set("bmns") <= set(c.sizes)],
        ids=lambda c: c.id,
    )
    def test_a_claim_reads_no_size_but_those_that_it_names(self, c):
        def numbers(figures):
            return [(f.what, f.measured, f.expected) for f in figures]

        others = {name: 7 for name in "bmns" if name not in c.sizes}
        assert numbers(c.figures(Place(**others))) == numbers(at_default(c.id))

    def test_every_op_has_its_factors_and_gradients_checked(self, monkeypatch):
        used = {2: set(), 3: set()}
        for module, section in ((vjp, 2), (one_op, 3)):

            def spy(op, *inputs, right=module.apply, seen=used[section], **options):
                seen.add(type(op))
                return right(op, *inputs, **options)

            monkeypatch.setattr(module, "apply", spy)
            for c in CLAIMS.values():
                if c.section == section:
                    c.hold(OTHERS[1])
        assert used[2] == used[3] == set(ALL_OPS)

    def test_select(self):
        assert [c.id for c in select(["3.9"])] == ["3.9"]
        assert {c.section for c in select(["4"])} == {4}
        assert {c.name for c in select(["soft*"])} == {"softmax", "softplus"}
        assert not any(c.slow for c in select())
        assert any(c.slow for c in select(slow=True))
        assert [c.id for c in select(["11.1"])] == ["11.1"]  # by its full id, a slow one too
        with pytest.raises(
            ValueError, match=r"^claim '99': expected an id such as 3\.9, a section, or a name; see --list$"
        ):
            select(["99"])
