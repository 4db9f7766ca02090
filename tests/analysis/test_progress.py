import io

import pytest

from refscale.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


def clock(step=1.0):
    times = iter(i * step for i in range(1000))
    return lambda: next(times)


def test_step_rate_and_time_left():
    with Progress(10, "steps", "train", visible=False, clock=clock()) as progress:
        progress.advance(4)
        assert progress.line(2.0, "loss 1.5") == "train   4/10 steps   2 steps/s   0:03 left   loss 1.5"


def test_before_the_first_step():
    with Progress(10, visible=False, clock=clock(0.0)) as progress:
        assert progress.line(0.0) == "0/10 steps   0 steps/s"


def test_drawn_on_a_terminal_and_wiped():
    stream = Terminal()
    with Progress(3, label="x", stream=stream, clock=clock()) as progress:
        progress.advance()
        progress.advance()
    drawn = stream.getvalue().split("\r")
    assert drawn[1].startswith("x   1/3 steps")
    assert drawn[2].startswith("x   2/3 steps")
    assert drawn[-2].strip() == drawn[-1] == ""


def test_wiped_on_an_error():
    stream = Terminal()

    def fail():
        with Progress(3, stream=stream, clock=clock()) as progress:
            progress.advance()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert stream.getvalue().endswith(" \r")


def test_not_more_often_than_ten_times_a_second():
    stream = Terminal()
    with Progress(1000, stream=stream, clock=clock(0.01)) as progress:
        for _ in range(100):
            progress.advance()
    assert 8 <= stream.getvalue().count("\r") - 2 <= 10


def test_quiet_when_piped():
    stream = io.StringIO()
    with Progress(3, stream=stream, clock=clock()) as progress:
        progress.advance()
    assert stream.getvalue() == ""


def test_no_wider_than_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    with Progress(3, stream=stream, clock=clock()) as progress:
        progress.advance(1, "a long note " * 10)
    assert max(map(len, stream.getvalue().split("\r"))) == 39


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (247, "4:07"), (3847, "1:04:07")])
def test_duration(seconds, text):
    assert duration(seconds) == text
