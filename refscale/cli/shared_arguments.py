"""Options and words of help that several commands share."""

from __future__ import annotations

import argparse

WITH_OPTIONS = "unit:rows=alike,embeddings=v/b"
"""Example of a scheme with options, for help."""

MODEL_CONSTRAINTS = ("geometric", "harmonic", "arithmetic", "to_output_scale", "none")
"""The ``scales.CONSTRAINTS`` that apply to every op of a model, with any number of constrained inputs."""


def models_in_words() -> str:
    """Return the models that a command accepts, for its help."""
    from refscale.models import NAMES

    names = ", ".join(NAMES)
    return f"{names}; one with fields replaced, such as charlm-conv:norm=post,layers=2; or a program, mine.py:model"


def add_plot(parser: argparse.ArgumentParser, content: str) -> None:
    """Add ``--plot``, the file of a figure of the given content."""
    parser.add_argument(
        "--plot", metavar="FILE", help=f"also plot the {content}: .svg, .png or .pdf (needs refscale[plots])"
    )


def add_text(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add ``--text``, the file of the text that a command uses for the given purpose."""
    help = f"UTF-8 text {purpose} (default: text that comes with Python)"
    parser.add_argument("--text", metavar="FILE", help=help)
