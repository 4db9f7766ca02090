"""Negative controls: each wrong backend is rejected, by a vector that carries its flag; and every flag has one."""

import json
from collections import defaultdict

import pytest

from refscale.golden import FLAGS, load
from refscale.golden.kit import METHODS, judge
from tests.golden import wrong_blocks, wrong_contents, wrong_formats  # noqa: F401, register their controls
from tests.golden.wrong import CONTROLS, RIGHT

VECTORS = list(load().values())


def overridden(kind):
    return next(m for m in METHODS if m in vars(kind))


def deviates(result):
    """It fails by its bits; a wrong backend that merely raises would prove nothing."""
    assert "raised" not in result.reason, result.reason
    return result.verdict == "fail" and (result.mismatch is not None or "not rounded" in result.reason)


@pytest.mark.parametrize(("flag", "kind"), CONTROLS, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_a_wrong_backend_fails_at_its_flag(flag, kind):
    backend, method = kind(), overridden(kind)
    chosen = [v for v in VECTORS if v.op == method and flag in v.flags and not v.bulk]
    assert chosen, f"no vector of {method} carries {flag}"
    assert any(deviates(judge(backend, v)) for v in chosen)


def test_every_flag_has_a_wrong_backend():
    assert set(FLAGS) == {flag for flag, _ in CONTROLS}
    assert len({kind for _, kind in CONTROLS}) >= 30


FORMATS = ("format", "a_format", "b_format", "element_format", "store", "operand", "operand_gradient")


def formats_of(vector):
    """The formats of a vector; of a model the precision, of a layout its name."""
    found = {vector.attributes[key] for key in FORMATS if vector.attributes.get(key)}
    return found or {vector.attributes.get("precision", vector.attributes.get("layout", "float32"))}


def without_control(vectors, controls):
    """(op, flag, format) of vectors that no wrong backend of that flag fails.

    The flag ``convention`` is left out: ``test_conventions`` has a wrong backend for every pair of names and format.
    """
    places, kinds, verdicts = defaultdict(list), defaultdict(list), {}
    for v in vectors:
        for flag in set(v.flags) - {"convention"}:
            for format in formats_of(v):
                places[v.op, flag, format].append(v)
    for flag, kind in controls:
        kinds[overridden(kind), flag].append(kind())

    def fails(backend, v):
        key = backend.name, v.id
        if key not in verdicts:
            result = judge(backend, v)
            verdicts[key] = deviates(result) if "raised" not in result.reason else False
        return verdicts[key]

    def covered(op, flag, vectors):
        return any(fails(backend, v) for backend in kinds[op, flag] for v in vectors)

    return sorted(place for place, found in places.items() if not covered(*place[:2], found))


def test_every_flag_fails_somewhere_in_every_format_that_carries_it():
    found = without_control([v for v in VECTORS if not v.bulk], CONTROLS)
    assert not found, f"flags without a wrong backend in a format: {found}"


def test_a_flag_without_a_control_is_found():
    vectors = [v for v in VECTORS if v.op == "decode" and not v.bulk and "float8" in v.id]
    controls = [(flag, kind) for flag, kind in CONTROLS if overridden(kind) == "decode" and flag != "sign"]
    missing = without_control(vectors, controls)
    assert {flag for _, flag, _ in missing} == {"sign"}
    assert ("decode", "sign", "float8_e5m2") in missing


def test_every_flag_of_a_vector_is_known():
    assert {f for v in VECTORS for f in v.flags} == set(FLAGS)


def fails_nowhere(vectors):
    results = [judge(RIGHT, v) for v in vectors]
    of_others = [r for r in results if r.verdict == "not implemented"]
    assert {r.verdict for r in results} - {"not implemented"} == {"same bits"}
    assert all(r.vector.family == "convention" and r.reason.startswith("convention ") for r in of_others)


def without_repetition(vectors):
    """Without further vectors of the same op, attributes and shapes, as the calls of a model have them."""
    first = {}
    for v in vectors:
        shapes = [(name, x.shape) for name, x in v.inputs.items()]
        first.setdefault(json.dumps([v.attributes, shapes]) if v.family == "model" else v.id, v)
    return list(first.values())


@pytest.mark.parametrize("method", METHODS)
def test_the_right_backend_fails_nowhere(method):
    fails_nowhere(without_repetition(v for v in VECTORS if v.op == method and not v.bulk))


@pytest.mark.slow
def test_the_right_backend_fails_at_no_vector():
    fails_nowhere(v for v in VECTORS if not v.bulk)
