"""Pre-training of BERT as a task: a text is read once for many runs, and never for another text."""

from __future__ import annotations

import numpy as np

from refscale.data import Vocabulary, sentences
from refscale.models import bert
from refscale.scales import unit
from refscale.tasks import Setup
from refscale.tasks.masked_lm import MaskedLM
from tests.test_data import batches, made_text


def test_the_vocabulary_is_of_the_training_text_alone(tmp_path):
    """The last tenth of the sentences is held out: its words are unknown, be they the most frequent of all."""
    text = " ".join(["a b."] * 18 + ["new new new new new new new new."] * 2)
    (tmp_path / "text").write_text(text, encoding="utf-8")
    model = bert.BertConfig(layers=1, width=32, heads=2, hidden=64, vocabulary=50, positions=16)
    task = MaskedLM.of(Setup(model=model, scheme=unit, batch=4, seq=16), tmp_path / "text")
    assert (len(task.training), len(task.held_out)) == (18, 2)
    assert task.vocabulary.tokens[5:] == (".", "a", "b")
    assert task.model.vocabulary == 8
    (tmp_path / "text").write_text("a b. c d. e f. g h.", encoding="utf-8")  # of which a tenth is less than one
    task = MaskedLM.of(Setup(model=model, scheme=unit, batch=4, seq=16), tmp_path / "text")
    assert (task.training, task.held_out) == (("a b.", "c d.", "e f."), ("g h.",))


def test_a_task_reads_the_text_that_it_is_given(tmp_path):
    """In one process, one after the other: the cached values of a text belong to that text, share and vocabulary."""
    texts = {name: made_text(seed=seed) for name, seed in (("a", 1), ("b", 2))}
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name, held_out, words in (("a", 0.1, 50), ("b", 0.1, 50), ("b", 0.3, 50), ("b", 0.3, 40), ("a", 0.1, 50)):
        model = bert.BertConfig(layers=1, width=32, heads=2, hidden=64, vocabulary=words, positions=16)
        setup = Setup(model=model, scheme=unit, batch=4, seq=16, held_out=held_out)
        task = MaskedLM.of(setup, tmp_path / name)
        parts = sentences(texts[name])
        cut = len(parts) - round(held_out * len(parts))
        vocabulary = Vocabulary.from_text(" ".join(parts[:cut]), words)
        assert (task.training, task.held_out, task.vocabulary) == (tuple(parts[:cut]), tuple(parts[cut:]), vocabulary)
        found = next(task.batches(np.random.default_rng(0)))
        expected = next(batches(parts[:cut], vocabulary, batch=4, seq=16))
        np.testing.assert_array_equal(found.ids, expected.ids)
