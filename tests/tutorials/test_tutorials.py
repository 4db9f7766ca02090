"""Every lesson runs from top to bottom, and prints the shown output; its figures are drawn by its own code.

A lesson is Markdown. Its ``python`` blocks are doctests that share one namespace; those marked ``python c`` follow
them where there is a C compiler, those marked ``python torch`` where torch is installed; one marked ``python pytest``
is a file of tests, and must pass; one marked ``python figure`` has no prompts, runs in the same namespace where
matplotlib is installed, and writes ``figures/NAME.svg``.

    REFSCALE_FIGURES=write python -m pytest tests/tutorials    # draw the committed figures again

A figure drawn here holds a summary of its data (``figures.py``), and one that the code would now draw otherwise fails.
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

import numpy as np
import pytest

from refscale.cli import main
from tests.prose import lesson_pages
from tests.tutorials.figures import assert_same_data, fingerprinted, read_fingerprint

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


@pytest.mark.parametrize("path", lesson_pages(), ids=lambda p: p.stem)
def test_lesson(path, tmp_path, monkeypatch):
    text = path.read_text(encoding="utf-8")
    namespace: dict = {"__name__": "lesson"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "results").symlink_to(LESSONS / "results")  # what long runs left, beside the command that made it
    result = run(text, path.name, namespace)
    assert result.failed == 0
    attempted = result.attempted
    if of_torch := blocks(text, "python torch").strip():
        if importlib.util.find_spec("torch") is None:
            pytest.skip("its code needs torch")
        result = run(text, path.name, namespace, "python torch")
        assert result.failed == 0, of_torch
        attempted += result.attempted
    assert attempted > 10
    if shutil.which("cc"):
        assert run(text, path.name, namespace, "python c").failed == 0
    if tests := blocks(text, "python pytest").strip():
        (tmp_path / "test_lesson.py").write_text(tests, encoding="utf-8")
        options = ["-q", "--assert=plain", "-p", "no:cacheprovider", "-W", "error"]
        command = [sys.executable, "-m", "pytest", *options, "test_lesson.py"]
        here = {**os.environ, "PYTHONPATH": str(LESSONS.parent)}
        subprocess.run(command, cwd=tmp_path, env=here, check=True, timeout=120)
    linked = set(re.findall(r"\(figures/([\w.-]+)\)", text))
    if importlib.util.find_spec("matplotlib") is not None:
        draw(text, path.name, namespace, linked)
    assert all((LESSONS / "figures" / name).stat().st_size > 1000 for name in linked)


def draw(text: str, name: str, namespace: dict, linked: set[str]) -> None:
    """Run the figure blocks in the current directory; they must write the files that the lesson links, unchanged."""
    with fingerprinted():
        exec(compile(blocks(text, "python figure"), name, "exec"), namespace)
    assert {p.name for p in Path("figures").iterdir()} == linked
    for figure in linked:
        keep_or_compare(Path("figures") / figure)


def keep_or_compare(drawn: Path) -> None:
    """Commit a figure, where that is asked; else the committed one must show the same data."""
    committed = LESSONS / "figures" / drawn.name
    if os.environ.get("REFSCALE_FIGURES") == "write":
        shutil.copy(drawn, committed)
    assert_same_data(read_fingerprint(committed), read_fingerprint(drawn), drawn.name)


def test_the_figure_of_the_readme(tmp_path):
    """``refscale report bert-tiny --panels activation-gradients --plot …``, with the seed 0."""
    pytest.importorskip("matplotlib")
    with fingerprinted():
        figure = ["--plot", str(tmp_path / "bert-tiny.svg"), "--panels", "activation-gradients"]
        assert main(["report", "bert-tiny", *figure]) == 0
    keep_or_compare(tmp_path / "bert-tiny.svg")


def test_a_stale_figure_is_noticed(tmp_path):
    """Other data, a curve more, another label, another limit."""
    pytest.importorskip("matplotlib")
    from refscale.analysis.figures import open_figure

    def drawn(values, label="a", limit=5.0, more=False):
        with fingerprinted(), open_figure(tmp_path / "a.svg", 2) as figure:
            ax = figure.subplots()
            ax.plot(values)
            ax.hist(values, bins=3)
            ax.imshow([values], alpha=0.5, aspect="auto")
            ax.scatter(values, values)
            if more:
                ax.plot([1, 2])
            ax.set(xlabel=label, xlim=(0, limit), ylim=(0, 5))
        return read_fingerprint(tmp_path / "a.svg")

    first = drawn([1.0, 2.0, 3.0, np.nan])
    assert_same_data(first, drawn([1.0, 2.0, 3.0001, np.nan]), "nearly the same")
    for other in (
        drawn([1.0, 2.0, 3.2, np.nan]),
        drawn([3.0, 2.0, 1.0, np.nan]),
        drawn([1.0, 2.0, 3.0, 3.0]),
        drawn([1.0, 2.0, 3.0, np.nan], more=True),
        drawn([1.0, 2.0, 3.0, np.nan], label="b"),
        drawn([1.0, 2.0, 3.0, np.nan], limit=6.0),
    ):
        with pytest.raises(AssertionError, match="REFSCALE_FIGURES=write"):
            assert_same_data(first, other, "a.svg")


@pytest.mark.parametrize(
    ("draw_more", "wrong"),
    [
        (lambda ax: ax.text(0.5, 0.5, "tiny", fontsize=8), "'tiny' is 6.7 pixels high on a telephone"),
        (
            lambda ax: ax.text(0.9, 0.1, "far out at the right", in_layout=False),
            "'far out at the right' leaves the figure",
        ),
        (lambda ax: [ax.text(0.3, 0.7, f"on a word {k}") for k in range(2)], "'on a word 0' is on 'on a word 1'"),
        (lambda ax: ax.text(0.4, 0.5, "in the way", va="center"), "'in the way' is crossed by a curve"),
        (lambda ax: ax.text(-0.06, 0.65, "over the edge"), "'over the edge' is crossed by the frame of a panel"),
    ],
)
def test_words_that_cannot_be_read_are_noticed(draw_more, wrong, tmp_path):
    pytest.importorskip("matplotlib")
    from refscale.analysis.figures import open_figure

    def drawn(more):
        with fingerprinted(), open_figure(tmp_path / "a.svg", 2) as figure:
            ax = figure.subplots()
            ax.plot([0, 1], [0, 1])
            ax.set(title="a title", xlabel="x", ylabel="y")
            more(ax)

    drawn(lambda ax: ax.text(0.1, 0.8, "beside it"))
    with pytest.raises(AssertionError, match=re.escape(wrong)):
        drawn(draw_more)


PATHS = lesson_pages()
HEAD = re.compile(r"# (\d+) · .+\n\n\*Reading (\d+) minutes, running (\d+) s; needs (.+)\.\*\n\n")


def test_the_old_name_of_a_lesson_links_its_new_one():
    moved = sorted(set(LESSONS.glob("[0-9][0-9]-*.md")) - set(PATHS))
    assert len(moved) > 0
    for path in moved:
        (name,) = re.findall(r"^# Moved: \[.+\]\(([\w-]+\.md)\)\n$", path.read_text(encoding="utf-8"))
        assert LESSONS / name in PATHS


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_every_lesson_has_the_same_parts(path):
    """Number, times, needs; exercises with folded solutions, of which at least one is code; the way on."""
    text = path.read_text(encoding="utf-8")
    head = HEAD.match(text)
    assert head
    number, minutes, seconds = (int(head[i]) for i in (1, 2, 3))
    assert number == int(path.name[:2])
    assert len(text.split()) / 130 < minutes < len(text.split()) / 65  # words a minute, code among them
    assert seconds < 60
    assert all(int(n) < number for n in re.findall(r"\((\d\d)-", head[4]))
    exercises, way_on = text.partition("## Exercises\n")[2].rsplit("**Next.**", 1)
    asked = re.findall(r"^(\d)\.  \S", exercises, re.MULTILINE)
    assert asked == [str(i) for i in range(1, len(asked) + 1)]
    assert len(asked) >= 2
    assert (
        exercises.count("<details><summary>Solution</summary>\n\n") == exercises.count("\n\n</details>") == len(asked)
    )
    assert ">>> " in exercises
    assert path == PATHS[-1] or f"({PATHS[number].name})" in way_on


def test_the_index_lists_every_lesson():
    index = (LESSONS / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\d+) · [^\]]+\]\(([\w-]+\.md)\)", index, re.MULTILINE) == [
        (str(int(p.name[:2])), p.name) for p in PATHS
    ]


DOCUMENTS = [
    *PATHS,
    LESSONS / "README.md",
    LESSONS.parent / "README.md",
    *(LESSONS.parent / "tests/bench").glob("*.md"),
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_what_is_referred_to_exists(path):
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    for link in links:
        name, _, heading = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if heading:
            assert heading in anchors(target.read_text(encoding="utf-8")), link
    assert all(1 <= int(n) <= len(PATHS) for n in re.findall(r"[Ll]essons? (\d+)", text))


def anchors(text: str) -> set[str]:
    """Of a Markdown file's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


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
