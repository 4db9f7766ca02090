"""A backend that is a program: one line of text per request, one line per reply.

The program reads requests from its standard input and answers each on its standard output, flushed. The first is ::

    hello 3

and its answer names the program and its claims; all but ``name`` and ``version`` may be left out::

    refscale-pipe 3 name=mychip version=2.1 ops=cast,matmul,op:gelu formats=float8_e4m3fn,float8_e5m2
        sources=float32 roundings=nearest_even overflows=saturate accumulate=float32 nan=any function_ulps=0
        op_ulps=0 scale_rules=rceil conventions=cuda,e8m0_zero:nan start=1   (on one line)

Every other request is an op of ``golden.OPS`` with its attributes, then its arrays, each after " | "::

    cast format=float8_e4m3fn rounding=nearest_even overflow=saturate | x float32 3 3f800000 c0000000 7fc00000
    matmul a_format=float16 b_format=float16 … factor=1.0 | a float16 1,2 3c00 4000 | b float16 2,1 3c00 3c00

An array is a name, a format, its shape (lengths joined by commas; "-" for a scalar), and its codes in hexadecimal in
row-major order: the last index varies fastest. A space in a name is written "_". A list or an object as an attribute is
JSON without spaces; null, true and false are those of JSON, and numbers are decimal. The reply is one of ::

    ok | y 38 c0 7f                 the codes of each output, in its expected format, by its expected name
    ok | y 38 | grad_x unsupported  one output is not implemented
    unsupported                     the verdict is "not implemented"; of an op in ops= it is "fail"
    error any text                  the verdict is "fail", with that text

A reply without an expected output is a failure. The program must answer each vector of an op in ``ops`` whose formats,
sources, roundings and other properties it claims: "unsupported" is then a failure. Without ``ops`` the program claims
each op that it answers at least once.

With ``start=1`` the sums of ``matmul`` start from a third array, ``c``, float32 in the shape of the result; without it
only the requests of ``refscale accumulator`` have one.

Version 2 added block-scaled formats: the ops ``block_quantize``, ``block_matmul`` and ``block_layout``, arrays of
``uint8``, and ``scale_rules``. Version 3 added ``ops``, ``sources``, ``start`` and outputs that are ``unsupported``.
A program of an older version answers with its own number.

Any other reply, no reply within the time limit, a line beyond the length limit, and an additional line fail the vector;
the program is then killed and started again, up to a limited number of times. When its input ends, the program ends.
``formats.quantize`` defines the values of ``rounding`` and ``overflow``. Standard error is forwarded, up to a limit.
The folder ``examples`` beside this one has a program in C and one in JavaScript.
"""

from __future__ import annotations

import json
import re
import threading
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from refscale.errors import ArgumentError, BackendLostError, GoldenError, counted, shown
from refscale.golden.kit.backend import Claims, check_name
from refscale.golden.kit.program import PipeProgram
from refscale.golden.schema import Codes, Vector, code_dtype

Array = NDArray[Any]

VERSION = 3
_KNOWN = ("1", "2", "3")

_WORD = re.compile(r"\S+", re.ASCII)
"""A word between ASCII white space; other white space, such as a no-break space, is part of a name."""

_CODE = re.compile(r"[0-9a-fA-F]{1,16}")
"""Pattern of a code; ``int`` alone would also read 0x10, 1_0 and digits of other scripts."""


class PipeBackend:
    """A backend that runs a program; ``close`` or the end of a ``with`` block ends it.

    Args:
        command: program and arguments, as in a shell.
        timeout: seconds for one request and its reply, after which the program is killed.
        longest_line: longest line of a reply in bytes; the longest reply to a shipped vector has 0.6 million.

    Raises:
        GoldenError: the program cannot be started, or its greeting does not follow the protocol.
        ArgumentError: a limit is not positive.
    """

    def __init__(self, command: str, timeout: float = 60.0, longest_line: int = 1 << 24) -> None:
        if not 0 < timeout <= threading.TIMEOUT_MAX:
            raise ArgumentError(f"PipeBackend(timeout={timeout}): expected seconds, more than 0")
        if longest_line < 1:
            raise ArgumentError(f"PipeBackend(longest_line={longest_line}): expected bytes, at least 1")
        self._command, self._timeout, self._longest = command, timeout, longest_line
        self._program = PipeProgram(command, timeout, longest_line)
        self.name, self.version, self.claims = self._greet()

    def __enter__(self) -> PipeBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the program's input and end it."""
        self._program.close()

    def restart(self) -> None:
        """End the program and start it again.

        Raises:
            GoldenError: the program cannot be started, or its greeting differs from the first one.
        """
        self.close()
        self._program = PipeProgram(self._command, self._timeout, self._longest)
        if self._greet() != (self.name, self.version, self.claims):
            self.close()
            raise GoldenError(f"--pipe {shown(self._command)!r}: after a restart its greeting is another one")

    def ask(self, request: str) -> str:
        """Send one line and return the line that the program replies.

        Raises:
            BackendLostError: the program has ended, does not reply in time, or writes more than one line.
        """
        try:
            return self._program.exchange(request.encode()).decode(errors="replace").rstrip("\r")
        except BackendLostError as error:
            raise _lost(str(error), request) from None

    def _greet(self) -> tuple[str, str, Claims]:
        try:
            words = _WORD.findall(self.ask(f"hello {VERSION}"))
            known = words[:1] == ["refscale-pipe"] and words[1:2] and words[1] in _KNOWN
            if not known or not all("=" in w for w in words[2:]):
                raise GoldenError(
                    f"expected 'refscale-pipe {VERSION} name=… version=…', got {shown(' '.join(words), 80)!r}"
                )
            fields = dict(w.split("=", 1) for w in words[2:])
            name, version = fields.pop("name"), fields.pop("version")
            return check_name(name, "name"), check_name(version, "version"), _claims(fields, words[1])
        except KeyError as error:
            problem: object = f"its greeting has no {error.args[0]}="
        except (GoldenError, ValueError) as error:
            problem = error
        self.close()
        raise GoldenError(f"--pipe {shown(self._command)!r}: {shown(problem, 400)}")

    def answer(self, vector: Vector) -> dict[str, Array | None]:
        """Return the program's reply to one vector.

        Raises:
            NotImplementedError: the reply is "unsupported".
            GoldenError: the reply is "error", or its codes do not fit the outputs.
            BackendLostError: any other reply, or none.
        """
        line = self.ask(request(vector))
        try:
            return read_reply(line, vector)
        except BackendLostError as error:
            raise _lost(str(error), vector.id) from None


def _lost(problem: str, request: str) -> BackendLostError:
    return BackendLostError(f"{problem}; the request was: {request[:80]}")


def _claims(fields: dict[str, str], version: str) -> Claims:
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
        names("ops") if version >= "3" else None,
        names("sources") if version >= "3" else None,
        version >= "3" and _flag(fields.pop("start", "0")),
    )
    if fields:
        raise GoldenError(f"its greeting has unknown fields {shown(', '.join(fields))}")
    return found


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise GoldenError(f"its greeting has start={shown(text, 40)}, expected 0 or 1")
    return text == "1"


def request(vector: Vector) -> str:
    """Return a vector as a line of text."""
    words = [vector.op]
    for key, value in vector.attributes.items():
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        words.append(f"{key}={text}")
    parts = [" ".join(words), *(_array(_word(name), x) for name, x in vector.inputs.items())]
    return " | ".join(parts)


def _word(name: str) -> str:
    return name.replace(" ", "_")


def _array(name: str, x: Codes) -> str:
    shape = ",".join(map(str, x.shape)) or "-"
    flat = x.codes.reshape(-1)
    if flat.dtype == np.int64:
        flat = flat.view(np.uint64)
    digits = 1 if flat.dtype == np.bool_ else 2 * flat.dtype.itemsize
    return " ".join([name, x.format, shape, *(f"{int(c):0{digits}x}" for c in flat.tolist())])


def read_reply(line: str, vector: Vector) -> dict[str, Array | None]:
    """Return the arrays of a reply by name; None for an output that is unsupported or not expected.

    Raises:
        NotImplementedError: the reply is "unsupported".
        GoldenError: the reply is "error", or its codes do not fit the outputs.
        BackendLostError: the line is not a reply.
    """
    status, *parts = [p.strip() for p in f"{line} ".split(" | ")]
    if status == "unsupported":
        raise NotImplementedError("the program replies: unsupported")
    if status.split(" ", 1)[0] == "error":
        raise GoldenError(f"the program replies: {shown(status)}")
    if status != "ok":
        raise BackendLostError(f"expected 'ok | y …', 'unsupported' or 'error …', got {shown(line, 80)!r}")
    found: dict[str, Array | None] = {}
    names = {_word(name): name for name in vector.outputs}
    for part in parts:
        name, *codes = _WORD.findall(part) or [""]
        name = names.get(name, name)
        if name in found or not name:
            raise GoldenError(f"an output {shown(name, 40)!r} {'twice' if name else 'without name and codes'}")
        if name not in vector.outputs or codes == ["unsupported"]:
            found[name] = None
        else:
            found[name] = _codes(name, codes, vector.outputs[name])
    return found


def _codes(name: str, codes: list[str], expected: Codes) -> Array:
    size = expected.codes.size
    if len(codes) != size:
        raise GoldenError(f"{name} has {counted(len(codes), 'code')}, expected {size}")
    odd = next((c for c in codes if not _CODE.fullmatch(c)), None)
    if odd is not None:
        raise GoldenError(f"{name}: {shown(odd, 40)!r}, expected codes of {expected.format} in hexadecimal")
    try:
        numbers = [int(c, 16) for c in codes]
        if expected.format == "int64":  # in two's complement
            return np.array(numbers, np.uint64).view(np.int64).reshape(expected.shape)
        if expected.format == "bool" and max(numbers, default=0) > 1:
            raise ValueError(f"{max(numbers):x}")
        return np.array(numbers, code_dtype(expected.format)).reshape(expected.shape)
    except (ValueError, OverflowError) as error:
        raise GoldenError(f"{name}: {error}, expected codes of {expected.format} in hexadecimal") from None
