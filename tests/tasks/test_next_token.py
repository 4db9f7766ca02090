"""Characters, pieces of a text, and the task that learns the next one; the same loop as for BERT."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale.analysis import report
from refscale.cli import main
from refscale.data import IGNORE, Characters
from refscale.engine import Tape
from refscale.errors import ArgumentError, DataError
from refscale.layers import on_tape
from refscale.models import get_config
from refscale.scales import branch_only, default, geometric, get_residual, get_scheme, running_mean
from refscale.tasks import KINDS, Setup, get_kind, get_task, kind_of, text_batches, text_windows
from refscale.train import Run, TrainConfig, checkpoint_report, default_config, newest, train

TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on.\n" * 30
TINY = "charlm-conv:layers=1,width=16,groups=2,multiple=1.0"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


class TestCharacters:
    @given(st.text(min_size=1), st.integers(2, 40))
    def test_round_trip(self, text, size):
        """What has an id comes back; the most frequent characters have one."""
        characters = Characters.from_text(text, size)
        ids = characters.encode(text)
        assert len(characters) <= size
        back = characters.decode(ids)
        known = set(characters.characters)
        assert back == "".join(c if c in known else "\ufffd" for c in text)
        assert min(map(text.count, known)) >= max((text.count(c) for c in set(text) - known), default=0)

    def test_ids_are_ranks(self):
        characters = Characters.from_text("abbccc", 3)
        assert characters.characters == "cb"
        assert characters.encode("abcz").tolist() == [0, 2, 1, 0]
        assert characters.encode("").tolist() == []

    @given(st.text(min_size=1), st.integers(1, 5))
    def test_a_text_is_read_in_blocks(self, text, block):
        """And the result does not say in which; of equally frequent characters the smaller code comes first."""
        with mock.patch("refscale.data._BLOCK", block):
            characters = Characters.from_text(text, 30)
            ids = characters.encode(text)
        counts = Counter(text)
        assert characters.characters == "".join(sorted(counts, key=lambda c: (-counts[c], c))[:29])
        assert ids.tolist() == [characters.characters.find(c) + 1 for c in text]

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda: Characters(""), ArgumentError, "expected characters, each once"),
            (lambda: Characters("aa"), ArgumentError, "expected characters, each once"),
            (lambda: Characters.from_text("a", 1), ArgumentError, "size=1): expected at least 2"),
            (lambda: Characters.from_text("", 5), DataError, "the text is empty"),
            (lambda: Characters("ab").decode([3]), ArgumentError, "expected integers 0 … 2"),
            (lambda: Characters("ab").decode([0.5]), ArgumentError, "expected integers 0 … 2"),
        ],
    )
    def test_errors(self, call, error, message):
        with pytest.raises(error) as caught:
            call()
        assert message in str(caught.value)


class TestPieces:
    @given(st.integers(1, 5), st.integers(2, 12), st.data(), st.integers(0, 60))
    def test_windows_predict_every_token_once(self, batch, seq, data, more):
        overlap = data.draw(st.integers(1, seq - 1))
        tokens = np.arange(100, 100 + seq + more, dtype=np.int32)
        found = text_windows(tokens, batch=batch, seq=seq, overlap=overlap)
        some = text_windows(tokens, batch=batch, seq=seq, overlap=overlap, most=2)
        assert [b.ids.tolist() for b in some] == [b.ids.tolist() for b in found[:2]]
        labels = np.concatenate([b.labels.ravel() for b in found])
        assert labels[labels != IGNORE].tolist() == tokens.tolist()
        for b in found:
            assert b.ids.shape == b.labels.shape
            counted = b.labels != IGNORE
            assert (b.ids[counted] == b.labels[counted]).all()
            assert counted.any(1).all()
            for ids, used in zip(b.ids, counted, strict=True):  # context and what follows are one run of the text
                last = int(np.flatnonzero(used).max())
                assert (np.diff(ids[: last + 1]) == 1).all()
                first = int(np.flatnonzero(used).min())
                assert first == overlap or ids[0] == 100

    def test_batches_are_pieces_from_anywhere(self):
        tokens = np.arange(50, dtype=np.int32)
        drawn = text_batches(tokens, batch=4, seq=8, overlap=2, rng=np.random.default_rng(0))
        starts = set()
        for _ in range(60):
            b = next(drawn)
            assert b.ids.shape == (4, 8)
            starts |= set(b.ids[:, 0].tolist())
        assert min(starts) == 0
        assert max(starts) == 50 - 8 - 1  # as in the source: the last token is never asked for
        again = text_batches(tokens, batch=4, seq=8, overlap=2, rng=np.random.default_rng(0))
        first = text_batches(tokens, batch=4, seq=8, overlap=2, rng=np.random.default_rng(0))
        assert np.array_equal(next(again).ids, next(first).ids)

    @pytest.mark.parametrize("wrong", [{"batch": 0}, {"overlap": 0}, {"overlap": 8}])
    def test_errors(self, wrong):
        sizes = {"batch": 2, "seq": 8, "overlap": 2} | wrong
        for call in (text_windows, lambda *a, **k: text_batches(*a, **k, rng=np.random.default_rng(0))):
            with pytest.raises(ArgumentError, match="expected batch ≥ 1, 0 < overlap < seq"):
                call(np.zeros(50, np.int32), **sizes)
        with pytest.raises(DataError, match="a text of 5 tokens, expected at least 8"):
            text_windows(np.zeros(5, np.int32), batch=1, seq=8, overlap=2)


class TestTask:
    def test_bits_are_those_of_the_probabilities(self, text):
        """An untrained model: log2 of the vocabulary, for any batch sizes of a validation."""
        setup = Setup(model=get_config(TINY), scheme=get_scheme("regular"), batch=3, seq=16, evaluation_batches=0)
        task = get_task("next-token", setup, text)
        assert len(task.training) + len(task.held_out) == len(TEXT)
        assert task.model.vocabulary == len(task.vocabulary) == len(set(TEXT)) + 1
        zero = {name: np.zeros(spec.shape, np.float32) for name, spec in task.specs.items()}
        batches = task.validation(np.random.default_rng(0))
        observed = [task.observe(b, task.loss(on_tape(Tape(task.scheme), zero, task.specs), b)) for b in batches]
        scores = task.score(observed)
        assert scores["bits"] == pytest.approx(math.log2(len(task.vocabulary)), rel=1e-5)
        assert sum(o[2] for o in observed) == len(task.held_out)
        assert "bits per character" in task.line(scores)
        assert (batches[-1].labels[0, :2] == IGNORE).all()  # an eighth of the 16 is context
        assert batches[-1].labels[0, 2] != IGNORE
        assert len(get_task("next-token", replace(setup, evaluation_batches=2), text).validation(None)) == 2

    def test_the_vocabulary_is_of_the_training_text_alone(self, tmp_path):
        """Ten of a hundred characters are held out; one that only they have is unknown there."""
        (tmp_path / "text").write_text("ab" * 45 + "z" * 10, encoding="utf-8")
        setup = Setup(model=get_config(TINY), scheme=get_scheme("unit"), batch=1, seq=8)
        task = get_task("next-token", setup, tmp_path / "text")
        assert task.vocabulary.characters == "ab"
        assert task.training.tolist() == [1, 2] * 45
        assert task.held_out.tolist() == [0] * 10

    def test_setup_defaults(self):
        setup = Setup(model=None, scheme=get_scheme("unit"), batch=1, seq=8)
        found = (setup.dropout, setup.constraint, setup.evaluation_batches, setup.stride, setup.seed)
        assert (*found, setup.held_out, setup.fit) == (0.0, geometric, 16, None, 0, 0.1, True)

    def test_models_and_tasks(self, text):
        assert kind_of(get_config("bert-tiny")) is KINDS["masked-lm"]
        assert kind_of(get_config("decoder-tiny")) is get_kind("next-token")
        assert TrainConfig(TINY).task == "next-token"
        assert default_config(TINY).seq == 128
        setup = Setup(model=get_config("bert-tiny"), scheme=get_scheme("unit"), batch=2, seq=16)
        with pytest.raises(ArgumentError, match="expected a language model"):
            get_task("next-token", setup, text)
        with pytest.raises(ArgumentError, match="expected a BERT"):
            get_task("masked-lm", replace(setup, model=get_config(TINY)), text)
        with pytest.raises(ArgumentError, match="expected one of masked-lm, squad, next-token"):
            get_task("chess", setup, text)
        with pytest.raises(ArgumentError, match="expected 'next-token', that of charlm"):
            TrainConfig(TINY, task="masked-lm")
        with pytest.raises(ArgumentError, match="expected dropout as an argument of its own"):
            TrainConfig("charlm-conv:dropout=0.1")

    @pytest.mark.parametrize("scheme", ["regular", "unit", "u-mup", "munit"])
    def test_it_learns(self, scheme, text, tmp_path):
        config = TrainConfig(TINY, scheme=scheme, steps=30, batch=8, seq=32, evaluate_every=30, checkpoint_every=30)
        config = replace(config, lr=2.0 ** (config.kind.log2_lr[scheme] + 1))
        found = train(config, tmp_path / "run", data=text, report=lambda _: None)
        assert found.validation["bits"] < 4.2 < math.log2(29)
        run = Run.of(config, text)
        assert run.task.digest
        report = checkpoint_report(newest(tmp_path / "run"), text=text)
        assert report.summary().judged_count > 20


@pytest.mark.parametrize("model", ["charlm-attention:layers=1", "charlm-rnn:layers=1", "decoder-tiny"])
def test_reports(model):
    summary = report(model, "unit", batch=2, seq=16, formats=()).summary()
    assert summary.outside["activation"] <= 4  # the first states of a recurrence, which starts at 0
    predicted = [t.scale / t.predicted for t in report(model, "unit", batch=2, seq=16).tensors if t.predicted]
    assert 0.8 < np.median(predicted) < 1.3


def test_the_command(capsys, tmp_path, text):
    arguments = ["--steps", "3", "--seq", "16", "--batch", "2", "--text", str(text), "--out", str(tmp_path / "run")]
    assert main(["train", TINY, *arguments, "--scheme", "unit", "--precision", "fp8"]) == 0
    out = capsys.readouterr().out
    assert "bits per character" in out
    assert main(["report", "--checkpoint", str(tmp_path / "run"), "--text", str(text)]) == 0
    assert main(["report", TINY, "--flops", "--seq", "16", "--text", str(text)]) == 0
    assert "conv1d" in capsys.readouterr().out


def test_residual_rules_by_name():
    assert get_residual("default") is default
    assert get_residual("running-mean") is running_mean
    assert get_residual("none") is branch_only
    assert branch_only(3) == (0.0, 1.0)
    assert get_residual("fixed(0.25)")(1) == pytest.approx((0.75**0.5, 0.5))
    assert get_residual("ratio(1)")(1) == pytest.approx((0.5**0.5, 0.5**0.5))
    for wrong in ("mean", "fixed", "fixed(x)", "fixed(2)"):
        with pytest.raises(ArgumentError):
            get_residual(wrong)
