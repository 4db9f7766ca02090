"""Windows: their places and labels; nothing is skipped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale.data import CLS, PAD, SEP, Vocabulary
from refscale.errors import ArgumentError, DataError
from refscale.squad import Answer, Question, windows

WORDS = [f"w{chr(97 + i)}" for i in range(20)]
VOCABULARY = Vocabulary.from_text(" ".join(WORDS) + " who ?", 100)


def question(context: str, answer: str, asked: str = "who ?", number: int = 0) -> Question:
    return Question(f"q{number}", asked, context, (Answer(answer, context.index(answer)),))


def test_by_hand():
    """8 tokens: [CLS] who ? [SEP], then room for 3 of 5, then [SEP]; by 2."""
    found = windows([question("wa wb wc wd we", "wc wd")], VOCABULARY, seq=8, stride=2)
    a, b, c, d, e = (int(VOCABULARY.encode(w)[0]) for w in ("wa", "wb", "wc", "wd", "we"))
    who, mark = VOCABULARY.encode("who ?").tolist()
    assert found.ids.tolist() == [[CLS, who, mark, SEP, a, b, c, SEP], [CLS, who, mark, SEP, c, d, e, SEP]]
    assert found.segments.tolist() == [[0] * 4 + [1] * 4] * 2
    assert found.mask.all()
    assert (found.starts.tolist(), found.ends.tolist()) == ([0, 4], [0, 5])  # the first has only half of it
    assert found.offsets[1, 4:7].tolist() == [[6, 8], [9, 11], [12, 14]]
    assert (found.offsets[:, [0, 1, 2, 3, 7]] == -1).all()
    assert found.question.tolist() == [0, 0]


def test_a_short_context_is_padded():
    found = windows([question("wa wb", "wb")], VOCABULARY, seq=10)
    assert found.ids[0, 7:].tolist() == [PAD] * 3
    assert found.mask[0].tolist() == [True] * 7 + [False] * 3
    assert (found.starts[0], found.ends[0]) == (5, 5)


def test_an_answer_inside_a_word_takes_the_word():
    found = windows([Question("q", "who ?", "wa wb", (Answer("b", 4),))], VOCABULARY, seq=10)
    assert (found.starts[0], found.ends[0]) == (5, 5)


@pytest.mark.parametrize(
    ("context", "answer", "first", "last"),
    [
        ("wa,wb,wc", "wb", 6, 6),  # tokens at 4 …: the commas on both sides only touch it
        ("wa,wb,wc", ",wb", 5, 6),
        ("wa,wb,wc", "b,", 6, 7),
        ("wa,wb,wc", "a,w", 4, 6),  # one character of wa, one of wb
        ("wa wb wc", " wb ", 5, 5),  # spaces are in no token
        ("wa wb wc", "wa", 4, 4),
        ("wa wb wc", "wc", 6, 6),
        ("wa wb wc", "wa wb wc", 4, 6),
    ],
)
def test_a_label_is_the_tokens_that_the_answer_overlaps(context, answer, first, last):
    found = windows([question(context, answer)], VOCABULARY, seq=12)
    assert (found.starts.tolist(), found.ends.tolist()) == ([first], [last])


def test_an_answer_at_the_ends_of_a_window():
    """Windows of three tokens, at 0, 1, 2 of five: the one that has all of the answer is labeled, to its last token."""
    labels = windows([question("wa wb wc wd we", "wb wc wd")], VOCABULARY, seq=8, stride=1)
    assert (labels.starts.tolist(), labels.ends.tolist()) == ([0, 4, 0], [0, 6, 0])


def test_all_windows_of_an_unanswerable_question_are_labeled_0():
    q = Question("q", "who ?", "wa wb wc wd we", ())
    labels = windows([q, question("wa wb", "wb")], VOCABULARY, seq=8, stride=2)
    assert (labels.starts.tolist(), labels.ends.tolist()) == ([0, 0, 5], [0, 0, 5])


def test_defaults():
    """A stride of half of the room, 64 tokens of a question."""
    ten = " ".join(WORDS[:10])
    found = windows([question(ten, "wa")], VOCABULARY, seq=11)  # room for 6: windows at 0, 3, 6
    assert found.offsets[:, 4, 0].tolist() == [0, 9, 18]
    found = windows([question(ten, "wa")], VOCABULARY, seq=12)  # room for 7, by 3: the second reaches the end
    assert found.offsets[:, 4, 0].tolist() == [0, 9]
    found = windows([question("wa wb", "wa", "who " * 70)], VOCABULARY, seq=80)
    assert int((found.segments[0] == 0)[found.mask[0]].sum()) == 1 + 64 + 1
    found = windows([question("wa wb", "wa", "who " * 64)], VOCABULARY, seq=80)
    assert found.mask[0].sum() == 1 + 64 + 1 + 2 + 1


def test_the_least_room():
    found = windows([question("wa wb", "wb")], VOCABULARY, seq=6)  # for one token: the stride is 1, not 0
    assert found.offsets[:, 4, 0].tolist() == [0, 3]
    assert (found.starts.tolist(), found.ends.tolist()) == ([0, 4], [0, 4])


def test_a_dotted_i_before_the_answer():
    """Its lower case has two characters: the answer is labeled, and given back, where it stands."""
    q = question("İ wa İ, wb wc", "wb")
    found = windows([q], VOCABULARY, seq=16)
    a, b = found.starts[0], found.ends[0]
    assert found.ids[0, a : b + 1].tolist() == VOCABULARY.encode("wb").tolist()
    assert found.offsets[0, a].tolist() == [8, 10]


def test_a_long_question_is_cut():
    found = windows([question("wa wb", "wb", "who " * 9)], VOCABULARY, seq=12, longest_question=3)
    assert found.ids[0, :5].tolist() == [CLS, *VOCABULARY.encode("who who who").tolist(), SEP]


@pytest.mark.parametrize("options", [{"seq": 5}, {"seq": 8, "stride": 0}, {"seq": 8, "stride": 4}])
def test_what_does_not_fit(options):
    with pytest.raises(ArgumentError, match="expected 1 ≤ stride ≤ room"):
        windows([question("wa wb wc wd we", "wb")], VOCABULARY, **options)


def test_nothing_to_make_windows_of():
    with pytest.raises(DataError, match="no question"):
        windows([], VOCABULARY, seq=9)
    with pytest.raises(DataError, match="'q' has no token"):
        windows([Question("q", "who", " ", (Answer(" ", 0),))], VOCABULARY, seq=9)


contexts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=40)


@given(contexts, st.data())
def test_every_token_and_every_answer(words, data):
    """Each token is in a window; a label's tokens are the answer's; a window has the answer, if the stride allows."""
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(len(words) - 1, first + 3)))
    room = data.draw(st.integers(5, 12))
    stride = data.draw(st.integers(1, room))
    starts = np.cumsum([0, *(len(w) + 1 for w in words)])
    text, context = " ".join(words[first : last + 1]), " ".join(words)
    q = Question("q", "who ?", context, (Answer(text, int(starts[first])),))
    found = windows([q], VOCABULARY, seq=room + 5, stride=stride)
    seen = {tuple(span) for span in found.offsets.reshape(-1, 2).tolist()} - {(-1, -1)}
    assert seen == {(int(s), int(s) + len(w)) for s, w in zip(starts, words, strict=False)}
    labelled = np.flatnonzero(found.starts)
    for row in labelled:
        a, b = found.offsets[row, found.starts[row], 0], found.offsets[row, found.ends[row], 1]
        assert context[a:b] == text
    if stride <= room - (last - first):
        assert labelled.size
    wrong = replace(found, starts=np.where(found.starts, found.starts + 1, 0))
    for row in labelled:  # a label that is off by one would be seen
        a, b = found.offsets[row, wrong.starts[row], 0], found.offsets[row, found.ends[row], 1]
        assert context[a:b] != text


def test_batches():
    many = [question("wa wb wc wd we" if k else "wa", "wa", number=k) for k in range(5)]
    found = windows(many, VOCABULARY, seq=10)
    batch = found.batch(np.array([0]))
    assert batch.ids.shape == (1, 6)  # cut to the longest
    assert batch.ids.tolist() == found.ids[:1, :6].tolist()
    drawn = found.draw(np.random.default_rng(0), 5)
    assert sorted(map(tuple, drawn.ids.tolist())) == sorted(map(tuple, found.ids.tolist()))
    assert found.draw(np.random.default_rng(0), 50).ids.shape == (50, 10)
