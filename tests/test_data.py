"""Text, vocabulary and batches: invariants by Hypothesis, shares by counting, every message pinned."""

import dataclasses
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from refscale.data import CLS, IGNORE, MASK, PAD, SEP, SPECIALS, UNK, Vocabulary, load_text, sentences
from refscale.errors import ArgumentError, DataError
from refscale.tasks import masked_lm_batches

WORDS = [a + b for a in "bcdfghjklm" for b in "aeiou"]


def made_text(seed=0, count=400):
    """Sentences of 1 to 12 words; small numbers and commas among them."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 13, count)
    return " ".join(" ".join([*rng.choice(WORDS, n), ",", str(rng.integers(10))]) + "." for n in lengths)


TEXT = made_text()
VOCABULARY = Vocabulary.from_text(TEXT, 50)  # of 62 words, so that some are unknown


def batches(text=TEXT, vocabulary=VOCABULARY, *, batch=4, seq=32, seed=0, **options):
    return masked_lm_batches(text, vocabulary, batch=batch, seq=seq, rng=np.random.default_rng(seed), **options)


# --- Text -------------------------------------------------------------------------------------------------------------


def test_the_text_that_comes_with_python():
    text = load_text()
    assert text == load_text()
    assert len(text) > 300_000
    assert len(sentences(text)) > 1000
    assert len(Vocabulary.from_text(text, 2048)) == 2048


def test_a_file_of_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffGrüße.\r\nÀ bientôt!".encode())
    assert load_text(path) == load_text(str(path)) == "Grüße.\r\nÀ bientôt!"


def test_files_that_hold_no_text(tmp_path):
    def message(path):
        with pytest.raises(DataError) as caught:
            load_text(path)
        return str(caught.value)

    missing, empty, blank, latin = (tmp_path / name for name in ("missing", "empty", "blank", "latin"))
    empty.write_bytes(b"")
    blank.write_bytes(b" \n\t ")
    latin.write_bytes("für".encode("latin-1"))
    for path, why in ((missing, "No such file or directory"), (tmp_path, "Is a directory")):
        assert message(path) == f"load_text({str(path)!r}): cannot be read ({why}), expected a UTF-8 file"
    for path, count in ((empty, 0), (blank, 4)):
        expected = f"contains no text ({count} characters), expected a UTF-8 file with words"
        assert message(path) == f"load_text({str(path)!r}): {expected}"
    assert message(latin) == f"load_text({str(latin)!r}): byte 0xfc at offset 1 is not UTF-8, expected a UTF-8 file"


def test_a_file_that_cannot_be_read(monkeypatch):
    def refuse(self, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError) as caught:
        load_text("secret")
    assert str(caught.value) == "load_text('secret'): cannot be read (Permission denied), expected a UTF-8 file"


def test_a_python_without_its_help_topics(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError) as caught:
        load_text()
    assert str(caught.value) == "load_text(): this Python has no pydoc_data, expected a path to a UTF-8 file"


def test_sentences():
    text = "One 1.5 two.  Three?\nFour!\n\nNo end\r\n \r\n  five\nsix...\n\n\n"
    assert sentences(text) == ["One 1.5 two.", "Three?", "Four!", "No end", "five six..."]
    assert sentences(" \n\n ") == []


@given(st.text(alphabet="ab.?! \n\t"))
def test_sentences_lose_nothing_but_white_space(text):
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


# --- Vocabulary -------------------------------------------------------------------------------------------------------


def test_words_by_frequency_then_alphabet():
    vocabulary = Vocabulary.from_text("B b a A c-12 12 ! Don't_do", 9)
    assert vocabulary.tokens == (*SPECIALS, "12", "a", "b", "!")
    assert len(vocabulary) == 9
    assert len(Vocabulary.from_text("a b a", 100)) == 7  # smaller than asked for
    assert [SPECIALS[i] for i in (PAD, UNK, CLS, SEP, MASK)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_encode_and_decode():
    vocabulary = Vocabulary.from_text("the cat, the dog", 100)
    ids = vocabulary.encode("The DOG, the bird")
    assert ids.dtype == np.int32
    assert ids.tolist() == [5, 8, 6, 5, UNK]
    assert vocabulary.decode(ids) == "the dog , the [UNK]"
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.decode([]) == ""
    assert UNK in vocabulary.encode("[MASK]")
    assert MASK not in vocabulary.encode("[MASK]")  # a text cannot say a special


@given(st.text(min_size=1))
def test_known_text_survives_decoding(text):
    try:
        vocabulary = Vocabulary.from_text(text, 6 + 3 * len(text))  # one character may become three in lower case
    except DataError:
        reject()
    ids = vocabulary.encode(text)
    assert UNK not in ids
    np.testing.assert_array_equal(vocabulary.encode(vocabulary.decode(ids)), ids)


def test_spans_are_where_the_words_of_encode_stand():
    """Characters counted by hand; İ is the one character whose lower case has two, and both of them are its own."""
    every = "".join(map(chr, range(0x110000)))
    assert (len(every.lower()), len("İ".lower())) == (len(every) + 1, 2)
    vocabulary = Vocabulary.from_text("i stanbul \u0307 in ΑΣ, to", 99)
    text = "In İSTANBUL, İn\u2028ΑΣ to"
    ids, where = vocabulary.spans(text)
    assert ids.tolist() == vocabulary.encode(text).tolist()
    assert [vocabulary.tokens[i] for i in ids] == [
        *["in", "i", "\u0307", "stanbul", ",", "i", "\u0307", "[UNK]", "ας", "to"],
    ]
    assert where.tolist() == [
        *([0, 2], [3, 4], [3, 4], [4, 11], [11, 12], [13, 14], [13, 14], [14, 15], [16, 18], [19, 21]),
    ]
    assert (ids.dtype, where.dtype) == (np.int32, np.int64)
    assert [x.shape for x in vocabulary.spans("")] == [(0,), (0, 2)]


def test_vocabulary_errors():
    def message(error, call, *args):
        with pytest.raises(error) as caught:
            call(*args)
        return str(caught.value)

    from_text = Vocabulary.from_text
    assert message(ArgumentError, from_text, "a", 5) == (
        "Vocabulary.from_text(size=5): expected at least 6, five specials and a word"
    )
    assert message(DataError, from_text, " \n ", 9) == (
        "Vocabulary.from_text: no word in a text of 3 characters, expected at least one"
    )
    assert message(ArgumentError, Vocabulary, ("a", "b")) == (
        f"Vocabulary: tokens start ('a', 'b'), expected {SPECIALS} and then words"
    )
    assert message(ArgumentError, Vocabulary, (*SPECIALS, "a", "b", "a")) == (
        "Vocabulary: 'a' occurs more than once, expected different tokens"
    )
    vocabulary = Vocabulary((*SPECIALS, "a"))
    assert message(ArgumentError, vocabulary.decode, [5, 6]) == "Vocabulary.decode: id 6, expected 0 … 5"
    assert message(ArgumentError, vocabulary.decode, [-1]) == "Vocabulary.decode: id -1, expected 0 … 5"
    assert message(ArgumentError, vocabulary.decode, [1.0]) == "Vocabulary.decode: ids are float64, expected integers"


def test_vocabulary_is_a_value():
    assert Vocabulary.from_text(TEXT, 50) == VOCABULARY
    assert hash(Vocabulary.from_text(TEXT, 50)) == hash(VOCABULARY)
    with pytest.raises(dataclasses.FrozenInstanceError):
        VOCABULARY.tokens = ()


# --- Batches: invariants ----------------------------------------------------------------------------------------------


def restored(b):
    """The ids before masking."""
    ids = b.ids.copy()
    rows, columns = np.nonzero(b.labels != IGNORE)
    ids[rows, b.positions[rows, columns]] = b.labels[rows, columns]
    return ids


def check_structure(b, batch, seq, p, vocabulary_size):
    """Properties of every batch, for any draw."""
    for array, shape in [
        (b.ids, (batch, seq)),
        (b.segments, (batch, seq)),
        (b.positions, (batch, p)),
        (b.labels, (batch, p)),
    ]:
        assert (array.shape, array.dtype) == (shape, np.int32)
    assert (b.mask.shape, b.mask.dtype) == ((batch, seq), np.bool_)
    assert (b.is_next.shape, b.is_next.dtype) == ((batch,), np.int32)
    assert set(b.is_next.tolist()) <= {0, 1}
    assert b.ids.min() >= 0
    assert b.ids.max() < vocabulary_size
    np.testing.assert_array_equal(b.mask, b.ids != PAD)
    for ids, segments, mask, positions, labels in zip(
        restored(b), b.segments, b.mask, b.positions, b.labels, strict=True
    ):
        length = int(mask.sum())
        assert mask[:length].all()  # padding only at the end
        middle, end = np.flatnonzero(ids == SEP)
        assert (ids[0], end) == (CLS, length - 1)
        assert 1 < middle < end - 1  # neither part is empty
        assert np.count_nonzero(np.isin(ids, (CLS, MASK))) == 1
        np.testing.assert_array_equal(segments, (np.arange(seq) > middle) & mask)
        count = int(np.count_nonzero(labels != IGNORE))
        assert count == min(p, np.count_nonzero(ids >= len(SPECIALS)))
        assert (labels[:count] >= len(SPECIALS)).all()  # specials are never chosen
        assert (labels[count:] == IGNORE).all()
        assert (positions[count:] == 0).all()
        assert (np.diff(positions[:count]) > 0).all()


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 4),
    seq=st.integers(8, 80),
    seed=st.integers(0, 2**32),
    size=st.integers(6, 70),
    share=st.floats(0.01, 1.0),
    count=st.integers(30, 60),
)
def test_structure(batch, seq, seed, size, share, count):
    text = made_text(seed, count)
    vocabulary = Vocabulary.from_text(text, size)
    made = batches(text, vocabulary, batch=batch, seq=seq, seed=seed, mask_share=share)
    for b in itertools.islice(made, 2):
        check_structure(b, batch, seq, max(1, round(share * seq)), len(vocabulary))


def test_parts_are_runs_of_the_text_and_is_next_is_true():
    # A text in which every word occurs once, so that a place can be read off an id.
    names = ["".join(c) for c in itertools.product("abcdefghij", repeat=3)]
    text = [" ".join(names[i : i + 5]) for i in range(0, 1000, 5)]
    vocabulary = Vocabulary.from_text(" ".join(text), 2000)
    seen = set()
    for b in itertools.islice(batches(text, vocabulary, seq=40, batch=8), 20):
        for ids, segments, mask, is_next in zip(restored(b), b.segments, b.mask, b.is_next, strict=True):
            a = ids[1 : np.flatnonzero(ids == SEP)[0]]
            z = ids[(segments == 1) & (ids != SEP)]
            assert (np.diff(a) == 1).all()
            assert (np.diff(z) == 1).all()
            assert (z[0] - 5) % 5 == 0  # begins with a sentence
            assert (z[0] == a[-1] + 1) == is_next
            assert z[0] not in a
            assert len(a) == (40 - 3) // 2 or a[-1] == len(vocabulary) - 6  # shorter only at the end of the text
            assert mask.all() or z[-1] == len(vocabulary) - 1  # padded only where the text ends
            seen.add((int(is_next), bool(mask.all())))
    assert seen >= {(0, True), (1, True), (0, False)}


def test_every_pair_that_may_be_drawn():
    """Of five sentences of three tokens, and no other: (start and length of A, start and length of B, B follows A).

    A takes sentences up to six tokens, and leaves one to follow. B is that one, or neither in A nor that one; it ends
    where twelve tokens, the text, or A before it do.
    """
    vocabulary = Vocabulary((*SPECIALS, *"abcdefghijklmno"))
    numbered = [np.arange(5 + 3 * i, 8 + 3 * i, dtype=np.int32) for i in range(5)]  # token k of the text: 5 + k
    seen = set()
    for b in itertools.islice(batches(numbered, vocabulary, seq=15, batch=16), 40):
        for ids, segments, mask, is_next in zip(restored(b), b.segments, b.mask, b.is_next, strict=True):
            a, z = ids[(segments == 0) & mask][1:-1], ids[segments == 1][:-1]
            assert (np.diff(a) == 1).all()
            assert (np.diff(z) == 1).all()
            seen.add((int(a[0]) - 5, len(a), int(z[0]) - 5, len(z), int(is_next)))
    follow = {(0, 6, 6, 6, 1), (3, 6, 9, 6, 1), (6, 6, 12, 3, 1), (9, 3, 12, 3, 1)}
    after = {(0, 6, 9, 6, 0), (0, 6, 12, 3, 0), (3, 6, 12, 3, 0)}
    before = {(3, 6, 0, 3, 0), (6, 6, 0, 6, 0), (6, 6, 3, 3, 0), (9, 3, 0, 9, 0), (9, 3, 3, 6, 0), (9, 3, 6, 3, 0)}
    assert seen == follow | after | before


def test_words_that_are_too_few_leave_places_ignored():
    text = "a b. c d. e f."
    b = next(batches(text, Vocabulary.from_text(text, 99), seq=16, batch=3, mask_share=1.0))
    assert b.labels.shape == (3, 16)
    assert ((b.labels == IGNORE).sum(axis=1) > 0).all()
    check_structure(b, 3, 16, 16, 12)


def test_sentences_may_be_given():
    b, c = next(batches(TEXT)), next(batches(sentences(TEXT)))
    for f in dataclasses.fields(b):
        np.testing.assert_array_equal(getattr(b, f.name), getattr(c, f.name))


# --- Batches: chance --------------------------------------------------------------------------------------------------

Z = 6.5
"""Two-sided false-alarm rate erfc(6.5/√2) = 8e-11 for each of the 6 counts below: 5e-10 together."""


def z_score(hits, trials, share):
    return (hits - trials * share) / math.sqrt(trials * share * (1 - share)) if trials else 0.0


def check_chance(make):
    """The rule 80/10/10, over random words alike, and half of the pairs true; ``make(seed)`` makes the batches."""
    rows = list(itertools.islice(make(0), 400))
    chosen = np.concatenate([b.labels[b.labels != IGNORE] for b in rows])
    places = [np.take_along_axis(b.ids, b.positions, axis=1)[b.labels != IGNORE] for b in rows]
    found = np.concatenate(places)
    assert (chosen >= len(SPECIALS)).all(), "a special was chosen"
    n, words = len(chosen), len(VOCABULARY) - len(SPECIALS)
    masked, same = found == MASK, found == chosen
    other = found[~masked & ~same]
    pairs = np.concatenate([b.is_next for b in rows])
    scores = {
        "masked": z_score(masked.sum(), n, 0.8),
        "unchanged": z_score(same.sum(), n, 0.1 + 0.1 / words),  # a random word may be the same
        "other": z_score(len(other), n, 0.1 - 0.1 / words),
        # The random words are uniform; those that hit the original are missing, which is a shift far below the error.
        "low half": z_score((other < len(SPECIALS) + words // 2).sum(), len(other), words // 2 / words),
        "is next": z_score(pairs.sum(), len(pairs), 0.5),
        # Each row's chosen places are alike early and late among its words.
        "early": early_score(rows),
    }
    wrong = {name: round(float(z), 1) for name, z in scores.items() if not abs(z) <= Z}
    assert not wrong, f"standard errors away: {wrong}"


def early_score(rows):
    """How far the number of chosen places in A is from the share of maskable words that stand there."""
    got = expected = variance = 0.0
    for b in rows:
        ids = restored(b)
        maskable = ids >= len(SPECIALS)
        for k, in_a, m in zip(
            (b.labels != IGNORE).sum(1), (maskable & (b.segments == 0)).sum(1), maskable.sum(1), strict=True
        ):
            expected += k * in_a / m
            variance += k * in_a / m * (1 - in_a / m) * (m - k) / max(m - 1, 1)  # hypergeometric
        places = np.take_along_axis(b.segments, b.positions, axis=1)
        got += float(((places == 0) & (b.labels != IGNORE)).sum())
    return (got - expected) / math.sqrt(variance)


def test_chance():
    check_chance(lambda seed: batches(batch=16, seed=seed))


def rewritten(change):
    """The true batches, changed by ``change(ids, positions, labels, rng)`` in place."""

    def make(seed):
        rng = np.random.default_rng(99)
        for b in batches(batch=16, seed=seed):
            change(b, rng)
            yield b

    return make


def set_chosen(b, values):
    rows, columns = np.nonzero(b.labels != IGNORE)
    b.ids[rows, b.positions[rows, columns]] = values


def all_masked(b, rng):
    set_chosen(b, MASK)


def ninety_five_five(b, rng):
    fate = rng.random(b.labels.shape)
    words = rng.integers(len(SPECIALS), len(VOCABULARY), b.labels.shape)
    values = np.where(fate < 0.9, MASK, np.where(fate < 0.95, words, b.labels))
    set_chosen(b, values[b.labels != IGNORE])


def one_random_word(b, rng):
    random = ~np.isin(b.ids, (MASK,)) & (b.ids != restored(b))
    b.ids[random] = len(SPECIALS)


def masks_specials(b, rng):
    b.ids[:, 0], b.positions[:, 0], b.labels[:, 0] = MASK, 0, CLS


def first_places(b, rng):
    original = restored(b)
    for row, ids in enumerate(original):
        k = int((b.labels[row] != IGNORE).sum())
        b.positions[row, :k] = np.flatnonzero(ids >= len(SPECIALS))[:k]
        b.labels[row, :k] = ids[b.positions[row, :k]]
    b.ids[:] = original
    fate = rng.random(b.labels.shape)
    words = rng.integers(len(SPECIALS), len(VOCABULARY), b.labels.shape)
    values = np.where(fate < 0.8, MASK, np.where(fate < 0.9, words, b.labels))
    set_chosen(b, values[b.labels != IGNORE])


def mostly_next(b, rng):
    b.is_next[rng.random(len(b.is_next)) < 0.2] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (all_masked, "masked"),
        (ninety_five_five, "masked"),
        (one_random_word, "low half"),
        (masks_specials, "a special was chosen"),
        (first_places, "early"),
        (mostly_next, "is next"),
    ],
)
def test_wrong_makers_are_rejected(change, message):
    with pytest.raises(AssertionError, match=message):
        check_chance(rewritten(change))


@pytest.mark.parametrize("change", ["segments", "mask", "order"])
def test_wrong_structures_are_rejected(change):
    b = next(batches())
    if change == "segments":
        b.segments[:, 0] = 1
    elif change == "mask":
        b.mask[0, -1] ^= True
    else:
        b.positions[:] = b.positions[:, ::-1].copy()
    with pytest.raises(AssertionError):
        check_structure(b, 4, 32, 5, len(VOCABULARY))


def test_the_same_seed_gives_the_same_batches():
    for first, second in itertools.islice(zip(batches(seed=7), batches(seed=7), strict=True), 3):
        for f in dataclasses.fields(first):
            np.testing.assert_array_equal(getattr(first, f.name), getattr(second, f.name))
    assert not np.array_equal(next(batches(seed=7)).ids, next(batches(seed=8)).ids)


def test_pinned():
    """The first batch of seed 0, to reveal a change of the draws or of their order.

    (NumPy keeps the streams of its generators from release to release, but reserves the right to change them.)
    """
    b = next(batches(batch=2, seq=16))
    assert (b.ids.tolist(), b.positions.tolist(), b.labels.tolist(), b.is_next.tolist()) == PINNED


PINNED = (
    [
        [2, 1, 33, 42, 5, 1, 4, 3, 31, 38, 46, 42, 16, 25, 26, 3],
        [2, 20, 33, 8, 5, 1, 6, 3, 40, 47, 48, 46, 30, 41, 4, 3],
    ],
    [[6, 10], [9, 14]],
    [[6, 22], [24, 5]],
    [1, 0],
)

# --- Batches: errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch": 0}, ArgumentError, "masked_lm_batches(batch=0): expected at least 1"),
        ({"seq": 7}, ArgumentError, "masked_lm_batches(seq=7): expected at least 8"),
        ({"mask_share": 0.0}, ArgumentError, "masked_lm_batches(mask_share=0.0): expected 0 < mask_share ≤ 1"),
        ({"mask_share": math.nan}, ArgumentError, "masked_lm_batches(mask_share=nan): expected 0 < mask_share ≤ 1"),
        (
            {"text": "ba be. bi bo."},
            DataError,
            "masked_lm_batches(seq=32): 2 sentences of 6 words together, "
            "expected 14 words, a sentence that follows them and one elsewhere "
            "(a sentence ends at . ? ! before white space, or at a blank line)",
        ),
        (
            {"text": ""},
            DataError,
            "masked_lm_batches(seq=32): 0 sentences of 0 words together, "
            "expected 14 words, a sentence that follows them and one elsewhere "
            "(a sentence ends at . ? ! before white space, or at a blank line)",
        ),
        (
            {"text": ["xx", "yy", "zz"] * 9},
            DataError,
            "masked_lm_batches: none of 27 words is in the vocabulary, expected some",
        ),
    ],
)
def test_errors_come_with_the_call(options, error, message):
    with pytest.raises(error) as caught:
        batches(**options)  # before the first batch is asked for
    assert str(caught.value) == message


def test_a_random_second_part_shares_nothing_with_the_first():
    """Every word of this text occurs once, so that a shared place would show."""
    words = ["".join(chr(97 + (i // 26**k) % 26) for k in range(4)) for i in range(600)]
    text = " ".join(w + ("." if i % 5 == 4 else "") for i, w in enumerate(words))
    vocabulary = Vocabulary.from_text(text, 1000)
    full_stop = vocabulary.tokens.index(".")
    batches = masked_lm_batches(text, vocabulary, batch=64, seq=128, rng=np.random.default_rng(0), mask_share=1e-9)
    for _ in range(5):
        batch = next(batches)
        for ids, segments, mask, follows in zip(batch.ids, batch.segments, batch.mask, batch.is_next, strict=True):
            real = mask & (ids >= len(SPECIALS)) & (ids != full_stop)
            a, b = set(ids[real & (segments == 0)]), set(ids[real & (segments == 1)])
            assert follows or not a & b


def test_a_text_its_sentences_and_their_ids_give_the_same_batches():
    parts = sentences(TEXT)
    first, *others = (next(batches(x)) for x in (TEXT, parts, tuple(map(VOCABULARY.encode, parts))))
    for other in others:
        for name, x in vars(first).items():
            np.testing.assert_array_equal(x, getattr(other, name))
