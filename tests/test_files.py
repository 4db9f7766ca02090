import io
import json
import math
import os
import stat

import numpy as np
import pytest

from refscale.files import append_line, json_text, npy_array, write_atomically, write_json


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


def test_failure_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_nothing_is_there_before_the_end(tmp_path):
    path = tmp_path / "f"
    write_atomically(path, lambda file: (file.write(b"new"), file.flush(), seen.append(path.exists())))
    assert seen == [False]
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.skipif(os.name != "posix", reason="file modes of POSIX")
def test_mode_is_that_of_any_new_file(tmp_path):
    write_atomically(tmp_path / "f", lambda file: file.write(b""))
    (tmp_path / "g").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == stat.S_IMODE((tmp_path / "g").stat().st_mode)


def test_no_directory(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "f", lambda file: None)


def test_lines_are_added_whole(tmp_path):
    append_line(tmp_path / "f", "σ = 1")
    append_line(tmp_path / "f", "σ = 2", durable=True)
    assert (tmp_path / "f").read_bytes() == "σ = 1\nσ = 2\n".encode()


def test_json_names_what_it_has_no_number_for(tmp_path):
    """As strings that ``float`` reads back, at any depth; a NumPy float64 is a float, too."""
    content = {"a": math.inf, "b": [-math.inf, (math.nan, 0.1)], "c": {"d": np.float64("inf"), "e": None, "f": "nan"}}
    write_json(tmp_path / "f", content)
    text = (tmp_path / "f").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=pytest.fail)  # called for the tokens NaN and Infinity, which are not JSON
    assert found == {"a": "inf", "b": ["-inf", ["nan", 0.1]], "c": {"d": "inf", "e": None, "f": "nan"}}
    assert [float(x) for x in (found["a"], found["b"][0], found["c"]["d"])] == [math.inf, -math.inf, math.inf]
    assert math.isnan(float(found["b"][1][0]))
    assert json_text({"σ": [1, 2.5]}) == '{"σ": [1, 2.5]}'
    with pytest.raises(TypeError):
        json_text({"x": np.float32(1)})


@pytest.mark.parametrize(
    "x",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
        np.array(-0.0),
        np.zeros((0, 4), np.uint8),
        np.array([True, False]),
    ],
)
def test_arrays_come_back_as_they_were(x):
    file = io.BytesIO()
    np.save(file, x)
    y = npy_array(file.getvalue())
    assert (y.dtype, y.shape, y.flags.f_contiguous) == (x.dtype, x.shape, x.flags.f_contiguous)
    assert y.tobytes() == x.tobytes()
    assert not y.flags.writeable
    for damaged in (file.getvalue()[:-1], file.getvalue() + b"x", file.getvalue()[1:], b""):
        with pytest.raises(ValueError, match="its header"):
            npy_array(damaged)


seen: list[bool] = []
