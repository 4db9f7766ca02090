"""The kit as a pytest plugin: a test per vector, a backend per process, coverage at the end.

``refscale.testing.plugin`` loads it if a backend is given. Under pytest-xdist each worker starts its own backend and
checks the vectors that it receives. A verdict travels with the report of its test, so the process that prints the
summary also writes the JSON and checks the coverage.
"""

from __future__ import annotations

import argparse
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest

from refscale.errors import BackendLostError, RefscaleError
from refscale.files import write_json
from refscale.golden import conformance, sizes
from refscale.golden.backends import find
from refscale.golden.kit import Backend, Result, Session, load_waivers, select
from refscale.golden.kit.backend import matches
from refscale.golden.kit.pipe import PipeBackend
from refscale.golden.kit.report import backend_entry, describe, document, entry, totals_in_words
from refscale.golden.kit.runner import check_ids, covered, unmet
from refscale.golden.kit.verdicts import whole_result
from refscale.golden.schema import Vector
from refscale.golden.store import load

_KEY = "refscale"
"""Attribute of a test's report with the verdict; name of a worker's backend in its output."""


def pytest_configure(config: Any) -> None:
    """Register the plugin of this run."""
    config.pluginmanager.register(Conformance(config), "refscale-conformance")


class Conformance:
    """The plugin of one run.

    Args:
        config: pytest's configuration.

    Raises:
        pytest.UsageError: a backend, set, waivers file, pattern or flag does not exist.
    """

    def __init__(self, config: Any) -> None:
        prefix = "refscale_"
        options = {k.removeprefix(prefix): v for k, v in vars(config.option).items() if k.startswith(prefix)}
        self.args = argparse.Namespace(**options)
        self._runs_tests = hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None)
        self._reports = not hasattr(config, "workerinput")
        self._entries: dict[str, dict[str, Any]] = {}
        self._about: dict[str, Any] = {}
        self._lost = ""
        self._problems: list[str] = []
        self.session: Session | None = None
        if self.args.backend and self.args.pipe:
            raise pytest.UsageError("refscale: expected --refscale-backend or --refscale-pipe, not both")
        try:
            self.set = load(self.args.set)
            args = self.args
            wanted = (lambda id: matches(id, args.only)) if args.only else None
            pool = [*self.set.values(), *sizes.sample(args.seed, args.full, args.repeat, wanted)]
            self.vectors = select(pool, args.only, args.full, args.flag)
            self._by_id = {v.id: v for v in self.vectors}
            unmet([whole_result(v, "same bits", "") for v in self.vectors], self.args.require)
            waivers = load_waivers(self.args.waivers) if self.args.waivers else ()
            check_ids(waivers, {v.id for v in pool})
            if self._runs_tests:
                backend = self._backend()
                self.session = Session(backend, waivers, self.args.timeout, self.args.restarts)
                self._about = backend_entry(backend)
        except (RefscaleError, OSError) as error:
            raise pytest.UsageError(f"refscale: {error}") from None

    def _backend(self) -> Backend:
        return PipeBackend(self.args.pipe, self.args.timeout) if self.args.pipe else find(self.args.backend)

    def pytest_pycollect_makeitem(self, collector: Any, name: str, obj: object) -> list[Any] | None:
        """Replace ``conformance.test_vector`` by a test for each vector."""
        if obj is not conformance.test_vector:
            return None
        return [VectorItem.made(collector, v, self) for v in self.vectors]

    def judge(self, item: VectorItem) -> Result:
        """Return the verdict on one vector, and store it in the report of its test."""
        assert self.session is not None
        try:
            result = self.session.judge(item.vector)
        except BackendLostError as error:
            item.session.shouldstop = f"refscale: {error}"
            pytest.skip(f"not run: {error}")
        item.noted = {**entry(result), "unanswered": result.unanswered}
        if self.session.lost:
            self._lost = self.session.lost
            item.session.shouldstop = f"refscale: {self._lost}"
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Generator[None, Any, Any]:
        """Add the verdict to the report of the test."""
        report = yield
        if call.when == "call" and isinstance(item, VectorItem):
            setattr(report, _KEY, item.noted)
        return report

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Read the verdict from the report of a test."""
        noted = getattr(report, _KEY, None)
        if self._reports and noted:
            self._entries[noted["id"]] = noted

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Read the backend of a pytest-xdist worker from its output."""
        about, lost = getattr(node, "workeroutput", {}).get(_KEY, ({}, ""))
        self._about, self._lost = about or self._about, lost or self._lost

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: Any) -> None:
        """Write the JSON and check the coverage; a worker sends the entry of its backend."""
        if not self._reports:
            session.config.workeroutput[_KEY] = (self._about, self._lost)
            return
        if not self._entries:
            return
        places = {v.id: i for i, v in enumerate(self.vectors)}
        self._entries = dict(sorted(self._entries.items(), key=lambda item: places[item[0]]))
        results = self._results()
        entries = {r.vector.id: entry(r) if r.verdict == "fail" else {} for r in results}
        for id, noted in self._entries.items():
            noted.pop("unanswered")
            silent = noted["verdict"] == "not implemented" and entries[id]
            self._entries[id] = entries[id] if silent else noted
            if silent and not self._problems:
                self._problems.append(f"{id.partition('/')[0]}: {entries[id]['reason']}")
        try:
            self._problems += unmet(results, self.args.require)
        except RefscaleError as error:
            self._problems.append(str(error))
        if self.args.json:
            content = document(self._about, list(self._entries.values()), self.set, self._problems, self._lost)
            write_json(self.args.json, content)
        if self._problems and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _results(self) -> list[Result]:
        """Return the verdicts of all processes, reduced to the fields that coverage needs."""
        made = [
            replace(whole_result(self._by_id[e["id"]], e["verdict"], e.get("reason", "")), unanswered=e["unanswered"])
            for e in self._entries.values()
        ]
        return covered(made)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the problems and the totals at the end of the run."""
        if self._entries:
            terminalreporter.section("refscale")
            for problem in self._problems:
                terminalreporter.line(problem)
            results = [whole_result(self._by_id[e["id"]], e["verdict"], "") for e in self._entries.values()]
            terminalreporter.line(totals_in_words(results))

    def pytest_unconfigure(self) -> None:
        """Close the program of the backend."""
        if self.session is not None and isinstance(self.session.backend, PipeBackend):
            self.session.backend.close()


class VectorItem(pytest.Item):
    """The test of one vector.

    Its node is ``refscale/FAMILY/…::REST``: dashboards group by the part before "::".
    """

    vector: Vector
    plugin: Conformance
    noted: dict[str, Any] | None = None
    """Entry of the verdict in the report, after the test has run."""

    @classmethod
    def made(cls, collector: Any, vector: Vector, plugin: Conformance) -> VectorItem:
        """Create the test of a vector."""
        group, _, rest = vector.id.partition("/")
        if rest.count("/") > 1:
            second, _, rest = rest.partition("/")
            group = f"{group}/{second}"
        item: VectorItem = cls.from_parent(collector, name=vector.id, nodeid=f"refscale/{group}::{rest}")
        item.vector, item.plugin = vector, plugin
        return item

    def runtest(self) -> None:
        """Check the vector; fail or skip by its verdict."""
        result = self.plugin.judge(self)
        match result.verdict:
            case "not implemented":
                pytest.skip(result.reason)
            case "waived":
                pytest.xfail(result.reason)
            case "unexpectedly fixed":
                pytest.fail(f"passes, remove the waiver: {result.reason}", pytrace=False)
            case "fail":
                pytest.fail("\n".join(describe(result)), pytrace=False)

    def reportinfo(self) -> tuple[str, None, str]:
        """Return the id of the vector as the test's location."""
        return "refscale", None, self.vector.id
