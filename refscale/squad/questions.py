"""Questions whose answers are runs of their contexts, or that have no answer: read from files, or made by rule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refscale.data import load_text, sentences
from refscale.errors import DataError, counted
from refscale.files import DATA, read_json


@dataclass(frozen=True)
class Answer:
    """A run of a context.

    Attributes:
        text: the answer.
        start: position of its start in the context, in characters.
    """

    text: str
    start: int


@dataclass(frozen=True)
class Question:
    """A question with its context.

    Attributes:
        id: identifier, unique in its set.
        question: the question.
        context: text that contains the answer.
        answers: true answers, the first for training; empty: unanswerable (SQuAD 2.0).
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]


def has_unanswerable(questions: Sequence[Question]) -> bool:
    """Return whether some question has no answer, so that the rules of SQuAD 2.0 apply."""
    return any(not q.answers for q in questions)


def read_squad(path: str | Path) -> tuple[Question, ...]:
    """Read the questions of a file in the format of SQuAD 1.1 or 2.0, in order.

    Unanswerable questions are read from a file whose ``version`` is "v2.0" or "2.0". Their ``plausible_answers`` are
    ignored, as in the official script.

    Raises:
        DataError: the file does not exist, is not valid JSON (see ``files``), or has another structure. Or a question
            has an answer that is not at its position in the context, the id of another question, no answer in a file of
            another version, or an ``is_impossible`` that contradicts its answers; the message names the question.

    Source: Rajpurkar et al. 2016 (1.1); Rajpurkar et al. 2018, arXiv 1806.03822 (2.0).
    """
    call = f"read_squad({str(path)!r})"
    try:
        content = read_json(path, call, most=DATA)
    except OSError as error:
        raise DataError(f"{call}: cannot be read ({error.strerror}), expected a JSON file") from error
    found: dict[str, Question] = {}
    for question in _parsed(content, call):
        if question.id in found:
            raise DataError(f"{call}: two questions have the id {question.id!r}, expected different ones")
        for answer in question.answers:
            there = question.context[max(0, answer.start) :][: len(answer.text)]
            if answer.start < 0 or not answer.text or there != answer.text:
                raise DataError(
                    f"{call}: question {question.id!r} has the answer {answer.text!r} at {answer.start}, "
                    f"where the context has {there!r}"
                )
        found[question.id] = question
    if not found:
        raise DataError(f"{call}: contains no question")
    return tuple(found.values())


_WITH_UNANSWERABLE = ("v2.0", "2.0")
"""Values of a file's ``version`` that allow questions without answer."""


def _parsed(content: Any, call: str) -> Iterator[Question]:
    try:
        unanswerable = content.get("version") in _WITH_UNANSWERABLE
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                for qa in paragraph["qas"]:
                    impossible = qa.get("is_impossible", not qa["answers"])
                    if not unanswerable and (impossible or not qa["answers"]):
                        raise DataError(
                            f"{call}: question {qa['id']!r} has no answer, expected SQuAD 1.1, where each has one, "
                            'or "version": "v2.0"'
                        )
                    if impossible is not (not qa["answers"]):
                        raise DataError(
                            f"{call}: question {qa['id']!r} has is_impossible {impossible!r:.80} and "
                            f"{counted(len(qa['answers']), 'answer')}, expected true with none, false with some"
                        )
                    answers = tuple(Answer(_text(a["text"]), _whole(a["answer_start"])) for a in qa["answers"])
                    yield Question(_text(qa["id"]), _text(qa["question"]), _text(paragraph["context"]), answers)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{call}: not the format of SQuAD: {type(error).__name__} {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80}, expected a text")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r:.80}, expected an integer")
    return value


def to_squad(questions: Sequence[Question]) -> dict[str, Any]:
    """Return questions in the format of SQuAD 1.1, or 2.0 if one is unanswerable, as plain values for JSON."""
    unanswerable = has_unanswerable(questions)
    paragraphs = [
        {
            "context": q.context,
            "qas": [
                {
                    "id": q.id,
                    "question": q.question,
                    "answers": [{"text": a.text, "answer_start": a.start} for a in q.answers],
                    **({"is_impossible": not q.answers} if unanswerable else {}),
                }
            ],
        }
        for q in questions
    ]
    return {"version": "v2.0" if unanswerable else "1.1", "data": [{"title": "", "paragraphs": paragraphs}]}


# --- A made set -------------------------------------------------------------------------------------------------------

HELD_OUT = 0.1
"""Share of the text's sentences, at its end, for validation only."""

SENTENCES, LEAST, MOST = 3, 6, 30
"""Number of sentences of a context; smallest and largest number of words of a sentence with a question."""

_WORD = re.compile(r"[^\W\d_]+")
_ANSWER = re.compile(
    r"\b(is|are|returns?|raises?|called|of|by|to|in|with) ((?:an? |the )?[*\"]?\w(?:[\w.]*\w)?[*\"]?(?:\(\))?)"
)
"""Pattern of an answer: the text after one of these words, at most an article and a word, with the marks around it."""


def made_questions(text: str | None = None) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """Make questions by fixed rules: each is a sentence of its context in which "what" replaces the answer.

    A context is a run of three sentences. In each sentence of 6 to 30 words, the answer is the word, with its article,
    after the last of "is", "are", "returns", "raises", "called", "of", "by", "to", "in", "with". The question is this
    sentence with "what" in place of the answer: "The result of the call is a list." becomes "The result of the call
    is what?" Answering requires finding the sentence and the replaced word. Natural questions are harder; this set is
    for trials without a download.

    Args:
        text: the text; None: the one that comes with Python.

    Returns:
        Training questions, from the first nine tenths of the sentences, and validation questions, from the rest.

    Raises:
        DataError: the text yields no question for one of the two.
    """
    found = sentences(load_text() if text is None else text)
    prose = [s for s in dict.fromkeys(found) if _is_prose(s)]  # some paragraphs occur under several topics
    held = round(HELD_OUT * len(prose))
    training, held_out = (tuple(_asked(part)) for part in (prose[: len(prose) - held], prose[len(prose) - held :]))
    if not training or not held_out:
        raise DataError(
            f"made_questions: {counted(len(prose), 'sentence')} of prose yield no question, expected a longer text"
        )
    return training, held_out


def _is_prose(sentence: str) -> bool:
    """Return whether a sentence consists of words: the text has much code and many tables, which are left out."""
    words = _WORD.findall(sentence)
    if "|" in sentence or sentence.startswith("*"):
        return False
    return len(words) >= 4 and len(sentence) < 300 and sum(map(len, words)) > 0.7 * len(sentence.replace(" ", ""))


def _asked(prose: Sequence[str]) -> Iterator[Question]:
    for first in range(0, len(prose) - SENTENCES + 1, SENTENCES):
        run = prose[first : first + SENTENCES]
        context = " ".join(run)
        start = 0
        for k, sentence in enumerate(run):
            found = list(_ANSWER.finditer(sentence))
            if found and LEAST <= len(sentence.split()) <= MOST:
                a, b = found[-1].span(2)
                question = f"{sentence[:a]}what{sentence[b:]}".rstrip(".?!:") + "?"
                answer = Answer(sentence[a:b], start + a)
                yield Question(f"{first + k}", question, context, (answer,))
            start += len(sentence) + 1
