"""Answers from logits against a double loop; exact match and F1 of SQuAD 1.1 and 2.0 by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale import squad
from refscale.errors import ArgumentError, ShapeError
from refscale.squad import Answer, Question, windows
from refscale.squad.answers import Candidate
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


def texts(*args, **options):
    """The text of each candidate, for any log-odds of no answer."""
    return squad.decide(squad.predict(*args, **options), math.inf)


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
    assert texts(questions, found, start, end, longest=longest) == expected


def test_no_run_backwards_nor_across_windows():
    """The best start after the best end, and in another window: a choice of either alone would be wrong."""
    questions = [question("wa wb wc wd we", "wb")]
    found = windows(questions, VOCABULARY, seq=8, stride=3)
    start, end = np.zeros(found.ids.shape), np.zeros(found.ids.shape)
    start[0, 6], end[0, 4], end[1, 5] = 3, 3, 2.5
    assert texts(questions, found, start, end) == {"q0": "wa"}  # 3 + 0 = 0 + 3: the earlier run
    start[0, 0] = end[0, 0] = 9  # the [CLS] stands for no answer
    assert texts(questions, found, start, end) == {"q0": "wa"}


def test_the_longest_answer():
    """30 tokens: the best end is one too far, and the next best is taken."""
    context = " ".join(WORDS * 2)
    found = windows([question(context, "wa")], VOCABULARY, seq=45)
    start, end = np.zeros(found.ids.shape), np.zeros(found.ids.shape)
    start[0, 4 + 3] = 9  # the context's fourth token
    end[0, 4 + 3 + 30], end[0, 4 + 3 + 29] = 5, 4
    answer = texts([question(context, "wa")], found, start, end)["q0"]
    assert answer == " ".join((WORDS * 2)[3:33])
    answer = texts([question(context, "wa")], found, start, end, longest=31)["q0"]
    assert answer == " ".join((WORDS * 2)[3:34])


def test_of_equal_runs_the_first_window_the_earliest_the_shortest():
    questions = [question("wa wb wc wd we", "wb")]
    found = windows(questions, VOCABULARY, seq=8, stride=2)  # at tokens 0 and 2
    zero = np.zeros(found.ids.shape)
    assert texts(questions, found, zero, zero) == {"q0": "wa"}
    start, end = zero.copy(), zero.copy()
    start[0, 5] = end[1, 6] = 1  # 1 + 0 in the first window from wb, 0 + 1 in the second to we
    assert texts(questions, found, start, end) == {"q0": "wb"}
    end[1, 6] = 1.5
    assert texts(questions, found, start, end) == {"q0": "wc wd we"}


def test_logits_of_another_shape():
    questions = [Question("q", "who", "wa", (Answer("wa", 0),))]
    found = windows(questions, VOCABULARY, seq=8)
    with pytest.raises(ShapeError, match="expected twice"):
        texts(questions, found, np.zeros((1, 7)), np.zeros((1, 8)))
    with pytest.raises(ArgumentError, match="expected at least 1"):
        texts(questions, found, np.zeros((1, 8)), np.zeros((1, 8)), longest=0)


def test_logits_that_are_no_numbers():
    questions = [question("wa wb", "wa")]
    found = windows(questions, VOCABULARY, seq=8)
    nothing = np.full(found.ids.shape, np.nan)
    assert texts(questions, found, nothing, nothing) == {"q0": "wa"}


# SQuAD 2.0


def asked(key, *answers):
    """A question with these answers; they need not be in the context, which scores do not read."""
    return Question(key, "who", "context", tuple(Answer(text, 0) for text in answers))


def test_the_log_odds_of_no_answer():
    """The smallest [CLS] score of both windows, 1 − 2 and 4 + 1, minus the best run's score, 3 + 2.5."""
    questions = [question("wa wb wc wd we", "wb")]
    found = windows(questions, VOCABULARY, seq=8, stride=3)
    assert len(found) == 2
    start, end = np.zeros(found.ids.shape), np.zeros(found.ids.shape)
    start[0, 0], end[0, 0], start[1, 0], end[1, 0] = 1, -2, 4, 1
    start[1, 4], end[1, 5] = 3, 2.5
    (candidate,) = squad.predict(questions, found, start, end).values()
    assert candidate == Candidate("wd we", -1 - 5.5)
    start[0, 0] = 12  # then the second window has the smaller one
    (candidate,) = squad.predict(questions, found, start, end).values()
    assert candidate.null_odds == 5 - 5.5
    start[0, 0] = math.nan  # as low as can be
    (candidate,) = squad.predict(questions, found, start, end).values()
    assert candidate.null_odds == -math.inf
    nothing = np.full(found.ids.shape, np.nan)
    assert squad.predict(questions, found, nothing, nothing)["q0"].null_odds == 0


def test_no_answer_above_the_threshold_only():
    candidates = {"a": Candidate("x", 0.5), "b": Candidate("y", 0.50001), "c": Candidate("z", -3.0)}
    assert squad.decide(candidates, 0.5) == {"a": "x", "b": "", "c": "z"}
    assert squad.decide(candidates) == {"a": "", "b": "", "c": "z"}


def test_scores_of_squad_2_by_hand():
    """Five questions, worked by the official script's rules.

    At the threshold 0: a (odds −4) "Ada": 1, 1; b (−2) "x": 0, 0, for it is unanswerable; c (−1) "Ada King": 0, 2/3;
    d (1) and e (3) are not answered: d has an answer, 0, 0; e has none, 1, 1.

    In the order of the odds the sum starts at 2, the unanswerable ones. Exact match: 3, 2, 2, 3, 2: the best is 3,
    reached first at −4. F1: 3, 2, 2 2/3, 3 2/3, 2 2/3: the best is 3 2/3, at 1.
    """
    questions = [asked("a", "Ada"), asked("b"), asked("c", "Ada"), asked("d", "Babbage", "B."), asked("e")]
    candidates = {
        "e": Candidate("z", 3.0),
        "a": Candidate("the Ada", -4.0),
        "d": Candidate("b", 1.0),
        "c": Candidate("Ada King", -1.0),
        "b": Candidate("x", -2.0),
    }
    found = squad.score_unanswerable(questions, candidates)
    assert (found.overall.exact_match, found.overall.questions) == (40, 5)
    assert found.overall.f1 == pytest.approx(100 * (1 + 0 + 2 / 3 + 0 + 1) / 5, rel=1e-15)
    assert found.answerable == squad.Scores(pytest.approx(100 / 3), pytest.approx(100 * 5 / 9), 3)
    assert found.unanswerable == squad.Scores(50, 50, 2)
    assert (found.best_exact_match, found.exact_match_threshold) == (60, -4)
    assert found.best_f1 == pytest.approx(100 * (3 + 2 / 3) / 5, rel=1e-15)
    assert found.f1_threshold == 1
    at_best = squad.score_unanswerable(questions, candidates, threshold=found.f1_threshold)
    assert at_best.overall.f1 == pytest.approx(found.best_f1, rel=1e-15)


@pytest.mark.parametrize(
    ("truths", "text", "odds", "exact", "f1"),
    [
        ([], "", -1.0, 100, 100),
        ([], "x", -1.0, 0, 0),
        ([], "the", -1.0, 100, 100),  # empty, once it is normalized
        ([], "x", 1.0, 100, 100),  # not answered
        (["Ada"], "Ada", 1.0, 0, 0),
        (["Ada"], "the", -1.0, 0, 0),
        (["the", "Ada"], "", -1.0, 0, 0),  # the empty truth does not count
        (["the"], "", -1.0, 100, 100),  # unless there is no other: F1 is 1 where SQuAD 1.1 has 0
        (["the"], "x", 1.0, 0, 0),  # not answered, and counted as answerable
    ],
)
def test_empty_answers_of_squad_2(truths, text, odds, exact, f1):
    found = squad.score_unanswerable([asked("a", *truths)], {"a": Candidate(text, odds)})
    assert (found.overall.exact_match, found.overall.f1) == (exact, f1)
    assert (found.answerable is None, found.unanswerable is None) == (not truths, bool(truths))


def test_the_best_may_be_to_answer_nothing():
    """The script's threshold is then 0 in each case; an empty text of an unanswerable question adds 0."""
    found = squad.score_unanswerable([asked("a"), asked("b")], {"a": Candidate("x", -9.0), "b": Candidate("", -8.0)})
    assert (found.best_exact_match, found.exact_match_threshold) == (100, 0)
    assert (found.best_f1, found.f1_threshold) == (100, 0)
    assert found.overall.exact_match == 50


def test_equal_odds_count_one_by_one_in_the_order_of_candidates():
    """As in the official script: after the first of the two the sum is higher than any threshold gives."""
    questions = [asked("a", "Ada"), asked("b")]
    pair = {"a": Candidate("Ada", 2.0), "b": Candidate("x", 2.0)}
    assert squad.score_unanswerable(questions, pair).best_exact_match == 100
    reverse = dict(reversed(pair.items()))
    assert squad.score_unanswerable(questions, reverse).best_exact_match == 50


def every_threshold(questions, candidates, score=lambda found: found.overall.f1):
    """The best F1 by trying all thresholds: below all, and at each of the odds."""
    odds = [c.null_odds for c in candidates.values()]
    return max(score(squad.score_unanswerable(questions, candidates, threshold=t)) for t in (min(odds) - 1, *odds))


@given(st.integers(0, 2**32 - 1))
def test_the_best_of_all_thresholds(seed):
    """Different odds, texts that are not empty: the sum question by question is the best of all thresholds."""
    rng = np.random.default_rng(seed)
    questions = [asked(str(k), *(["wa wb"] if rng.random() < 0.6 else [])) for k in range(rng.integers(1, 9))]
    odds = rng.permutation(len(questions)) - 3.0
    candidates = {q.id: Candidate(str(rng.choice(["wa", "wa wb", "x"])), float(odds[int(q.id)])) for q in questions}
    found = squad.score_unanswerable(questions, candidates)
    assert found.best_f1 == pytest.approx(every_threshold(questions, candidates), rel=1e-12)
    exact = every_threshold(questions, candidates, lambda found: found.overall.exact_match)
    assert found.best_exact_match == pytest.approx(exact, rel=1e-12)


def test_the_wrong_rules_for_the_wrong_questions():
    with pytest.raises(ArgumentError, match="a question has no answer, expected score_unanswerable"):
        squad.score([asked("a")], {"a": ""})
    with pytest.raises(ArgumentError, match=r"score_unanswerable: 1 questions, no answer to \['a'\]"):
        squad.score_unanswerable([asked("a")], {})
