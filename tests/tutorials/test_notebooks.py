"""``tutorials/notebooks.py``: a small lesson by hand, then all lessons."""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.prose import lesson_pages
from tests.tutorials.commands import LESSONS, notebooks

LESSON = """\
# 3 · A <!--= name -->small<!--/--> lesson

See [the next](04-next.md), [its end](04-next.md#the-end-of-fp8), [a file](../refscale/graph.py), [a page](https://a.org/b),
[here](#parts) and ![a figure](figures/03-a.svg).

```python
>>> x = 1
>>> x + 1
2
>>> def f():
...     return "a\\n"
>>> print(f())  # two lines
a
<BLANKLINE>
>>> x, 2
(1, 2)
>>> y = (x
...      + 2)

```

```sh
>>> not python
```

```python figure
draw("figures/03-a.svg")
```

1.  A question.

<details><summary>Solution</summary>

Because.

```python
>>> (x
...  + 3)  # ends here
4
>>> float("a")
Traceback (most recent call last):
ValueError: could not convert string to float: 'a'
```

</details>

```python pytest
def test_a():
    assert True
```
"""


@pytest.fixture
def lessons(tmp_path):
    folder = tmp_path / "clone/tutorials"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures/03-a.svg").write_text("<svg/>", encoding="utf-8")
    (folder / "03-small.md").write_text(LESSON, encoding="utf-8")
    (folder / "03-old.md").write_text("# Moved: [a small lesson](03-small.md)\n", encoding="utf-8")
    (folder / "04-next.md").write_text("# 4 · Next\n\n## The end of FP8\n", encoding="utf-8")
    return folder


def test_the_cells_of_a_small_lesson(lessons, tmp_path):
    made = notebooks.convert(tmp_path / "out", lessons)
    assert made == [tmp_path / "out/03-small.ipynb", tmp_path / "out/04-next.ipynb"]
    found = json.loads(made[0].read_text(encoding="utf-8"))
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 4)
    cells = [
        (c["cell_type"], c["source"], *([c["outputs"], c["metadata"]] if "outputs" in c else []))
        for c in found["cells"]
    ]
    hidden = {"jupyter": {"source_hidden": True, "outputs_hidden": True}}

    def printed(text):
        return [{"output_type": "stream", "name": "stdout", "text": text}]

    message = "could not convert string to float: 'a'"
    error = {
        "output_type": "error",
        "ename": "ValueError",
        "evalue": message,
        "traceback": [f"ValueError: {message}"],
    }
    assert cells == [
        (
            "markdown",
            "# 3 · A small lesson\n\nSee [the next](04-next.ipynb), [its end](04-next.ipynb#The-end-of-FP8), "
            "[a file](../clone/refscale/graph.py), [a page](https://a.org/b),\n"
            "[here](#parts) and ![a figure](figures/03-a.svg).",
        ),
        ("code", "x = 1\nx + 1", printed("2\n"), {}),
        ("code", 'def f():\n    return "a\\n"\nprint(f())  # two lines', printed("a\n\n"), {}),
        ("code", "x, 2", printed("(1, 2)\n"), {}),
        ("code", "y = (x\n     + 2)", [], {}),
        ("markdown", "```sh\n>>> not python\n```"),
        ("code", 'draw("figures/03-a.svg")', [], {}),
        ("markdown", "1.  A question."),
        ("markdown", "**Solution**"),
        ("markdown", "Because."),
        ("code", "(x\n + 3)  # ends here", printed("4\n"), hidden),
        ("code", 'float("a")', [error], {**hidden, "tags": ["raises-exception"]}),
        (
            "markdown",
            "```python\ndef test_a():\n    assert True\n```\n\n"
            "The file `test_03.py` has these tests: `python -m pytest test_03.py`.",
        ),
    ]
    assert (tmp_path / "out/test_03.py").read_text(encoding="utf-8") == "def test_a():\n    assert True\n"
    assert (tmp_path / "out/figures/03-a.svg").exists()


def test_the_script_of_a_small_lesson(lessons, tmp_path):
    notebooks.convert(tmp_path / "out", lessons)
    text = (tmp_path / "out/03-small.py").read_text(encoding="utf-8")
    for part in (
        "# %% [markdown]\n# # 3 · A small lesson\n#\n# See [the next](04-next.py), ",
        "# %%\nx = 1\ndisplay(x + 1)\n#> 2\n\n",
        "# %%\ndisplay((x, 2))\n#> (1, 2)\n\n",
        "# %%\ny = (x\n     + 2)\n\n",
        "# %%\ndisplay(\n    (x\n     + 3)  # ends here\n)\n#> 4\n\n",
        '# %%\ntry:\n    float("a")\nexcept Exception as error:\n    print(f"{type(error).__name__}: {error}")\n#> Va',
    ):
        assert part in text
    done = run(tmp_path / "out/03-small.py", ("draw(", "str("))
    assert done == "2\na\n\n(1, 2)\n4\nValueError: could not convert string to float: 'a'\n"


def run(path: Path, replaced: tuple[str, str] = ("", "")) -> str:
    """What a script prints in its directory."""
    source = path.read_text(encoding="utf-8").replace(*replaced)
    environment = {**os.environ, "PYTHONPATH": str(LESSONS.parent), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-W", "error", "-c", source]
    done = subprocess.run(
        command, cwd=path.parent, env=environment, capture_output=True, encoding="utf-8", check=True, timeout=60
    )
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return notebooks.convert(tmp_path_factory.mktemp("made"))


def test_every_lesson_is_converted(made):
    assert [p.stem for p in made] == [p.stem for p in lesson_pages()]
    for path in made:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [c["source"] for c in cells if c["cell_type"] == "code"]
        assert len(code) > 5
        for source in code:
            compile(source, path.name, "exec")
        script = path.with_suffix(".py").read_text(encoding="utf-8")
        compile(script, path.name, "exec")
        assert not re.search(r"^(def display\b|display =|import display)", "\n".join(code), re.MULTILINE)
        assert ">>>" not in "\n".join(code)


def test_every_relative_link_leads_somewhere(made):
    for path in made:
        for page in (path, path.with_suffix(".py")):
            for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", page.read_text(encoding="utf-8")):
                assert link.startswith("http") or (path.parent / link).exists(), (page.name, link)


def test_a_script_prints_what_its_lesson_shows(made):
    (path,) = (p.with_suffix(".py") for p in made if p.name.startswith("02"))
    shown = [line.removeprefix("#> ") for line in path.read_text(encoding="utf-8").splitlines() if line[:2] == "#>"]
    expected = "\n".join(shown) + "\n"
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert len(shown) > 10
    assert doctest.OutputChecker().check_output(expected, run(path), options)
