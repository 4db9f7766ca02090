import sys

import numpy as np
import pytest

from refscale.analysis import KINDS, check_plot, curves, plot, plot_snr
from refscale.analysis.plots_sweep import plot_against
from refscale.errors import ArgumentError
from tests.analysis.builders import report, spread, tensor


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

    def test_user_settings_neither_count_nor_change(self, tmp_path):
        import matplotlib as mpl

        found = {"float16": np.linspace(0, 70, 61)}
        plot_snr(tmp_path / "a.svg", found)
        with mpl.rc_context({"font.size": 30, "axes.facecolor": "red"}):
            before = dict(mpl.rcParams)
            plot_snr(tmp_path / "b.svg", found)
            assert dict(mpl.rcParams) == before
        assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_missing_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ArgumentError, match=r"^plot: matplotlib is missing: pip install 'refscale\[plots\]'$"):
        check_plot("f.svg")


def test_unknown_kind_of_file():
    with pytest.raises(
        ArgumentError, match=r"plot: cannot write 'f\.bmp', expected a name ending in \.svg, \.png, \.pdf"
    ):
        check_plot("f.bmp")
