"""The commands beside the lessons, which are in no package, as modules."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

LESSONS = Path(__file__).parents[2] / "tutorials"

sys.path.insert(0, str(LESSONS))
try:
    notebooks = importlib.import_module("notebooks")
    reference = importlib.import_module("reference")
finally:
    sys.path.remove(str(LESSONS))
