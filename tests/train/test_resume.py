"""Interrupted in any way, a run continues to the same bits: metrics, scales, parameters, optimizer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from refscale.errors import ArgumentError, CheckpointError, DataError
from refscale.files import locked
from refscale.train import TrainConfig, load_checkpoint, train
from refscale.train import loop as train_loop
from refscale.train.checkpoint import checkpoint_path, checkpoints
from tests.train.runs import arrays, same_bits, small, write_text

VARIANTS = {
    "unit fp8": {"precision": "fp8"},
    "dropout and stochastic rounding": {"precision": "fp16-sr", "dropout": 0.1},
    "automatic": {"scheme": "regular", "precision": "fp16", "scaling": "automatic:2^40,interval=2"},
    "delayed": {"scheme": "regular", "precision": "fp8", "scaling": "delayed"},
    "lamb": {"optimizer": "lamb", "lr": 2.0**-8, "schedule": "cosine"},
}


def quiet(_: str) -> None:
    pass


class StopError(Exception):
    pass


def stopped_after(config: TrainConfig, out: Path, text: Path, step: int, monkeypatch) -> None:
    """Train, and stop as if the machine had been switched off in the middle of a step."""
    real = train_loop.training_step

    def stopping(run, state, batch, **options):
        if state.step == step:
            raise StopError
        return real(run, state, batch, **options)

    with monkeypatch.context() as patch:
        patch.setattr(train_loop, "training_step", stopping)
        with pytest.raises(StopError):
            train(config, out, data=text, resume=True, report=quiet)


def assert_same_run(a: Path, b: Path) -> None:
    for name in ("config.json", "metrics.jsonl", "scales.jsonl"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert [p.name for p in checkpoints(a)] == [p.name for p in checkpoints(b)]
    for one, other in zip(checkpoints(a), checkpoints(b), strict=True):
        assert same_bits(one, other)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_same_bits_after_interruptions(changes, tmp_path, monkeypatch):
    config, text = small(**changes), write_text(tmp_path)
    whole = train(config, tmp_path / "whole", data=text, report=quiet)
    for step in (1, 4, 5, 7):  # before the first checkpoint, just after one, between two, again
        stopped_after(config, tmp_path / "parts", text, step, monkeypatch)
    parts = train(config, tmp_path / "parts", data=text, resume=True, report=quiet)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert asdict(whole) | {"seconds": 0} == asdict(parts) | {"seconds": 0}
    lines = [json.loads(line)["scaling"] for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    for name, total in whole.overhead.items():  # amounts add up; of levels the largest counts
        assert total == (max if name in ("scales", "state") else sum)(line[name] for line in lines)


def test_a_wrong_resume_would_be_noticed(tmp_path, monkeypatch):
    """The comparison sees an optimizer that starts anew."""
    config, text = small(), write_text(tmp_path)
    train(config, tmp_path / "whole", data=text, report=quiet)
    stopped_after(config, tmp_path / "parts", text, 5, monkeypatch)
    real = train_loop.load_checkpoint

    def forgetful(path):
        checkpoint = real(path)
        for name, value in checkpoint.state.optimizer.items():
            checkpoint.state.optimizer[name] = np.zeros_like(value)
        return checkpoint

    monkeypatch.setattr(train_loop, "load_checkpoint", forgetful)
    train(config, tmp_path / "parts", data=text, resume=True, report=quiet)
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_kill_9(tmp_path):
    """The command itself, killed where it stands, three times; then it runs to its end."""
    text = write_text(tmp_path)

    def command(out: str, *more: str) -> list[str]:
        options = "--steps 30 --batch 2 --seq 16 --evaluate-every 7 --evaluation-batches 1 --checkpoint-every 3"
        rest = ["--scales-every", "10", "--text", str(text), "--out", str(tmp_path / out)]
        return [sys.executable, "-m", "refscale", "train", "bert-tiny", *options.split(), *rest, *more]

    subprocess.run(command("whole"), check=True, capture_output=True, timeout=120)
    metrics = tmp_path / "parts" / "metrics.jsonl"
    for lines in (2, 9, 17):
        process = subprocess.Popen(command("parts", "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        end = time.monotonic() + 60
        while (not metrics.exists() or metrics.read_bytes().count(b"\n") < lines) and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finished = subprocess.run(command("parts", "--resume"), check=True, capture_output=True, text=True, timeout=120)
    assert "resumed from checkpoint-" in finished.stdout
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A whole run and one that was stopped, to be copied."""
    directory = tmp_path_factory.mktemp("trained")
    text = write_text(directory)
    train(small(), directory / "whole", data=text, report=quiet)
    with pytest.MonkeyPatch.context() as patch:
        stopped_after(small(), directory / "parts", text, 7, patch)
    assert [p.name for p in checkpoints(directory / "parts")] == [
        "checkpoint-00000006.npz",
        "checkpoint-00000004.npz",
    ]
    return directory


class TestRefusals:
    """A checkpoint that cannot be trusted is refused by name, and the one before it is used."""

    @pytest.fixture
    def run(self, trained, tmp_path):
        shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
        return small(), tmp_path, tmp_path / "text.txt"

    def resumed(self, run) -> list[str]:
        config, directory, text = run
        said: list[str] = []
        train(config, directory / "parts", data=text, resume=True, report=said.append)
        assert_same_run(directory / "whole", directory / "parts")
        return said

    @pytest.mark.parametrize("keep", [0, 10, 1000, -1])
    def test_truncated(self, run, keep):
        path = checkpoint_path(run[1] / "parts", 6)
        path.write_bytes(path.read_bytes()[:keep])
        said = self.resumed(run)
        assert said[0].startswith(f"refused: load_checkpoint({str(path)!r}): truncated, damaged or no checkpoint")
        assert said[1] == "resumed from checkpoint-00000004.npz"

    def test_every_flipped_byte_is_noticed_or_harmless(self, run):
        """A byte of an array changed: the checksum differs. (Padding of the zip itself may be anything.)"""
        path = checkpoint_path(run[1] / "parts", 6)
        good, before = path.read_bytes(), arrays(path)
        rng = np.random.default_rng(0)
        for place in rng.integers(0, len(good), 40):
            bad = bytearray(good)
            bad[place] ^= 0x10
            path.write_bytes(bytes(bad))
            try:
                load_checkpoint(path)
            except CheckpointError:
                continue
            after = arrays(path)
            assert after.keys() == before.keys()
            assert all(after[k].tobytes() == before[k].tobytes() for k in before)

    def test_of_another_schema(self, run):
        path = checkpoint_path(run[1] / "parts", 6)
        with np.load(path) as file:
            content = dict(file)
        meta = json.loads(content["meta"].tobytes()) | {"schema": "refscale.checkpoint/9"}
        with path.open("wb") as file:
            np.savez(file, **content | {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)})
        assert self.resumed(run)[0].endswith("schema is 'refscale.checkpoint/9', expected 'refscale.checkpoint/2'")

    def test_both_damaged(self, run):
        for path in checkpoints(run[1] / "parts"):
            path.write_bytes(b"PK")
        said = self.resumed(run)
        assert [line[:7] for line in said[:2]] == ["refused", "refused"]
        assert said[2] == "no checkpoint to resume from: starting at step 0"

    def test_of_another_run(self, run):
        _, directory, text = run
        train(small(seed=1), directory / "other", data=text, report=quiet)
        path = checkpoint_path(directory / "parts", 6)
        path.write_bytes(checkpoint_path(directory / "other", 6).read_bytes())
        said = self.resumed(run)
        assert said[0].endswith("a checkpoint of another run: seed=1, not 0")

    def test_of_another_text(self, run, tmp_path):
        config, directory, text = run
        other = tmp_path / "other.txt"
        other.write_text(text.read_text(encoding="utf-8").replace("the", "a"), encoding="utf-8")
        train(config, directory / "other", data=other, report=quiet)
        path = checkpoint_path(directory / "parts", 6)
        path.write_bytes(checkpoint_path(directory / "other", 6).read_bytes())
        assert "a checkpoint of another run: data" in self.resumed(run)[0]

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (
                lambda x: {"parameter/nsp.classifier.bias": x["parameter/nsp.classifier.bias"][:1]},
                "nsp.classifier.bias of shape (1,), not (2,)",
            ),
            (lambda x: {"parameter/more": x["parameter/nsp.classifier.bias"]}, "more of shape (2,), not None"),
        ],
    )
    def test_of_other_parameters(self, run, change, words):
        path = checkpoint_path(run[1] / "parts", 6)
        with np.load(path) as file:
            content = dict(file)
        with path.open("wb") as file:
            np.savez(file, **content | change(content))
        assert self.resumed(run)[0].endswith(f"a checkpoint of another run: {words}")

    def test_no_archive_but_an_array(self, run):
        path = checkpoint_path(run[1] / "parts", 6)
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
        assert "no checkpoint at all: BadZipFile" in self.resumed(run)[0]

    def test_pickles_are_never_loaded(self, run):
        path = checkpoint_path(run[1] / "parts", 6)
        with path.open("wb") as file:
            np.savez(file, meta=np.array([{"a": 1}], object), allow_pickle=True)
        assert "ValueError its header states object" in self.resumed(run)[0]

    def test_zip_bombs_take_no_memory(self, run):
        """Zeros that deflate to nothing, a member listed a thousand times, and a header that promises a terabyte."""
        path = checkpoint_path(run[1] / "parts", 6)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("meta.npy", bytes(2**26))
        deflated = path.read_bytes()
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("meta.npy", bytes(2**16))
            file.filelist *= 1000
        repeated = path.read_bytes()
        header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }\n"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("meta.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
        promised = path.read_bytes()
        said = {deflated: "a compressed array", repeated: "longer than the file", promised: "and 0 bytes follow"}
        for content, words in said.items():
            path.write_bytes(content)
            tracemalloc.start()
            with pytest.raises(CheckpointError, match=words):
                load_checkpoint(path)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 2**20

    def test_json_nested_without_end(self, run):
        path = checkpoint_path(run[1] / "parts", 6)
        with path.open("wb") as file:
            np.savez(file, meta=np.frombuffer(b"[" * 200_000, np.uint8))
        assert "no checkpoint at all: meta: objects or arrays are nested more than 64 deep" in self.resumed(run)[0]

    def test_newer_than_the_metrics(self, run):
        metrics = run[1] / "parts" / "metrics.jsonl"
        lines = metrics.read_bytes().splitlines(keepends=True)
        metrics.write_bytes(b"".join(lines[:5]) + lines[5][:20])  # the last one cut off
        said = self.resumed(run)
        assert said[0].endswith("of step 6, metrics.jsonl ends at 5")
        assert said[1] == "resumed from checkpoint-00000004.npz"


def test_a_run_is_not_overwritten(tmp_path):
    text = write_text(tmp_path)
    train(small(), tmp_path / "run", data=text, report=quiet)
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(ArgumentError, match="already contains a run; --resume continues it"):
        train(small(), tmp_path / "run", data=text, report=quiet)
    with pytest.raises(ArgumentError, match=r"contains another run: steps=8, not 9; seed=0, not 1"):
        train(small(steps=9, seed=1), tmp_path / "run", data=text, resume=True, report=quiet)
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(ArgumentError, match="contains another run: other data"):
        train(small(), tmp_path / "run", resume=True, report=quiet)
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(ArgumentError, match=r"contains files of a run but no config\.json"):
        train(small(), tmp_path / "run", data=text, resume=True, report=quiet)
    with pytest.raises(DataError, match=r"contains no run, expected a directory with config\.json"):
        train_loop.read_config(tmp_path / "run")
    content = json.loads(before["config.json"])
    content["config"]["model"] = 3
    (tmp_path / "run" / "config.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"config\.json: AttributeError 'int' object has no attribute"):
        train_loop.read_config(tmp_path / "run")


def test_a_text_too_short_leaves_nothing_behind(tmp_path):
    """Enough to train on, not enough held out."""
    sentences = [f"The {i}th sentence has some more words than the others." for i in range(12)]
    (tmp_path / "short.txt").write_text("\n\n".join(sentences), encoding="utf-8")
    with pytest.raises(DataError, match="1 sentence of"):
        train(small(), tmp_path / "run", data=tmp_path / "short.txt", report=quiet)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_resumes_to_its_result(tmp_path):
    text = write_text(tmp_path)
    first = train(small(), tmp_path / "run", data=text, report=quiet)
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = train(small(), tmp_path / "run", data=text, resume=True, report=quiet)
    assert again.seconds > 0.5 * first.seconds  # of both sittings
    assert again.validation == first.validation
    assert again.overhead == first.overhead
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics


def test_a_second_process_in_the_directory(tmp_path):
    """The one that holds it is named; nothing is written."""
    text, out = write_text(tmp_path), tmp_path / "run"
    out.mkdir()
    message = rf"^train: '{out}' is in use by process {os.getpid()}$"
    with locked(out, "here"), pytest.raises(ArgumentError, match=message):
        train(small(), out, data=text)
    assert {p.name for p in out.iterdir()} == {".lock"}
    train(small(), out, data=text, report=quiet)
