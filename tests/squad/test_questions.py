"""Questions from files, each fault named; and those made by rule."""

from __future__ import annotations

import copy
import json

import pytest

from refscale import squad
from refscale.errors import DataError
from refscale.squad import Answer, Question, questions

GOOD = squad.to_squad(
    [
        Question("a", "Who wrote it?", "Ada wrote the first program.", (Answer("Ada", 0),)),
        Question("b", "What?", "Ünïcode, 1843: a program.", (Answer("1843", 9), Answer("a program", 15))),
    ]
)


UNANSWERABLE = squad.to_squad(
    [Question("a", "Who wrote it?", "Ada wrote it.", (Answer("Ada", 0),)), Question("b", "Who read it?", "Nobody.", ())]
)


def written(tmp_path, content):
    path = tmp_path / "squad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def changed(change, content=GOOD):
    content = copy.deepcopy(content)
    change(content["data"][0]["paragraphs"])
    return content


def test_there_and_back(tmp_path):
    found = squad.read_squad(written(tmp_path, GOOD))
    assert [q.id for q in found] == ["a", "b"]
    assert found[1].answers == (Answer("1843", 9), Answer("a program", 15))
    assert squad.to_squad(found) == GOOD


def test_questions_without_answer(tmp_path):
    """Read from a file of version 2.0, with or without is_impossible; plausible answers are none."""
    assert UNANSWERABLE["version"] == "v2.0"
    assert [p["qas"][0]["is_impossible"] for p in UNANSWERABLE["data"][0]["paragraphs"]] == [False, True]
    found = squad.read_squad(written(tmp_path, UNANSWERABLE))
    assert [q.answers for q in found] == [(Answer("Ada", 0),), ()]
    assert squad.to_squad(found) == UNANSWERABLE
    assert (squad.has_unanswerable(found), squad.has_unanswerable(found[:1])) == (True, False)
    plausible = [{"text": "Nobody", "answer_start": 0}]
    for change in (
        lambda p: p[1]["qas"][0].pop("is_impossible"),
        lambda p: p[1]["qas"][0].update(plausible_answers=plausible),
    ):
        assert squad.read_squad(written(tmp_path, changed(change, UNANSWERABLE))) == found
    assert squad.read_squad(written(tmp_path, UNANSWERABLE | {"version": "2.0"})) == found
    for version in ("1.1", "v1.1", 2.0, None):
        with pytest.raises(DataError, match=r"question 'b' has no answer, expected SQuAD 1\.1"):
            squad.read_squad(written(tmp_path, UNANSWERABLE | {"version": version}))


@pytest.mark.parametrize(
    ("number", "impossible", "message"),
    [
        (0, True, "question 'a' has is_impossible True and 1 answer, expected true with none"),
        (1, False, "question 'b' has is_impossible False and 0 answers, expected true with none"),
        (1, 1, "question 'b' has is_impossible 1 and 0 answers"),
    ],
)
def test_is_impossible_and_answers_agree(tmp_path, number, impossible, message):
    content = changed(lambda p: p[number]["qas"][0].update(is_impossible=impossible), UNANSWERABLE)
    with pytest.raises(DataError, match=message):
        squad.read_squad(written(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2"),
        ([], "contains a list, expected an object"),
        ({"data": []}, "contains no question"),
        ({"data": [{}]}, "not the format of SQuAD: KeyError 'paragraphs'"),
        (changed(lambda p: p[0]["qas"][0].pop("question")), "not the format of SQuAD: KeyError 'question'"),
        (changed(lambda p: p[0].update(context=3)), "not the format of SQuAD: TypeError 3, expected a text"),
        (
            changed(lambda p: p[0]["qas"][0]["answers"][0].update(answer_start=1)),
            "question 'a' has the answer 'Ada' at 1, where the context has 'da '",
        ),
        (
            changed(lambda p: p[0]["qas"][0]["answers"][0].update(answer_start=-3)),
            "question 'a' has the answer 'Ada' at -3",
        ),
        (changed(lambda p: p[0]["qas"][0].update(answers=[])), "question 'a' has no answer, expected SQuAD 1.1"),
        (changed(lambda p: p[0]["qas"][0].update(is_impossible=True)), "question 'a' has no answer"),
        (changed(lambda p: p[1]["qas"][0].update(id="a")), "two questions have the id 'a'"),
        (
            changed(lambda p: p[0]["qas"][0]["answers"][0].update(answer_start=0.0)),
            "TypeError 0.0, expected an integer",
        ),
        (
            changed(lambda p: p[0]["qas"][0]["answers"][0].update(answer_start="0")),
            "TypeError '0', expected an integer",
        ),
        (
            changed(lambda p: p[0]["qas"][0]["answers"][0].update(answer_start=False)),
            "TypeError False, expected an int",
        ),
        (changed(lambda p: p[0]["qas"][0]["answers"][0].update(text="")), "has the answer '' at 0"),
        (changed(lambda p: p[0]["qas"][0]["answers"][0].update(answer_start=99)), "at 99, where the context has ''"),
        (
            changed(lambda p: p[1].update(context="x\ud800" + p[1]["context"])),
            "data[0].paragraphs[1].context has the lone surrogate U+D800 at character 1",
        ),
        ('{"data": [NaN]}', "not valid JSON: data[0] is nan"),
        ('{"data": ' + "[" * 100_000, "objects or arrays are nested more than 64 deep"),
        ('{"data": [], "data": []}', "not valid JSON: the name 'data' occurs twice in an object"),
    ],
)
def test_faults_are_named(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(DataError) as error:
        squad.read_squad(path)
    assert str(error.value).startswith(f"read_squad({str(path)!r}): ")
    assert message in str(error.value)


def test_a_byte_order_mark_is_skipped_and_latin_1_is_named(tmp_path):
    path = tmp_path / "squad.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert [q.id for q in squad.read_squad(path)] == ["a", "b"]
    path.write_bytes(json.dumps(GOOD, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(DataError, match=r"byte 0xdc at offset \d+ is not UTF-8, expected a UTF-8 file"):
        squad.read_squad(path)


def test_no_such_file(tmp_path):
    for path, why in ((tmp_path / "none.json", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(DataError) as error:
            squad.read_squad(path)
        assert str(error.value) == f"read_squad({str(path)!r}): cannot be read ({why}), expected a JSON file"


def test_a_made_question():
    """The last of the words that an answer follows; the sentence with "what" in its place."""
    run = "The cat sat on the mat. A list is a sequence of the items. It returns the value to a caller today."
    letters = "bcdefghijklmnpq"
    more = [f"The {word} {k} ran over a hill of sand and stone. " for k in letters for word in ("dog", "cow", "ant")]
    training, held_out = squad.made_questions(f"{run} {''.join(more)}")
    first = training[0]
    assert (first.question, first.answers[0].text) == ("A list is a sequence of what?", "the items")
    assert first.context == run
    for q in (*training, *held_out):
        (answer,) = q.answers
        assert q.context[answer.start :].startswith(answer.text)


def sentence(words, k):
    """So many words, of which the last is asked for; different for each k."""
    return " ".join([f"Word{chr(97 + k % 26)}{chr(97 + k // 26)}", *["word"] * (words - 3), "of", "sand"]) + "."


@pytest.mark.parametrize(("words", "asked"), [(5, False), (6, True), (30, True), (31, False)])
def test_sentences_that_are_asked_about(words, asked):
    """6 to 30 words; of 30 sentences the last 3 are held out, and three make a context."""
    text = " ".join(sentence(words if k in (0, 27) else 8, k) for k in range(30))
    training, held_out = squad.made_questions(text)
    assert [q.id for q in training] == [str(k) for k in range(0 if asked else 1, 27)]
    assert [q.id for q in held_out] == [str(k) for k in range(0 if asked else 1, 3)]
    assert training[-1].context == " ".join(sentence(8, k) for k in (24, 25, 26))
    assert held_out[-1].context.endswith(sentence(8, 29))
    assert held_out[-1].question == sentence(8, 29).replace("sand.", "what?")


def test_the_part_that_is_held_out_is_rounded_and_a_colon_is_dropped():
    """2.6 of 26 sentences are 3; of the 23 others, 2 are in no context."""
    text = " ".join(sentence(8, k) for k in range(26))[:-1] + ":"
    training, held_out = squad.made_questions(text)
    assert [q.id for q in training] == [str(k) for k in range(21)]
    assert [q.id for q in held_out] == ["0", "1", "2"]
    assert held_out[-1].question == sentence(8, 25).replace("sand.", "what?")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One two three four.", True),
        ("One two three.", False),
        ("A table | of many words here.", False),
        ("* An item of a list here.", False),
        ("A * of a list here.", True),
        ("Words " * 49 + "word.", True),  # 299 characters
        ("Words " * 49 + "words.", False),
        ("abcd abcd abc abc (1-2)!", False),  # 14 letters of 20 marks are 7 tenths
        ("abcd abcd abc abcd (1-2)!", True),
    ],
)
def test_prose(text, kept):
    assert questions._is_prose(text) is kept


def test_the_set_of_the_text_that_comes_along():
    """Enough of them, from disjoint parts, always the same; each answer stands where it is said to."""
    training, held_out = squad.made_questions()
    assert (len(training) > 1500, len(held_out) > 150) == (True, True)
    assert (training, held_out) == squad.made_questions()
    assert not {q.context for q in training} & {q.context for q in held_out}
    for part in (training, held_out):
        assert len({q.id for q in part}) == len(part)
        for q in part:
            (answer,) = q.answers
            assert q.context[answer.start :].startswith(answer.text)
            assert "what" in q.question


def test_a_text_without_questions():
    with pytest.raises(DataError, match="yield no question"):
        squad.made_questions("One two. Three four.")
