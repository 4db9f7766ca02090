"""Names that moved from ``refscale.analysis`` to ``refscale.stats`` after 0.1.0."""

import pytest

from refscale import analysis, stats


def test_an_old_name_is_the_new_one_with_a_warning():
    with pytest.warns(DeprecationWarning, match=r"^refscale\.analysis\.Report is refscale\.stats\.Report$") as found:
        assert analysis.Report is stats.Report
    assert found[0].filename == __file__


def test_other_names_are_unknown():
    with pytest.raises(AttributeError, match=r"module 'refscale\.analysis' has no attribute 'Reports'"):
        analysis.Reports  # noqa: B018
