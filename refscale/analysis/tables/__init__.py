"""Tables: every format (``formats``), every op with its factors (``ops``), factors of any function (``measure``)."""

from refscale.analysis.tables.formats import format_label, format_table

__all__ = ["format_label", "format_table"]
