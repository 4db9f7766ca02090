"""Answers from logits against a double loop; exact match and F1 by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale import squad
from refscale.errors import ArgumentError, ShapeError
from refscale.squad import Answer, Question, windows
from tests.squad.test_windows import VOCABULARY, WORDS, question

# The official script of SQuAD 1.1, worked by hand.


@pytest.mark.parametrize(
    ("prediction", "truths", "exact", "f1"),
    [
        ("Ada", ["Ada"], True, 1),
        ("the Ada", ["Ada"], True, 1),
        ("An Ada's", ["adas"], True, 1),
        ("Ada Lovelace", ["Ada"], False, 2 / 3),
        ("Ada  Lovelace.", ["ada lovelace"], True, 1),
        ("Ada", ["Babbage", "Ada Lovelace", "Ada King"], False, 2 / 3),
        ("Babbage", ["Ada"], False, 0),
        ("a b c", ["b c d"], False, 2 * 2 / (2 + 3)),  # "a" is an article
        ("x x y", ["x y y"], False, 2 * 2 / 6),  # bags: one x, one y
        ("theatre", ["the atre"], False, 0),  # an article is a word
        ("", ["the"], True, 0),  # equal, but with no word in common
        ("the", ["Ada"], False, 0),
        ("1,843", ["1843"], True, 1),
        ("U.S.A.", ["usa"], True, 1),  # punctuation goes before articles: "A" is none
        ("the a-b", ["ab"], True, 1),
        ("I.an.B", ["ib"], False, 0),
        ("a  an\tthe\u00a0Ada", ["ada"], True, 1),  # white space is that of Unicode, as in the script
        ("thea ana", ["thea ana"], True, 1),
        ("Ada Ada", ["Ada"], False, 2 / 3),
        ("Ada King", ["Ada", "King Ada Lovelace", "x"], False, 4 / 5),
        ("naïve café", ["Naïve Café"], True, 1),
        ("dog — cat", ["dog cat"], False, 2 * 2 / 5),  # only ASCII punctuation goes
    ],
)
def test_official_rules(prediction, truths, exact, f1):
    assert squad.exact_match(prediction, truths) is exact
    assert squad.f1(prediction, truths) == pytest.approx(f1, abs=1e-15)


def test_a_wrong_rule_would_be_seen(monkeypatch):
    """Without removing articles two of the cases above come out otherwise."""
    monkeypatch.setattr(squad.answers, "normalize", str.lower)
    assert not squad.exact_match("the Ada", ["Ada"])
    assert squad.f1("a b c", ["b c d"]) != pytest.approx(0.8)


def test_scores():
    questions = [question("wa wb", "wa", number=k) for k in range(4)]
    found = squad.score(questions, {"q0": "wa", "q1": "wb", "q2": "wa wb", "q3": "the wa"})
    assert found == squad.Scores(50.0, pytest.approx(100 * (1 + 0 + 2 / 3 + 1) / 4), 4)
    with pytest.raises(ArgumentError, match=r"no answer to \['q3'\]"):
        squad.score(questions, {"q0": "", "q1": "", "q2": ""})


# From logits to answers


def slow(questions, found, start, end, longest):
    """The best run by a double loop."""
    best = {}
    for row in range(len(found)):
        q = questions[found.question[row]]
        for a in range(found.ids.shape[1]):
            for b in range(a, min(a + longest, found.ids.shape[1])):
                if found.offsets[row, a, 0] < 0 or found.offsets[row, b, 0] < 0:
                    continue
                total = float(start[row, a]) + float(end[row, b])
                if math.isnan(total):
                    total = -math.inf
                if q.id not in best or total > best[q.id][0]:
                    best[q.id] = total, q.context[found.offsets[row, a, 0] : found.offsets[row, b, 1]]
    return {key: text for key, (_, text) in best.items()}


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.booleans())
def test_against_a_double_loop(seed, longest, coarse):
    """Also where many runs are equally good, and where logits are not numbers."""
    rng = np.random.default_rng(seed)
    questions = [
        question(" ".join(rng.choice(WORDS, rng.integers(1, 15))), "w", number=k) for k in range(rng.integers(1, 4))
    ]
    found = windows(questions, VOCABULARY, seq=10, stride=int(rng.integers(1, 6)))
    start, end = (
        rng.integers(0, 3, found.ids.shape).astype(np.float32) if coarse else rng.standard_normal(found.ids.shape)
        for _ in range(2)
    )
    start[rng.random(start.shape) < 0.1] = np.nan
    expected = slow(questions, found, start, end, longest)
    assert squad.predict(questions, found, start, end, longest=longest) == expected


def test_no_run_backwards_nor_across_windows():
    """The best start after the best end, and in another window: a choice of either alone would be wrong."""
    questions = [question("wa wb wc wd we", "wb")]
    found = windows(questions, VOCABULARY, seq=8, stride=3)
    start, end = np.zeros(found.ids.shape), np.zeros(found.ids.shape)
    start[0, 6], end[0, 4], end[1, 5] = 3, 3, 2.5
    assert squad.predict(questions, found, start, end) == {"q0": "wa"}  # 3 + 0 = 0 + 3: the earlier run
    start[0, 0] = end[0, 0] = 9  # the [CLS] is no answer
    assert squad.predict(questions, found, start, end) == {"q0": "wa"}


def test_the_longest_answer():
    """30 tokens: the best end is one too far, and the next best is taken."""
    context = " ".join(WORDS * 2)
    found = windows([question(context, "wa")], VOCABULARY, seq=45)
    start, end = np.zeros(found.ids.shape), np.zeros(found.ids.shape)
    start[0, 4 + 3] = 9  # the context's fourth token
    end[0, 4 + 3 + 30], end[0, 4 + 3 + 29] = 5, 4
    answer = squad.predict([question(context, "wa")], found, start, end)["q0"]
    assert answer == " ".join((WORDS * 2)[3:33])
    answer = squad.predict([question(context, "wa")], found, start, end, longest=31)["q0"]
    assert answer == " ".join((WORDS * 2)[3:34])


def test_of_equal_runs_the_first_window_the_earliest_the_shortest():
    questions = [question("wa wb wc wd we", "wb")]
    found = windows(questions, VOCABULARY, seq=8, stride=2)  # at tokens 0 and 2
    zero = np.zeros(found.ids.shape)
    assert squad.predict(questions, found, zero, zero) == {"q0": "wa"}
    start, end = zero.copy(), zero.copy()
    start[0, 5] = end[1, 6] = 1  # 1 + 0 in the first window from wb, 0 + 1 in the second to we
    assert squad.predict(questions, found, start, end) == {"q0": "wb"}
    end[1, 6] = 1.5
    assert squad.predict(questions, found, start, end) == {"q0": "wc wd we"}


def test_logits_of_another_shape():
    questions = [Question("q", "who", "wa", (Answer("wa", 0),))]
    found = windows(questions, VOCABULARY, seq=8)
    with pytest.raises(ShapeError, match="expected twice"):
        squad.predict(questions, found, np.zeros((1, 7)), np.zeros((1, 8)))
    with pytest.raises(ArgumentError, match="expected at least 1"):
        squad.predict(questions, found, np.zeros((1, 8)), np.zeros((1, 8)), longest=0)


def test_logits_that_are_no_numbers():
    questions = [question("wa wb", "wa")]
    found = windows(questions, VOCABULARY, seq=8)
    nothing = np.full(found.ids.shape, np.nan)
    assert squad.predict(questions, found, nothing, nothing) == {"q0": "wa"}
