"""The tier ``unit`` is most of the suite, its list names what exists, and the whole suite runs in two processes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.conftest import LONG, TESTS, is_long, pytest_cmdline_main

LEAST = 0.6
"""Share of the default tests that are in the tier."""


def test_the_list_names_folders_modules_and_tests():
    for entry in LONG:
        place, _, name = entry.partition("::")
        assert (TESTS / place).exists(), entry
        assert not name or f"def {name.rpartition('::')[2]}(" in (TESTS / place).read_text(encoding="utf-8"), entry
    assert list(LONG) == sorted(set(LONG))
    assert [e for e in LONG if any(e.startswith((f"{other}/", f"{other}::")) for other in LONG)] == []


def test_a_folder_stands_for_its_modules_and_a_module_for_its_tests():
    assert is_long(TESTS / "train")
    assert is_long(TESTS / "train" / "test_any.py")
    assert is_long(TESTS / "models" / "test_bert.py", "test_any")
    assert not is_long(TESTS)
    assert not is_long(TESTS / "trained.py")


def test_a_test_stands_for_itself():
    path = TESTS / "claims" / "test_claim.py"
    assert is_long(path, "test_sampling")
    assert not is_long(path)
    assert not is_long(path, "test_sampling_of_another")
    assert not is_long(TESTS / "claims" / "test_report.py", "test_sampling")


def test_every_test_here_is_marked(request):
    assert request.node.get_closest_marker("unit") is not None


def test_the_tier_is_most_of_the_suite(request):
    """Of a run of the whole default suite."""
    items = request.session.items
    collected = {item.path for item in items}
    if any(TESTS / entry not in collected for entry in LONG if entry.endswith(".py")):
        pytest.skip("a part of the suite")
    unit = sum(item.get_closest_marker("unit") is not None for item in items)
    assert unit >= LEAST * len(items), f"{unit} of {len(items)} tests"


SOURCES = pytest.Config.ArgsSource
PLAIN = {"numprocesses": None, "dist": "no", "usepdb": False, "trace": False, "collectonly": False}
"""The options of ``python -m pytest`` that decide, where pytest-xdist is installed; -k, -x and --lf change none."""

DISTRIBUTED = (2, "loadfile")
RUNS = {
    "": ({}, SOURCES.TESTPATHS, DISTRIBUTED),
    "-n 0": ({"numprocesses": 0}, SOURCES.TESTPATHS, (0, "no")),
    "-n 3": ({"numprocesses": 3}, SOURCES.TESTPATHS, (3, "no")),
    "--dist each --tx 2*popen": ({"dist": "each"}, SOURCES.TESTPATHS, (None, "each")),
    "--pdb": ({"usepdb": True}, SOURCES.TESTPATHS, (None, "no")),
    "--trace": ({"trace": True}, SOURCES.TESTPATHS, (None, "no")),
    "--collect-only": ({"collectonly": True}, SOURCES.TESTPATHS, (None, "no")),
    "tests/ops": ({}, SOURCES.ARGS, (None, "no")),
    "in the folder tests": ({}, SOURCES.INVOCATION_DIR, (None, "no")),
}
"""Of a command: its options, where its tests are named, the processes and their distribution after the hook."""


def check_processes(hook) -> None:
    """The hook sets two processes for a run of the whole suite, and leaves every other run alone."""
    for name, (options, source, expected) in RUNS.items():
        config = SimpleNamespace(option=SimpleNamespace(**PLAIN | options), args_source=source, ArgsSource=SOURCES)
        hook(config)
        assert (config.option.numprocesses, config.option.dist) == expected, name
    worker = SimpleNamespace(
        option=SimpleNamespace(**PLAIN), args_source=SOURCES.TESTPATHS, ArgsSource=SOURCES, workerinput={}
    )
    hook(worker)
    assert worker.option.numprocesses is None
    absent = {name: value for name, value in PLAIN.items() if name not in ("numprocesses", "dist")}
    config = SimpleNamespace(option=SimpleNamespace(**absent), args_source=SOURCES.TESTPATHS, ArgsSource=SOURCES)
    hook(config)  # without pytest-xdist, or with -p no:xdist
    assert vars(config.option) == absent


def test_the_whole_suite_runs_in_two_processes():
    check_processes(pytest_cmdline_main)


def wrong_always(config):
    config.option.numprocesses, config.option.dist = 2, "loadfile"


def wrong_paths(config):
    config.args_source = config.ArgsSource.TESTPATHS
    pytest_cmdline_main(config)


def wrong_debugger(config):
    config.option.usepdb = config.option.trace = False
    pytest_cmdline_main(config)


def wrong_distribution(config):
    pytest_cmdline_main(config)
    if getattr(config.option, "dist", "") == "loadfile":
        config.option.dist = "load"


@pytest.mark.parametrize("wrong", [wrong_always, wrong_paths, wrong_debugger, wrong_distribution])
def test_another_number_of_processes_is_noticed(wrong):
    with pytest.raises(AssertionError):
        check_processes(wrong)


def test_the_options_are_those_of_pytest(pytestconfig):
    names = set(vars(pytestconfig.option))
    assert set(PLAIN) - names <= {"numprocesses", "dist"}  # of pytest-xdist
    assert isinstance(pytestconfig.args_source, SOURCES)
