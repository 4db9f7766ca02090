"""Every lesson runs from top to bottom, and prints what it says; its figures are drawn by its own code.

A lesson is Markdown.  Its ``python`` blocks are doctests that share one namespace; those marked ``python c`` follow
them where there is a C compiler; one marked ``python pytest`` is a file of tests, and must pass; one marked
``python figure`` has no prompts, runs in the same namespace where matplotlib is installed, and writes
``figures/NAME.svg``.

    REFSCALE_FIGURES=write python -m pytest tests/tutorials    # draw the committed figures again
"""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LESSONS = Path(__file__).parents[2] / "tutorials"
FENCE = re.compile(r"^```(.*)$")


def blocks(text: str, info: str) -> str:
    """The code of all blocks with this info string, every line where it stands in the lesson, other lines blank."""
    kept, inside = [], None
    for line in text.split("\n"):
        fence = FENCE.match(line)
        if fence:
            inside = fence[1].strip() if inside is None else None
            kept.append("")
        else:
            kept.append(line if inside == info else "")
    return "\n".join(kept)


def run(text: str, name: str, namespace: dict, info: str = "python") -> doctest.TestResults:
    test = doctest.DocTestParser().get_doctest(blocks(text, info), {}, name, name, 0)
    test.globs = namespace  # the figures need it afterwards
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    return runner.run(test, clear_globs=False)


@pytest.mark.parametrize("path", sorted(LESSONS.glob("[0-9][0-9]-*.md")), ids=lambda p: p.stem)
def test_lesson(path, tmp_path, monkeypatch):
    text = path.read_text(encoding="utf-8")
    namespace: dict = {"__name__": "lesson"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "results").symlink_to(LESSONS / "results")  # what long runs left, beside the command that made it
    result = run(text, path.name, namespace)
    assert result.attempted > 10
    assert result.failed == 0
    if shutil.which("cc"):
        assert run(text, path.name, namespace, "python c").failed == 0
    if tests := blocks(text, "python pytest").strip():
        (tmp_path / "test_lesson.py").write_text(tests, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_lesson.py"]
        here = {**os.environ, "PYTHONPATH": str(LESSONS.parent)}
        subprocess.run(command, cwd=tmp_path, env=here, check=True, timeout=120)
    linked = set(re.findall(r"\(figures/([\w.-]+)\)", text))
    if importlib.util.find_spec("matplotlib") is not None:
        draw(text, path.name, namespace, linked)
    assert all((LESSONS / "figures" / name).stat().st_size > 1000 for name in linked)


def draw(text: str, name: str, namespace: dict, linked: set[str]) -> None:
    """Run the figure blocks in the current directory; they must write what the lesson links."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context({"svg.hashsalt": "refscale", "svg.fonttype": "none"}):
        exec(compile(blocks(text, "python figure"), name, "exec"), namespace)
    drawn = {p.name for p in Path("figures").iterdir()}
    assert drawn == linked
    if os.environ.get("REFSCALE_FIGURES") == "write":
        (LESSONS / "figures").mkdir(exist_ok=True)
        for figure in drawn:
            shutil.copy(Path("figures") / figure, LESSONS / "figures" / figure)


@pytest.mark.parametrize(
    ("lesson", "failed"),
    [
        ("```python\n>>> 1 + 1\n2\n```\n", 0),
        ("```python\n>>> 1 + 1\n3\n```\n", 1),
        ("```python\n>>> 1 + 1\n2\n```\ntext\n```python\n>>> 1/0\n```\n", 1),
        ("```text\n>>> 1 + 1\n3\n```\n", 0),
    ],
)
def test_a_wrong_output_is_noticed(lesson, failed, capsys):
    assert run(lesson, "x.md", {}).failed == failed
