"""``import refscale as rs``: names found at their first use, old names, public names of every package."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import refscale as rs
from refscale import blocks, optim, rivals, scales, testing
from refscale.errors import ArgumentError
from refscale.names import lazily
from refscale.rivals import operand_scale
from tests import public_names
from tests.public_names import public_modules
from tests.sources import parsed, statements

ROOT = Path(rs.__file__).parent
MODULES = {"functional", "ops"}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    return done.stdout


def imported(source: str) -> dict[str, str]:
    """The names that type checkers see: those imported in ``if TYPE_CHECKING:``, with their modules."""
    (block,) = (n for n in ast.parse(source).body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test))
    return {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}


def table(source: str) -> dict[str, str]:
    """The names that are found at run time: those of the call of ``lazily``, with their modules."""
    (call,) = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "lazily")
    where = ast.literal_eval(call.args[1])
    return {name: module for module, names in where.items() for name in names}


@pytest.mark.parametrize("package", [rs, testing], ids=["refscale", "testing"])
class TestLazyNames:
    def test_dir_lists_them(self, package):
        assert set(package.__all__) <= set(dir(package))

    def test_each_is_the_very_object_of_its_module(self, package):
        source = Path(package.__file__).read_text(encoding="utf-8")
        for name, module in table(source).items():
            path = f"{package.__name__}.{module or name}"
            owner = importlib.import_module(path)
            assert getattr(package, name) is (getattr(owner, name) if module else owner)

    def test_type_checkers_see_the_same(self, package):
        source = Path(package.__file__).read_text(encoding="utf-8")
        expected = {n: ".".join(filter(None, (package.__name__, m))) for n, m in table(source).items()}
        assert imported(source) == expected
        assert sorted(expected) == sorted(package.__all__)

    def test_a_name_that_only_one_of_them_has_is_noticed(self, package):
        source = Path(package.__file__).read_text(encoding="utf-8")
        name = package.__all__[-1]
        other = table(source.replace(f'"{name}"', '"another"'))
        assert set(other) ^ set(imported(source)) == {name, "another"}

    def test_no_other_name_is_found(self, package):
        with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'xyzzy'$"):
            _ = package.xyzzy
        assert not hasattr(package, "__wrapped__")


def test_about_twenty_names():
    assert len(rs.__all__) == 20


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quantise", "did you mean quantize"),
        ("Tapes", "did you mean Tape"),
        ("back_ward", r"did you mean backward\?"),
        ("blocks", "import refscale.blocks"),
        ("nonsense_of_a_name", "attribute 'nonsense_of_a_name'$"),
    ],
)
def test_an_unknown_name_names_what_is_near(name, message):
    """In a new process: a submodule that somebody has imported is an attribute."""
    code = f"import refscale\ntry:\n    refscale.{name}\nexcept AttributeError as error:\n    print(error)"
    assert re.search(message, run(code).strip())


def test_nothing_is_imported_until_a_name_is_used():
    code = (
        "import sys; before = set(sys.modules); import refscale as rs; dir(rs)\n"
        "print(*sorted(set(sys.modules) - before))\n"
        "rs.get_format; print('numpy' in sys.modules, 'refscale.ops' in sys.modules)"
    )
    first, second = run(code).splitlines()
    assert set(first.split()) <= {"refscale", "refscale.names", "__future__"}
    assert second == "True False"


def test_a_first_program():
    """All that it uses is in the twenty names."""
    code = (
        "import numpy as np, refscale as rs\n"
        "tape = rs.Tape('unit', 'fp8')\n"
        "rng = np.random.default_rng(0)\n"
        "x, w = tape.tensor(rng.standard_normal((64, 32))), tape.tensor(rng.standard_normal((32, 32)))\n"
        "y = rs.functional.gelu(x @ w)\n"
        "rs.backward(y, rng.standard_normal(y.shape))\n"
        "print(np.asarray(y).shape, rs.gradient_factors(y)[y.variable])\n"
        "print(rs.quantize([0.3], 'e4m3fn', rounding='nearest_even', overflow='saturate'))\n"
    )
    assert run(code) == "(64, 32) 1.0\n[0.3125]\n"


MYPY = """\
import refscale as rs
from refscale.formats import Cast

tape = rs.Tape("unit", "fp8")
cast: rs.Cast = Cast("e5m2", "nearest_even", "saturate")
y: rs.Tensor = rs.functional.gelu(tape.tensor([1.0]))
z: rs.Tensor = y @ y + 2 * y
c: float = rs.gradient_factors(y)[y.variable]
"""


@pytest.mark.slow
def test_mypy_sees_them(tmp_path):
    api = pytest.importorskip("mypy.api")
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(MYPY, encoding="utf-8")
    bad.write_text("import refscale as rs\nrs.quantise\nrs.get_format(3)\n", encoding="utf-8")
    how = ["--strict", "--follow-imports=silent", f"--cache-dir={tmp_path}"]
    assert api.run([*how, str(good)])[0].startswith("Success")
    found = api.run([*how, str(bad)])[0]
    assert 'has no attribute "quantise"' in found
    assert 'Argument 1 to "get_format"' in found


RENAMED = {
    ("analysis", "record", "report"),
    ("claims", "Result", "ClaimResult"),
    ("models.language", "Loss", "NextTokenLoss"),
    ("precision", "OperandScales", "OperandScaling"),
    ("scales", "ScaleRule", "ScaledOp"),
    ("sweep", "Outcome", "CellResult"),
    ("sweep", "Spec", "SweepSpec"),
    ("train", "Summary", "TrainSummary"),
}
"""Package, the name up to version 0.1, and the name since."""

MOVED = {
    ("analysis", name, f"refscale.stats.{name}")
    for name in (
        *("CastSummary", "KINDS", "Kind", "Limits", "Lost", "Measurement", "REPORT_FORMATS", "Report", "Summary"),
        *("TensorStats", "measure", "summarize"),
    )
} | {
    ("tasks", old, f"refscale.programs.{new}")
    for old, new in (("Loss", "Loss"), ("Scores", "Scores"), ("Task", "Program"))
}
"""Names that are in another package since."""


class TestOldNames:
    @pytest.mark.parametrize(("part", "old", "new"), sorted(RENAMED | MOVED))
    def test_each_is_the_new_one_with_a_warning(self, part, old, new):
        package = importlib.import_module(f"refscale.{part}")
        where, _, last = (new if "." in new else f"refscale.{part}.{new}").rpartition(".")
        place = importlib.import_module(where)
        with pytest.warns(
            DeprecationWarning, match=rf"refscale\.{part}\.{old} is now {place.__name__}\.{last}$"
        ) as seen:
            found = getattr(package, old)
        assert seen[0].filename == __file__
        assert found is getattr(place, last)
        assert old not in dir(package)
        assert last in place.__all__

    def test_these_are_all(self):
        calls = {
            ".".join(p.relative_to(ROOT).parent.parts): ast.literal_eval(call.args[2])
            for p in ROOT.rglob("__init__.py")
            for call in ast.walk(parsed(p.read_text(encoding="utf-8")))
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "lazily" and len(call.args) == 3
        }
        assert {(part, *names) for part, old in calls.items() for names in old.items()} == RENAMED | MOVED

    def test_from_an_import(self):
        with pytest.warns(DeprecationWarning, match=r"refscale\.analysis\.record is now refscale\.analysis\.report"):
            from refscale.analysis import record
        assert record is rs.report

    def test_an_old_name_without_a_new_one_is_an_error(self):
        get, _ = lazily("refscale.formats", {}, {"old": "new"})
        with (
            pytest.warns(DeprecationWarning, match=r"refscale\.formats\.old is now refscale\.formats\.new"),
            pytest.raises(AttributeError, match="has no attribute 'new'"),
        ):
            get("old")


NAMED = "Scheme|Precision|Constraint|ResidualRule|Accumulator|Format|BlockCast|Optimizer|Schedule|Scaling"
"""Kinds of things that have names, and a function ``get_…`` that finds them."""


def public_functions() -> list[tuple[str, ast.FunctionDef]]:
    """The functions that some ``__all__`` lists, outside of the golden vectors."""
    trees = {p: parsed(p.read_text(encoding="utf-8")) for p in sorted(ROOT.rglob("*.py"))}
    exported = {name for tree in trees.values() for name in exports(tree)}
    return [
        (f"{p.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')}.{node.name}", node)
        for p, tree in trees.items()
        if "golden" not in p.parts
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name in exported
    ]


def exports(tree: ast.Module) -> list[str]:
    assigned = [n for n in tree.body if isinstance(n, ast.Assign)]
    lists = [n.value for n in assigned if isinstance(n.targets[0], ast.Name) and n.targets[0].id == "__all__"]
    return [name for value in lists for name in ast.literal_eval(value)]


def without_names(function: ast.FunctionDef) -> list[str]:
    """The parameters of a function that take a thing with a name, but not its name."""
    parameters = [*function.args.args, *function.args.kwonlyargs, *filter(None, [function.args.vararg])]
    types = {p.arg: ast.unparse(p.annotation) for p in parameters if p.annotation}
    return [
        name for name, kind in types.items() if re.search(rf"\b({NAMED})\b", kind) and not re.search(r"\bstr\b", kind)
    ]


class TestNamesInPlaceOfObjects:
    def test_every_public_function_takes_them(self):
        """But for those of strategies, which take strategies, and the one that serves the engine."""
        found = {name: wrong for name, f in public_functions() if (wrong := without_names(f))}
        assert found == {
            "precision.policy.random_bits": ["cast"],
            "testing.strategies.block_casts": ["into"],
            "testing.strategies.casts": ["into"],
        }

    def test_the_check_rejects_a_function_that_does_not(self):
        code = "def f(scheme: Scheme, mean: Constraint | None, tau: str | ResidualRule, *rest: Format): ..."
        assert without_names(ast.parse(code).body[0]) == ["scheme", "mean", "rest"]

    def test_they_are_the_objects(self):
        tape = rs.Tape("unit", "fp8")
        assert (tape.scheme, tape.precision) == (rs.unit, rs.get_precision("fp8"))
        assert scales.constrain(scales.Scales(2.0, (8.0,)), (0,), "geometric") == scales.Scales(4.0, (4.0,))
        assert scales.constraint_at("unit", "nowhere", "harmonic") is scales.harmonic
        assert scales.residual_at("unit", "nowhere", "running-mean") is scales.running_mean
        assert operand_scale("e5m2", 7.0) == operand_scale(rs.get_format("e5m2"), 7.0) == 2.0**13
        assert blocks.scale_exact(12.0, "mxfp4") == 2.0
        assert blocks.round_block_exact([12.0, 1.0], "mxfp4") == (2.0, [6.0, 0.5], 1.0)

    def test_a_plan(self):
        x = np.ones((2, 3))
        plans = [
            rs.plan(lambda t: rs.functional.gelu(t), x, mean=mean, base=base, add=add)
            for mean, base, add in (
                ("harmonic", "unit", "arithmetic"),
                (scales.harmonic, rs.unit, scales.arithmetic),
            )
        ]
        assert plans[0] == plans[1]

    def test_objects_are_returned_as_they_are(self):
        optimizer, schedule, scaling = optim.sgd(momentum=0.5), optim.constant(), rivals.get_scaling("static:8")
        assert optim.get_optimizer(optimizer) is optimizer
        assert optim.get_schedule(schedule) is schedule
        assert rivals.get_scaling(scaling) is scaling

    @pytest.mark.parametrize(
        "call",
        [
            lambda: optim.get_optimizer(3),
            lambda: optim.get_optimizer(optim.sgd(), momentum=0.9),
            lambda: optim.get_schedule(3),
            lambda: optim.get_schedule(optim.constant(), warmup=3),
            lambda: rivals.get_scaling(3),
            lambda: rivals.get_scaling(rivals.NoScaling),
        ],
    )
    def test_what_is_neither_is_refused(self, call):
        with pytest.raises(ArgumentError, match=r"get_(optimizer|schedule|scaling)\(.*\): expected one of"):
            call()


# --- Public names -----------------------------------------------------------------------------------------------------

OWN_USE = {"refscale": {"lazily"}, "refscale.cli": {"COMMANDS", "degrade", "parser"}}
"""What the ``__init__`` of a package imports from its own modules and does not export."""


def listed(module: str) -> list[str]:
    """The public names of a module or package."""
    return list(getattr(importlib.import_module(module), "__all__", []))


class TestPublicNames:
    @pytest.mark.parametrize("module", public_modules())
    def test_each_resolves_and_a_star_import_works(self, module):
        names: dict[str, object] = {}
        exec(f"from {module} import *", names)
        assert set(listed(module)) == set(names) - {"__builtins__"} != set()
        assert len(set(listed(module))) == len(listed(module))

    @pytest.mark.parametrize("module", public_modules())
    def test_what_a_package_imports_from_its_own_modules_is_listed(self, module):
        path = ROOT.parent.joinpath(*module.split("."), "__init__.py")
        if path.exists():
            tree = parsed(path.read_text(encoding="utf-8"))
            froms = [n for n, _ in statements(tree) if isinstance(n, ast.ImportFrom)]
            own = {a.asname or a.name for n in froms if (n.module or "").startswith(f"{module}.") for a in n.names}
            assert own - OWN_USE.get(module, set()) <= set(listed(module))


class TestListedNames:
    """``public_names.txt`` is what a version promises: calls that work go on working."""

    def test_none_is_gone_and_all_calls_work(self):
        assert list(public_names.misses(public_names.listed())) == []

    def test_most_present_names_are_listed(self):
        """New ones are added with a version."""
        assert len(public_names.listed()) > 800

    @pytest.mark.parametrize(
        ("line", "missed"),
        [
            ("refscale.graph.plans", "refscale.graph.plans: is gone"),
            ("refscale.graphs.plan", "refscale.graphs.plan: is gone"),
            ("refscale.analysis.record", ""),  # an old name
            ("refscale.formats.quantize(x, format, *, dither)", "refscale.formats.quantize: has no argument dither"),
        ],
    )
    def test_a_name_or_an_argument_that_is_gone_is_noticed(self, line, missed):
        assert list(public_names.misses([line])) == [missed] * bool(missed)

    @pytest.mark.parametrize(
        ("old", "new", "missed"),
        [
            ("a.f(x, y=)", "a.f(x, y=)", ""),
            ("a.f(x, y=)", "a.f(x, y=, z=)", ""),
            ("a.f(x, y=)", "a.f(x, y=, *, z=)", ""),
            ("a.f(x, *, y)", "a.f(x, y=)", ""),
            ("a.f(x, *, y)", "a.f(x, *rest, **more)", ""),
            ("a.f", "a.f(x)", ""),
            ("a.f(x, y)", "a.f(y, x)", "takes ['y', 'x'] by place, not ['x', 'y']"),
            ("a.f(x, y)", "a.f(x, *, y)", "takes ['x'] by place, not ['x', 'y']"),
            ("a.f(x, *, y)", "a.f(x)", "has no argument y"),
            ("a.f(*x)", "a.f()", "has no argument *"),
            ("a.f(x=)", "a.f(x)", "requires x"),
            ("a.f(x)", "a.f(x, y)", "requires y"),
            ("a.f(x)", "a.f(x, *, y)", "requires y"),
            ("a.f(x)", "a.f", "cannot be called"),
        ],
    )
    def test_calls_that_no_longer_work(self, old, new, missed):
        assert public_names.broken(old, new) == missed

    def test_a_line(self):
        def f(a, b=1, *rest, c, d=2, **more): ...

        assert public_names.call("m.f", f) == "m.f(a, b=, *rest, c, d=, **more)"
        assert public_names.call("m.g", lambda x, *, y=0: x) == "m.g(x, *, y=)"
        assert public_names.call("m.n", 3) == "m.n"


def classes_of_one_name(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Names of classes that several modules define, and which."""
    found: dict[str, list[str]] = {}
    for path, source in sources.items():
        for node, _ in statements(parsed(source)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(path)
    return {name: paths for name, paths in found.items() if len(paths) > 1}


def test_class_names_are_unique():
    sources = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in sorted(ROOT.rglob("*.py"))}
    assert classes_of_one_name(sources) == {}


def test_a_class_name_used_twice_is_noticed():
    sources = {"a.py": "class Row: ...", "b.py": "def f():\n    class Row: ...", "c.py": "class Rows: ..."}
    assert classes_of_one_name(sources) == {"Row": ["a.py", "b.py"]}


PAGES = [ROOT.parent / "README.md", *sorted((ROOT.parent / "tutorials").glob("*.md"))]


def documented(text: str) -> set[tuple[str, str]]:
    """(module, name) of the imports of a page, and of dotted names in its prose, such as ``graph.plan``."""
    found = set()
    for line in text.splitlines():
        if match := re.match(r"(?:>>> |\.\.\. )?\s*from (refscale[\w.]*) import ([\w, ]+)", line):
            found |= {(match[1], name.split(" as ")[0].strip()) for name in match[2].split(",")}
    parts = "|".join(sorted(p.name.removesuffix(".py") for p in ROOT.iterdir() if not p.name.startswith("_")))
    for match in re.finditer(rf"`(?:refscale\.)?({parts})((?:\.[a-z_]\w*)*)\.([A-Za-z_]\w*)(?!\w*\.\w*`)[`(]", text):
        if match[3] not in ("py", "md", "toml", "json"):
            found.add((f"refscale.{match[1]}{match[2]}", match[3]))
    return found


def unlisted(text: str) -> list[str]:
    """Names of a page that neither their module nor a package above it lists."""
    wrong = []
    for module, name in sorted(documented(text)):
        if hasattr(importlib.import_module(module), "__path__") and importlib.util.find_spec(f"{module}.{name}"):
            continue  # a module
        parts = module.split(".")
        if not any(name in listed(".".join(parts[:n])) for n in range(1, len(parts) + 1)):
            wrong.append(f"{module}.{name}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_documented_name_is_public(page):
    assert unlisted(page.read_text(encoding="utf-8")) == []


def test_a_private_name_in_a_page_is_noticed():
    text = ">>> from refscale.graph import plan, Iterator\nSee `graph.settle`, `published.adapt`, `refscale.graph`."
    assert documented(text) >= {("refscale.graph", "Iterator"), ("refscale.graph", "settle")}
    assert unlisted(text) == ["refscale.graph.Iterator", "refscale.graph.settle"]
