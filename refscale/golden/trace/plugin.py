"""A trace under pytest: a test for each call instead of the vectors.

``refscale.testing.plugin`` loads it if a trace is given. Under pytest-xdist each worker checks the calls that it
receives; the verdicts travel with the reports of the tests.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from refscale.errors import RefscaleError, shown
from refscale.files import write_json
from refscale.golden import conformance
from refscale.golden.trace.judge import Judge, call_content, call_in_words, document, total_in_words
from refscale.golden.trace.schema import load_trace

_KEY = "refscale_trace"
"""Attribute of a test's report with the number and the verdict of its call."""

_OTHERS = ("trace", "json")
"""Options that apply to a trace."""

_DEFAULTS = {"seed": 0, "repeat": 1, "timeout": 60.0, "restarts": 3}


def pytest_configure(config: Any) -> None:
    """Register the plugin of this run."""
    config.pluginmanager.register(TracePlugin(config), "refscale-trace")


class TracePlugin:
    """The plugin of one run.

    Args:
        config: pytest's configuration.

    Raises:
        pytest.UsageError: the trace cannot be read, or an option of vectors is given beside it.
    """

    def __init__(self, config: Any) -> None:
        prefix = "refscale_"
        options = {k.removeprefix(prefix): v for k, v in vars(config.option).items() if k.startswith(prefix)}
        for name, value in options.items():
            if name not in _OTHERS and value not in (None, False, [], _DEFAULTS.get(name)):
                raise pytest.UsageError(
                    f"refscale: --refscale-{name} applies to vectors, expected no option beside --refscale-trace but "
                    "--refscale-json"
                )
        self._json = options["json"]
        self._reports = not hasattr(config, "workerinput")
        self._verdicts: dict[int, dict[str, Any]] = {}
        self.directory = Path(options["trace"])
        try:
            self.judge = Judge(load_trace(self.directory))
        except (RefscaleError, OSError) as error:
            raise pytest.UsageError(f"refscale: {error}") from None

    def pytest_pycollect_makeitem(self, collector: Any, name: str, obj: object) -> list[Any] | None:
        """Replace ``conformance.test_vector`` by a test for each call."""
        if obj is not conformance.test_vector:
            return None
        return [CallItem.made(collector, i, self) for i in range(len(self.judge.trace.calls))]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Generator[None, Any, Any]:
        """Add the verdict to the report of the test."""
        report = yield
        if call.when == "call" and isinstance(item, CallItem) and item.verdict is not None:
            setattr(report, _KEY, [item.index, item.verdict])
        return report

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Read the verdict from the report of a test."""
        found = getattr(report, _KEY, None)
        if self._reports and found:
            self._verdicts[found[0]] = found[1]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: Any) -> None:
        """Write the JSON at the end of the run."""
        if self._reports and self._json and self._verdicts:
            write_json(self._json, document(self._in_order()))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the coverage of the verdict."""
        if self._verdicts:
            terminalreporter.section("refscale")
            terminalreporter.line(total_in_words(self._in_order()))

    def _in_order(self) -> list[dict[str, Any]]:
        return [self._verdicts[i] for i in sorted(self._verdicts)]


class CallItem(pytest.Item):
    """The test of one call; its node is ``refscale/trace/DIRECTORY::NUMBER NAME``."""

    index: int
    plugin: TracePlugin
    verdict: dict[str, Any] | None = None
    """Verdict as JSON content, after the test has run."""

    @classmethod
    def made(cls, collector: Any, index: int, plugin: TracePlugin) -> CallItem:
        """Create the test of a call."""
        name = f"{index} {shown(plugin.judge.trace.calls[index].name, 80)}"
        node = f"refscale/trace/{plugin.directory.name}::{name.replace('::', ':')}"
        item: CallItem = cls.from_parent(collector, name=name, nodeid=node)
        item.index, item.plugin = index, plugin
        return item

    def runtest(self) -> None:
        """Check the call; fail by its verdict."""
        try:
            result = self.plugin.judge.call(self.index)
        except RefscaleError as error:
            pytest.fail(str(error), pytrace=False)
        self.verdict = call_content(result)
        if not result.passed:
            pytest.fail("\n".join(call_in_words(result)), pytrace=False)

    def reportinfo(self) -> tuple[str, None, str]:
        """Return the name of the call as the test's location."""
        return "refscale", None, self.name
