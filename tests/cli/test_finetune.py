"""``finetune``, ``compare --pretrained`` and ``report --pretrained`` on a run of ``train``, as a user types them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from refscale import squad
from refscale.cli import main
from refscale.train import train
from tests.train.runs import small, write_text


def run(capsys, *argv):
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def given(tmp_path_factory, text):
    """Options with the data: some questions, the last of each file unanswerable."""
    out = tmp_path_factory.mktemp("trained")
    train(small(scheme="regular", seq=40, scales_every=0), out / "run", data=text, report=lambda line: None)
    training, held_out = squad.made_questions(text.read_text(encoding="utf-8"))
    for name, part in (("train", training[:40]), ("dev", held_out[:6])):
        part = (*part[:-1], replace(part[-1], answers=()))
        (out / name).write_text(json.dumps(squad.to_squad(part)), encoding="utf-8")
    return ["--pretrained", out / "run", "--train", out / "train", "--dev", out / "dev", "--text", text]


SIZE = ["--steps", 4, "--batch", 4, "--seq", 40]


def test_fine_tuned_resumed_and_answered(capsys, given, tmp_path):
    command = ["finetune", "squad", *given, *SIZE, "--scheme", "unit", "--precision", "fp8", "--out", tmp_path / "out"]
    files = ["--predictions", tmp_path / "p.json", "--null-odds", tmp_path / "odds.json"]
    code, out, err = run(capsys, *command, "--evaluate-every", 2, "--stride", 5, *files)
    assert (code, err) == (0, "")
    assert "step 4/4  loss " in out
    assert "exact match" in out
    assert ", best " in out
    answers = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    odds = json.loads((tmp_path / "odds.json").read_text(encoding="utf-8"))
    assert len(answers) == 6
    assert {key: text == "" for key, text in answers.items()} == {key: x > 0 for key, x in odds.items()}
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["config"]
    assert (config["task"], config["model"], config["stride"], config["scheme"]) == ("squad", "run", 5, "unit")
    code, _, err = run(capsys, *command)
    assert (code, err.count("\n")) == (2, 1)
    assert "already contains a run; --resume continues it" in err
    (tmp_path / "out" / "checkpoint-00000004.npz").unlink()
    code, out, _ = run(capsys, *command, "--resume")
    assert code == 0


def test_a_model_for_other_libraries(capsys, given, tmp_path):
    pytest.importorskip("safetensors", reason="needs refscale[pretrained]")
    command = ["finetune", "squad", *given, *SIZE, "--out", tmp_path / "out", "--save", tmp_path / "saved"]
    code, _, err = run(capsys, *command)
    assert (code, err) == (0, "")
    assert {p.name for p in (tmp_path / "saved").iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--scheme", "munit"], "TrainConfig(scheme='munit'): expected for the task 'squad', one of regular, unit"),
        (["--dev", "none.json"], "read_squad('none.json'): cannot be read (No such file or directory)"),
        (["--seq", "1000"], "expected at most 512, the model's positions"),
        (["--stride", "30"], "expected 1 ≤ stride ≤ room"),
        (["--pretrained", "nowhere"], "load_pretrained('nowhere'): no file config.json"),
        (["--predictions", "no/such/place.json"], "cannot write 'no/such/place.json'"),
        (["--null-odds", "no/such/odds.json"], "cannot write 'no/such/odds.json'"),
    ],
)
def test_one_line_says_what_is_wrong(capsys, given, tmp_path, change, message):
    command = ["finetune", "squad", *given, *SIZE, "--out", tmp_path / "out", *change]
    code, _, err = run(capsys, *command)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_report_of_a_trained_model(capsys, given, tmp_path):
    pretrained, text = given[:2], given[-2:]
    options = ["--precision", "fp8", "--seq", 32, "--json", tmp_path / "f.json"]
    code, out, err = run(capsys, "report", *pretrained, *text, *options)
    assert (code, err) == (0, "")
    assert "OPERANDS OF fp8" in out
    assert "masked LM + next sentence" in out
    assert json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))["schema"] == "refscale.fidelity/1"
    for other in (["bert-tiny"], ["--flops"], ["--checkpoint", "x"], ["--all"], ["--constraint", "none"]):
        code, _, err = run(capsys, "report", *pretrained, *other)
        assert (code, err.count("\n")) == (2, 1)
        assert "not applicable to it" in err


def test_compare_refuses(capsys, given, tmp_path):
    code, _, err = run(capsys, "compare", "bert-tiny", *given, "--out", tmp_path)
    assert (code, "expected one" in err) == (2, True)
    code, _, err = run(capsys, "compare", *given[2:], "--out", tmp_path)
    assert (code, "--train and --dev are for --pretrained" in err) == (2, True)
