"""A child process that answers a line with a line; it cannot block or flood the caller, or control the terminal.

Threads serve its pipes, so a read or write of this process always ends at the time limit, even if a process that the
program has left behind keeps the pipes open.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from typing import IO

from refscale.errors import BackendLostError, GoldenError, counted, shown

STDERR = 8192
"""Largest number of bytes of the program's standard error that are forwarded; the rest is read and dropped."""

_CHUNK = 1 << 16
_OUTPUT_ENDED, _INPUT_CLOSED = b"", None


class PipeProgram:
    """A running program.

    Args:
        command: program and arguments, as in a shell.
        timeout: seconds for one request and its reply, after which the program is killed.
        longest_line: longest line of a reply in bytes.

    Raises:
        GoldenError: the program cannot be started.
    """

    def __init__(self, command: str, timeout: float, longest_line: int) -> None:
        self._timeout, self._longest = timeout, longest_line
        try:
            self._process = subprocess.Popen(
                shlex.split(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # its children are killed with it
            )
        except (OSError, ValueError, IndexError) as error:
            raise GoldenError(f"--pipe {shown(command)!r}: cannot be started ({error})") from None
        self._unread = bytearray()
        self._over = ""
        self._asked = False
        self._events: queue.Queue[bytes | None] = queue.Queue(maxsize=64)
        self._requests: queue.Queue[bytes | None] = queue.Queue()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for serve, stream in ((self._write, process.stdin), (self._read, process.stdout), (_pass_on, process.stderr)):
            threading.Thread(target=serve, args=(stream,), daemon=True).start()

    def exchange(self, request: bytes) -> bytes:
        """Return the reply to one line, without its end.

        Raises:
            BackendLostError: the program has ended, does not reply in time, or writes more than one line.
        """
        if not self._over:
            self._take()
        if not self._over and self._unread and self._asked:
            self._end(f"an unrequested line, {shown(self._first(), 80)!r}, before the request")
        if self._over:
            raise BackendLostError(self._over)
        self._asked = True
        self._requests.put(request + b"\n")
        line = self._line()
        self._take()
        if self._unread:
            self._end(f"an unrequested line, {shown(self._first(), 80)!r}, after the reply")
            raise BackendLostError(self._over)
        return line

    def close(self) -> None:
        """End the program: close its input, wait two seconds, kill it."""
        self._requests.put(None)
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._kill()
        self._over = self._over or "the program is closed"

    def _line(self) -> bytes:
        until = time.monotonic() + self._timeout
        seen = 0
        while (end := self._unread.find(b"\n", seen)) < 0:
            seen = len(self._unread)
            if seen > self._longest:
                break
            try:
                self._note(self._events.get(timeout=max(0.0, min(0.1, until - time.monotonic()))))
            except queue.Empty:
                if self._process.poll() is not None and self._events.empty():
                    self._end(f"the program ended with status {self._process.returncode}")
                elif time.monotonic() >= until:
                    self._end(f"no reply within {self._timeout:g} s")
            if self._over and self._unread.find(b"\n", seen) < 0:
                raise BackendLostError(self._over)
        if end < 0 or end > self._longest:
            self._end(f"a line of more than {counted(self._longest, 'byte')}")
            raise BackendLostError(self._over)
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return line

    def _take(self) -> None:
        """Record every event so far."""
        with contextlib.suppress(queue.Empty):
            while not self._over and len(self._unread) <= self._longest:
                self._note(self._events.get_nowait())

    def _note(self, event: bytes | None) -> None:
        if event:
            self._unread += event
            return
        try:
            status = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._end(f"the program closed its {'input' if event is _INPUT_CLOSED else 'output'} and did not end")
        else:
            self._over = f"the program ended with status {status}"

    def _first(self) -> bytes:
        return bytes(self._unread[:80]).partition(b"\n")[0]

    def _end(self, why: str) -> None:
        self._over = why
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2)

    def _write(self, stream: IO[bytes]) -> None:
        """Write requests to the program's standard input, in a thread."""
        try:
            with stream:
                while (request := self._requests.get()) is not None:
                    rest = memoryview(request)
                    while rest:
                        rest = rest[stream.write(rest) :]
        except OSError:
            self._events.put(_INPUT_CLOSED)

    def _read(self, stream: IO[bytes]) -> None:
        """Read the program's standard output, in a thread."""
        with stream, contextlib.suppress(OSError):
            while chunk := stream.read(_CHUNK):
                self._events.put(chunk)
        self._events.put(_OUTPUT_ENDED)


def _pass_on(stream: IO[bytes]) -> None:
    """Forward the start of the program's standard error, with control characters escaped, in a thread."""
    left = STDERR
    with stream, contextlib.suppress(OSError, ValueError):
        while chunk := stream.read(_CHUNK):
            if left > 0 and sys.stderr is not None:
                lines = chunk[:left].decode(errors="replace").split("\n")
                sys.stderr.write("\n".join(shown(line.rstrip("\r"), STDERR) for line in lines))
                left -= len(chunk)
                if left <= 0:
                    sys.stderr.write("… (the rest of the program's standard error is dropped)\n")
