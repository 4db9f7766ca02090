"""ASCII replacements for characters that the encoding of a terminal or pipe lacks."""

from __future__ import annotations

import codecs
import io
from types import MappingProxyType

FALLBACKS = MappingProxyType(
    {
        # Marks in tables and histograms: one column, so that these stay aligned.
        "∞": "*",
        "·": ".",
        "×": "x",
        "≠": "#",
        "′": "'",
        "−": "-",
        "∂": "d",
        "━": "=",
        "╌": "~",
        "─": "_",
        "┴": "|",
        "╂": "+",
        "┊": ":",
        **{bar: str(eighths) for eighths, bar in enumerate("▁▂▃▄▅▆▇█", 1)},
        # Formulas and prose.
        "α": "alpha",
        "β": "beta",
        "γ": "gamma",
        "δ": "delta",
        "λ": "lambda",
        "η": "eta",
        "μ": "mu",
        "π": "pi",
        "ρ": "rho",
        "σ": "sigma",
        "τ": "tau",
        "Φ": "Phi",
        "Σ": "sum",
        "√": "sqrt",
        "±": "+-",
        "≤": "<=",
        "≥": ">=",
        "∝": " prop. to ",
        "→": "->",
        "←": "<-",
        "‖": "||",
        "⌊": "floor(",
        "⌋": ")",
        "ᵀ": "^T",
        "²": "^2",
        "³": "^3",
        "₂": "_2",
        "¼": "1/4",
        "½": "1/2",
        "µ": "u",
        "…": "...",
        "\N{ZERO WIDTH NO-BREAK SPACE}": "\\ufeff",
        "\N{REPLACEMENT CHARACTER}": "\\ufffd",
    }
)
"""ASCII replacement of every non-ASCII character that the commands print; all replacements are distinct."""


def degrade(stream: object) -> None:
    """Let a text stream replace unsupported characters by ``FALLBACKS``, or by ``?`` if they have none."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=_HANDLER)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(FALLBACKS.get(c, "?") for c in error.object[error.start : error.end]), error.end


_HANDLER = "refscale.ascii"
codecs.register_error(_HANDLER, _replaced)
