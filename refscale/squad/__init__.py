"""Extracting answers, as in SQuAD 1.1 (Rajpurkar et al. 2016): questions, windows, scores.

In reading order:

1. ``questions``: what a question is, files of them; a small set made by rule from the text that comes with Python.
2. ``windows``: questions with their contexts as sequences of tokens, long contexts in several.
3. ``answers``: logits to answers, answers to exact match and F1 by the official rules.
"""

from refscale.squad.answers import Scores, exact_match, f1, normalize, predict, score
from refscale.squad.questions import Answer, Question, made_questions, read_squad, to_squad
from refscale.squad.windows import Windows, windows

__all__ = [
    "Answer",
    "Question",
    "Scores",
    "Windows",
    "exact_match",
    "f1",
    "made_questions",
    "normalize",
    "predict",
    "read_squad",
    "score",
    "to_squad",
    "windows",
]
