"""Every command that writes, on a disk that is full: one line that names the file, nothing half written, no loss."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from refscale.cli import main
from refscale.golden import FAMILIES, store
from tests.train.runs import write_text

if sys.platform == "win32":
    pytest.skip("limits of POSIX", allow_module_level=True)

import resource

UNLIMITED = 2**40
TRAIN = ["--steps", "4", "--batch", "2", "--seq", "16", "--evaluate-every", "2", "--evaluation-batches", "1"]
SPEC = """
title = "five runs"
seeds = 5
[base]
model = "charlm-conv:layers=1,width=16,groups=2,multiple=1.0"
steps = 3
batch = 2
seq = 16
evaluation_batches = 1
[[variants]]
name = "regular"
scheme = "regular"
[rate]
search = "grid"
[[rate.start]]
exponents = [-7]
"""


@pytest.fixture
def limited(capsys, monkeypatch):
    """The command line where files may have so many bytes: its status, and the lines on stderr.

    The kernel refuses more, as a full disk does; what was written before stays.
    """
    # A .pyc that is cut off stays, and fails every later import: here, and in the processes that a sweep starts.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    def run(size, *argv):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            status = main([str(a) for a in argv])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return status, capsys.readouterr().err.splitlines()

    return run


@pytest.mark.parametrize(
    ("argv", "written"),
    [
        (["report", "--scheme", "unit", "--batch", "1", "--seq", "16", "--json"], "r.json"),
        (["report", "--batch", "1", "--seq", "16", "--flops", "--json"], "flops.json"),
        (["verify", "--only", "1.*", "--json"], "v.json"),
        (["conform", "reference", "--only", "cast/float16/up/*", "--json"], "c.json"),
        (["golden", "write"], "set"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_one_line_that_names_the_file_and_the_old_one_stays(limited, tmp_path, monkeypatch, argv, written):
    monkeypatch.setattr(store, "FAMILIES", {"cast": FAMILIES["cast"]})  # the whole set takes seconds to generate
    path = tmp_path / written
    if written == "set":
        path.mkdir()
        (path / "manifest.json").write_text(json.dumps({"families": {}}), encoding="utf-8")
    else:
        path.write_text("old", encoding="utf-8")
    status, said = limited(100, *argv, path)
    assert status == 2
    assert len(said) == 1
    assert said[0].startswith(f"refscale: {path}")
    assert said[0].endswith("File too large")
    assert [p.name for p in tmp_path.iterdir()] == [written]
    old = path / "manifest.json" if written == "set" else path
    assert old.read_text(encoding="utf-8") in ("old", '{"families": {}}')


def test_a_run_that_filled_the_disk_goes_on(limited, tmp_path):
    """Whichever of its files did not fit; afterwards nothing is missing and nothing there twice."""
    command = ["train", "bert-tiny", *TRAIN, "--text", write_text(tmp_path), "--out", tmp_path / "run", "--resume"]
    for size, first in ((100, "config.json"), (1000, "metrics.jsonl"), (100_000, "checkpoint-00000004.npz")):
        assert limited(size, *command) == (2, [f"refscale: {tmp_path / 'run' / first}: File too large"])
        assert not list((tmp_path / "run").glob(".refscale*"))
    assert limited(UNLIMITED, *command) == (0, [])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    whole = [*command[:-2], tmp_path / "whole"]
    assert limited(UNLIMITED, *whole) == (0, [])
    assert lines == (tmp_path / "whole" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()


def test_a_sweep_that_filled_the_disk_goes_on(limited, tmp_path):
    """First no run finds room for its files, which is a row each; then the rows have no room, either."""
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC, encoding="utf-8")
    results = tmp_path / "out" / "results.jsonl"
    command = ["sweep", spec, "--out", tmp_path / "out", "--text", write_text(tmp_path), "--jobs", "1"]
    status, said = limited(1300, *command)
    assert (status, said[-1]) == (2, f"refscale: {results}: File too large")
    rows = [json.loads(row) for row in results.read_bytes().splitlines(keepends=True) if row.endswith(b"\n")]
    assert rows
    assert all(row["status"] == "failed" and "File too large" in row["message"] for row in rows)
    assert limited(UNLIMITED, *command)[0] == 0
    final = {row["id"]: row["status"] for row in map(json.loads, results.read_bytes().splitlines())}
    assert list(final.values()) == ["done"] * 5


def test_output_that_cannot_be_written_is_an_error():
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123
        done = subprocess.run([sys.executable, "-m", "refscale", "formats"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert b"No space left" in done.stderr
    assert len(done.stderr.splitlines()) == 1
