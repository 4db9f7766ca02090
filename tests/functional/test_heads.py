"""The heads of BERT against a plain transcription, and their factors: none constrained."""

import math

import numpy as np

from refscale.engine import Tape
from refscale.models.bert import heads
from refscale.scales import regular, unit
from tests.functional.near import assert_near

BATCH, SEQ, WIDTH, WORDS, PLACES = 3, 5, 8, 20, 2


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in shapes]


def masked_lm(scheme):
    arrays = draw((BATCH, SEQ, WIDTH), (WIDTH, WIDTH), WIDTH, WIDTH, WIDTH, (WIDTH, WORDS), WORDS)
    positions = np.array([[0, 4], [1, 1], [3, 2]])
    tape = Tape(scheme, dtype=np.float64)
    h, *p = (tape.tensor(a) for a in arrays)
    given = {"transform": (p[0], p[1]), "norm": (p[2], p[3]), "decoder": (p[4], p[5])}
    logits = heads.masked_lm_head(h, positions, **given, eps=1e-12)
    return logits, arrays, positions


def test_masked_lm_head_is_the_published_one():
    logits, (h, w, b, gain, bias, decoder, shift), positions = masked_lm(regular)
    expected = np.empty((BATCH, PLACES, WORDS))
    for i in range(BATCH):
        for j in range(PLACES):
            x = h[i, positions[i, j]] @ w + b
            x = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
            x = (x - x.mean()) / math.sqrt(x.var() + 1e-12) * gain + bias
            expected[i, j] = x @ decoder + shift
    assert_near(logits.value, expected, 200)


def next_sentence(scheme):
    arrays = draw((BATCH, SEQ, WIDTH), (WIDTH, WIDTH), WIDTH, (WIDTH, 2), 2)
    tape = Tape(scheme, dtype=np.float64)
    h, *p = (tape.tensor(a) for a in arrays)
    return heads.next_sentence_head(h, pooler=(p[0], p[1]), classifier=(p[2], p[3])), arrays


def test_next_sentence_head_is_the_published_one():
    logits, (h, w, b, classifier, shift) = next_sentence(regular)
    assert_near(logits.value, np.tanh(h[:, 0] @ w + b) @ classifier + shift, 100)


def test_span_head_gives_starts_and_then_ends():
    h, w, b = draw((BATCH, SEQ, WIDTH), (WIDTH, 2), 2)
    tape = Tape(regular, dtype=np.float64)
    start, end = heads.span_head(*(tape.tensor(a) for a in (h, w, b)))
    assert_near(start.value, h @ w[:, 0] + b[0], 40)
    assert_near(end.value, h @ w[:, 1] + b[1], 40)


def test_no_factor_of_a_head_is_constrained():
    for output in (masked_lm(unit)[0], next_sentence(unit)[0]):
        for node in output.tape.nodes:
            assert node.scales == unit_factors(node)
    assert masked_lm(unit)[0].tape.nodes[-2].scales.alpha == WIDTH**-0.5


def unit_factors(node):
    shapes = [v.shape for v in node.inputs]
    return node.op.scale(*shapes, statistic="std") if node.op.has_mean else node.op.scale(*shapes)
