"""The golden vectors as tests: ``pytest --pyargs refscale.golden.conformance --refscale-backend module:Class``.

A test per vector: one that is not implemented is skipped, with the reason; one that is waived is an expected failure.
Each switch of ``refscale conform`` has the prefix ``--refscale-``; ``--refscale-pipe PROGRAM`` runs a program, and
``--refscale-trace DIR`` judges a recorded step, a test per call.
"""

from __future__ import annotations

import pytest


def test_vector() -> None:
    """Stands for the vectors: ``golden.harness``, which a given backend loads, puts a test for each in its place.

    Of a trace ``golden.trace.plugin`` does the same with its calls.
    """
    pytest.fail(
        "refscale.golden.conformance: expected --refscale-backend module:Class, --refscale-pipe PROGRAM or "
        "--refscale-trace DIR",
        pytrace=False,
    )
