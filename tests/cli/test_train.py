"""The commands that train: options, files, messages, exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from refscale.cli import main
from refscale.sweep import Variant, load_comparison
from refscale.train import TrainConfig
from tests.train.runs import write_text

SMALL = ["--steps", "4", "--batch", "2", "--seq", "16", "--evaluate-every", "2", "--evaluation-batches", "1"]


def run(capsys, *argv):
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path)


class TestTrain:
    def test_every_option_reaches_the_configuration(self, capsys, tmp_path, text):
        options = {
            "scheme": "regular",
            "precision": "fp8",
            "scaling": "static:2^5",
            "constraint": "to_output_scale",
            "lr": 2.0**-9,
            "optimizer": "lamb:eps=0.001,b1=0.8",
            "weight_decay": 0.02,
            "decay": "bias=0.001,*.word=0",
            "accumulate": 2,
            "clip": 0.5,
            "schedule": "halving",
            "warmup": 1,
            "halve_every": 2,
            "dropout": 0.1,
            "seed": 3,
            "scales_every": 2,
            "checkpoint_every": 3,
        }
        given = [f"--{k.replace('_', '-')}={'2^-9' if k == 'lr' else v}" for k, v in options.items()]
        code, out, err = run(capsys, "train", "bert-tiny", *SMALL, *given, "--text", text, "--out", tmp_path / "run")
        assert (code, err) == (0, "")
        assert re.search(r"^step 4/4  loss \d\.\d+  lr \S+  validation: MLM \d\.\d+ \(", out, re.MULTILINE)
        assert out.endswith(f"; {tmp_path / 'run'}\n")
        config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["config"]
        sizes = {"model": "bert-tiny", "steps": 4, "batch": 2, "seq": 16, "evaluate_every": 2, "evaluation_batches": 1}
        assert config == sizes | options | {"stride": None, "task": "masked-lm"}
        lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4]
        assert ["validation" in line for line in lines] == [False, True, False, True]
        assert lines[0]["loss_scale"] == 32

    def test_defaults(self, capsys, tmp_path, text):
        assert run(capsys, "train", "bert-tiny", *SMALL, "--text", text, "--out", tmp_path / "run")[0] == 0
        config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["config"]
        assert TrainConfig.from_mapping(config, "") == TrainConfig(
            model="bert-tiny", steps=4, batch=2, seq=16, evaluate_every=2, evaluation_batches=1
        )

    def test_resume(self, capsys, tmp_path, text):
        first = ["train", "bert-tiny", *SMALL, "--text", text, "--out", tmp_path / "run"]
        assert run(capsys, *first, "--resume")[0] == 0  # nothing there yet: starts
        code, _, err = run(capsys, *first)
        assert (code, err) == (
            2,
            f"refscale: train: {str(tmp_path / 'run')!r} already contains a run; --resume continues it\n",
        )
        code, out, _ = run(capsys, "train", "--out", tmp_path / "run", "--text", text, "--resume")
        assert code == 0
        assert "resumed from checkpoint-00000004.npz" in out
        code, _, err = run(capsys, "train", "--seed", 1, "--out", tmp_path / "run", "--text", text, "--resume")
        assert code == 2
        assert "contains another run: seed=0, not 1" in err

    def test_divergence(self, capsys, tmp_path, text):
        options = ["--scheme", "regular", "--precision", "fp16", "--scaling", "static:2^40"]
        code, _, err = run(capsys, "train", "bert-tiny", *SMALL, *options, "--text", text, "--out", tmp_path / "run")
        assert code == 2
        assert re.match(
            "refscale: train: diverged at step 1: a gradient is not finite; the first tensor to leave the range of", err
        )
        summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
        assert summary["diverged"] in err
        assert summary["validation"] is None

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["bert-huge"], "get_config('bert-huge'): expected one of"),
            (["bert-tiny", "--precision", "fp5"], "get_precision('fp5'): expected one of"),
            (["bert-tiny", "--steps", "0"], "TrainConfig(steps=0): expected at least 1"),
            (["bert-tiny", "--text", "nowhere.txt"], "nowhere.txt"),
        ],
    )
    def test_bad_values(self, capsys, tmp_path, options, said):
        code, out, err = run(capsys, "train", *options, "--out", tmp_path / "run")
        assert (code, out) == (2, "")
        assert said in err
        assert not (tmp_path / "run").exists()

    def test_no_directory_given(self, capsys):
        with pytest.raises(SystemExit):
            main(["train", "bert-tiny"])
        assert "--out" in capsys.readouterr().err


class TestAfterwards:
    @pytest.fixture
    def out(self, capsys, tmp_path, text) -> Path:
        out = tmp_path / "run"
        assert run(capsys, "train", "bert-tiny", *SMALL, "--scales-every", 2, "--text", text, "--out", out)[0] == 0
        return out

    def test_scales(self, capsys, out):
        code, shown, _ = run(capsys, "scales", out, out, "--json", out / "d.json")
        assert code == 0
        assert shown.count("unit fp32") == 2
        assert [line.split()[0] for line in shown.splitlines() if re.match(r" +\d", line)] == ["1", "2", "4"] * 2
        assert json.loads((out / "d.json").read_text(encoding="utf-8"))["schema"] == "refscale.drift/1"

    def test_scales_of_no_run(self, capsys, tmp_path):
        code, _, err = run(capsys, "scales", tmp_path)
        assert code == 2
        assert "expected a run with --scales-every N" in err

    def test_report_of_a_checkpoint(self, capsys, out, text):
        code, shown, _ = run(capsys, "report", "--checkpoint", out, "--text", text)
        assert code == 0
        assert "bert-tiny after 4 steps" in shown
        assert re.search(r"^unit: \d+ of \d+ tensors have a scale outside", shown, re.MULTILINE)
        file = out / "checkpoint-00000004.npz"
        assert run(capsys, "report", "--checkpoint", file, "--text", text)[1] == shown
        code, _, err = run(capsys, "report", "--checkpoint", out)
        assert code == 2
        assert "a checkpoint of another run: data" in err

    def test_report_of_a_damaged_checkpoint(self, capsys, out, text):
        file = out / "checkpoint-00000004.npz"
        file.write_bytes(file.read_bytes()[:1000])
        code, _, err = run(capsys, "report", "--checkpoint", file, "--text", text)
        assert code == 2
        assert "truncated, damaged or no checkpoint at all" in err


def test_compare(capsys, tmp_path, text, monkeypatch):
    """The command, with two rows instead of twenty."""
    from refscale.sweep import comparison

    monkeypatch.setitem(comparison.VARIANTS, "masked-lm", (Variant("regular", "fp32"), Variant("unit", "fp8")))
    monkeypatch.setattr(comparison, "SWEEP", ())
    sizes = ["--steps", "2", "--batch", "2", "--seq", "16", "--evaluation-batches", "1", "--seeds", "2", "--jobs", "2"]
    pytest.importorskip("matplotlib")
    figure = tmp_path / "f.svg"
    code, out, err = run(
        capsys, "compare", "bert-tiny", *sizes, "--text", text, "--out", tmp_path / "all", "--plot", figure
    )
    assert (code, err) == (0, "")
    assert out.startswith("bert-tiny, 2 steps of 2 × 16 tokens, adamw, linear schedule; seeds 0, 1.\n")
    assert figure.stat().st_size > 5000
    assert len(load_comparison(tmp_path / "all" / "comparison.json").runs) == 4
