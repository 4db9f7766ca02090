"""Fine-tuning as a task: its start, its validation, its counts; by hand, on a model made here."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from refscale import models, squad
from refscale.engine import Tape
from refscale.errors import ArgumentError, DataError
from refscale.layers import on_tape
from refscale.models import bert
from refscale.published import Pretrained, adapt
from refscale.scales import none, regular, unit
from refscale.tasks import Setup, SpanData, SpanExtraction
from tests.squad.test_windows import VOCABULARY, WORDS, question

MODEL = bert.BertConfig(1, 8, 2, 12, len(VOCABULARY), 200, outputs=(), attention_dropout=0.3, dropout=0.2, std=0.5)
SETUP = Setup(model=None, scheme=regular, batch=2, seq=10, evaluation_batches=0, seed=7)
ENCODER = models.initial_parameters(MODEL, regular, np.random.default_rng(0))
PRETRAINED = Pretrained(MODEL, ENCODER, VOCABULARY, "digest of the model")


@pytest.fixture
def task(tmp_path):
    """Sets the task up on questions with short contexts: four to train on, five to validate on."""
    questions = [question(f"{WORDS[k]} {WORDS[k + 1]}", WORDS[k + 1], number=k) for k in range(9)]

    def make(pretrained=PRETRAINED, train=questions[:4], dev=questions[4:], **changes):
        for name, part in (("train", train), ("dev", dev)):
            (tmp_path / f"{name}.json").write_text(json.dumps(squad.to_squad(part)), encoding="utf-8")
        data = SpanData(pretrained, tmp_path / "train.json", tmp_path / "dev.json")
        return SpanExtraction.of(replace(SETUP, **changes), data)

    return make


def test_the_encoder_is_the_models_and_the_head_is_drawn_by_the_seed(task):
    made = task()
    start = made.start
    assert {name: x.tobytes() for name, x in start.items() if not name.startswith("span.")} == {
        name: x.tobytes() for name, x in ENCODER.items()
    }
    drawn = np.random.default_rng([7, 0]).standard_normal((8, 2), np.float32) * np.float32(0.5)  # the model's own std
    np.testing.assert_array_equal(start["span.weight"], drawn)
    np.testing.assert_array_equal(start["span.bias"], [0, 0])
    assert not np.array_equal(task(seed=8).start["span.weight"], drawn)
    given = made.initial_parameters(made.scheme, np.random.default_rng(99))
    assert all(given[name] is x for name, x in start.items())


def test_a_regular_model_is_adapted_head_and_all_and_one_of_the_same_scheme_is_not(task):
    plain, adapted = task(), task(scheme=unit)
    assert (plain.adapted, plain.scheme) == (None, regular)
    by_hand = adapt(adapted.model, plain.start)
    assert (adapted.scheme.name, adapted.scheme.trained) == ("unit", by_hand.scheme.trained)
    for name, x in by_hand.unit(plain.start).items():
        np.testing.assert_array_equal(adapted.start[name], x)
    again = task(replace(PRETRAINED, scheme="unit"), scheme=unit)
    assert (again.adapted, again.scheme) == (None, unit)
    unit_head = np.random.default_rng([7, 0]).standard_normal((8, 2), np.float32)  # σ = 1
    np.testing.assert_array_equal(again.start["span.weight"], unit_head)
    with pytest.raises(ArgumentError, match=r"scheme='regular'\): the model was trained under 'unit'"):
        task(replace(PRETRAINED, scheme="unit"))


def test_dropout_and_constraint_are_those_of_the_setup(task):
    """For any training of the model: without dropout a generator changes no number."""
    model = task(constraint=none).model
    assert (model.dropout, model.attention_dropout, model.constraint, model.outputs) == (0.0, 0.0, none, ("span",))
    model = task(dropout=0.25).model
    assert (model.dropout, model.attention_dropout) == (0.25, 0.25)
    made = task()
    batch = next(made.batches(np.random.default_rng(0)))
    losses = [
        float(made.loss(on_tape(Tape(regular), made.start, made.specs), batch, rng).total.value)
        for rng in (None, np.random.default_rng(1))
    ]
    assert losses[0] == losses[1]


def test_batches_are_windows_at_random(task):
    made = task(batch=3)
    rng = np.random.default_rng(0)
    expected = np.random.default_rng(0)
    for batch, _ in zip(made.batches(rng), range(2), strict=False):
        rows = expected.choice(4, 3, replace=False)
        np.testing.assert_array_equal(batch.ids, made.training.ids[rows][:, :7])  # [CLS] who ? [SEP] wa wb [SEP]


@pytest.mark.parametrize(
    ("batches", "batch", "questions", "sizes"),
    [
        (0, 2, 5, [2, 2, 1]),
        (1, 2, 2, [2]),
        (2, 2, 4, [2, 2]),
        (3, 2, 5, [2, 2, 1]),
        (9, 2, 5, [2, 2, 1]),
        (1, 1, 1, [1]),
        (1, 5, 5, [5]),
    ],
)
def test_all_questions_are_validated_on_or_the_first(task, batches, batch, questions, sizes):
    """Five questions of one window each."""
    made = task(evaluation_batches=batches, batch=batch)
    assert [q.id for q in made.held_out] == [f"q{k}" for k in range(4, 4 + questions)]
    validation = made.validation(np.random.default_rng(0))
    assert [len(b.ids) for b in validation] == sizes
    assert len(validation) == len(sizes)
    np.testing.assert_array_equal(np.concatenate([b.starts for b in validation]), made.windows.starts)
    assert [len(b.ids) for b in validation[1:]] == sizes[1:]
    with pytest.raises(IndexError):
        validation[len(sizes)]


def test_a_question_in_several_windows_is_validated_on_whole(task):
    """Three windows are asked for: of the second question's two, both are taken."""
    long = " ".join(WORDS[:8])
    dev = [question(long, WORDS[k], number=k) for k in range(4)]
    made = task(dev=dev, evaluation_batches=1, batch=3, stride=3)  # room for 5 of 8 tokens: windows at 0 and 3
    assert [q.id for q in made.held_out] == ["q0", "q1"]
    assert made.windows.question.tolist() == [0, 0, 1, 1]
    assert made.windows.offsets[:, 4, 0].tolist() == [0, 9, 0, 9]
    assert task(dev=dev, stride=None).windows.offsets[:3, 4, 0].tolist() == [0, 6, 12]  # half of 5: windows at 0, 2, 4


@pytest.mark.parametrize(("seq", "tokens"), [(40, 20), (128, 64), (160, 64)])
def test_the_longest_question(task, seq, tokens):
    """64 tokens, or half of a window."""
    made = task(train=[question("wa", "wa", "who " * 100)], seq=seq)
    assert made.training.mask[0].sum() == 1 + tokens + 1 + 1 + 1
    assert made.training.starts[0] == tokens + 2


def test_the_longest_window(task):
    assert task(seq=200).training.ids.shape == (4, 200)
    with pytest.raises(ArgumentError, match=r"finetune\(seq=201\): expected at most 200, the model's positions"):
        task(seq=201)
    with pytest.raises(DataError, match=r"model has no tokenizer, expected tokenizer\.json or vocab\.txt"):
        task(replace(PRETRAINED, tokenizer=None))


def observed(made, total, starts, ends):
    """One batch as ``observe`` keeps it, given its mean loss and the best place of each window."""
    logits = [np.full((len(places), 10), -1.0, np.float32) for places in (starts, ends)]
    for x, places in zip(logits, (starts, ends), strict=True):
        x[np.arange(len(places)), places] = 1
    return total * len(starts), len(starts), *logits


def test_scores_by_hand(task):
    """Losses over windows: (2 + 2 + 5)/3, where the mean over batches would be 3.5; of three answers one is right,
    one has a word too many: F1 (1 + 2/3 + 0)/3."""
    made = task(dev=[question("wa wb wc", "wb", number=k) for k in range(3)])
    parts = [observed(made, 2.0, [5, 5], [5, 6]), observed(made, 5.0, [4], [4])]
    assert made.answers(parts) == {"q0": "wb", "q1": "wb wc", "q2": "wa"}
    scores = made.score(parts)
    assert scores == {"loss": 3.0, "exact_match": pytest.approx(1 / 3), "f1": pytest.approx(5 / 9)}
    assert made.line(scores) == "loss 3.0000, exact match 33.3%, F1 55.6%"


def test_scores_with_unanswerable_questions_by_hand(task):
    """Log-odds of no answer by question: (−1 − 1) − 2 = −4, (1 + 1) − (−2) = 4, −4; the last two have no answer.

    At 0 the first and the second are right. The sum by log-odds is 3 after the first: all are right there.
    """
    nothing = [replace(question("wa wb", "wa", number=k), answers=()) for k in (1, 2)]
    made = task(dev=[question("wa wb", "wb", number=0), *nothing])
    assert made.unanswerable
    parts = [observed(made, 1.0, [5, 0, 4], [5, 0, 4])]
    assert made.answers(parts) == {"q0": "wb", "q1": "", "q2": "wa"}
    assert [c.null_odds for c in made.candidates(parts).values()] == [-4, 4, -4]
    scores = made.score(parts)
    two_thirds = pytest.approx(2 / 3)
    assert scores == {"loss": 1, "exact_match": two_thirds, "f1": two_thirds, "best_exact_match": 1, "best_f1": 1}
    assert made.line(scores) == "loss 1.0000, exact match 66.7%, F1 66.7%, best 100.0% and 100.0%"


def test_the_rules_are_those_of_all_questions(task):
    """An unanswerable question among those to train on, or left out of the validation, makes the rules those of 2.0."""
    one, none = question("wa wb", "wb", number=0), replace(question("wa wb", "wa", number=1), answers=())
    assert not task(train=[one], dev=[one]).unanswerable
    assert task(train=[one, none], dev=[one]).unanswerable
    made = task(train=[one], dev=[*(replace(one, id=str(k)) for k in range(4)), none], evaluation_batches=1)
    assert (made.unanswerable, len(made.held_out)) == (True, 2)


def test_what_is_kept_of_a_batch(task):
    """The sum of its losses, its size, and logits as wide as a window, −∞ beyond the batch."""
    made = task(dev=[question("wa wb", "wb", number=0), question("wa wb", "wa", number=1)])
    batch = made.validation(np.random.default_rng(0))[0]
    loss = made.loss(on_tape(Tape(regular), made.start, made.specs), batch)
    total, count, start, end = made.observe(batch, loss)
    assert (batch.ids.shape, count, start.shape, end.shape) == ((2, 7), 2, (2, 10), (2, 10))
    rows = np.arange(2)
    nats = 0.0
    for x, places in ((start, batch.starts), (end, batch.ends)):
        assert (x[:, 7:] == -np.inf).all()
        wide = x[:, :7].astype(np.float64)
        nats += float((np.log(np.exp(wide).sum(-1)) - wide[rows, places]).sum())
    assert total == pytest.approx(nats, rel=1e-6)
    encoded = loss.encoded.value @ made.start["span.weight"]  # the head's first column is of starts; its bias is 0
    np.testing.assert_allclose(np.stack([start, end], -1)[:, :7], encoded, rtol=1e-5, atol=1e-6)


def test_the_digest_is_that_of_model_and_questions(task):
    made = task(evaluation_batches=1)
    content = "digest of the model" + "".join(map(repr, (*made.questions, *made.held_out)))
    assert made.digest == sha256(content.encode()).hexdigest()
    others = [task(), task(replace(PRETRAINED, digest="another"), evaluation_batches=1)]
    assert len({made.digest, *(other.digest for other in others)}) == 3


def test_a_task_reads_no_directory():
    with pytest.raises(
        ArgumentError, match=r"of\(pretrained='model'\): expected a trained model, as load_trained returns"
    ):
        SpanExtraction.of(SETUP, SpanData("model"))


def test_both_files_or_neither(tmp_path, monkeypatch):
    for one in ({"train": tmp_path / "a"}, {"dev": tmp_path / "a"}):
        with pytest.raises(ArgumentError, match="expected both files or neither"):
            SpanData("model", **one).questions()
    monkeypatch.setattr(squad, "made_questions", lambda: "made")
    assert SpanData("model").questions() == "made"
