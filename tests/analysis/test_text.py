import re

import numpy as np
import pytest

import refscale as rs
from refscale.analysis import render
from refscale.analysis.report.histogram import HEIGHT, MARGIN, WIDTH, histograms, shares
from refscale.analysis.report.text import percent, summary_lines, table
from refscale.analysis.tables.formats import format_table
from refscale.stats import KINDS, CastSummary, Cause
from refscale.stats.report import is_outside
from tests.analysis.builders import report, spread, tensor


def line_with(text, start):
    return next(line for line in text.split("\n") if line.strip().startswith(start))


class TestTable:
    def test_columns_are_aligned_and_fit(self, regular, unit):
        text = render([regular, unit])
        assert max(map(len, text.split("\n"))) <= 100
        rows = [line for line in text.split("\n") if re.match(r"  \S+\.\S+ +\d+(×\d+)+ ", line)]
        assert len(rows) > 80
        assert all(line[39].isdigit() and line[40] == " " and line[48] != " " for line in rows)  # shape, σ end here
        heads = [line for line in text.split("\n") if line.startswith(("WEIGHT", "ACTIVATION"))]
        assert len(heads) == 8
        assert len({line.index("log2") for line in heads}) == 2  # gradients have the shapes of the rows above

    def test_figures_of_a_row(self):
        x = spread(2.0**-24)  # to zero in FP8, subnormal in FP16
        x[:10] = 0
        x[10:12] = (1e6, -1e6)
        r = report([tensor(x, kind="weight gradient", c=16.0, name="encoder.0.ffn.up.weight")])
        row = line_with("\n".join(table(r)), "ffn.up.weight")
        words = ["ffn.up.weight", "4.47e+04", "15.4!"]
        assert row.split() == [*words, "·", ">99", "0.2", ">99", "·", "0.2", ">99", "·", "0.2", "16"]

    def test_marks(self):
        inf = spread(1.0)
        inf[0] = np.inf
        gradients = [
            tensor(spread(1.0), name="encoder.0.fine"),
            tensor(spread(8.0), name="encoder.0.wide"),
            tensor(inf, name="encoder.0.inf"),
        ]
        text = "\n".join(table(report(gradients)))
        assert " 0.0  " in line_with(text, "fine")
        assert " 3.0! " in line_with(text, "wide")
        assert "∞" in line_with(text, "inf")

    def test_zero_biases_share_a_line_unless_everything_is_asked_for(self, unit):
        short, long = render([unit]), render([unit], everything=True)
        assert "8 more, all zero: biases" in short
        assert "attention.query.bias" not in short.split("ACTIVATIONS")[0]
        assert "attention.query.bias" in long.split("ACTIVATIONS")[0]
        assert "zero by construction" in line_with(long, "attention.key.bias")

    def test_many_layers_get_a_line_each(self):
        tensors = [
            tensor(spread(2.0**k), name=f"encoder.{i}.w{k}", layer=f"encoder.{i}") for i in range(9) for k in (-3, 0, 1)
        ]
        r = report(tensors)
        lines = [line for line in table(r) if line.startswith("  encoder.")]
        assert len(lines) == 9
        assert lines[4].split()[:6] == ["encoder.4", "1/3", "0.125", "1", "2", "·"]
        assert len([line for line in table(r, everything=True) if line.startswith("  w")]) == 27

    def test_casts(self):
        cast = CastSummary("operand_gradient", "float8_e5m2", 20, 1000, 0, 250, "encoder.0.ffn.up.matmul")
        text = render([report([tensor(spread(1.0))], precision="fp8", casts=(cast,))])
        assert line_with(text, "operand_gradient").split() == [
            "operand_gradient",
            "float8_e5m2",
            "20",
            "1,000",
            "none",
            "25",
            "%",
        ]
        assert "largest share in encoder.0.ffn.up.matmul" in text

    @pytest.mark.parametrize(
        ("share", "text"),
        [
            (0, "·"),
            (1e-9, "<.1"),
            (0.001, "0.1"),
            (0.0994, "9.9"),
            (0.0996, "10"),
            (0.5, "50"),
            (0.989, "99"),
            (0.9999, ">99"),
            (1, "100"),
        ],
    )
    def test_percent(self, share, text):
        assert percent(share) == text


class TestSummary:
    def test_regular_beside_unit(self, regular, unit):
        r, u = ("\n".join(summary_lines(x)) for x in (regular, unit))
        assert re.match(r"regular: 1[3-6]\d of 160 tensors have a scale outside \[1/4, 4\]\n", r)
        assert re.match(r"unit: [12]?\d of 160 tensors", u)
        assert "activation gradients 48/48" in r
        assert re.search(
            r"farthest from 1: activation gradient encoder\.\d\.attention\.\w+\.matmul, σ = \S+ = 2\^-2\d", r
        )
        assert "on purpose" not in r + u
        u_mup = "\n".join(summary_lines(rs.report("bert-tiny", "u-mup", batch=1, seq=16)))
        assert "damped by 1/fan-in on purpose: mlm.readout, nsp.readout" in u_mup
        assert "22 biases at the start; 2 gradients of key biases, as the\n    softmax ignores a shift" in u

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            (np.zeros(4), "weight w, all zero"),
            (np.array([np.inf, 1, 2]), "weight w, 1 of 3 elements not finite"),
            (np.full(4, 32.0), "weight w, RMS = 32 = 2^5.0"),
            (spread(32.0) + 1, "weight w, σ = 32 = 2^5.0"),
        ],
    )
    def test_farthest(self, values, said):
        assert f"  farthest from 1: {said}" in summary_lines(report([tensor(values, name="w")]))


class TestPredictions:
    def test_how_near_the_scales_are(self):
        """σ over predicted 0.5, 0.84, 0.86, 1.14, 1.16: two are within 15 %; unjudged tensors do not count."""
        tensors = [
            tensor(spread(1.0), name=f"w{i}", predicted=1 / ratio)
            for i, ratio in enumerate((0.5, 1.16, 0.86, 1.14, 0.84))
        ]
        others = [
            tensor(spread(1.0), name="damped", damped=True, predicted=1.0),
            tensor(np.zeros(4), name="zero", zero_because="biases", predicted=1.0),
            tensor(spread(1.0), name="trained"),
        ]
        lines = summary_lines(report([*tensors, *others]))
        assert "  σ over predicted: 2 of 5 within 15 %, median 0.86, 0.50 to 1.16" in lines
        assert "  not predicted: 1 tensor, from trained on" in lines
        assert not any("not predicted" in line for line in summary_lines(report([*tensors, *others[:2]])))
        assert not any("predicted" in line for line in summary_lines(report(others[2:])))


class TestHistograms:
    def test_captions_by_hand(self):
        """Each tensor counts alike: of FP16, 1/4 and 0 of the numbers under- or overflow, of E4M3 3/4 and 1/2."""
        one = np.array([2.0**-26, 1.0, 2.0**9, 2.0**-11], np.float32)
        two = np.array([2.0**-3, 2.0**-3, 2.0**10, -(2.0**10)], np.float32)
        lines = histograms([report([tensor(one, name="a"), tensor(two, name="b")])])
        assert lines[lines.index("weights") + 2].strip() == "lost in FP16 12 %, E4M3 62 %, E5M2 12 %"
        lines = histograms([report([tensor(spread(scale)) for scale in (2.0, 8.0, 2.0**-5)])])
        assert lines[lines.index("weights") + 1].strip() == "σ 2^-5 … 2^3, median 2^1"

    def test_shares_sum_to_one(self, regular):
        for kind in KINDS:
            assert sum(shares(regular.of_kind(kind)).values()) == pytest.approx(1)

    def test_tensors_count_alike(self):
        found = shares([tensor(np.full(1000, 1.0)), tensor(np.full(3, 2.0**-5)), tensor(np.zeros(5))])
        assert found == {0: 0.5, -5: 0.5}

    def test_bars_stand_where_the_numbers_are(self):
        lines = histograms([report([tensor(np.full(9, 2.0**-20))]), report([tensor(np.full(9, 1.0))], scheme="unit")])
        labels = lines.index(next(line for line in lines if line.startswith(" 2^")))
        weights = lines.index("weights")
        top = lines[weights + 3]
        assert [i for i, c in enumerate(top) if c == "█"] == [
            lines[labels].index("-20") + 2,
            lines[labels].rindex(" 0 ") + 1,
        ]
        assert all("█" in lines[weights + 3 + k] for k in range(HEIGHT))

    def test_the_axis_marks_zero_and_tens(self, unit):
        lines = histograms([unit])
        labels = next(line for line in lines if line.startswith(" 2^"))
        axis = next(line for line in lines if "╂" in line)
        assert axis.count("╂") == 1
        assert labels[axis.index("╂")] == "0"
        ends = [i for i, c in enumerate(labels) if c == "0" and not labels[i + 1 : i + 2].isdigit()]
        assert [i for i, c in enumerate(axis) if c in "╂┴"] == ends

    def test_ranges(self):
        lines = histograms([report([tensor(np.ones(9))])])
        exponents = range(16 - WIDTH + 1, 17)
        for name, subnormal, normal in [("FP16", (-24, -15), (-14, 15)), ("E4M3", (-9, -7), (-6, 8))]:
            line = next(line for line in lines if line.startswith(name))
            for glyph, (low, high) in (("╌", subnormal), ("━", normal)):
                found = [exponents[i - MARGIN] for i, c in enumerate(line) if c == glyph]
                assert (found[0], found[-1], len(found)) == (low, high, high - low + 1)

    @pytest.mark.parametrize(("few", "glyph"), [(1, " "), (2, "▁"), (3, "▁"), (100, "▄")])
    def test_what_is_a_five_hundredth_shows(self, few, glyph):
        """Of a thousand numbers; heights are shares of the highest bar, four lines of eight eighths."""
        x = np.ones(1000)
        x[:few] = 2.0**-10
        lines = histograms([report([tensor(x)])])
        lowest = lines[lines.index("weights") + 2 + HEIGHT].ljust(MARGIN + WIDTH)
        assert (lowest[MARGIN + WIDTH - 17], lowest[MARGIN + WIDTH - 27]) == ("█", glyph)

    def test_what_is_below_the_first_column_is_in_it(self):
        for k in (-100, -30, 17 - WIDTH):
            lines = histograms([report([tensor(np.full(9, 2.0**k))])])
            assert lines[lines.index("weights") + 3][MARGIN] == "█", k

    def test_fits(self, regular, unit):
        assert max(map(len, histograms([regular, unit]))) <= 118


def test_grouped_report_of_a_deeper_model_fits():
    text = render([rs.report("bert-mini", "unit", batch=1, seq=16)])
    assert max(map(len, text.split("\n"))) <= 100


def test_format_table():
    lines = list(format_table())
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert lines[0].split()[:6] == ["name", "bits", "E", "M", "bias", "max"]
    numbers = ["8", "4", "3", "7", "448", "2^-6", "2^-9", "-", "0x7f", "256"]
    assert rows["float8_e4m3fn"] == ["float8_e4m3fn", *numbers]
    assert rows["float16"][-3:] == ["0x7c00", "0x7e00", "65536"]
    assert rows["float8_e8m0fnu"][6:] == ["2^-127", "-", "-", "0xff", "256"]
    assert max(map(len, lines)) <= 100


class TestCauses:
    def test_lines_by_cause_those_of_most_tensors_first(self):
        causes = [
            Cause("a.weight", "weight gradient", "alike rows", 2.3, 1, "a: matmul #3", "rows=alike"),
            Cause("h", "activation", "constraint", -2.5, 2, "b: matmul #7", "fork"),
            Cause("b.weight", "weight gradient", "alike rows", 3.04, 1, "b: matmul #7", "rows=alike"),
            Cause("y", "activation", "not predicted", 0.0, 0, "", ""),
        ]
        lines = summary_lines(report([tensor(spread(1.0))], causes=tuple(causes)))
        text = " ".join(" ".join(lines).split())
        rows = "outside because of alike rows: 2 tensors; strongest for the weight gradient b.weight, × 2^3.0 of 1 call"
        tied = "outside because of constraint: 1 tensor; strongest for the activation h, × 2^-2.5 of 2 calls, at "
        assert f"{rows}, at b: matmul #7; remedy: rows=alike" in text
        assert f"{tied}b: matmul #7; remedy: fork" in text
        assert text.index("alike rows:") < text.index("constraint:")
        assert text.endswith("outside because of not predicted: 1 tensor; activation y")
        assert max(map(len, lines)) <= 100

    def test_each_tensor_outside_has_one(self, regular, unit):
        for r in (regular, unit):
            outside = [(t.name, t.kind) for t in r.tensors if t.is_judged and is_outside(t)]
            assert [(c.tensor, c.kind) for c in r.causes] == outside
        assert {c.cause for c in regular.causes} <= {"no factor", "initial scale", "data", "cancellation"}
        assert "no factor" not in {c.cause for c in unit.causes}
