"""One line on stderr with the progress of a long run: step, rate, remaining time; only on a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

__all__ = ["INTERVAL", "Progress", "duration"]

INTERVAL = 0.1
"""Seconds between redraws of the line."""


class Progress:
    """A progress line, drawn while a ``with`` block runs and erased at its end.

    ::

        train   120/1000 steps   14.2 steps/s   1:02 left

    Args:
        total: final sum of the amounts of ``advance``.
        unit: name of the counted unit.
        label: name of the running task.
        stream: stream to draw on; None: stderr.
        visible: whether to draw; None: only on a terminal.
        clock: function that returns monotone seconds.
    """

    def __init__(
        self,
        total: float,
        unit: str = "steps",
        label: str = "",
        *,
        stream: TextIO | None = None,
        visible: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.unit, self.label, self.done = total, unit, label, 0.0
        self._stream = sys.stderr if stream is None else stream
        # A closed stderr is None.
        self._visible = bool(self._stream and self._stream.isatty()) if visible is None else visible
        self._clock = clock
        self._start = clock()
        self._drawn = self._start
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wipe()

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Add ``amount``, and redraw at intervals; ``note`` (a loss, a layer's name) ends the line."""
        self.done += amount
        now = self._clock()
        if self._visible and now - self._drawn >= INTERVAL:
            self._drawn = now
            self._draw(self.line(now, note))

    def print(self, text: str) -> None:
        """Print a permanent line to stdout, above the progress line."""
        self._wipe()
        print(text, flush=True)

    def line(self, now: float, note: str = "") -> str:
        """Return the text of the line at the time ``now`` of the clock."""
        elapsed = now - self._start
        rate = self.done / elapsed if elapsed > 0 else 0.0
        parts = [self.label, f"{self.done:.4g}/{self.total:.4g} {self.unit}", f"{rate:.3g} {self.unit}/s"]
        if rate > 0:
            parts.append(f"{duration(max(0.0, self.total - self.done) / rate)} left")
        return "   ".join(part for part in (*parts, note) if part)

    def _wipe(self) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()

    def _draw(self, line: str) -> None:
        line = line[: shutil.get_terminal_size().columns - 1]
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = max(self._width, len(line))


def duration(seconds: float) -> str:
    """Format seconds as ``4:07`` or ``1:04:07``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
