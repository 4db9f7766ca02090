"""From logits to answers, and from answers to exact match and F1."""

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
from refscale.squad.questions import Question
from refscale.squad.windows import Windows

LONGEST_ANSWER = 30
"""Tokens; Devlin et al. 2018, run_squad."""


def predict(
    questions: Sequence[Question],
    windows: Windows,
    start: NDArray[Any],
    end: NDArray[Any],
    *,
    longest: int = LONGEST_ANSWER,
) -> dict[str, str]:
    """The best answer to each question: the run of a context whose first start and last end logit add up to most.

    Args:
        questions: those that the windows are of.
        windows: n of them.
        start, end: logits (n, seq); NaN counts as the lowest.
        longest: tokens of an answer.

    Returns:
        Text by id.  Of equal runs the first window's, the earliest, the shortest.

    Raises:
        ShapeError: logits of another shape.
        ArgumentError: longest < 1.
    """
    if start.shape != windows.ids.shape or end.shape != windows.ids.shape:
        raise ShapeError(f"predict: logits {start.shape}, {end.shape}, expected twice {windows.ids.shape}")
    if longest < 1:
        raise ArgumentError(f"predict(longest={longest}): expected at least 1")
    inside = windows.offsets[:, :, 0] >= 0
    first, last = (np.where(inside & ~np.isnan(x), x, -np.inf).astype(np.float64) for x in (start, end))
    best = np.full(len(windows), -np.inf)
    runs = np.repeat(inside.argmax(-1)[:, None], 2, 1)  # a run of one token is there, whatever its logits
    for more in range(min(longest, first.shape[1])):
        totals = first[:, : first.shape[1] - more] + last[:, more:]
        at = totals.argmax(-1)
        total = np.take_along_axis(totals, at[:, None], -1)[:, 0]
        better = (total > best) | ((total == best) & (at < runs[:, 0]) & (total > -np.inf))
        best[better], runs[better] = total[better], np.stack([at, at + more], -1)[better]
    found: dict[str, str] = {}
    of: dict[int, list[int]] = {}
    for row, number in enumerate(windows.question.tolist()):
        of.setdefault(number, []).append(row)
    for number, q in enumerate(questions):
        row = max(of[number], key=lambda row: best[row])
        a, b = runs[row]
        found[q.id] = q.context[windows.offsets[row, a, 0] : windows.offsets[row, b, 1]]
    return found


# --- The official rules -----------------------------------------------------------------------------------------------

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Lower case, without punctuation, articles and surplus white space.  Source: SQuAD 1.1, evaluation script."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact_match(prediction: str, truths: Sequence[str]) -> bool:
    """Whether the prediction is one of the truths, normalized.  Source: SQuAD 1.1, evaluation script."""
    return any(normalize(prediction) == normalize(truth) for truth in truths)


def f1(prediction: str, truths: Sequence[str]) -> float:
    """The best F1 of the prediction's words over the truths, normalized, as bags; 0 if they share none.

    Source: SQuAD 1.1, evaluation script.
    """
    return max(_f1(normalize(prediction).split(), normalize(truth).split()) for truth in truths)


def _f1(words: list[str], truth: list[str]) -> float:
    shared = sum((Counter(words) & Counter(truth)).values())
    return 2 * shared / (len(words) + len(truth)) if shared else 0.0


@dataclass(frozen=True)
class Scores:
    """What predictions come to.

    Attributes:
        exact_match, f1: means over the questions, in percent.
        questions: how many.
    """

    exact_match: float
    f1: float
    questions: int


def score(questions: Sequence[Question], predictions: Mapping[str, str]) -> Scores:
    """Exact match and F1.  Raises ArgumentError if a question has no prediction."""
    missing = [q.id for q in questions if q.id not in predictions]
    if missing or not questions:
        raise ArgumentError(f"score: {len(questions)} questions, no answer to {missing[:3]}, expected all of them")
    pairs = [(predictions[q.id], [a.text for a in q.answers]) for q in questions]
    return Scores(
        100 * mean(float(exact_match(*pair)) for pair in pairs), 100 * mean(f1(*pair) for pair in pairs), len(pairs)
    )
