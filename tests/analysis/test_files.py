import json
import math

import numpy as np
import pytest

from refscale.analysis import from_json, load, record, save, to_json
from refscale.analysis.files import SCHEMA
from refscale.errors import DataError
from tests.analysis.builders import report, spread, tensor


def test_round_trip(regular, unit, tmp_path):
    narrow = record("bert-tiny", "regular", "fp8", batch=1, seq=16)
    save(tmp_path / "r.json", [regular, unit, narrow])
    assert load(tmp_path / "r.json") == [regular, unit, narrow]
    content = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert content["schema"] == SCHEMA == "refscale.report/1"
    summary = content["reports"][0]["summary"]
    assert summary["outside"] == regular.summary().outside
    assert summary["worst"]["name"] == regular.summary().worst.name


def test_the_summary_in_a_file_by_hand():
    tensors = [
        tensor(spread(1.0), name="a"),
        tensor(spread(16.0), name="b"),
        tensor(spread(1.0), name="c", kind="activation"),
        tensor(np.zeros(4), name="d.bias", zero_because="biases"),
        tensor(np.zeros(4), name="e.bias", zero_because="biases"),
        tensor(spread(2.0**-9), name="f", kind="activation", damped=True),
    ]
    assert json.loads(to_json([report(tensors)]))["reports"][0]["summary"] == {
        "judged": {"weight": 2, "activation": 1, "activation gradient": 0, "weight gradient": 0},
        "outside": {"weight": 1, "activation": 0, "activation gradient": 0, "weight gradient": 0},
        "worst": {"name": "b", "kind": "weight", "scale": 16.0},
        "zero": {"biases": ["d.bias", "e.bias"]},
        "damped": ["f"],
    }


def test_a_loss_that_overflowed():
    r = report([tensor(spread(1.0))], losses={"loss_sum": math.inf, "mlm": -math.inf})
    assert from_json(to_json([r])) == [r]
    (back,) = from_json(to_json([report([tensor(spread(1.0))], losses={"loss_sum": math.nan})]))
    assert math.isnan(back.losses["loss_sum"])


def test_same_run_same_text(unit):
    assert to_json([unit]) == to_json([record("bert-tiny", "unit")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"schema": "refscale.report/9", "reports": []}',
            "schema is 'refscale.report/9', expected 'refscale.report/1'",
        ),
        ("{}", "KeyError 'schema', expected what to_json makes"),
        ("[1]", "TypeError"),
        ("no json", "JSONDecodeError"),
        ('{"schema": "refscale.report/1", "reports": [{}]}', "KeyError 'model'"),
    ],
)
def test_other_text(text, said):
    with pytest.raises(DataError, match=f"from_json: .*{said}"):
        from_json(text)
