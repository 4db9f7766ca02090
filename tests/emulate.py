"""The package on processors that this machine does not have, under QEMU's user-mode emulation.

    python -m tests.emulate aarch64           golden check, then the tests named in TESTS
    python -m tests.emulate s390x             the same on a big-endian machine
    python -m tests.emulate s390x -c "import sys; print(sys.byteorder)"    any other arguments of Python

Needs Debian or a relative of it, with ``apt-get``, ``dpkg-deb`` and the package ``qemu-user``, and a network. Python,
NumPy, ml_dtypes, pytest and Hypothesis of the other machine come from Debian testing (30 MB) and are unpacked, not
installed, into ``--root`` (an argument before the machine; else ~/.cache/refscale/emulate). No rights are needed.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

DEBIAN = {"aarch64": "arm64", "s390x": "s390x"}
"""Debian's names of architectures, by QEMU's."""
PACKAGES = ("python3", "python3-numpy", "python3-ml-dtypes", "python3-pytest", "python3-hypothesis")
SOURCE = "http://deb.debian.org/debian"
SUITE = "testing"
TESTS = ("tests/formats", "tests/exact", "tests/core", "tests/blocks", "tests/test_special.py")
PYTEST = (
    "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "refscale.testing.plugin", "-p", "_hypothesis_pytestplugin",
)  # fmt: skip


def unpack(machine: str, root: Path) -> Path:
    """The other machine's files, below ``root``, and a program there that runs its Python; both made at need."""
    system, python = root / machine, root / f"python-{machine}"
    if python.exists():
        return python
    architecture, apt = DEBIAN[machine], root / f"apt-{machine}"
    for folder in ("lists/partial", "cache/archives/partial", "parts"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [arch={architecture}] {SOURCE} {SUITE} main\n")
    options = {
        "Dir::State::Lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": apt / "parts",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
    }
    get = ["apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in options.items())]
    subprocess.run([*get, "update"], check=True)
    subprocess.run([*get, "--download-only", "install", *PACKAGES], check=True)
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, system], check=True)
    for name in ("lib", "lib64", "bin"):  # the package base-files makes these links when it is installed
        if not (system / name).exists():
            (system / name).symlink_to(f"usr/{name}")
    libraries = system / "usr" / "lib" / f"{machine}-linux-gnu"
    for library in (*libraries.glob("blas/*.so*"), *libraries.glob("lapack/*.so*")):  # alternatives, likewise
        if not (libraries / library.name).exists():
            (libraries / library.name).symlink_to(library.relative_to(libraries))
    # A test that starts sys.executable must start the emulator before it.
    packages = system / "usr" / "lib" / "python3" / "dist-packages"
    (packages / "emulated.pth").write_text(f"import sys; sys.executable = {str(python)!r}\n")
    unfinished = python.with_suffix(".unfinished")
    unfinished.write_text(f'#!/bin/sh\nexec qemu-{machine} -L {system} {system}/usr/bin/python3 "$@"\n')
    unfinished.chmod(0o755)
    unfinished.rename(python)
    return python


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.emulate", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path.home() / ".cache" / "refscale" / "emulate")
    parser.add_argument("machine", choices=list(DEBIAN))
    parser.add_argument("python", nargs=argparse.REMAINDER, help="arguments of Python; default: the checks")
    asked = parser.parse_args(arguments)
    python = unpack(asked.machine, asked.root.resolve())
    checks = [asked.python] if asked.python else [["-m", "refscale", "golden", "check"], [*PYTEST, *TESTS]]
    environment = {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # PYTEST names them: entry points are there only after an installation
        "OPENBLAS_NUM_THREADS": "1",
    }
    results = [subprocess.run([python, *check], env=environment, check=False).returncode for check in checks]
    return max(results, key=abs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
