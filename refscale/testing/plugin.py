"""Adds the options of the conformance kit to pytest, which finds this module by its entry point.

::

    pytest --pyargs refscale.golden.conformance --refscale-backend module:Class --refscale-waivers FILE

It is loaded in every run of pytest where refscale is installed.  So both options have the package's name before theirs,
nothing else is registered, and nothing is imported.
"""

from __future__ import annotations

from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Register both options."""
    group = parser.getgroup("refscale", "refscale conformance kit")
    group.addoption("--refscale-backend", metavar="BACKEND", help="module:Class, or the name of a shipped one")
    group.addoption("--refscale-waivers", metavar="FILE", help="known deviations, as TOML")
