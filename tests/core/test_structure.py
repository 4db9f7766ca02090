"""Imports run one way, down the list of the design; run-time dependencies stay two."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import refscale

ROOT = Path(refscale.__file__).parent
ORDER = [
    "errors",
    "files",
    "memory",
    "formats",
    "special",
    "exact",
    "blocks",
    "scales",
    "precision",
    "engine",
    "ops",
    "graph",
    "functional",
    "layers",
    "data",
    "models",
    "published",
    "squad",
    "progress",
    "rivals",
    "tasks",
    "optim",
    "analysis",
    "train",
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
    "torch": "golden",
    "jax": "golden",
    "gfloat": "golden",
    "unit_scaling": "golden",
    "torchao": "golden",
    "safetensors": "published",
    "tokenizers": "published",
    "distributed": "sweep",
}


def modules() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def part(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(source: str, path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is imported when the file is) for every import statement."""
    found = []
    package = ["refscale", *path.relative_to(ROOT).with_suffix("").parts[:-1]]
    tree = ast.parse(source)
    late = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) or _for_types_only(n)]
    lazy = {id(n) for outer in late for n in ast.walk(outer)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            names = [f"{base}.{a.name}" for a in node.names] if base == "refscale" else [base]
            found += [(name, id(node) not in lazy) for name in names]
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
            if target in ORDER and ORDER.index(target) > here:
                wrong.append(f"{path.name} imports {name}, which stands below it")
        elif top in OPTIONAL:
            if part(path) != OPTIONAL[top] or (top == "matplotlib" and eager):
                wrong.append(f"{path.name} imports {name}")
        elif top not in ALLOWED and top not in sys.stdlib_module_names:
            wrong.append(f"{path.name} imports {name}, which is no run-time dependency")
    return wrong


def test_every_module_has_its_place():
    assert {part(p) for p in modules()} <= set(ORDER)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_down_the_list(path):
    assert violations(path.read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize(
    "source",
    [
        "from refscale.graph import plan",
        "from refscale import functional as F",
        "import scipy",
        "import matplotlib",
        "from .cli import main",
    ],
)
def test_the_check_rejects_a_wrong_import(source):
    assert violations(source, ROOT / "engine.py")


def test_core_imports_without_optional_packages():
    code = (
        "import sys; sys.modules.update(dict.fromkeys("
        "['hypothesis', 'pytest', 'matplotlib', 'torch', 'mpmath', 'jax', 'gfloat', 'safetensors', 'tokenizers']));"
        "import refscale.cli.claims, refscale.cli.conformance, refscale.testing, refscale.models.bert"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
