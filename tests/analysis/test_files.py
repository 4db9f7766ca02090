import json
import math
import os
import stat

import pytest

from refscale.analysis import from_json, load, record, save, to_json
from refscale.analysis.files import SCHEMA, write_atomically
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


def test_a_link_is_followed(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_atomically(tmp_path / "link", lambda file: file.write(b"new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", lambda file: file.write(b"new"))
    assert os.read(reader, 9) == b"new"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


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


class TestWriteAtomically:
    def test_failure_leaves_the_old_file_alone(self, tmp_path):
        path = tmp_path / "f"
        path.write_bytes(b"old")

        def fail(file):
            file.write(b"half")
            raise RuntimeError("disk full")

        with pytest.raises(RuntimeError, match="disk full"):
            write_atomically(path, fail)
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["f"]

    def test_nothing_is_there_before_the_end(self, tmp_path):
        path = tmp_path / "f"
        write_atomically(path, lambda file: (file.write(b"new"), file.flush(), seen.append(path.exists())))
        assert seen == [False]
        assert path.read_bytes() == b"new"
        assert [p.name for p in tmp_path.iterdir()] == ["f"]

    @pytest.mark.skipif(os.name != "posix", reason="file modes of POSIX")
    def test_mode_is_that_of_any_new_file(self, tmp_path):
        write_atomically(tmp_path / "f", lambda file: file.write(b""))
        (tmp_path / "g").write_bytes(b"")
        assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == stat.S_IMODE((tmp_path / "g").stat().st_mode)

    def test_no_directory(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            write_atomically(tmp_path / "none" / "f", lambda file: None)


seen: list[bool] = []
