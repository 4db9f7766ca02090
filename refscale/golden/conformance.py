"""The golden vectors as tests: ``pytest --pyargs refscale.golden.conformance --refscale-backend module:Class``.

A vector that the backend does not implement is skipped, with the reason; one that is waived is an expected failure.
Add ``--refscale-waivers FILE`` for known deviations, and ``-k`` for some of the ids.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from refscale.errors import GoldenError
from refscale.golden.backends import find
from refscale.golden.kit import Backend, Result, load_waivers, run, select
from refscale.golden.kit.backend import matches
from refscale.golden.kit.report import describe
from refscale.golden.schema import Vector
from refscale.golden.store import load


@cache
def vectors() -> list[Vector]:
    """Every vector that is not bulk."""
    return select(load().values())


def pytest_generate_tests(metafunc: Any) -> None:
    """Make a test of each vector."""
    metafunc.parametrize("vector_id", [v.id for v in vectors()])


@pytest.fixture(scope="session")
def results(request: Any) -> dict[str, Result]:
    """The verdict on every vector that is asked for, by id; what a waiver is about stands and falls together."""
    where = request.config.getoption("--refscale-backend", None)
    if not where:
        raise GoldenError("refscale.golden.conformance: expected --refscale-backend module:Class")
    backend: Backend = find(where)
    path = request.config.getoption("--refscale-waivers", None)
    waivers = load_waivers(path) if path else ()
    ours = (item for item in request.session.items if getattr(item, "function", None) is test_vector)
    ids = {item.callspec.params["vector_id"] for item in ours}
    asked = [v for v in vectors() if v.id in ids or any(matches(v.id, w.ids) for w in waivers)]
    return {r.vector.id: r for r in run(backend, asked, waivers)}


def test_vector(results: dict[str, Result], vector_id: str) -> None:
    """The backend's result has the same bits, or is within its bound."""
    result = results[vector_id]
    if result.verdict == "not implemented":
        pytest.skip(result.reason)
    if result.verdict == "waived":
        pytest.xfail(result.reason)
    if result.verdict == "unexpectedly fixed":
        pytest.fail(f"no longer fails, remove the waiver: {result.reason}")
    if result.verdict == "fail":
        pytest.fail("\n".join(describe(result)), pytrace=False)
