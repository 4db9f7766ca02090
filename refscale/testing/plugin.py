"""Adds the options of the conformance kit to pytest, which finds this module by its entry point.

::

    pytest --pyargs refscale.golden.conformance --refscale-backend module:Class --refscale-waivers FILE
    pytest --pyargs refscale.golden.conformance --refscale-trace DIR

It is loaded in every run of pytest where refscale is installed.  So each option has the package's name before its own,
nothing else is registered unless one of them is given, and nothing is imported.
"""

from __future__ import annotations

from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Register the options: those of ``refscale conform`` with a prefix."""
    group = parser.getgroup("refscale", "refscale conformance kit")
    add = group.addoption
    add("--refscale-backend", metavar="BACKEND", help="module:Class, or the name of a shipped one")
    add("--refscale-pipe", metavar="PROGRAM", help="a program that reads requests and writes replies as text")
    add("--refscale-trace", metavar="DIR", help="a recorded step, a test per call, in place of vectors")
    add("--refscale-set", metavar="DIR", help="another set of golden vectors (default: the installed one)")
    add("--refscale-only", action="append", default=[], metavar="PATTERN", help="ids of vectors, such as 'cast/*e4m3*'")
    add("--refscale-flag", action="append", default=[], metavar="FLAG", help="vectors that catch this bug")
    add("--refscale-seed", type=int, default=0, metavar="S", help="of generated vectors (default: 0)")
    add("--refscale-repeat", type=int, default=1, metavar="N", help="generated vectors of N seeds (default: 1)")
    add("--refscale-full", action="store_true", help="large vectors, too")
    add("--refscale-require", action="append", default=[], metavar="PATTERN", help="ids that must be implemented")
    add("--refscale-waivers", metavar="FILE", help="accepted failures, as TOML")
    add("--refscale-timeout", type=float, default=60.0, metavar="S", help="for one vector (default: 60)")
    add("--refscale-restarts", type=int, default=3, metavar="N", help="after a crash or a timeout (default: 3)")
    add("--refscale-json", metavar="FILE", help="also write the verdict on every vector as JSON")


def pytest_configure(config: Any) -> None:
    """Load ``refscale.golden.trace.plugin`` if a trace is given, ``refscale.golden.harness`` if a backend is."""
    if config.getoption("--refscale-trace"):
        config.pluginmanager.import_plugin("refscale.golden.trace.plugin")
    elif config.getoption("--refscale-backend") or config.getoption("--refscale-pipe"):
        config.pluginmanager.import_plugin("refscale.golden.harness")
