"""The kit under pytest: in the projects of others, on several workers, with programs that crash."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import refscale
from refscale import ops
from refscale.golden import load
from refscale.golden.kit import run, select
from refscale.golden.kit.runner import waivers_toml
from refscale.golden.trace import Recorder, judge, load_trace, to_content
from tests.golden.test_coverage import FP16, TiesAway

VECTORS = load()
SUITE = ["--pyargs", "refscale.golden.conformance"]


def test_as_pytest_in_a_project_with_options_of_the_same_names(tmp_path):
    """Its own conftest defines --backend and --waivers, as for tests on a GPU; each reads its own."""
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser):\n"
        "    parser.addoption('--backend', default='cpu')\n"
        "    parser.addoption('--waivers', action='store_true')\n",
        encoding="utf-8",
    )
    (tmp_path / "test_own.py").write_text(
        "def test_own(pytestconfig):\n"
        "    assert (pytestconfig.getoption('backend'), pytestconfig.getoption('waivers')) == ('gpu', True)\n",
        encoding="utf-8",
    )
    (tmp_path / "mine.py").write_text(
        "from refscale.golden.backends.reference import Reference\n"
        "class Mine(Reference):\n"
        "    def cast(self, x, *, rounding, **v):\n"
        "        with open('calls', 'a') as file:\n"
        "            file.write(v['format'] + '\\n')\n"
        "        return super().cast(x, rounding='up' if rounding == 'down' else rounding, **v)\n"
        "    unary = None\n",
        encoding="utf-8",
    )
    theirs = ["--backend", "gpu", "--waivers", "test_own.py"]
    ours = ["--refscale-backend", "mine:Mine", "--refscale-only", "cast/*float16/*", "--refscale-only", "unary/exp/*"]
    ours.append("refscale.golden.conformance")
    result = pytest_in(tmp_path, *theirs, "--pyargs", *ours, "-k", "test_own or float16 and (down or up or exp)")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAILED refscale/cast/float16::down/saturate/float32/inside" in result.stdout
    assert "::up/" not in result.stdout
    assert "test_own" not in result.stdout
    assert set((tmp_path / "calls").read_text().split()) == {"float16", "bfloat16"}
    assert "passed" in result.stdout
    assert "skipped" in result.stdout


def test_the_plugin_does_nothing_in_a_project_that_does_not_use_it(tmp_path):
    """It is loaded (its help is there), and adds options; every other module of the package is left alone."""
    (tmp_path / "test_own.py").write_text(
        "import sys\n"
        "def test_own(pytestconfig):\n"
        "    plugins = pytestconfig.pluginmanager.get_plugins()\n"
        "    (plugin,) = [p for p in plugins if getattr(p, '__name__', '') == 'refscale.testing.plugin']\n"
        "    assert [x for x in vars(plugin) if x.startswith('pytest_')] == ['pytest_addoption', 'pytest_configure']\n"
        "    found = [x for x in vars(pytestconfig.option) if 'backend' in x or 'waivers' in x]\n"
        "    assert found == ['refscale_backend', 'refscale_waivers']\n"
        "    loaded = {m for m in sys.modules if m.partition('.')[0] in ('refscale', 'numpy')}\n"
        "    assert loaded == {'refscale', 'refscale.names', 'refscale.testing', 'refscale.testing.plugin'}\n",
        encoding="utf-8",
    )
    result = pytest_in(tmp_path, "test_own.py")
    assert result.returncode == 0, result.stdout + result.stderr


PROGRAM = """
import sys
print('refscale-pipe 3 name=crashes version=1', flush=True)
next(sys.stdin)
for line in sys.stdin:
    if ' rounding=down ' in line and ' float64 ' in line:
        raise SystemExit(9)
    codes = '00 ' * len(line.split(' | ')[1].split()[3:])
    print('ok | y ' + codes if line.startswith('cast') else 'unsupported', flush=True)
"""


def test_a_crash_fails_its_vector_and_the_rest_goes_on(tmp_path):
    """Of eight vectors, in order, the last four are from float64: JUnit and JSON are written when restarts end, too."""
    restarts, status, judged = "1", 2, 6
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    wanted = ["--refscale-only", "cast/float8_e4m3fn/down/*/float32/*", "--refscale-only"]
    wanted += ["cast/float8_e4m3fn/down/*/float64/*"]
    program = ["--refscale-pipe", f"{sys.executable} program.py", "--refscale-restarts", restarts]
    written = ["--junitxml", "j.xml", "--refscale-json", "j.json"]
    result = pytest_in(tmp_path, *SUITE, *program, *wanted, *written)
    assert result.returncode == status, result.stdout + result.stderr
    assert len(result.stdout) < 20000
    assert result.stdout.count("FAIL cast/") + result.stdout.count("ended with status 9") > 0
    document = json.loads((tmp_path / "j.json").read_text(encoding="utf-8"))
    assert (document["complete"], document["passed"]) == (status == 1, False)
    crashed = [v for v in document["vectors"] if v.get("reason") == "the program ended with status 9"]
    assert (len(document["vectors"]), len(crashed)) == (judged, judged - 4)
    cases = ET.parse(tmp_path / "j.xml").getroot().iter("testcase")
    names = [(case.get("classname"), case.get("name")) for case in cases]
    assert ("refscale.cast.float8_e4m3fn", "down/saturate/float32/inside") in names
    assert len(names) == judged


def test_workers_share_the_vectors_and_agree(tmp_path):
    if importlib.util.find_spec("xdist") is None:
        pytest.skip("needs pytest-xdist")
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "from refscale.golden.backends.reference import Reference\n"
        "class Mine(Reference):\n"
        "    def cast(self, x, *, rounding, **v):\n"
        "        with open('calls', 'a') as file:\n"
        "            file.write('x')\n"
        "        return super().cast(x, rounding='up' if rounding == 'down' else rounding, **v)\n",
        encoding="utf-8",
    )
    wanted = ["--refscale-backend", "mine:Mine", "--refscale-only", "cast/float16/*", "--refscale-json"]
    count = len(select(VECTORS.values(), ["cast/float16/*"]))
    alone, workers = pytests_in(tmp_path, [*SUITE, *wanted, "one.json"], [*SUITE, *wanted, "two.json", "-n", "2"])
    assert (alone[0], workers[0]) == (1, 1)
    assert len((tmp_path / "calls").read_text()) == 2 * count
    assert (tmp_path / "one.json").read_text() == (tmp_path / "two.json").read_text()


def test_coverage_and_waivers_decide_under_pytest_too(tmp_path):
    """Three runs: nothing implemented; a requirement that is not met; failures that are waived as they are."""
    (tmp_path / "mine.py").write_text(
        "from refscale.golden.backends.reference import Reference\n"
        "from tests.golden.test_coverage import TiesAway, Unsupported\n"
        "class Some(Reference):\n"
        "    unary = None\n",
        encoding="utf-8",
    )
    wanted = ["--refscale-only", "decode/float16/*", "--refscale-only", "unary/exp/float16/usual"]
    text = waivers_toml(TiesAway(), run(TiesAway(), select(VECTORS.values(), [FP16])))
    (tmp_path / "known.toml").write_text(text.replace('reason = ""', 'reason = "x"'), encoding="utf-8")
    nothing, some, away = pytests_in(
        tmp_path,
        [*SUITE, "--refscale-backend", "mine:Unsupported", "--refscale-only", FP16],
        [*SUITE, "--refscale-backend", "mine:Some", *wanted, "--refscale-require", "unary/*"],
        [*SUITE, "--refscale-backend", "mine:TiesAway", "--refscale-only", FP16, "--refscale-waivers", "known.toml"],
    )
    assert nothing[0] == 1
    assert "cast: the method exists, and answers none of its vectors: not on this chip" in nothing[1]
    assert some[0] == 1
    assert "required 'unary/*': 1 of 1 not implemented, first unary/exp/float16/usual" in some[1]
    assert (away[0], "xfailed" in away[1]) == (0, True), away[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "no.such:Mine"}, "importing no.such raised ModuleNotFoundError"),
        ({"backend": "reference", "only": ["none/*"]}, "--only 'none/*': matches none"),
        ({"backend": "reference", "require": ["none/*"]}, "--require 'none/*': matches none"),
        ({"backend": "reference", "pipe": "x"}, "not both"),
        ({"backend": "reference", "waivers": "none.toml"}, "none.toml"),
        ({"pipe": "no/such/program"}, "cannot be started"),
    ],
)
def test_options_that_are_wrong_are_one_line(options, words):
    from refscale.golden.harness import Conformance

    usual = {
        "backend": None,
        "pipe": None,
        "set": None,
        "only": [FP16],
        "flag": [],
        "full": False,
        "require": [],
        "seed": 0,
    }
    usual |= {"repeat": 1, "waivers": None, "timeout": 60.0, "restarts": 3, "json": None} | options
    option = SimpleNamespace(**{f"refscale_{name}": value for name, value in usual.items()})
    with pytest.raises(pytest.UsageError, match=re.escape(words)) as raised:
        Conformance(SimpleNamespace(option=option))
    assert "\n" not in str(raised.value)


def test_without_a_backend_there_is_one_failure(tmp_path):
    result = pytest_in(tmp_path, *SUITE)
    assert result.returncode == 1
    assert "expected --refscale-backend module:Class, --refscale-pipe PROGRAM or --refscale-trace DIR" in result.stdout
    assert "1 failed" in result.stdout


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_a_trace_is_a_test_per_call(tmp_path, workers):
    """Two calls, of which the second has lost a factor; the verdict is that of the command."""
    if workers and importlib.util.find_spec("xdist") is None:
        pytest.skip("pytest-xdist is not installed")
    x = np.float32([1.0, 2.0])
    with Recorder(tmp_path / "step", complete=True) as recorder:
        for name, right in (("layer.0::exp", 1), ("layer.1", 2)):
            with recorder.call(name, ops.Exp(), alpha=2.0) as call:
                call.inputs(x)
                call.output(2 / np.float32(right) * np.exp(x))
    run = [*SUITE, "--refscale-trace", "step", "--refscale-json", "v.json", "--junitxml", "j.xml", *workers]
    result = pytest_in(tmp_path, *run)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "FAIL  layer.1 (exp): output out[" in result.stdout
    assert "1 call of 2 deviate, the first is layer.1 (2 calls, 2 without backward pass, 2 arrays" in result.stdout
    verdict = json.loads((tmp_path / "v.json").read_text(encoding="utf-8"))
    assert verdict == to_content(judge(load_trace(tmp_path / "step")))
    cases = ET.parse(tmp_path / "j.xml").getroot().iter("testcase")
    assert sorted((c.get("classname"), c.get("name")) for c in cases) == [
        ("refscale.trace.step", "0 layer.0:exp"),
        ("refscale.trace.step", "1 layer.1"),
    ]


def test_a_trace_and_options_of_vectors_exclude_each_other(tmp_path):
    for options, words in (
        (["--refscale-trace", "step", "--refscale-only", "cast/*"], "--refscale-only applies to vectors"),
        (["--refscale-trace", "step", "--refscale-backend", "reference"], "--refscale-backend applies to vectors"),
        (["--refscale-trace", "step"], "no trace.json, expected a directory that Recorder writes"),
    ):
        result = pytest_in(tmp_path, *SUITE, *options)
        assert result.returncode == 4, result.stdout
        assert f"refscale: {'trace step: ' if 'no trace' in words else ''}{words}" in result.stderr


def pytest_in(folder, *arguments):
    """A run of pytest in another project, with the plugin."""
    return _python(folder, "-m", "pytest", *_options(), *arguments)


RUNS = """
import contextlib, io, json, sys, pytest
done = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as told:
        status = int(pytest.main(arguments))
    done.append((status, told.getvalue()))
print(json.dumps(done))
"""


def pytests_in(folder, *runs):
    """(status, output) of several runs of pytest, one after the other in one process, which loads the set once."""
    done = _python(folder, "-c", RUNS, json.dumps([[*_options(), *arguments] for arguments in runs]))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _options():
    plugin = ["-p", "refscale.testing.plugin"] if not _plugin_is_installed() else []
    return ["-q", "--assert=plain", "-p", "no:cacheprovider", *plugin]


def _python(folder, *arguments):
    env = {**os.environ, "PYTHONPATH": str(Path(refscale.__file__).parents[1])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)


def _plugin_is_installed():
    from importlib.metadata import entry_points

    return any(e.value == "refscale.testing.plugin" for e in entry_points(group="pytest11"))
