"""Golden vectors, bit-exact and identical on every machine, and the kit that checks a backend with them.

In reading order: ``schema`` (the class of a vector), ``inputs``, ``records``, ``conventions`` (cases that no standard
defines), one module per family (``cast``, ``unary``, ``products``, ``blocks``, ``dequantize``, ``block_products``,
``choices``, ``replay`` and ``ops``, ``models``), ``families`` (all of them), ``sizes`` (generated vectors), ``store``
(the set on disk); then ``call_bounds`` (bounds on the results of a call), ``kit`` (verdicts on a backend), ``trace``
(verdicts on a recorded step), ``backends`` (shipped backends), ``conformance`` (the kit as pytest).
"""

from refscale.golden.families import FAMILIES, Family, complete, generate, get_family
from refscale.golden.records import cast_of
from refscale.golden.schema import FLAGS, OPS, Codes, Digest, Vector
from refscale.golden.store import GoldenSet, check, load, write

__all__ = [
    "FAMILIES",
    "FLAGS",
    "OPS",
    "Codes",
    "Digest",
    "Family",
    "GoldenSet",
    "Vector",
    "cast_of",
    "check",
    "complete",
    "generate",
    "get_family",
    "load",
    "write",
]
