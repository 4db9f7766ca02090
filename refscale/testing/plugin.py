"""The pytest options of the conformance kit; pytest finds this module by its entry point.

::

    pytest --pyargs refscale.golden.conformance --refscale-backend module:Class --refscale-waivers FILE
    pytest --pyargs refscale.golden.conformance --refscale-trace DIR

pytest loads this module in every run where refscale is installed. So each option has the prefix ``--refscale-``,
nothing else is registered unless one of them is given, and nothing is imported.
"""

from __future__ import annotations

from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Register the options: those of ``refscale conform`` with a prefix."""
    group = parser.getgroup("refscale", "refscale conformance kit")
    add = group.addoption
    add("--refscale-backend", metavar="BACKEND", help="module:Class, or the name of a shipped backend")
    add("--refscale-pipe", metavar="PROGRAM", help="program that reads requests and writes replies as text")
    add("--refscale-trace", metavar="DIR", help="recorded step: a test for each call instead of each vector")
    add("--refscale-set", metavar="DIR", help="directory of another set (default: the installed one)")
    add(
        "--refscale-only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="run only these ids, such as 'cast/*e4m3*'",
    )
    add("--refscale-flag", action="append", default=[], metavar="FLAG", help="run only vectors that catch this bug")
    add("--refscale-seed", type=int, default=0, metavar="S", help="random seed of generated vectors (default: 0)")
    add("--refscale-repeat", type=int, default=1, metavar="N", help="number of seeds of generated vectors (default: 1)")
    add("--refscale-full", action="store_true", help="also run large vectors")
    add(
        "--refscale-require",
        action="append",
        default=[],
        metavar="PATTERN",
        help="require that these ids are implemented",
    )
    add("--refscale-waivers", metavar="FILE", help="TOML file of accepted failures")
    add("--refscale-timeout", type=float, default=60.0, metavar="S", help="seconds for one vector (default: 60)")
    add("--refscale-restarts", type=int, default=3, metavar="N", help="restarts after a crash or timeout (default: 3)")
    add("--refscale-json", metavar="FILE", help="also write the verdict on every vector to FILE as JSON")


def pytest_configure(config: Any) -> None:
    """Load ``refscale.golden.trace.plugin`` if a trace is given, ``refscale.golden.harness`` if a backend is given."""
    if config.getoption("--refscale-trace"):
        config.pluginmanager.import_plugin("refscale.golden.trace.plugin")
    elif config.getoption("--refscale-backend") or config.getoption("--refscale-pipe"):
        config.pluginmanager.import_plugin("refscale.golden.harness")
