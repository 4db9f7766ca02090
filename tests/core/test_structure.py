"""Imports run one way, down the map of ``refscale.__doc__``; run-time dependencies stay two."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import refscale
from refscale import ops
from refscale.models import NAMES, family
from tests.sources import parsed, statements

ROOT = Path(refscale.__file__).parent
ORDER = [
    "errors",
    "names",
    "arguments",
    "spellings",
    "arrays",
    "files",
    "modules",
    "records",
    "memory",
    "formats",
    "special",
    "exact",
    "blocks",
    "scales",
    "precision",
    "engine",
    "ops",
    "prediction",
    "graph",
    "functional",
    "layers",
    "data",
    "models",
    "programs",
    "adapt",
    "published",
    "squad",
    "progress",
    "rivals",
    "tasks",
    "optim",
    "stats",
    "train",
    "analysis",
    "bridge",
    "sweep",
    "testing",
    "golden",
    "claims",
    "cli",
    "__main__",
]
ALLOWED = {"numpy", "ml_dtypes"}
OPTIONAL = {
    "matplotlib": "analysis",
    "hypothesis": "testing",
    "pytest": "golden",
    "torch": "golden bridge cli",
    "onnx": "bridge",
    "onnxruntime": "bridge",
    "jax": "golden",
    "gfloat": "golden",
    "unit_scaling": "golden",
    "torchao": "golden",
    "safetensors": "published",
    "tokenizers": "published",
    "distributed": "sweep",
}


@cache
def modules() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def part(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


@cache
def imports(source: str, path: Path, exactly: bool = False) -> list[tuple[str, bool]]:
    """(module, whether it is imported when the file is) for every import statement.

    ``exactly``: with the imported name, which may be a module, after that of the package.
    """
    found = []
    package = ["refscale", *path.relative_to(ROOT).with_suffix("").parts[:-1]]
    for node, outer in statements(parsed(source)):
        eager = not any(isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) or _for_types_only(n) for n in outer)
        if isinstance(node, ast.Import):
            found += [(alias.name, eager) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            names = [f"{base}.{a.name}" for a in node.names] if base == "refscale" or exactly else [base]
            found += [(name, eager) for name in names]
    return found


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def violations(source: str, path: Path) -> list[str]:
    wrong = []
    here = ORDER.index(part(path))
    for name, eager in imports(source, path):
        top, _, rest = name.partition(".")
        if top == "refscale":
            target = rest.partition(".")[0]
            if target not in (*ORDER, "__version__"):
                wrong.append(f"{path.name} imports {name} from the front door, expected the module that defines it")
            elif target in ORDER and ORDER.index(target) > here:
                wrong.append(f"{path.name} imports {name}, which stands below it")
        elif top in OPTIONAL:
            if part(path) not in OPTIONAL[top].split() or (top == "matplotlib" and eager):
                wrong.append(f"{path.name} imports {name}")
        elif top not in ALLOWED and top not in sys.stdlib_module_names:
            wrong.append(f"{path.name} imports {name}, which is not a run-time dependency")
    return wrong


def test_every_module_has_its_place():
    assert {part(p) for p in modules()} <= set(ORDER)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_down_the_list(path):
    """Those inside functions and for types only, too."""
    assert violations(path.read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize(
    "source",
    [
        "from refscale.graph import plan",
        "from refscale import functional as F",
        "import scipy",
        "import matplotlib",
        "from .cli import main",
        "import refscale",
        "from refscale import quantize",
        "from refscale.engine import Tape\nif TYPE_CHECKING:\n    from refscale.train import Run",
        "def late():\n    from refscale.graph import plan",
        "async def late():\n    import refscale.graph.plan",
    ],
)
def test_the_check_rejects_a_wrong_import(source):
    assert violations(source, ROOT / "engine.py")


def name_of(path: Path) -> str:
    """``refscale.ops.kernels`` for ``refscale/ops/kernels/__init__.py``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["refscale", *(p for p in parts if p != "__init__")])


def circles(sources: dict[Path, str]) -> list[list[str]]:
    """Groups of modules that import one another, directly or not: when imported, inside functions, or for types.

    An import of a submodule also runs the ``__init__`` of its package, which is not an edge here.
    """
    names = {name_of(path) for path in sources}
    graph: dict[str, set[str]] = {}
    for path, source in sources.items():
        found = {name for name, _ in imports(source, path, exactly=True)}
        graph[name_of(path)] = {name if name in names else name.rpartition(".")[0] for name in found} & names
    return sorted(sorted(group) for group in components(graph) if len(group) > 1)


def components(graph: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components: the nodes that a node reaches, among those that reach it."""

    def reached(start: str, edges: dict[str, set[str]]) -> set[str]:
        seen, todo = {start}, [start]
        while todo:
            new = edges[todo.pop()] - seen
            seen |= new
            todo += new
        return seen

    back: dict[str, set[str]] = {node: set() for node in graph}
    for node, targets in graph.items():
        for target in targets:
            back[target].add(node)
    left, found = set(graph), []
    while left:
        start = min(left)
        found.append(reached(start, graph) & reached(start, back))
        left -= found[-1]
    return found


KERNELS = [f"refscale.ops.{name}" for name in ("kernels.rows", "losses", "norms", "softmax")]
"""The one exception: fast forms are in modules of their own, and need the types of the ops that name them."""


def test_no_modules_import_each_other():
    found = circles({path: path.read_text(encoding="utf-8") for path in modules()})
    assert [group for group in found if group != KERNELS] == []


@pytest.mark.parametrize(
    "back",
    [
        "from refscale.ops.a import f",
        "from refscale.ops import a",
        "from .a import f",
        "import refscale.ops.a",
        "if TYPE_CHECKING:\n    from refscale.ops.a import f",
        "def late():\n    from refscale.ops.a import f",
        "class C:\n    async def late(self):\n        from refscale.ops.a import f",
    ],
)
def test_the_check_rejects_a_circle(back):
    a, b, c = (ROOT / "ops" / f"{name}.py" for name in "abc")
    way = {a: "from refscale.ops.b import g", b: "from refscale.ops.c import h", c: "import math"}
    assert circles(way) == []
    assert circles(way | {c: back}) == [["refscale.ops.a", "refscale.ops.b", "refscale.ops.c"]]
    assert circles(way | {b: back}) == [["refscale.ops.a", "refscale.ops.b"]]


CORE, INSTRUMENTS = (re.findall(r"^``(\w+)`` ", table, re.M) for table in (refscale.__doc__ or "").split("\n\n")[2:5:2])
SERVE_BOTH = [
    "errors",
    "names",
    "arguments",
    "spellings",
    "arrays",
    "files",
    "modules",
    "records",
    "progress",
    "memory",
]


def test_the_map_is_complete_and_in_order():
    assert [p for p in ORDER if p not in (*SERVE_BOTH, "__main__")] == [*CORE, *INSTRUMENTS]
    assert all(f"``{name}``" in refscale.__doc__ for name in SERVE_BOTH)


def test_the_core_knows_no_instrument():
    for path in modules():
        if part(path) in CORE:
            met = {name.split(".")[1] for name, _ in imports(path.read_text(encoding="utf-8"), path) if "." in name}
            assert not met & set(INSTRUMENTS), path


INSTRUMENTS_OF_PROGRAMS = ("stats", "analysis", "train", "programs", "adapt")
OTHER_MEANINGS = {"bias", "readout", "dropout", "log", "clip", "mean", "bert-mini"}
"""Roles of parameters, a setting, an axis, a column, a cause, the default of ``train``."""


def names_of_models(source: str) -> set[str]:
    """The texts of a module, docstrings aside, that are names of ops, or of models or their parameters."""
    parameters = {name for config in NAMES.values() for name in family(config).specs(config)}
    known = {*ops.OPS, *NAMES, *parameters, *(".".join(name.split(".")[-2:]) for name in parameters if "." in name)}
    tree = ast.parse(source)
    docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docstrings]
    return {text for text in texts if isinstance(text, str) and text.strip(".") in known} - OTHER_MEANINGS


@pytest.mark.parametrize("part_of_it", INSTRUMENTS_OF_PROGRAMS)
def test_no_instrument_knows_an_op_or_parameter_by_its_spelling(part_of_it):
    """Ops, specs and programs declare what instruments need to know of them."""
    found = {p.name: names_of_models(p.read_text(encoding="utf-8")) for p in modules() if part(p) == part_of_it}
    assert {name: texts for name, texts in found.items() if texts} == {}


@pytest.mark.parametrize(
    "source",
    ['name.endswith("key.bias")', 'op.name in ("matmul", "conv1d")', 'name == "pad"', 'name == "embeddings.word"'],
)
def test_a_spelling_is_noticed(source):
    assert names_of_models(source)


def test_training_does_not_know_the_analysis():
    for path in (p for p in modules() if part(p) in ("train", "stats", "programs")):
        found = {name for name, _ in imports(path.read_text(encoding="utf-8"), path, exactly=True)}
        assert not any(name.startswith("refscale.analysis") for name in found), path


ELSEWHERE = re.compile(r"json\.loads?\(|tomllib|\.read_text\(|\.readlines?\(|\.splitlines\(")
"""Ways to read text that have other line ends, no limit, or errors that name no place."""


def test_text_is_read_in_one_place():
    found = [path.name for path in modules() if ELSEWHERE.search(path.read_text(encoding="utf-8"))]
    assert found == ["files.py"]


MUTABLE = ["scales/schemes.py", "sweep/engine.py", "sweep/engine.py"]
"""Records that are made at every call, and the bookkeeping of a pool."""


def test_records_are_immutable():
    found = []
    for path in modules():
        for node, _ in statements(parsed(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                how = [ast.unparse(d) for d in node.decorator_list]
                if any(d.startswith("dataclass") and "frozen=True" not in d for d in how):
                    found.append(path.relative_to(ROOT).as_posix())
    assert found == MUTABLE


def private_names(source: str, path: Path) -> list[str]:
    """Names with a leading underscore, imported from another part of the package."""
    found = []
    for node, _ in statements(parsed(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("refscale."):
            words = [*node.module.split(".")[1:], *(alias.name for alias in node.names)]
            if words[0] != part(path):
                found += [word for word in words if word.startswith("_") and not word.startswith("__")]
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_private_name_crosses_a_wall(path):
    assert private_names(path.read_text(encoding="utf-8"), path) == []


def test_one_function_writes_json():
    """``files.json_text`` names numbers that are not finite.

    Formats that are fixed elsewhere have none: golden vectors refuse them, config.json of published models has ranges.
    """
    writers = {p.relative_to(ROOT).as_posix() for p in modules() if "json.dump" in p.read_text(encoding="utf-8")}
    assert writers == {"files.py", "golden/store.py", "golden/kit/pipe.py", "published/pretrained.py"}


def test_the_check_rejects_a_private_name():
    assert private_names("from refscale.formats.cast import _plan", ROOT / "engine" / "tape.py") == ["_plan"]
    assert private_names("from refscale.ops._shapes import broadcast", ROOT / "functional" / "norms.py") == ["_shapes"]


def test_core_imports_without_optional_packages():
    code = (
        "import sys; sys.modules.update(dict.fromkeys("
        "['hypothesis', 'pytest', 'matplotlib', 'torch', 'mpmath', 'jax', 'gfloat', 'safetensors', 'tokenizers']));"
        "import refscale.cli.claims, refscale.cli.conformance, refscale.testing, refscale.models.bert"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
