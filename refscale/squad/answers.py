"""Answers from logits, and exact match and F1 from answers, by the official rules of SQuAD 1.1 and 2.0."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refscale.errors import ArgumentError, ShapeError
from refscale.squad.questions import Question, has_unanswerable
from refscale.squad.windows import Windows

LONGEST_ANSWER = 30
"""Largest number of tokens of an answer; Devlin et al. 2018, run_squad."""


@dataclass(frozen=True)
class Candidate:
    """The best answer to a question, and the log-odds of no answer.

    Attributes:
        text: best run of the context; empty only if a caller has decided for no answer.
        null_odds: log-odds of no answer: the smallest over the question's windows of the [CLS] token's start plus end
            logit, minus the score of the best run. Above a threshold, usually 0, the prediction is "".
    """

    text: str
    null_odds: float


def predict(
    questions: Sequence[Question],
    windows: Windows,
    start: NDArray[Any],
    end: NDArray[Any],
    *,
    longest: int = LONGEST_ANSWER,
) -> dict[str, Candidate]:
    """Return the best answer to each question: the run of a context with the largest sum of start and end logit.

    Args:
        questions: questions of the windows.
        windows: n windows.
        start, end: logits (n, seq); NaN counts as the lowest.
        longest: largest number of tokens of an answer.

    Returns:
        Candidates by id. Among equal runs, the one of the first window, the earliest, the shortest.

    Raises:
        ShapeError: the logits have another shape.
        ArgumentError: longest < 1.

    Source: Devlin et al. 2018, section 4.3 and run_squad (``score_null``, ``null_odds.json``).
    """
    if start.shape != windows.ids.shape or end.shape != windows.ids.shape:
        raise ShapeError(f"predict: logits {start.shape}, {end.shape}, expected twice {windows.ids.shape}")
    if longest < 1:
        raise ArgumentError(f"predict(longest={longest}): expected at least 1")
    inside = windows.offsets[:, :, 0] >= 0
    first, last = (np.where(inside & ~np.isnan(x), x, -np.inf).astype(np.float64) for x in (start, end))
    best = np.full(len(windows), -np.inf)
    runs = np.repeat(inside.argmax(-1)[:, None], 2, 1)  # a run of one token exists for any logits
    for more in range(min(longest, first.shape[1])):
        totals = first[:, : first.shape[1] - more] + last[:, more:]
        at = totals.argmax(-1)
        total = np.take_along_axis(totals, at[:, None], -1)[:, 0]
        better = (total > best) | ((total == best) & (at < runs[:, 0]) & (total > -np.inf))
        best[better], runs[better] = total[better], np.stack([at, at + more], -1)[better]
    cls = np.stack([start[:, 0], end[:, 0]]).astype(np.float64)
    null = np.where(np.isnan(cls), -np.inf, cls).sum(0)
    found: dict[str, Candidate] = {}
    of: dict[int, list[int]] = {}
    for row, number in enumerate(windows.question.tolist()):
        of.setdefault(number, []).append(row)
    for number, q in enumerate(questions):
        row = max(of[number], key=lambda row: best[row])
        a, b = runs[row]
        text = q.context[windows.offsets[row, a, 0] : windows.offsets[row, b, 1]]
        least = min(float(null[k]) for k in of[number])
        found[q.id] = Candidate(text, 0.0 if least == best[row] else least - float(best[row]))  # both may be -inf
    return found


def decide(candidates: Mapping[str, Candidate], threshold: float = 0.0) -> dict[str, str]:
    """Return the text of each candidate, by id; empty if ``null_odds`` exceeds the threshold (SQuAD 2.0).

    With a threshold of infinity every question has an answer (SQuAD 1.1).
    """
    return {key: "" if c.null_odds > threshold else c.text for key, c in candidates.items()}


# --- The official rules -----------------------------------------------------------------------------------------------

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Return a text in lower case, without punctuation, articles and extra spaces (SQuAD 1.1, official script)."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact_match(prediction: str, truths: Sequence[str]) -> bool:
    """Return whether the normalized prediction equals one of the truths (SQuAD 1.1, official script)."""
    return any(normalize(prediction) == normalize(truth) for truth in truths)


def f1(prediction: str, truths: Sequence[str]) -> float:
    """Return the best F1 of the prediction's words over the truths, normalized, as bags; 0 if they share none.

    Source: SQuAD 1.1, evaluation script.
    """
    return max(_f1(normalize(prediction).split(), normalize(truth).split()) for truth in truths)


def _f1(words: list[str], truth: list[str]) -> float:
    shared = sum((Counter(words) & Counter(truth)).values())
    return 2 * shared / (len(words) + len(truth)) if shared else 0.0


@dataclass(frozen=True)
class Scores:
    """Exact match and F1 of predictions.

    Attributes:
        exact_match, f1: means over the questions, in percent.
        questions: number of questions.
    """

    exact_match: float
    f1: float
    questions: int


def score(questions: Sequence[Question], predictions: Mapping[str, str]) -> Scores:
    """Return exact match and F1 of SQuAD 1.1; raise ArgumentError if a question lacks a prediction or an answer."""
    _check_complete("score", questions, predictions)
    if has_unanswerable(questions):
        raise ArgumentError("score: a question has no answer, expected score_unanswerable for SQuAD 2.0")
    pairs = [(predictions[q.id], [a.text for a in q.answers]) for q in questions]
    return _mean([(float(exact_match(*pair)), f1(*pair)) for pair in pairs])


def _check_complete(call: str, questions: Sequence[Question], predictions: Mapping[str, Any]) -> None:
    missing = [q.id for q in questions if q.id not in predictions]
    if missing or not questions:
        raise ArgumentError(f"{call}: {len(questions)} questions, no answer to {missing[:3]}, expected all of them")


# --- The official rules of SQuAD 2.0 ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class UnanswerableScores:
    """Exact match and F1 by the rules of SQuAD 2.0.

    Attributes:
        overall: scores over all questions, at the given threshold.
        answerable, unanswerable: scores over the questions with and without answers; None if there are none.
        best_exact_match, best_f1: highest score over thresholds of ``null_odds``, in percent.
        exact_match_threshold, f1_threshold: ``null_odds`` of the last question answered at that score; 0 if none is.
    """

    overall: Scores
    answerable: Scores | None
    unanswerable: Scores | None
    best_exact_match: float
    exact_match_threshold: float
    best_f1: float
    f1_threshold: float


def score_unanswerable(
    questions: Sequence[Question], candidates: Mapping[str, Candidate], *, threshold: float = 0.0
) -> UnanswerableScores:
    """Return exact match and F1 for questions that may be unanswerable.

    An unanswerable question has the one true answer "". True answers that are empty when normalized do not count.
    F1 of an empty prediction or truth is 1 if both are empty, else 0.

    The search for the best thresholds is that of the official script. The score starts with no answers, and changes
    question by question in the order of ``null_odds`` (equal ones in the order of ``candidates``): an answerable
    question adds its own score, an unanswerable one with a prediction subtracts 1. The result is the highest value
    after any number of questions. So a best value may lie between questions of equal ``null_odds``, which no threshold
    separates.

    Args:
        questions: questions, at least one.
        candidates: one for each question, by id. ``predict`` returns no empty texts; then the search is that of
            Devlin et al., over all thresholds. With empty texts from a first threshold, the search is that of the
            script on a file of final answers.
        threshold: threshold of ``overall``, ``answerable`` and ``unanswerable``.

    Returns:
        The scores of the official script with ``--na-prob-file`` and ``--na-prob-thresh``.

    Raises:
        ArgumentError: a question has no candidate, or there is no question.

    Source: Rajpurkar et al. 2018 (arXiv 1806.03822), evaluation script 2.0: get_raw_scores, apply_no_ans_threshold,
    find_best_thresh; Devlin et al. 2018, section 4.3.
    """
    _check_complete("score_unanswerable", questions, candidates)
    raw = {q.id: _raw(q, candidates[q.id].text) for q in questions}
    chosen = {q.id: raw[q.id] for q in questions}
    for q in questions:
        if candidates[q.id].null_odds > threshold:
            chosen[q.id] = (float(not q.answers),) * 2
    parts = ([q for q in questions if bool(q.answers) is answerable] for answerable in (True, False))
    ranked = sorted(_in_order(questions, candidates), key=lambda q: candidates[q.id].null_odds)
    best = [_best(ranked, candidates, {key: scores[k] for key, scores in raw.items()}) for k in (0, 1)]
    means = [_mean([chosen[q.id] for q in part]) if part else None for part in parts]
    return UnanswerableScores(_mean([*chosen.values()]), means[0], means[1], *best[0], *best[1])


def _in_order(questions: Sequence[Question], candidates: Mapping[str, Candidate]) -> list[Question]:
    """Return the questions in the order of the candidates."""
    of = {q.id: q for q in questions}
    return [of[key] for key in candidates if key in of]


def _best(
    ranked: Sequence[Question], candidates: Mapping[str, Candidate], scores: Mapping[str, float]
) -> tuple[float, float]:
    """Return the highest score in percent, with its threshold."""
    now = float(sum(not q.answers for q in ranked))
    best, threshold = now, 0.0
    for q in ranked:
        now += scores[q.id] if q.answers else -float(bool(candidates[q.id].text))
        if now > best:
            best, threshold = now, candidates[q.id].null_odds
    return 100 * best / len(ranked), threshold


def _mean(pairs: Sequence[tuple[float, float]]) -> Scores:
    """Return means in percent of (exact match, F1)."""
    exact, words = (100 * mean(pair[k] for pair in pairs) for k in (0, 1))
    return Scores(exact, words, len(pairs))


def _raw(q: Question, prediction: str) -> tuple[float, float]:
    """Return exact match and F1 of one prediction."""
    truths = [a.text for a in q.answers if normalize(a.text)] or [""]
    if exact_match(prediction, truths):  # also if both are empty and share no words
        return 1.0, 1.0
    return 0.0, f1(prediction, truths)
