import io
import json
import math
import os
import stat

import numpy as np
import pytest

from refscale import files
from refscale.errors import DataError, GoldenError
from refscale.files import (
    append_line,
    json_text,
    name_of,
    npy_array,
    parse_json,
    path_text,
    read_json,
    read_json_lines,
    read_lines,
    read_text,
    read_toml,
    write_atomically,
    write_json,
    write_npz,
)


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


# --- Text, JSON, TOML -------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "f"


def refused(call, *arguments):
    with pytest.raises(DataError) as error:
        call(*arguments)
    return str(error.value)


def test_a_line_ends_at_a_line_feed_and_at_nothing_else(path):
    """Python's splitlines would end one at eight other characters, too."""
    others = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\rj"
    path.write_bytes(f"{others}\n\nlast\r\n \n".encode())
    assert read_lines(path, "call") == [others, "", "last", " "]
    path.write_bytes(b"one\ntwo")
    assert read_lines(path, "call") == ["one", "two"]
    path.write_bytes(b"")
    assert read_lines(path, "call") == []


def test_one_byte_order_mark_is_skipped_everywhere(path):
    path.write_bytes('\ufeff{"a": "\ufeff"}\n'.encode())
    assert read_text(path, "call") == '{"a": "\ufeff"}\n'
    assert read_lines(path, "call") == ['{"a": "\ufeff"}']
    assert read_json(path, "call") == {"a": "\ufeff"}
    assert list(read_json_lines(path, "call")) == [{"a": "\ufeff"}]
    path.write_bytes("\ufeffa = 1".encode())
    assert read_toml(path, "call") == {"a": 1}
    path.write_bytes("\ufeff\ufeffa".encode())
    assert read_text(path, "call") == "\ufeffa"


@pytest.mark.parametrize("read", [read_text, read_lines, read_json, read_toml])
def test_what_is_not_utf8_is_named_with_its_place(path, read):
    for data, byte, offset in (("für".encode("latin-1"), "fc", 1), (b"\xff\xfex\x00", "ff", 0)):
        path.write_bytes(data)
        assert refused(read, path, "call") == (
            f"call: byte 0x{byte} at offset {offset} is not UTF-8, expected a UTF-8 file"
        )
    path.write_bytes(b"\xef\xbb\xbf\xed\xa0\x80")  # a lone surrogate after a byte order mark
    assert "byte 0xed at offset 3" in refused(read, path, "call")


def test_the_longest_file(path):
    assert (files.SETTINGS, files.DATA) == (2**24, 2**30)
    path.write_bytes(b"x" * 9)
    assert read_text(path, "call", most=9) == "x" * 9
    assert refused(read_text, path, "call", DataError, 8).startswith("call: more than 8 bytes")
    path.write_bytes(b'{"a": 1}')
    assert read_json(path, "call", most=8) == {"a": 1}
    assert "more than 7 bytes" in refused(read_json, path, "call", DataError, 7)


@pytest.mark.skipif(os.name != "posix", reason="a device without end")
def test_a_file_without_end(monkeypatch):
    monkeypatch.setattr(files, "SETTINGS", 2**21)
    assert "more than 2097152 bytes" in refused(read_toml, "/dev/zero", "call")


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")], ids=["arrays", "objects"])
def test_depth(path, opened, closed):
    """64 levels, the outermost included; also far beyond, where parsers run out of stack."""

    def nested(levels):
        return '{"x":' + opened * (levels - 1) + '""' + closed * (levels - 1) + "}"

    path.write_text(nested(64))
    found = read_json(path, "call")["x"]
    for _ in range(63):
        found = found["a"] if isinstance(found, dict) else found[0]
    assert found == ""
    for levels in (65, 100_000):
        path.write_text(nested(levels))
        assert refused(read_json, path, "call") == "call: objects or arrays are nested more than 64 deep"


def test_depth_of_toml(path):
    path.write_text("a = " + "[" * 63 + "]" * 63)
    read_toml(path, "call")
    for text in ("[" * 64 + "]" * 64, "[" * 10_000):
        path.write_text(f"a = {text}")
        assert refused(read_toml, path, "call") == "call: objects or arrays are nested more than 64 deep"
    path.write_text(f"{'.'.join('a' * 65)} = 1")  # without recursion in the parser
    assert "nested more than 64 deep" in refused(read_toml, path, "call")
    path.write_text("a = [\n1,\n")
    assert refused(read_toml, path, "call").startswith("call: not valid TOML: ")


NINES = "9" * 199


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ('{"a": 1,\n "b" 2}', "not valid JSON: Expecting ':' delimiter: line 2 column 6 (char 14)"),
        ("", "not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[]", "contains a list, expected an object"),
        ('{"a": {"b": [0, NaN]}}', "not valid JSON: a.b[1] is nan, expected a finite number"),
        ('{"a": Infinity}', "not valid JSON: a is inf, expected a finite number"),
        ('{"a": -Infinity}', "not valid JSON: a is -inf, expected a finite number"),
        ('{"a": [{"b": -1e999}]}', "not valid JSON: a[0].b is -inf, expected a finite number"),
        ('{"a": 1E+309}', "not valid JSON: a is inf, expected a finite number"),
        (f'{{"a": 9{"9" * 209}.0e99}}', "not valid JSON: a is inf, expected a finite number"),
        (f'{{"a": {"9" * 309}.0}}', "not valid JSON: a is inf, expected a finite number"),
        ('{"a": 1, "b": {"d": 2, "c": 1, "c": 3}}', "not valid JSON: the name 'c' occurs twice in an object"),
        (r'{"a": ["", "x\ud83d"]}', "a[1] has the lone surrogate U+D83D at character 1, expected Unicode text"),
        (r'{"a": {"\uDC00": 1}}', "a name in a has the lone surrogate U+DC00 at character 0, expected Unicode text"),
        ('{"a": 1' + "0" * 5000 + "}", "not valid JSON: Exceeds the limit (4300 digits) for integer string"),
    ],
)
def test_json_is_that_of_the_standard(path, text, said):
    path.write_text(text)
    assert refused(read_json, path, "call").startswith(f"call: {said}")
    assert refused(parse_json, text, "call").startswith(f"call: {said}")


def test_what_only_looks_amiss_in_json(path):
    """Pairs of surrogates, escaped backslashes, words, numbers near the ends of float64, a name in two objects."""
    path.write_text(r'{"a": ["\ud83d\ude00", "\\ud83d", "NaN"], "b": [1.7976931348623157e308], "c": {"a": 1e-999}}')
    assert read_json(path, "call") == {
        "a": ["😀", r"\ud83d", "NaN"],
        "b": [np.finfo(float).max],
        "c": {"a": 0},
    }
    path.write_text(f'{{"a": {NINES}e99, "b": {NINES}{NINES}}}')
    assert read_json(path, "call") == {"a": float(f"{NINES}e99"), "b": int(NINES * 2)}


def test_json_lines(path):
    """Split at line feeds alone; what follows the last one was cut off in a crash."""
    path.write_bytes('{"a": "x\u2028y\x85z"}\r\n{"a": "😀"}\n{"a": '.encode())
    assert list(read_json_lines(path, "call")) == [{"a": "x\u2028y\x85z"}, {"a": "😀"}]
    for wrong, said in (
        (b'{"a": "\xff"}', "byte 0xff at offset 7 is not UTF-8, expected a UTF-8 file"),
        (b"[1]", "contains a list, expected an object"),
        (b"", "not valid JSON: Expecting value: line 1 column 1 (char 0)"),
    ):
        path.write_bytes(b'{"a": 1}\n' + wrong + b'\n{"a": 2}\n')
        rows = read_json_lines(path, "call")
        assert next(rows) == {"a": 1}
        assert refused(next, rows) == f"call, record 2: {said}"
    path.write_bytes(b"")
    assert list(read_json_lines(path, "call")) == []


def test_the_error_is_of_the_class_that_is_asked_for(path):
    path.write_bytes(b"\xff")
    for read in (read_text, read_lines, read_json, read_toml):
        with pytest.raises(GoldenError, match=r"^call: byte"):
            read(path, "call", GoldenError)
        with pytest.raises(FileNotFoundError):
            read(path.parent / "none", "call")


@pytest.mark.skipif(os.name != "posix", reason="file names of any bytes")
def test_the_name_of_a_path_is_text(tmp_path):
    assert path_text(os.fsdecode(b"a/m\xffd/b")) == "a/m\ufffdd/b"
    assert name_of(tmp_path / "modèle") == "modèle"
    assert name_of(os.fsdecode(os.fsencode(tmp_path) + b"/m\xffd")) == "m\ufffdd"
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert name_of(tmp_path / "c" / ".." / "b") == "a"


# --- Arrays -----------------------------------------------------------------------------------------------------------


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


def test_an_npz_holds_its_arrays_alone_and_always_the_same_bytes(tmp_path):
    arrays = {"meta": np.frombuffer(b"{}", np.uint8), "parameter/w": np.arange(6.0).reshape(2, 3).T, "t": np.array(2)}
    for name in ("a", "b"):
        write_npz(tmp_path / name, arrays)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with np.load(tmp_path / "a") as found:
        assert list(found) == list(arrays)
        for name, x in arrays.items():
            assert (found[name].dtype, found[name].tolist()) == (x.dtype, x.tolist())


def test_an_npz_of_objects_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_npz(tmp_path / "a", {"x": np.array([{}])})
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full")  # noqa: PTH110
def test_an_npz_on_a_full_disk_is_one_error():
    """Not a second one when the garbage collector closes the file, which would fail this test as a warning."""
    with pytest.raises(OSError, match="No space left") as error:
        write_npz("/dev/full", {"a": np.zeros(10**5)})
    assert error.value.filename == "/dev/full"


seen: list[bool] = []
