"""Adds ``--backend`` to pytest, for ``pytest --pyargs refscale.golden.conformance --backend module:Class``."""

from __future__ import annotations

import contextlib
from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Called by pytest, which finds this module by its entry point."""
    group = parser.getgroup("refscale", "refscale conformance kit")
    with contextlib.suppress(ValueError):  # another plugin has an option of that name; it is read all the same
        group.addoption("--backend", default=None, metavar="BACKEND", help="module:Class, or one that is shipped")
    group.addoption("--waivers", default=None, metavar="FILE", help="known deviations, as TOML")
