"""Negative controls: each wrong backend is rejected, by a vector that carries its flag; and every flag has one."""

import pytest

from refscale.golden import FLAGS, load
from refscale.golden.kit import METHODS, judge
from tests.golden import wrong_blocks  # noqa: F401, registers its controls
from tests.golden.wrong import CONTROLS, RIGHT

VECTORS = list(load().values())


def overridden(kind):
    return next(m for m in METHODS if m in vars(kind))


def deviates(result):
    """It fails by its bits; a wrong backend that merely raises would prove nothing."""
    assert "raised" not in result.reason, result.reason
    return result.verdict == "fail" and (result.mismatch is not None or "not rounded" in result.reason)


@pytest.mark.parametrize(("flag", "kind"), CONTROLS, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_a_wrong_backend_fails_at_its_flag(flag, kind):
    backend, method = kind(), overridden(kind)
    chosen = [v for v in VECTORS if v.op == method and flag in v.flags and not v.bulk]
    assert chosen, f"no vector of {method} carries {flag}"
    assert any(deviates(judge(backend, v)) for v in chosen)


def test_every_flag_has_a_wrong_backend():
    assert set(FLAGS) == {flag for flag, _ in CONTROLS}
    assert len({kind for _, kind in CONTROLS}) >= 30


def test_every_flag_of_a_vector_is_known():
    assert {f for v in VECTORS for f in v.flags} == set(FLAGS)


@pytest.mark.parametrize("method", METHODS)
def test_the_right_backend_fails_nowhere(method):
    results = [judge(RIGHT, v) for v in VECTORS if v.op == method and not v.bulk]
    assert {r.verdict for r in results} == {"same bits"}
