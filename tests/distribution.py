"""The package as others get it: wheel and sdist, each in an empty environment, in a project that is not this one.

    python -m tests.distribution                          this Python
    python -m tests.distribution python3.11 python3.13    those

Builds both from this checkout, installs each with pip into a new virtual environment, away from the checkout, and there
runs the command line, a property test with the strategies, the pytest plugin on a backend of the project's own, and a
backend that is a program. Then the whole suite runs twice in the first of the Pythons, which should be the oldest
allowed: with the newest release of everything that ``pyproject.toml`` names, and with the oldest that it allows. Needs
pip, and a network for what the package depends on.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]

BACKEND = """
from refscale.golden.backends.reference import Reference

class Mine(Reference):
    name, version = "mine", "1"
"""

PROPERTY = """
import numpy as np
from hypothesis import given, settings
from refscale.testing import assert_exact_rms, assert_same_bits, hadamard, signs
from refscale.testing.strategies import casts, float_arrays, places

@given(cast=casts(), x=float_arrays(allow_nan=False, allow_infinity=False))
def test_a_cast_is_idempotent(cast, x):
    once = cast(x)
    finite = once[np.isfinite(once)]
    assert_same_bits(cast(finite), finite)

@settings(deadline=None)
@given(place=places("mn"))
def test_unit_variance_exactly(place):
    power = 1 << (place.m - 1).bit_length()
    x = hadamard(power)[:, : place.m].astype(np.float32)
    w = signs((place.m, place.n), place.rng()).astype(np.float32)
    assert_exact_rms(x @ w * np.float32(place.m**-0.5))
"""

COMMANDS = (
    "-m refscale --version",
    "-m refscale report bert-tiny --batch 1 --seq 16",
    "-m refscale verify --only 1 --only 3.9",
    "-m refscale golden check",
    "-m refscale conform mine:Mine --only cast/float8*",
    "-m pytest -q -W error test_mine.py",
    "-m pytest -q --pyargs refscale.golden.conformance --refscale-backend mine:Mine -k float8_e5m2",
)
"""What must succeed in the project, after the name of its Python."""


def build(folder: Path) -> list[Path]:
    """A wheel and an sdist of this checkout."""
    builder = environment(folder / "builder", sys.executable, "build")
    subprocess.run([builder, "-m", "build", "--outdir", folder / "dist", ROOT], check=True, stdout=subprocess.DEVNULL)
    return sorted((folder / "dist").iterdir())


def environment(folder: Path, python: str, *requirements: str) -> Path:
    """The Python of a new virtual environment with these packages."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    made = folder / "bin" / "python"
    subprocess.run([made, "-m", "pip", "install", "--quiet", *requirements], check=True)
    return made


def declared() -> list[str]:
    """What ``pyproject.toml`` requires, for use, for tests and for every option but the linters."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [r for extra, of_it in project["optional-dependencies"].items() if extra != "lint" for r in of_it]
    return [*project["dependencies"], *optional]


def run(python: Path, command: str, folder: Path, *about: object) -> bool:
    """Run a command, print its last line; whether it failed."""
    done = subprocess.run([python, *command.split()], cwd=folder, capture_output=True, text=True, check=False)
    last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1:]
    print(*about, command, "->", done.returncode, *last, flush=True)
    return done.returncode != 0


def main(pythons: list[str]) -> int:
    """Try every distribution in every Python, then the suite; exit status 1 if a command fails."""
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        distributions = build(folder)
        for distribution in distributions:
            for i, python in enumerate(pythons):
                work = folder / f"{distribution.name}-{i}"
                project = work / "project"
                project.mkdir(parents=True)
                (project / "mine.py").write_text(BACKEND, encoding="utf-8")
                (project / "test_mine.py").write_text(PROPERTY, encoding="utf-8")
                there = environment(work / "venv", python, f"{distribution}[test]")
                for command in COMMANDS:
                    failed += run(there, command, project, distribution.name, python)
        for which, requirements in (("newest", declared()), ("oldest", [r.replace(">=", "==") for r in declared()])):
            there = environment(folder / which, pythons[0], str(distributions[0]), *requirements)
            failed += run(there, "-m pytest -q", ROOT, which, pythons[0])
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:] or [sys.executable]))
