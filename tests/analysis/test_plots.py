import sys

import numpy as np
import pytest

from refscale.analysis import check_plot, curves, plot, plot_losses, plot_snr
from refscale.analysis.figures import mark_ranges, open_figure
from refscale.analysis.report.plots import _spread
from refscale.analysis.runs.sweeps import plot_against
from refscale.errors import ArgumentError
from refscale.stats import KINDS
from tests.analysis.builders import report, spread, tensor
from tests.tutorials.figures import fingerprinted, read_fingerprint


class TestWithMatplotlib:
    @pytest.fixture(autouse=True)
    def _matplotlib(self):
        pytest.importorskip("matplotlib")

    def test_svg_is_the_same_every_time(self, tmp_path):
        for name, scale in (("a.svg", 1.0), ("b.svg", 1.0), ("c.svg", 2.0)):
            plot(tmp_path / name, [report([tensor(spread(scale), kind=k) for k in KINDS])])
        text = (tmp_path / "a.svg").read_bytes()
        assert text == (tmp_path / "b.svg").read_bytes()
        assert b"<svg" in text
        assert b"<dc:date>" not in text
        assert text != (tmp_path / "c.svg").read_bytes()

    def test_png_has_dark_where_the_numbers_are(self, tmp_path):
        from matplotlib.image import imread

        plot(tmp_path / "f.png", [report([tensor(spread(1.0), kind=k) for k in ("weight", "activation")] * 3)])
        pixels = imread(tmp_path / "f.png")
        assert pixels.shape[1] == 1800
        assert (pixels[..., :3].sum(axis=-1) < 0.3).mean() > 0.002

    @pytest.mark.parametrize(
        ("kinds", "low"),
        [
            (KINDS, -50.5),  # ten binades left of 2^-40
            (KINDS[2:3], -34.5),  # of 2^-24, the smallest FP16
            ((KINDS[3], KINDS[0]), -50.5),
        ],
    )
    def test_chosen_kinds_are_the_rows_and_span_the_exponents(self, kinds, low, tmp_path, monkeypatch):
        from matplotlib.figure import Figure

        drawn = []
        monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.extend(self.axes[:-1]))  # the last: colors
        tensors = [tensor(spread(1.0), kind=k) for k in KINDS[:3]] + [tensor(spread(2.0**-40), kind=KINDS[3])]
        plot(tmp_path / "f.svg", [report(tensors), report(tensors, scheme="unit")], kinds)
        titles = [f"{scheme}: {kind}s" for kind in kinds for scheme in ("regular", "unit")]
        assert [ax.get_title("left") for ax in drawn] == titles
        assert {ax.get_xlim()[0] for ax in drawn} == {low}

    @pytest.mark.parametrize("kinds", [(), ("weights",), ("weight", "loss")])
    def test_other_kinds_are_refused(self, kinds, tmp_path):
        with pytest.raises(
            ArgumentError, match=r"^plot\(kinds=.*\): expected at least one of 'weight', 'activation', "
        ):
            plot(tmp_path / "f.svg", [report([tensor(spread(1.0))])], kinds)

    def test_what_is_zero_by_construction_has_neither_rows_nor_columns(self, tmp_path):
        """Only rounding errors are left of it, others on every machine: the figure is the same without it."""
        found = [tensor(spread(1.0), kind=k) for k in KINDS]
        plot(tmp_path / "a.svg", [report(found)])
        plot(tmp_path / "b.svg", [report([*found, tensor(spread(2.0**-50), zero_because="softmax")])])
        assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()

    def test_snr(self, tmp_path):
        for name in ("a.svg", "b.svg"):
            plot_snr(tmp_path / name, curves(["float8_e5m2", "float8_e3m4"]))
        assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()

    def test_what_diverged_is_drawn_at_the_top(self, tmp_path, monkeypatch):
        from matplotlib.axes import Axes

        drawn = []
        monkeypatch.setattr(Axes, "scatter", lambda self, x, y, **_: drawn.append((self, y)))
        points = {"b": [("g", 3.0, 3.1), ("g", 3.2, np.inf)], "c": [("g", 3.0, 2.9)]}
        plot_against(tmp_path / "a.svg", "a", ["g"], points, "bits")
        assert [list(y) for _, y in drawn] == [[3.1, pytest.approx(3.28)], [2.9]]
        assert all(low < y.min() and y.max() < high for ax, y in drawn for low, high in [ax.get_ylim()])

    def test_every_layer_and_format_has_a_name_that_can_be_read(self, tmp_path, monkeypatch):
        """Layers of one row beside a large one."""
        from matplotlib.axes import Axes

        set_yticks, named = Axes.set_yticks, []

        def spy(self, at, names=()):
            named.append(names)
            set_yticks(self, at, names)

        monkeypatch.setattr(Axes, "set_yticks", spy)
        layers = ["embeddings", "embedding_norm", *["layers.0"] * 30, "layers.1", "norm", "readout", "pad"]
        tensors = [tensor(spread(1.0, 4), kind=kind, layer=layer) for kind in KINDS for layer in layers]
        with fingerprinted():
            plot(tmp_path / "f.svg", [report(tensors, scheme=scheme) for scheme in ("regular", "unit")])
        assert [names for names in named if names] == [list(dict.fromkeys(layers))] * len(KINDS)
        panels = read_fingerprint(tmp_path / "f.svg")[: 2 * len(KINDS)]
        assert [[text for text in panel["texts"] if text] for panel in panels] == [["FP16", "E4M3", "E5M2"]] * 8

    def test_a_format_that_begins_left_of_the_panel_is_named_in_it(self, tmp_path):
        with fingerprinted(), open_figure(tmp_path / "f.svg", 2) as figure:
            panel = figure.subplots()
            panel.set_xlim(-40, 20)
            mark_ranges(panel, ["bfloat16", "float16"], 0.2)
        (panel,) = read_fingerprint(tmp_path / "f.svg")
        assert panel["texts"] == ["BF16", "FP16"]

    def test_a_run_that_diverged_is_at_no_loss(self, tmp_path):
        """Two runs at 4 and 5, a level at 4.25, and one that diverged, beyond them."""
        rows = {"regular fp32": [4.0, 5.0], "regular fp16": [None]}
        with fingerprinted():
            plot_losses(tmp_path / "l.svg", rows, {"chance": 4.25})
        (panel,) = read_fingerprint(tmp_path / "l.svg")
        assert panel["texts"] == ["chance, 4.25", "diverged"]
        at = [xs[2] for xs in panel["drawn"][::2] if len(xs) > 2]
        assert (at[0], at[2]) == (4.5, 4.25)
        assert 5.05 < at[1] < panel["limits"][1]

    def test_the_band_of_no_difference(self, tmp_path, monkeypatch):
        from matplotlib.axes import Axes

        bands = []
        monkeypatch.setattr(Axes, "fill_between", lambda self, x, low, high, **_: bands.append((x, low, high)))
        plot_against(tmp_path / "a.svg", "a", ["g"], {"b": [("g", 3.0, 3.1)]}, "bits", 0.25)
        ((x, low, high),) = bands
        assert list(x - low) == list(high - x) == [0.25, 0.25]

    def test_user_settings_neither_count_nor_change(self, tmp_path):
        import matplotlib as mpl

        found = {"float16": np.linspace(0, 70, 61)}
        plot_snr(tmp_path / "a.svg", found)
        with mpl.rc_context({"font.size": 30, "axes.facecolor": "red"}):
            before = dict(mpl.rcParams)
            plot_snr(tmp_path / "b.svg", found)
            assert dict(mpl.rcParams) == before
        assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(
    ("places", "moved"),
    [
        ([], []),
        ([1.0, 5.0, 8.0], [1.0, 5.0, 8.0]),  # far enough apart
        ([1.0, 2.0, 8.0], [1.0, 3.0, 8.0]),  # the second down
        ([1.0, 8.5, 9.5], [1.0, 7.0, 9.0]),  # the last up to one before the end, the second before it
        ([9.0, 9.2, 9.4], [5.0, 7.0, 9.0]),
    ],
)
def test_labels_are_moved_apart(places, moved):
    assert _spread(places, 2.0, 10.0) == moved


def test_missing_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ArgumentError, match=r"^plot: matplotlib is missing: pip install 'refscale\[plots\]'$"):
        check_plot("f.svg")


def test_unknown_kind_of_file():
    with pytest.raises(
        ArgumentError, match=r"plot: cannot write 'f\.bmp', expected a name ending in \.svg, \.png, \.pdf"
    ):
        check_plot("f.bmp")


def test_a_missing_folder_and_a_folder_of_that_name(tmp_path):
    with pytest.raises(ArgumentError, match=r"^plot: cannot write '.*': there is no directory '.*none'$"):
        check_plot(tmp_path / "none/f.svg")
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(ArgumentError, match=r"^plot: cannot write '.*folder\.svg': it is a directory$"):
        check_plot(tmp_path / "folder.svg")
    pytest.importorskip("matplotlib")
    check_plot(tmp_path / "f.svg")
