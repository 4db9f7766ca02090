"""The errors refscale raises: each derives from the built-in class that a NumPy user expects."""

__all__ = [
    "ArgumentError",
    "BackendLostError",
    "CarrierError",
    "CheckpointError",
    "DataError",
    "DivergedError",
    "FactorError",
    "FormatError",
    "GoldenError",
    "InUseError",
    "ProgramError",
    "RefscaleError",
    "ShapeError",
    "TapeError",
]


def counted(n: int, one: str, many: str = "") -> str:
    """Return a count with its noun, for messages: "1 step", "2 steps", "2 entries"."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def shown(text: object, most: int = 200) -> str:
    """Return foreign text as one line for a terminal, with control characters escaped.

    Args:
        text: the text, converted by ``str``; bytes that are not UTF-8 become U+FFFD.
        most: maximum length, in characters; a longer text is cut, and ends in "…".
    """
    whole = text.decode(errors="replace") if isinstance(text, bytes | bytearray) else str(text)
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in whole[: most + 1])
    return escaped if len(escaped) <= most else escaped[: most - 1] + "…"


class RefscaleError(Exception):
    """Base of every error that refscale raises on purpose."""


class FormatError(RefscaleError, ValueError):
    """A format, rounding or overflow name is unknown, or a value is not representable in a format."""


class ShapeError(RefscaleError, ValueError):
    """Shapes do not fit the operation called."""


class ArgumentError(RefscaleError, ValueError):
    """A value is outside the range that the call accepts."""


class InUseError(ArgumentError):
    """A directory is in use by another process."""


class CarrierError(RefscaleError, TypeError):
    """An array has a dtype that the call does not accept."""


class TapeError(RefscaleError, RuntimeError):
    """A tape was used wrongly: two tapes mixed, one backward pass run twice, or a tensor that was not recorded."""


class FactorError(RefscaleError, ValueError):
    """With these scale factors a computed gradient is not a constant times the true one."""


class DataError(RefscaleError, ValueError):
    """Text, files or batches cannot be used."""


class ProgramError(RefscaleError, ValueError):
    """A program cannot be loaded, lacks a part, or returns an unexpected type or shape."""


class CheckpointError(RefscaleError, ValueError):
    """A checkpoint is damaged, or belongs to another run."""


class DivergedError(RefscaleError, ArithmeticError):
    """The loss, gradients, optimizer state or validation of a training run are not finite any more."""


class GoldenError(RefscaleError, ValueError):
    """A set of golden vectors is damaged, edited or of another version; or a backend or a waivers file is invalid."""


class BackendLostError(GoldenError):
    """A backend stopped responding: its program has ended, hangs, or writes an invalid reply."""
