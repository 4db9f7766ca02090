"""A backend that is a program: one line of text per request, one line per reply.

The program reads requests from its standard input and answers each on its standard output, flushed.  The first is ::

    hello 2

and its answer names the program and what it claims; all but ``name`` and ``version`` may be left out::

    refscale-pipe 2 name=mychip version=2.1 formats=float8_e4m3fn,float8_e5m2 roundings=nearest_even
        overflows=saturate accumulate=float32 nan=any function_ulps=0 op_ulps=0 scale_rules=rceil   (on one line)

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

When its input ends, the program ends.  ``examples/backend.c`` in this folder's parent is one in C.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shlex
import subprocess
import threading
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from refscale.errors import GoldenError
from refscale.golden.kit.backend import Claims
from refscale.golden.schema import PLAIN, Codes, Vector, code_dtype

Array = NDArray[Any]

VERSION = 2
_KNOWN = ("1", "2")


class PipeBackend:
    """Runs a program, and closes it with ``close`` or at the end of a ``with`` block.

    Args:
        command: program and arguments, as in a shell.
        timeout: seconds to wait for a reply.

    Raises:
        GoldenError: the program cannot be started, or does not greet as it should.
    """

    def __init__(self, command: str, timeout: float = 60.0) -> None:
        self._command, self._timeout = command, timeout
        self._process = self._start()
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.name, self.version, self.claims = self._greet()

    def _start(self) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                shlex.split(self._command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                bufsize=1,
            )
        except (OSError, ValueError) as error:
            raise GoldenError(f"--pipe {self._command!r}: cannot be started ({error})") from None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def __enter__(self) -> PipeBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the program."""
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def ask(self, request: str) -> str:
        """One line there, one line back.

        Raises:
            GoldenError: the program has ended, or does not answer in time.
        """
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=self._timeout)
        except (OSError, ValueError):
            line = None
        except queue.Empty:
            self._process.kill()
            raise GoldenError(f"no reply within {self._timeout:g} s to: {request[:80]}") from None
        if line is None:
            status = self._process.wait()
            raise GoldenError(f"the program ended with status {status}; the request was: {request[:80]}")
        return line.rstrip("\r\n")

    def _greet(self) -> tuple[str, str, Claims]:
        try:
            words = self.ask(f"hello {VERSION}").split()
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
            GoldenError: it says "error", or what is no reply, or nothing.
        """
        return read_reply(self.ask(request(vector)), vector)


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
        GoldenError: it says "error", or is no reply.
    """
    status, *parts = [p.strip() for p in line.split(" | ")]
    if status == "unsupported":
        raise NotImplementedError("the program says: unsupported")
    if status.startswith("error"):
        raise GoldenError(f"the program says: {status}")
    if status != "ok":
        raise GoldenError(f"expected 'ok | y …', 'unsupported' or 'error …', got {line[:80]!r}")
    found = {}
    for part in parts:
        name, *codes = part.split()
        if name in vector.outputs:
            found[name] = _codes(name, codes, vector.outputs[name])
    return found


def _codes(name: str, codes: list[str], expected: Codes) -> Array:
    size = expected.codes.size
    if len(codes) != size:
        raise GoldenError(f"{name} has {len(codes)} codes, expected {size}")
    try:
        numbers = [int(c, 16) for c in codes]
        if expected.format in PLAIN:
            return np.array(numbers, np.uint64).astype(PLAIN[expected.format]).reshape(expected.shape)
        return np.array(numbers, code_dtype(expected.format)).reshape(expected.shape)
    except (ValueError, OverflowError) as error:
        raise GoldenError(f"{name}: {error}, expected codes of {expected.format} in hexadecimal") from None
