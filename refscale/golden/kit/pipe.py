"""A backend that is a program: one line of text per request, one line per reply.

The program reads requests from its standard input and answers each on its standard output, flushed.  The first is ::

    hello 2

and its answer names the program and what it claims; all but ``name`` and ``version`` may be left out::

    refscale-pipe 2 name=mychip version=2.1 formats=float8_e4m3fn,float8_e5m2 roundings=nearest_even
        overflows=saturate accumulate=float32 nan=any function_ulps=0 op_ulps=0 scale_rules=rceil
        conventions=cuda,e8m0_zero:nan   (on one line)

Every other request is an op of ``golden.OPS`` with its attributes, then its arrays, each after " | "::

    cast format=float8_e4m3fn rounding=nearest_even overflow=saturate | x float32 3 3f800000 c0000000 7fc00000
    matmul a_format=float16 b_format=float16 … factor=1.0 | a float16 1,2 3c00 4000 | b float16 2,1 3c00 3c00

An array is a name, a format, its shape (lengths joined by commas; "-" for none), and its codes in hexadecimal in the
order of the index.  An attribute that is a list or an object is JSON without spaces; null, true and false are those of
JSON, and numbers are decimal.  The reply is one of ::

    ok | y 38 c0 7f                 the codes of each output, in its expected format
    unsupported                     the verdict is "not implemented"
    error any text                  the verdict is "fail", with that text

Version 2 added block-scaled formats: the ops ``block_quantize``, ``block_matmul`` and ``block_layout``, arrays of
``uint8``, and ``scale_rules``.  A program of version 1 answers "refscale-pipe 1" and "unsupported", and all is well.

Anything else, no reply within the time limit, a line beyond the length limit, and a line that nobody asked for end the
run with an error that names the request.  When its input ends, the program ends.  ``formats.quantize`` says what the
values of ``rounding`` and ``overflow`` mean.  ``examples`` beside this folder has a program in C and one in JavaScript.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import threading
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from refscale.errors import ArgumentError, BackendLostError, GoldenError, counted
from refscale.golden.kit.backend import Claims
from refscale.golden.schema import PLAIN, Codes, Vector, code_dtype

Array = NDArray[Any]

VERSION = 2
_KNOWN = ("1", "2")

_WORD = re.compile(r"\S+", re.ASCII)
"""What stands between ASCII white space; a no-break space, say, is part of a name."""


class PipeBackend:
    """Runs a program, and closes it with ``close`` or at the end of a ``with`` block.

    Args:
        command: program and arguments, as in a shell.
        timeout: seconds for one request and its reply; then the program is killed.
        longest_line: of a reply, in bytes; the longest to a shipped vector has 0.6 million.

    Raises:
        GoldenError: the program cannot be started, or does not greet as it should.
        ArgumentError: a limit that is not positive.
    """

    def __init__(self, command: str, timeout: float = 60.0, longest_line: int = 1 << 24) -> None:
        if not 0 < timeout <= threading.TIMEOUT_MAX:
            raise ArgumentError(f"PipeBackend(timeout={timeout}): expected seconds, more than 0")
        if longest_line < 1:
            raise ArgumentError(f"PipeBackend(longest_line={longest_line}): expected bytes, at least 1")
        self._command, self._timeout, self._longest = command, timeout, longest_line
        self._process = self._start()
        self._unread = bytearray()
        self._late = False
        self.name, self.version, self.claims = self._greet()

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                shlex.split(self._command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # what it starts itself is killed with it
            )
        except (OSError, ValueError, IndexError) as error:
            raise GoldenError(f"--pipe {self._command!r}: cannot be started ({error})") from None

    def __enter__(self) -> PipeBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._status()
        self._process.stdout.close()

    def _status(self) -> int:
        """Of the exit, waited for."""
        try:
            return self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._kill()
            return self._process.wait()

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def _expire(self) -> None:
        self._late = True
        self._kill()  # a write or read that waits for the program then ends

    def ask(self, request: str) -> str:
        """One line there, one line back.

        Raises:
            BackendLostError: the program has ended, does not answer in time, or writes what is no line of its own.
        """
        watch = threading.Timer(self._timeout, self._expire)
        watch.daemon = True
        watch.start()
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()
            line = self._line()
        except OSError:
            line = None
        finally:
            watch.cancel()
        if self._late:
            raise _lost(f"no reply within {self._timeout:g} s", request)
        if line is None:
            raise _lost(f"the program ended with status {self._status()}", request)
        if len(line) > self._longest or self._unread:
            self._kill()  # it would not end by itself
        if len(line) > self._longest:
            raise _lost(f"a line of more than {self._longest} bytes", request)
        if self._unread:
            raise _lost(f"a line that nobody asked for, {_start_of(self._unread)!r}, after the reply", request)
        return line.decode(errors="replace").rstrip("\r")

    def _line(self) -> bytes | None:
        """The next line; None at the end; one byte beyond the limit if it is longer."""
        assert self._process.stdout is not None
        seen = 0
        while (end := self._unread.find(b"\n", seen)) < 0:
            seen = len(self._unread)
            if seen > self._longest:
                return bytes(self._unread[: self._longest + 1])
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                return None
            self._unread += chunk
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return line

    def _greet(self) -> tuple[str, str, Claims]:
        try:
            words = _WORD.findall(self.ask(f"hello {VERSION}"))
            known = words[:1] == ["refscale-pipe"] and words[1:2] and words[1] in _KNOWN
            if not known or not all("=" in w for w in words[2:]):
                raise GoldenError(f"expected 'refscale-pipe {VERSION} name=… version=…', got {' '.join(words)[:80]!r}")
            fields = dict(w.split("=", 1) for w in words[2:])
            name, version = fields.pop("name"), fields.pop("version")
            return name, version, _claims(fields)
        except KeyError as error:
            problem: object = f"its greeting has no {error.args[0]}="
        except (GoldenError, ValueError) as error:
            problem = error
        self.close()
        raise GoldenError(f"--pipe {self._command!r}: {problem}")

    def answer(self, vector: Vector) -> dict[str, Array]:
        """The program's reply to one vector.

        Raises:
            NotImplementedError: it says "unsupported".
            GoldenError: it says "error", or codes that are no codes of the outputs.
            BackendLostError: it replies otherwise, or not at all.
        """
        line = self.ask(request(vector))
        try:
            return read_reply(line, vector)
        except BackendLostError as error:
            raise _lost(str(error), vector.id) from None


def _lost(problem: str, request: str) -> BackendLostError:
    return BackendLostError(f"{problem}; the request was: {request[:80]}")


def _start_of(text: bytes | bytearray) -> str:
    return bytes(text[:80]).decode(errors="replace").partition("\n")[0]


def _claims(fields: dict[str, str]) -> Claims:
    def names(key: str) -> tuple[str, ...] | None:
        return tuple(fields.pop(key).split(",")) if key in fields else None

    formats, roundings, overflows = names("formats"), names("roundings"), names("overflows")
    found = Claims(
        formats,
        roundings,
        overflows,
        cast("Literal['any', 'same']", fields.pop("nan", "any")),
        fields.pop("accumulate", "exact"),
        float(fields.pop("function_ulps", 0)),
        float(fields.pop("op_ulps", 0)),
        names("scale_rules"),
        fields.pop("conventions", ""),
    )
    if fields:
        raise GoldenError(f"its greeting has unknown fields {', '.join(fields)}")
    return found


def request(vector: Vector) -> str:
    """A vector as a line of text."""
    words = [vector.op]
    for key, value in vector.attributes.items():
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        words.append(f"{key}={text}")
    parts = [" ".join(words), *(_array(name, x) for name, x in vector.inputs.items())]
    return " | ".join(parts)


def _array(name: str, x: Codes) -> str:
    shape = ",".join(map(str, x.shape)) or "-"
    flat = x.codes.reshape(-1)
    if flat.dtype == np.int64:
        flat = flat.view(np.uint64)
    digits = 1 if flat.dtype == np.bool_ else 2 * flat.dtype.itemsize
    return " ".join([name, x.format, shape, *(f"{int(c):0{digits}x}" for c in flat.tolist())])


def read_reply(line: str, vector: Vector) -> dict[str, Array]:
    """The arrays of a reply.

    Raises:
        NotImplementedError: it says "unsupported".
        GoldenError: it says "error", or codes that are no codes of the outputs.
        BackendLostError: it is no reply.
    """
    status, *parts = [p.strip() for p in line.split(" | ")]
    if status == "unsupported":
        raise NotImplementedError("the program says: unsupported")
    if status.split(" ", 1)[0] == "error":
        raise GoldenError(f"the program says: {status}")
    if status != "ok":
        raise BackendLostError(f"expected 'ok | y …', 'unsupported' or 'error …', got {line[:80]!r}")
    found = {}
    for part in parts:
        name, *codes = _WORD.findall(part)
        if name in vector.outputs:
            found[name] = _codes(name, codes, vector.outputs[name])
    return found


def _codes(name: str, codes: list[str], expected: Codes) -> Array:
    size = expected.codes.size
    if len(codes) != size:
        raise GoldenError(f"{name} has {counted(len(codes), 'code')}, expected {size}")
    try:
        numbers = [int(c, 16) for c in codes]
        if expected.format in PLAIN:
            return np.array(numbers, np.uint64).astype(PLAIN[expected.format]).reshape(expected.shape)
        return np.array(numbers, code_dtype(expected.format)).reshape(expected.shape)
    except (ValueError, OverflowError) as error:
        raise GoldenError(f"{name}: {error}, expected codes of {expected.format} in hexadecimal") from None
