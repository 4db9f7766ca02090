"""The HTML report: one valid page that loads nothing, with the content of the JSON report, and no name read as HTML."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from refscale import analysis, ops
from refscale.analysis.report import html
from refscale.analysis.report.text import figure, percent
from refscale.cli import main
from refscale.engine import Tape, apply, backward
from refscale.errors import ArgumentError
from refscale.layers import Spec
from refscale.scales import unit as unit_scheme
from refscale.stats import Cause, TensorProbe, TensorUse
from tests.analysis.builders import report, spread, tensor

VOID = {"meta", "input", "br", "img", "link", "hr"}


class Page(HTMLParser):
    """The elements of a page in order, its attributes, and the texts of its scripts; raises where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.open, self.declared = [], [], {}, [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_decl(self, decl):
        self.declared = decl

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "script":
            self.scripts[self.open[-1][1].get("id", "code")] = data

    def json(self, name):
        return json.loads(self.scripts[name])


@pytest.fixture(scope="module")
def page(regular, unit):
    return analysis.to_html([regular, unit])


class TestPage:
    def test_it_is_one_valid_page(self, page):
        found = Page(page)
        assert found.declared == "doctype html"
        assert found.tags[:2] == ["html", "head"]
        assert [found.tags.count(tag) for tag in ("head", "title", "body", "main", "h1", "table")] == [1] * 6
        assert {"lang", "charset", "content"} <= {name for name, _ in found.attributes}
        ids = [value for name, value in found.attributes if name == "id"]
        assert len(ids) == len(set(ids))
        used = set(re.findall(r'(?:getElementById|read)\("([\w-]+)"\)', found.scripts["code"]))
        assert used <= set(ids)

    def test_it_fetches_nothing(self, page):
        fetched(page)
        for more in (
            '<link rel="stylesheet" href="style.css">',
            '<script src="https://cdn.example/d3.js"></script>',
            "<style>@import 'a.css';</style>",
            "<style>p { background: url(a.png) }</style>",
            "<script>fetch('data.json')</script>",
        ):
            with pytest.raises(AssertionError):
                fetched(page.replace("</body>", f"{more}</body>"))
        with pytest.raises(AssertionError):
            fetched(page.replace("default-src 'none'; ", ""))

    def test_light_and_dark_and_a_phone(self, page):
        for part in ("color-scheme: light dark", "@media (prefers-color-scheme: dark)", "@media (max-width: 50rem)"):
            assert part in page
        assert 'content="width=device-width, initial-scale=1"' in page

    def test_the_data_are_those_of_the_json_report(self, page, regular, unit):
        assert Page(page).json("data") == json.loads(analysis.to_json([regular, unit]))

    def test_what_rows_show_is_what_python_computes(self, page, regular, unit):
        derived = Page(page).json("derived")
        for shown, r in zip(derived, (regular, unit), strict=True):
            assert [d["scale"] for d in shown] == [t.scale for t in r.tensors]
            assert [d["ratio"] for d in shown] == [t.over_predicted for t in r.tensors]
            assert sum(d["mark"] == "!" for d in shown) == r.summary().outside_count

    def test_the_ranges_of_formats(self, page):
        """FP16 has the exponents −14 … 15 and subnormals from 2^−24; E4M3 −6 … 8, 2^−9; E5M2 −14 … 15, 2^−16."""
        rows = [(f["label"], f["smallest"], f["emin"], f["emax"]) for f in Page(page).json("formats")]
        assert rows == [("FP16", -24, -14, 15), ("E4M3", -9, -6, 8), ("E5M2", -16, -14, 15)]

    def test_size(self, page, regular):
        """bert-base has 804 tensors, twice; its rows are at most as long as the longest here with 20 exponents more.

        (Its largest tensors have 2^8 times as many elements, which fall into fewer than 20 more binades.)
        """
        assert len(page.encode()) < 500_000
        frame = len(analysis.to_html([report([tensor(spread(1.0))])]).encode())
        rows = json.loads(analysis.to_json([regular]))["reports"][0]["tensors"]
        largest = max(len(json.dumps(row)) for row in rows) + 20 * len('"-30": 123456789, ') + 100
        assert frame + 2 * 804 * largest < 5_000_000

    @pytest.mark.parametrize("reports", ["none", "other formats"])
    def test_reports_that_do_not_fit(self, reports):
        one = report([tensor(spread(1.0))])
        given = [] if reports == "none" else [one, report([tensor(spread(1.0))], formats=("float16",))]
        with pytest.raises(ArgumentError, match=r"^to_html: got .* reports, expected at least one, all of the same"):
            analysis.to_html(given)


def fetched(page):
    """Fails if the page could fetch anything."""
    found = Page(page)
    assert not {name for name, _ in found.attributes} & {"src", "href", "srcset", "action", "data", "poster"}
    (policy,) = [value for name, value in found.attributes if name == "content" and "script-src" in value]
    assert policy.startswith("default-src 'none'; ")
    code = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert re.findall(r"https?:[^\"' ]*", code) == ["http://www.w3.org/2000/svg"]  # the name of SVG's elements
    assert not re.search(r"url\(|@import|\bimport\b|fetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon", code)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", code)


HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt; \"quoted\" 'single'",
    "line\u2028and\u2029paragraph",
)


class TestNames:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_no_name_is_read_as_html(self, name):
        hostile, tame = self.page(name), self.page("tame")
        assert Page(hostile).tags == Page(tame).tags
        found = Page(hostile).json("data")["reports"][0]
        assert (found["model"], found["scheme"]) == (name, name)
        assert {found["tensors"][0][field] for field in ("name", "layer", "role", "zero_because")} == {name}
        assert not set("<>&\u2028\u2029") & set(Page(hostile).scripts["data"])

    def test_without_escapes_a_name_breaks_out(self):
        """The check of the test above."""
        with mock.patch.object(html, "_embedded", lambda content: json.dumps(content, ensure_ascii=False)):
            open_script = self.page(HOSTILE[0])
        with mock.patch.object(html, "escape", str):
            open_title = self.page(HOSTILE[2])
        for page in (open_script, open_title):
            with pytest.raises(AssertionError):
                assert Page(page).tags == Page(self.page("tame")).tags

    def page(self, name):
        about = dict.fromkeys(("name", "layer", "role", "zero_because"), name)
        own = tensor(spread(1.0), **about, uses=(TensorUse(name, name, 1.0),))
        other = tensor(spread(1.0), name=f"{name} too")
        return analysis.to_html([report([own, other], model=name, scheme=name, losses={name: 1.0})])


@pytest.fixture(scope="module")
def reports():
    first = [
        tensor(spread(1.0), name="up.weight"),
        tensor(spread(1024.0), name="down.weight", uses=(TensorUse("matmul", "down", 0.25),)),
        tensor(np.zeros(5), name="bias", zero_because="a bias"),
        tensor(spread(2.0**-9), name="down", kind="activation", role="gelu", alpha=1.5, predicted=2.0**-8),
        tensor([1.0, -1.0, 2.0, -4.0, 0.0], name="down", kind="activation gradient", alpha=1.5, c=3.0, damped=True),
    ]
    cause = Cause("down", "activation", "alike rows", -9.0, 2, "gelu #3", "a remedy")
    return [report(first, causes=(cause,)), report([tensor(spread(1.0), name="up.weight")], scheme="unit")]


@pytest.fixture(scope="module")
def found(reports, tmp_path_factory):
    directory = tmp_path_factory.mktemp("page")
    page = analysis.to_html(reports)
    (directory / "page.html").write_text(page, encoding="utf-8")
    (directory / "script.js").write_text(Page(page).scripts["code"], encoding="utf-8")
    command = ["node", Path(__file__).with_name("page.js"), directory / "script.js", directory / "page.html"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
class TestScript:
    """The script of the page, run on a document of a hundred lines (page.js)."""

    def test_a_row_per_tensor(self, found, reports):
        tensors = [(r, t) for r in reports for t in r.tensors]
        assert found["shown"] == "6 of 6 tensors"
        assert [row[1:4] for row in found["all"]] == [[r.scheme, t.kind, t.role] for r, t in tensors]
        assert [row[0].startswith(t.name) for row, (_, t) in zip(found["all"], tensors, strict=True)] == [True] * 6
        assert found["all"][1][4:7] == ["1000", "1020", "10.0!"]
        assert found["all"][3][4:8] == ["1000", "0.00195", "−9.0!", "0.50"]
        lost = [t.share(t.lost[f].underflow + t.lost[f].overflow) for _, t in tensors for f in reports[0].formats]
        assert [cell for row in found["all"] for cell in row[-3:]] == [percent(x) for x in lost]
        assert found["all"][0][5] == figure(1.0)

    def test_filters(self, found):
        assert [row[3] for row in found["searched"]] == ["gelu"]
        assert [row[6] for row in found["outside"]] == ["10.0!", "−9.0!"]
        assert [row[1:3] for row in found["weights"]] == [["regular", "weight"]] * 3

    def test_sorted_both_ways(self, found):
        scales = [[float(row[5]) for row in found[way]] for way in ("up", "down")]
        assert scales == [sorted(scales[0]), sorted(scales[0], reverse=True)]
        assert found["sorted"] == ["ascending", "none"]

    def test_an_opened_row(self, found, reports):
        """In the order of falling scale: down.weight, ∂down, the two up.weight, down, bias."""
        weight, gradient, _, _, value, zero = found["opened"]
        assert weight["bars"] == ["2^10: 100 %"]
        assert sorted(gradient["bars"]) == ["2^0: 50.0 %", "2^1: 25.0 %", "2^2: 25.0 %"]
        assert sorted(gradient["heights"]) == [60, 60, 120]
        assert zero["bars"] == []
        assert (weight["uses"], weight["links"]) == (["down (matmul), β = 0.25"], [1])
        assert "c3: the computed gradient is c times the true one" in gradient["text"]
        assert "damped" in gradient["text"]
        assert "predicted σ0.00391; measured over predicted 0.50" in value["text"]
        assert "α of gelu1.5" in value["text"]
        assert "outside because ofalike rows at gelu #3; a remedy" in value["text"]
        assert "outside because of" not in gradient["text"]
        assert "E4M3100 % too large" in weight["text"]
        assert "FP16no loss beyond rounding" in weight["text"]
        assert "zero because ofa bias" in zero["text"]
        assert found["closed"]

    def test_a_consumer_is_opened(self, found):
        (row,) = found["followed"]
        assert row.startswith("down")


class TestFactorsAndConsumers:
    def test_by_hand(self):
        """y = (x @ w + b), gelu(y) and y + gelu(y): through the bias, the product has both as consumers."""
        specs = {"w": Spec("weight", (4, 4)), "b": Spec("bias", (4,))}
        probe = TensorProbe(specs)
        tape = Tape(unit_scheme, probe=probe)
        w, b = tape.tensor(np.eye(4), "w"), tape.tensor(np.zeros(4), "b")
        y = apply(ops.Bias(), apply(ops.Matmul(), np.eye(4), w), b)
        out = apply(ops.Sum(), apply(ops.Multiply(), y, apply(ops.Tanh(), apply(ops.Fork(), y))))
        backward(out, check=False)
        rows = {(t.kind, t.name): t for t in probe.tensors(out, unit_scheme)}
        product = rows["activation", "matmul"]
        assert product.alpha == 0.5
        assert [(u.op, u.output) for u in product.uses] == [("fork", "fork"), ("multiply", "multiply")]
        assert rows["weight", "w"].alpha is None
        assert rows["weight", "w"].uses == (TensorUse("matmul", "matmul", 0.5),)
        assert rows["weight gradient", "b"].uses == (TensorUse("bias", "bias", 0.5),)
        assert rows["activation", "multiply"].uses == (TensorUse("sum", "sum", 1.0),)

    def test_of_a_constant_there_is_no_gradient(self, unit):
        uses = {u for t in unit.tensors for u in t.uses}
        assert all(u.beta is not None for u in uses)

    def test_an_old_file_has_none(self, unit):
        content = json.loads(analysis.to_json([unit]))
        for row in content["reports"][0]["tensors"]:
            del row["uses"], row["alpha"]
        (old,) = analysis.from_json(json.dumps(content))
        assert {t.uses for t in old.tensors} == {()}
        assert {t.alpha for t in old.tensors} == {None}


class TestCommand:
    def test_it_writes_the_page(self, tmp_path, capsys):
        out, data = tmp_path / "a.html", tmp_path / "a.json"
        command = ["report", "tests.programs.mlp:model", "--html", str(out), "--json", str(data)]
        assert main(command) == 0
        assert Page(out.read_text(encoding="utf-8")).json("data") == json.loads(data.read_text(encoding="utf-8"))

    @pytest.mark.parametrize(
        ("option", "said"),
        [
            (["--flops"], "report: --flops with --html, expected one of the two"),
            (["--pretrained", "x"], "with --html, not applicable to it"),
        ],
    )
    def test_where_it_cannot(self, option, said, tmp_path, capsys):
        assert main(["report", *option, "--html", str(tmp_path / "a.html")]) == 2
        assert said in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_a_directory_that_does_not_exist(self, tmp_path, capsys):
        assert main(["report", "--html", str(tmp_path / "none" / "a.html")]) == 2
        assert "there is no directory" in capsys.readouterr().err
