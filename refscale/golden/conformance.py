"""The golden vectors as tests: ``pytest --pyargs refscale.golden.conformance --refscale-backend module:Class``.

There is a test for each vector. An unimplemented vector is skipped, with the reason; a waived one is an expected
failure. Each option of ``refscale conform`` has the prefix ``--refscale-``; ``--refscale-pipe PROGRAM`` runs a program,
and ``--refscale-trace DIR`` checks a recorded step, a test per call.
"""

from __future__ import annotations

import pytest


def test_vector() -> None:
    """Placeholder for the vectors: ``golden.harness``, which a given backend loads, replaces it by a test for each.

    For a trace ``golden.trace.plugin`` does the same with its calls.
    """
    pytest.fail(
        "refscale.golden.conformance: expected --refscale-backend module:Class, --refscale-pipe PROGRAM or "
        "--refscale-trace DIR",
        pytrace=False,
    )
