"""Extracting answers, as in SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018): questions, windows, scores.

In reading order:

1. ``questions``: questions, files of questions, and a small set made by rule from the text that comes with Python.
2. ``windows``: questions with their contexts as sequences of tokens, long contexts in several.
3. ``answers``: answers from logits; exact match and F1 from answers, by the official rules.
"""

from refscale.squad.answers import (
    Candidate,
    Scores,
    UnanswerableScores,
    decide,
    exact_match,
    f1,
    normalize,
    predict,
    score,
    score_unanswerable,
)
from refscale.squad.questions import Answer, Question, has_unanswerable, made_questions, read_squad, to_squad
from refscale.squad.windows import Windows, windows

__all__ = [
    "Answer",
    "Candidate",
    "Question",
    "Scores",
    "UnanswerableScores",
    "Windows",
    "decide",
    "exact_match",
    "f1",
    "has_unanswerable",
    "made_questions",
    "normalize",
    "predict",
    "read_squad",
    "score",
    "score_unanswerable",
    "to_squad",
    "windows",
]
