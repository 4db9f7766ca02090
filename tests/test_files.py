import io
import os
import stat

import numpy as np
import pytest

from refscale.files import append_line, npy_array, write_atomically, write_json, write_npz


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


def test_json_has_no_infinity(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "f", {"x": float("inf")})
    assert not list(tmp_path.iterdir())


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
