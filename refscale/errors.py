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
    """A number of things for a message: "1 step", "2 steps", "2 entries"."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def shown(text: object, most: int = 200) -> str:
    """Foreign text on one line for a terminal: control characters escaped, at most ``most`` characters.

    Args:
        text: printed by ``str``; of bytes, what is not UTF-8 becomes U+FFFD.
        most: length, in characters; a longer text ends in "…".
    """
    whole = text.decode(errors="replace") if isinstance(text, bytes | bytearray) else str(text)
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in whole[: most + 1])
    return escaped if len(escaped) <= most else escaped[: most - 1] + "…"


class RefscaleError(Exception):
    """Base of every error that refscale raises on purpose."""


class FormatError(RefscaleError, ValueError):
    """A format, rounding or overflow name is unknown, or a value cannot be said in a format."""


class ShapeError(RefscaleError, ValueError):
    """Shapes that do not fit the operation called."""


class ArgumentError(RefscaleError, ValueError):
    """A value outside the range that the call accepts."""


class InUseError(ArgumentError):
    """A directory that another process holds."""


class CarrierError(RefscaleError, TypeError):
    """An array whose dtype the call does not accept."""


class TapeError(RefscaleError, RuntimeError):
    """A tape used out of order: mixed, consumed twice, or asked for what was not recorded."""


class FactorError(RefscaleError, ValueError):
    """Scale factors under which a computed gradient is no constant times the true one."""


class DataError(RefscaleError, ValueError):
    """Text or batches that cannot be used."""


class ProgramError(RefscaleError, ValueError):
    """A program that cannot be loaded, lacks a part, or returns something other than expected."""


class CheckpointError(RefscaleError, ValueError):
    """A checkpoint that is damaged, or of another run."""


class DivergedError(RefscaleError, ArithmeticError):
    """A training run whose loss, gradients, optimizer state or validation is no longer finite."""


class GoldenError(RefscaleError, ValueError):
    """A set of golden vectors that is damaged, edited, or of another version; or a backend or waivers file amiss."""


class BackendLostError(GoldenError):
    """A backend that can answer nothing more: its program has ended, hangs, or writes what is no reply."""
