"""Every benchmark still runs, in its smallest form; the measurements are not checked here."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
UMUP = ("-m", "tests.bench.umup")
SHORT = ("--steps", "1", "--rates=-4", "--seeds", "1")
ALONE = ("--threads", "1")  # as these tests run; with more, a benchmark starts itself anew


@pytest.mark.parametrize(
    ("command", "needs"),
    [
        (("step.py", "--sizes", "tiny", "--rounds", "2", "--pause", "0", *ALONE, "--only", "regular,unit fp32"), ""),
        (("profile.py", "--size", "tiny", "--steps", "1", *ALONE), ""),
        (("profile.py", "--engine", "--length", "5", "--rounds", "3"), ""),
        (("-m", "tests.bench.sweep", "cost", "quick", "--steps", "1"), ""),
        pytest.param(("-m", "tests.bench.gradients"), "", marks=pytest.mark.slow),
        pytest.param((*UMUP, "parts", "--width", "64", *SHORT), "", marks=pytest.mark.slow),
        pytest.param((*UMUP, "library", "--width", "32", *SHORT), "unit_scaling", marks=pytest.mark.slow),
        pytest.param(("-m", "tests.bench.sweep", "executors", "--runs", "2"), "distributed", marks=pytest.mark.slow),
        pytest.param(("step.py", "--sizes", "tiny", "--rounds", "2"), "torch", marks=pytest.mark.slow),
        pytest.param(("step.py", "--sizes", "tiny", "--memory"), "", marks=pytest.mark.slow),
        pytest.param(("blocks.py",), "", marks=pytest.mark.slow),
        pytest.param(("exact.py",), "", marks=pytest.mark.slow),
        pytest.param(("quantize.py",), "", marks=pytest.mark.slow),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else x,
)
def test_runs(command, needs):
    if needs and importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    command = command if command[0] == "-m" else (HERE / command[0], *command[1:])
    done = subprocess.run([sys.executable, *command], cwd=HERE.parents[1], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert any(character.isdigit() for character in done.stdout)


def test_the_figure_of_steps_is_legible(tmp_path):
    pytest.importorskip("matplotlib")
    from tests.bench.step import SWEEP, SWEEPS, draw
    from tests.tutorials.figures import fingerprinted

    def rows(of):
        return [
            {"value": n, "multiplications": 1e9 * 2**k, "seconds": dict.fromkeys(SWEEP, 0.02 * 2**k)}
            for k, (n, _) in enumerate(SWEEPS[of])
        ]

    with fingerprinted():
        draw({of: rows(of) for of in SWEEPS}, tmp_path / "f.svg")
    assert (tmp_path / "f.svg").stat().st_size > 5000
